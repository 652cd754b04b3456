//! Counting by single steps. It needs no counter, no rights and no tool, only time.
//!
//! A thread sets the trap flag of its own CPU state ([`begin`]), from when on the CPU stops after
//! each instruction, and the kernel sends the thread a SIGTRAP, whose handler counts. Signal
//! handlers run without the flag, so they are not counted. Other threads run freely.
//!
//! (A parent that steps through a child with ptrace counts the same, but each step then waits for
//! two processes to be scheduled: on a busy machine that takes ten times as long.)
//!
//! What stops is not always one instruction:
//!
//! * A repeated string instruction (`rep movsb`) stops after each repetition. The CPU's counter
//!   counts it once, and so does this: a stop at the place of the stop before is not counted.
//!   Instructions that jump to themselves would not be counted either; compilers write none.
//! * The flag is off in the kernel, so a system call does not stop, but the instruction after it
//!   does: such a stop counts twice.
//!
//! [`try_steps`] counts code that is known to the instruction before anything else is counted.
#![allow(unsafe_code, reason = "the trap flag and a signal handler have no safe interface")]

use std::arch::asm;
use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use libc::{c_int, siginfo_t};

thread_local! {
    /// What this thread has done since it began to be counted.
    static STEPS: Cell<u64> = const { Cell::new(0) };
    /// Where it stopped last: the address of the next instruction. 0: nowhere yet.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// The trap flag in the register of flags.
const TRAP: u64 = 0x100;

/// Begins to count the calling thread's instructions. SIGTRAP must not be blocked in between.
pub(crate) fn begin() -> io::Result<()> {
    handle_traps()?;
    STEPS.set(0);
    PLACE.set(0);
    // SAFETY: Only the trap flag changes, and SIGTRAP, which it leads to, is handled. The stack is
    // used as `asm!` may use it.
    unsafe {
        asm!("pushfq", "or qword ptr [rsp], {trap}", "popfq", trap = const TRAP);
    }
    Ok(())
}

/// Ends counting, and tells what was counted.
#[expect(clippy::unnecessary_wraps, reason = "where there are no steps it fails")]
pub(crate) fn end() -> io::Result<u64> {
    // SAFETY: Only the trap flag changes. The stack is used as `asm!` may use it.
    unsafe {
        asm!("pushfq", "and qword ptr [rsp], {others}", "popfq", others = const !TRAP.cast_signed());
    }
    Ok(STEPS.get())
}

/// Has SIGTRAP counted.
fn handle_traps() -> io::Result<()> {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = count;
    // SAFETY: All zeros are a valid `sigaction`: the default action, no flags, no signals blocked.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is valid for the call, the old action is not asked for. The handler has the
    // signature that SA_SIGINFO demands, and does only what a handler may: see there.
    let set = unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The handler of SIGTRAP: a thread has stopped. Allocates nothing, locks nothing, calls nothing of
/// the kernel. The thread-local cells need no initialisation and no destructor.
extern "C" fn count(_signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: With SA_SIGINFO the kernel passes a `ucontext_t` that is valid while the handler
    // runs, and which nothing else refers to.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let rip = context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let place = usize::try_from(rip).unwrap_or_default();
    let before = PLACE.replace(place);
    if place != before {
        let executed = if before != 0 && is_system_call(before) { 2 } else { 1 };
        STEPS.set(STEPS.get() + executed);
    }
}

/// Whether this instruction, which was executed a moment ago, is `syscall`.
fn is_system_call(place: usize) -> bool {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let code = ptr::with_exposed_provenance::<u8>(place);
    // SAFETY: The byte was executed by this thread, so it is mapped, and readable as all code is
    // here.
    if unsafe { code.read() } != SYSCALL[0] {
        return false;
    }
    // SAFETY: No instruction ends with that first byte, so the second was executed as well; both
    // belong to one piece of code.
    let second = unsafe { code.add(1) };
    // SAFETY: As argued.
    unsafe { second.read() == SYSCALL[1] }
}

// ---- code whose instructions are known ----

/// Whether single steps are counted here as they must be, to the instruction, or why not.
pub(crate) fn try_steps() -> Result<(), String> {
    let known = [
        Known { name: "a loop", code: loops, each: 2 },
        Known { name: "a repeated instruction", code: repeats, each: 0 },
        Known { name: "a system call", code: system_calls, each: 4 },
    ];
    for Known { name, code, each } in known {
        let count = |times| {
            begin()?;
            code(times);
            end()
        };
        let counts = count(100).and_then(|once| Ok((once, count(200)?)));
        let (once, twice) = counts.map_err(|error: io::Error| error.to_string())?;
        // The difference: what is around the code is the same both times.
        if twice.checked_sub(once) != Some(100 * each) {
            return Err(format!("{name}, 100 and 200 times, counts as {once} and {twice}"));
        }
    }
    Ok(())
}

struct Known {
    name: &'static str,
    /// Does it so many times.
    code: fn(u64),
    /// Instructions for each time.
    each: u64,
}

/// Two instructions for each time.
#[inline(never)]
fn loops(times: u64) {
    // SAFETY: Changes one register, which it is given for that, and the flags.
    unsafe {
        asm!("2:", "dec {times}", "jnz 2b", times = inout(reg) times => _, options(nomem, nostack));
    }
}

/// One instruction, however often it is repeated.
#[inline(never)]
fn repeats(times: u64) {
    let (from, mut to) = ([7_u8; 256], [0_u8; 256]);
    assert!(times <= 256);
    // SAFETY: Copies `times` bytes, at most as many as either array has, from one to the other. The
    // direction flag is clear, as the ABI has it.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") times => _,
            inout("rsi") from.as_ptr() => _,
            inout("rdi") to.as_mut_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
    assert_eq!(
        to.iter().map(|&byte| u64::from(byte)).sum::<u64>(),
        7 * times,
        "not all was copied"
    );
}

/// Four instructions for each time.
#[inline(never)]
fn system_calls(times: u64) {
    // SAFETY: `getpid` takes nothing and changes no memory; the kernel clobbers rax, rcx and r11.
    unsafe {
        asm!(
            "2:", "mov eax, {getpid}", "syscall", "dec {times}", "jnz 2b",
            getpid = const libc::SYS_getpid,
            times = inout(reg) times => _,
            out("rax") _, out("rcx") _, out("r11") _,
            options(nostack)
        );
    }
}
