//! ring-dump: looks into live, stuck and dead rings, and says who is late.
//!
//! [`source`] finds segments (in a [`process`]: [`memfds`]; at a socket, in a [`core_dump`]) and
//! copies them, and says [`who`] it is that they name, and at which [`sockets`] a server is; a
//! [`capture`] is what was copied. What others chose is [`text`], and what they can delay is done
//! [`aside`].
//!
//! A [`report`] is what a capture says: of its segments, [`decoded`], of calls that were timed
//! ([`samples`]) and of what a server does ([`threads`]). [`verdict`] and [`places`] say what is
//! wrong with it, as a list of [`finding`]s, and [`after`] what a dump or a file adds to that.
//!
//! [`show`], [`prometheus`], [`frames`], [`diff`], [`list`], [`watch`] and [`tap`] (at a [`pace`])
//! print. [`export`] has what their JSON shares, [`man`] is the manual. [`doctor`] looks at the
//! machine instead.

mod after;
mod aside;
mod assemble;
#[path = "../busy.rs"]
mod busy;
mod capture;
mod cli;
mod core_dump;
mod decoded;
mod diff;
mod doctor;
mod export;
mod finding;
mod frames;
mod handle;
mod image;
mod list;
mod man;
mod memfds;
mod pace;
mod places;
mod process;
mod prometheus;
mod report;
mod samples;
mod show;
mod sockets;
mod source;
mod stat;
mod style;
mod tap;
mod text;
mod threads;
mod verdict;
mod watch;
mod who;
mod words;

use clap::CommandFactory;
use cli::{Cli, Command};
use finding::{Code, Severity};
use report::Report;
use rustix::process::{Resource, getrlimit, setrlimit};
use source::Target;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Any reason why the program does not do what it was asked for.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The target cannot be looked at: the program ends with status 3.
#[derive(Debug)]
struct Unattachable(String);

impl std::fmt::Display for Unattachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unattachable {}

/// It was asked for something that makes no sense: the program ends with status 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Whether all is well.
type Healthy = bool;

/// Has a write beyond the limit on the size of files (`ulimit -f`) be an error. It is a signal
/// otherwise, of which this process would die without a word.
#[allow(unsafe_code, reason = "signal")]
fn survive_the_limit_on_files() {
    // SAFETY: no handler is installed that could run.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Takes as many descriptors as this process may have: a target may have many segments.
fn raise_the_limit_on_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Fewer do, too.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A panic may speak of what others chose.
fn panic_in_plain_text() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{}", text::of_lines(&panic.to_string()))));
}

fn main() -> ExitCode {
    panic_in_plain_text();
    survive_the_limit_on_files();
    raise_the_limit_on_descriptors();
    let cli = cli::parse(std::env::args_os().collect());
    style::choose(cli.color);
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) if is_broken_pipe(&*failure) => ExitCode::SUCCESS,
        Err(failure) => {
            let failure_text = text::of_lines(&failure.to_string());
            anstream::eprintln!("{}ring-dump:{} {failure_text}", style::BAD, style::END);
            ExitCode::from(if failure.is::<Usage>() { 2 } else { 3 })
        }
    }
}

