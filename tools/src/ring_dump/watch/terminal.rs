//! The terminal: taken over, and given back however this program ends.
//!
//! It is opened anew, so that it can be written to without waiting and what the shell has open
//! stays as it is. Nothing here waits for a terminal that takes nothing: what is drawn is kept
//! until there is room for it, and there is no next picture before that.

#![allow(
    clippy::disallowed_types,
    reason = "nothing is shared with others: a signal handler, or a panic, tells this process"
)]

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{
    self, Action, LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios,
};
use signal_hook::consts::{
    SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The alternate screen, empty, without a cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[0m\x1b[2J\x1b[H\x1b[?25l";
/// Back. It begins with what ends a sequence that was cut.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?1049l\x1b[?25h";
/// How long a terminal may take to take in these few bytes when it is given back.
const PATIENCE: Duration = Duration::from_millis(300);

/// What it takes to give a terminal back, from wherever this program ends.
struct Held {
    tty: OwnedFd,
    saved: Termios,
}

static HELD: OnceLock<Held> = OnceLock::new();
/// Whether it is taken over now. Only one gives it back.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Calls until no signal comes between.
fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Writes as much as the terminal takes within `limit`; whether that was all.
fn write_within(tty: BorrowedFd<'_>, mut bytes: &[u8], limit: Duration) -> bool {
    let until = Instant::now() + limit;
    while !bytes.is_empty() {
        match rustix::io::write(tty, bytes) {
            Ok(count) => bytes = &bytes[count.min(bytes.len())..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return false,
        }
    }
    true
}

/// Gives the terminal back if it is taken. Never waits for long.
pub(crate) fn give_back() {
    let Some(held) = HELD.get() else { return };
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let tty = held.tty.as_fd();
    if !write_within(tty, LEAVE, PATIENCE) {
        // It takes nothing: the picture that is on its way is thrown away.
        let _ = termios::tcflush(tty, QueueSelector::OFlush);
        let _ = termios::tcflow(tty, Action::OOn);
        write_within(tty, LEAVE, PATIENCE);
    }
    let _ = again(|| termios::tcsetattr(tty, OptionalActions::Now, &held.saved));
}

/// What has come by signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signalled {
    /// Nothing.
    Nothing,
    /// It shall end by this signal.
    End(i32),
    /// It shall stop: Ctrl-Z.
    Stop,
    /// It was stopped and goes on, or the size is another one.
    Redraw,
}

/// The signals that this program ends by.
const ENDS: [i32; 6] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// A terminal that is taken over.
pub(crate) struct Terminal {
    /// What is drawn and not yet written.
    pending: Arc<Mutex<Vec<u8>>>,
    wakes: UnixStream,
    flags: Vec<(i32, Arc<AtomicBool>)>,
}

/// Where a picture is drawn to.
#[derive(Clone)]
pub(crate) struct Canvas(Arc<Mutex<Vec<u8>>>);

impl io::Write for Canvas {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal behind the standard output, or that of this session, by a descriptor of its own.
fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/fd/1", flags, Mode::empty());
    // Its permissions may be those of another user, behind `su`.
    Ok(own.or_else(|_| rustix::fs::open("/dev/tty", flags, Mode::empty()))?)
}

impl Terminal {
    /// Takes over the terminal behind the standard output; once in a process.
    pub(crate) fn take() -> io::Result<Self> {
        let tty = open()?;
        let saved = again(|| termios::tcgetattr(&tty))?;
        let _ = HELD.set(Held { tty, saved });
        let (wakes, woken) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        let mut flags = Vec::new();
        for signal in ENDS.into_iter().chain([SIGTSTP, SIGCONT, SIGWINCH]) {
            let flag = Arc::new(AtomicBool::new(false));
            // The flag first: whoever is woken sees it.
            signal_hook::flag::register(signal, flag.clone())?;
            signal_hook::low_level::pipe::register(signal, woken.try_clone()?)?;
            flags.push((signal, flag));
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        let terminal = Self { pending: Arc::default(), wakes, flags };
        terminal.enter()?;
        Ok(terminal)
    }

    fn held() -> io::Result<&'static Held> {
        HELD.get().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The terminal.
    pub(crate) fn tty(&self) -> io::Result<BorrowedFd<'static>> {
        Ok(Self::held()?.tty.as_fd())
    }

    /// Becomes readable with a signal.
    pub(crate) fn wakes(&self) -> BorrowedFd<'_> {
        self.wakes.as_fd()
    }

    /// Takes it over (again). In the background this stops the process, as it should.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let held = Self::held()?;
        let mut raw = held.saved.clone();
        raw.make_raw();
        // Ctrl-C and Ctrl-Z stay signals, for all processes of the job.
        raw.local_modes |= LocalModes::ISIG;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        again(|| termios::tcsetattr(&held.tty, OptionalActions::Now, &raw))?;
        TAKEN.store(true, Ordering::SeqCst);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.clear();
        pending.extend_from_slice(ENTER);
        Ok(())
    }

    /// Columns and rows; those of a terminal that does not know are the usual ones.
    pub(crate) fn size(&self) -> io::Result<(u16, u16)> {
        let tty = self.tty()?;
        let size = again(|| termios::tcgetwinsize(tty))?;
        let or = |size: u16, usual| if size == 0 { usual } else { size };
        Ok((or(size.ws_col, 80), or(size.ws_row, 24)))
    }

    /// Where to draw. What is drawn is written by [`Self::write`].
    pub(crate) fn canvas(&self) -> Canvas {
        Canvas(self.pending.clone())
    }

    /// Whether all that was drawn is written.
    pub(crate) fn is_written(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Writes what there is room for.
    pub(crate) fn write(&self) -> io::Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        while !pending.is_empty() {
            match rustix::io::write(self.tty()?, &pending) {
                Ok(count) => drop(pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What was typed. `None` if the terminal is gone.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = [0; 1024];
        match rustix::io::read(self.tty()?, &mut bytes[..]) {
            Ok(0) | Err(Errno::IO) => Ok(None),
            Ok(count) => Ok(Some(bytes[..count].to_vec())),
            Err(Errno::INTR | Errno::AGAIN) => Ok(Some(Vec::new())),
            Err(error) => Err(error.into()),
        }
    }

    /// What has come by signals since it was asked last. The most important is told.
    pub(crate) fn signalled(&self) -> Signalled {
        let mut bytes = [0; 64];
        while matches!((&self.wakes).read(&mut bytes), Ok(1..)) {}
        let mut told = Signalled::Nothing;
        for (signal, flag) in self.flags.iter().rev() {
            if flag.swap(false, Ordering::SeqCst) {
                told = match *signal {
                    SIGTSTP => Signalled::Stop,
                    SIGCONT | SIGWINCH => Signalled::Redraw,
                    signal => Signalled::End(signal),
                };
            }
        }
        told
    }

    /// Gives the terminal back and stops, until somebody lets it go on; then takes it over again.
    /// Where no shell could do that it goes on at once.
    pub(crate) fn stop(&self) -> io::Result<()> {
        let shell = rustix::process::getppid();
        let session = |pid| rustix::process::getsid(pid).ok();
        if shell.is_none() || session(shell) != session(None) {
            return Ok(());
        }
        give_back();
        signal_hook::low_level::raise(signal_hook::consts::SIGSTOP)?;
        self.enter()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Ends this program by a signal, as if it had not been caught; the terminal is given back before.
pub(crate) fn end_by(signal: i32) -> io::Error {
    give_back();
    match signal_hook::low_level::emulate_default_handler(signal) {
        Ok(()) => io::ErrorKind::Interrupted.into(),
        Err(error) => error,
    }
}