/// A reader who has seen enough: `ring-dump | head`.
fn is_broken_pipe(failure: &(dyn std::error::Error + 'static)) -> bool {
    let io = failure.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(cli: &Cli) -> Result<Healthy, Failure> {
    match &cli.command {
        None => run_list(&cli::List::default()),
        Some(Command::List(asked)) => run_list(asked),
        Some(Command::Show(asked)) => run_show(asked),
        Some(Command::Frames(asked)) => run_frames(asked),
        Some(Command::Save(asked)) => run_save(asked),
        Some(Command::Diff(asked)) => run_diff(asked),
        Some(Command::Doctor(asked)) => run_doctor(asked),
        Some(Command::Explain { code }) => run_explain(code.as_deref()),
        Some(Command::Completions { shell }) => {
            let mut bytes = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "ring-dump", &mut bytes);
            std::io::stdout().write_all(&bytes)?;
            Ok(true)
        }
        Some(Command::Man(asked)) => {
            match &asked.directory {
                Some(directory) => man::pages(directory)?,
                None => man::page(&mut std::io::stdout())?,
            }
            Ok(true)
        }
        Some(Command::Watch(asked)) => watch::run(asked),
        Some(Command::Tap(asked)) => tap::run(asked),
    }
}

/// Prints text with the colours that were chosen.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever has seen enough still gets the status.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

fn is_healthy(report: &Report) -> Healthy {
    report.findings.iter().all(|finding| finding.severity < Severity::Problem)
}

fn run_list(asked: &cli::List) -> Result<Healthy, Failure> {
    let listing = list::list(asked)?;
    if asked.json {
        json(&listing)?
    } else {
        print(&listing.text())?
    }
    Ok(listing.is_healthy())
}

fn run_frames(asked: &cli::Frames) -> Result<Healthy, Failure> {
    let target = Target::of(&asked.target)?;
    // One look is enough: what passes meanwhile is marked.
    let capture = source::capture(&target, Duration::from_millis(1))?;
    let listings = frames::frames(&capture, &asked.choice, asked.all);
    if asked.choice.json {
        print(&frames::json(&listings)?)?
    } else {
        print(&frames::text(&listings))?
    }
    Ok(frames::are_sound(&listings))
}

fn run_diff(asked: &cli::Diff) -> Result<Healthy, Failure> {
    let look = |word: &str| -> Result<Report, Failure> {
        Ok(assemble::report(&source::capture(&Target::of(word)?, Duration::from_millis(100))?))
    };
    let (before, after) = (look(&asked.before)?, look(&asked.after)?);
    let diff = diff::diff(&before, &after);
    if asked.json {
        json(&diff)?
    } else {
        print(&diff::text(&diff))?
    }
    Ok(is_healthy(&after))
}

fn run_doctor(asked: &cli::Doctor) -> Result<Healthy, Failure> {
    let health = match &asked.target {
        None => doctor::examine()?,
        Some(target) => doctor::examine_target(target)?,
    };
    if asked.json {
        json(&health)?
    } else {
        print(&health.text())?
    }
    Ok(health.is_good())
}

fn run_explain(word: Option<&str>) -> Result<Healthy, Failure> {
    let code = word.map(|word| Code::of(word).ok_or_else(|| unknown_code(word))).transpose()?;
    print(&finding::explain(code))?;
    Ok(true)
}

fn unknown_code(word: &str) -> Usage {
    let near = match &Code::near(word)[..] {
        [] => String::new(),
        near => format!("; similar ones are {}", near.join(", ")),
    };
    Usage(format!("there is no verdict {word:?}{near} (`ring-dump explain` lists all)"))
}

fn run_show(asked: &cli::Show) -> Result<Healthy, Failure> {
    let target = Target::of(&asked.look.target)?;
    let capture = source::capture(&target, asked.look.interval)?;
    let mut report = assemble::report_with(&capture, asked.late.late);
    if let Some(session) = asked.session {
        report.keep_session(session).map_err(|why| Unattachable(format!("{target}: {why}")))?;
    }
    if asked.json {
        json(&report)?;
    } else if asked.prometheus {
        print(&prometheus::text(&report, asked.max_sessions))?;
    } else if asked.brief {
        print(&show::brief(&report, asked.all))?;
    } else {
        print(&show::text(&report, asked.all))?;
    }
    Ok(is_healthy(&report))
}

fn run_save(asked: &cli::Save) -> Result<Healthy, Failure> {
    let target = Target::of(&asked.look.target)?;
    let mut capture = source::capture(&target, asked.look.interval)?;
    let saved = capture.save(&asked.file);
    saved.map_err(|error| Unattachable(format!("{}: {error}", text::of_path(&asked.file))))?;
    Ok(true)
}
