//! The command line: the one definition of which help, man page and completions are made.

use crate::style::Color;
use crate::verdict::LATE;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ringbell::layout::Kind;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Look into live, stuck and dead rings, without writing to them.
///
/// Without a command it lists every server on this machine; with a TARGET alone it shows it. A
/// TARGET is the socket of a server, the pid of a server or of a client, a file written by `save`,
/// or a core dump. A file that is called like a command needs a path: `./list`.
///
/// Nothing of a target is mapped or opened for writing, and the target is not asked for anything
/// but, at a socket, for read-only descriptors: it may run, be stopped, spin or be stuck. That
/// takes the target's own user, or root.
///
/// Status: 0 all is well, 1 something is wrong with what was looked at, 2 wrong use, 3 the target
/// cannot be looked at.
#[derive(Debug, Parser)]
#[command(
    name = "ring-dump",
    version,
    max_term_width = 100,
    override_usage = "ring-dump [OPTIONS] [COMMAND]\n       ring-dump [OPTIONS] TARGET"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Whether to use colours.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List every server: one line each.
    List(List),
    /// Say what is going on at a target, and what is wrong.
    Show(Show),
    /// Print the records in the rings of a target.
    Frames(Frames),
    /// Watch a target on the screen.
    #[command(visible_alias = "top")]
    Watch(Watch),
    /// Print records as they pass.
    Tap(Tap),
    /// Save a target to a file, to be looked at later in the same way.
    Save(Save),
    /// Say what changed between two targets, usually two saved files.
    Diff(Diff),
    /// Check this machine (the kernel, limits, CPUs), or the limits of a process.
    Doctor(Doctor),
    /// Say what a verdict means and what to do about it; without one, list all.
    Explain {
        /// The word of a verdict, such as `late-answer`.
        code: Option<String>,
    },
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff.
    Man(Man),
}

/// Arguments of `list`.
#[derive(Debug, Default, Args)]
pub(crate) struct List {
    /// Ask the sockets in this directory, too.
    pub(crate) directory: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) late: Late,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// From when on a call is late.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Late {
    /// A call that waits longer for its answer is a problem.
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(crate) late: Duration,
}

impl Default for Late {
    fn default() -> Self {
        Self { late: LATE }
    }
}

/// What to look at, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Look {
    /// A socket, a pid, a saved file or a core dump.
    pub(crate) target: String,
    /// Between the two looks that rates and verdicts come from. Longer than 50 ms, or a sleeper's
    /// backstop may not have had its chance.
    #[arg(long, default_value = "100ms", value_parser = duration, value_name = "TIME")]
    pub(crate) interval: Duration,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) look: Look,
    #[command(flatten)]
    pub(crate) late: Late,
    /// Only this session: with its findings and those of its server.
    #[arg(long, value_name = "N")]
    pub(crate) session: Option<u64>,
    /// The verdict, and a line for each server and session.
    #[arg(long, conflicts_with_all = ["json", "prometheus"])]
    pub(crate) brief: bool,
    /// All sessions and findings, however many. Otherwise 20 sessions are shown at length, those
    /// with findings first, and 10 findings of each code.
    #[arg(long, conflicts_with_all = ["json", "prometheus"])]
    pub(crate) all: bool,
    /// Print JSON. tools/ring-dump.schema.json describes it.
    #[arg(long, conflicts_with = "prometheus")]
    pub(crate) json: bool,
    /// Print metrics in Prometheus's text format.
    #[arg(long)]
    pub(crate) prometheus: bool,
    /// Sessions of each server that have series of their own: the oldest ones. The others are left
    /// out; `ringbell_sessions_left_out` says how many.
    #[arg(long, default_value_t = 100, value_name = "N", requires = "prometheus")]
    pub(crate) max_sessions: usize,
}

/// One of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Which {
    /// Client to server.
    Request,
    /// Server to client.
    Response,
}

/// Which records, and how much of them.
#[derive(Debug, Default, Args)]
pub(crate) struct Choice {
    /// Only this session.
    #[arg(long)]
    pub(crate) session: Option<u64>,
    /// Only this ring.
    #[arg(long, value_enum)]
    pub(crate) ring: Option<Which>,
    /// Only records of these kinds, and what is no record at all.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind())]
    pub(crate) kind: Vec<Kind>,
    /// Bytes of each payload that are printed.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub(crate) max_bytes: usize,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `frames`.
#[derive(Debug, Args)]
pub(crate) struct Frames {
    /// A socket, a pid, a saved file or a core dump.
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Also records that were given back, as far as they are still there: those of this lap of the
    /// ring.
    #[arg(long)]
    pub(crate) all: bool,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The socket or the pid of a server, or the pid of a client.
    pub(crate) target: String,
    /// Between two looks.
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) late: Late,
}

/// Arguments of `tap`.
#[derive(Debug, Args)]
pub(crate) struct Tap {
    /// The socket or the pid of a server, or the pid of a client.
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// End after so many records.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// End after so long.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) time: Option<Duration>,
    /// How much of one CPU's time it may take, in per cent: looking, printing and being switched
    /// to. More misses less.
    #[arg(long, default_value = "1", value_parser = percent, value_name = "PERCENT")]
    pub(crate) budget: f64,
    /// Between two looks at least; what the budget allows may be longer.
    #[arg(long, default_value = "1ms", value_parser = duration, value_name = "TIME")]
    pub(crate) every: Duration,
    /// Miss as little as possible, without a budget and at normal priority: takes a CPU from a
    /// target that is busy.
    #[arg(long, conflicts_with = "budget")]
    pub(crate) all: bool,
}

/// Arguments of `save`.
#[derive(Debug, Args)]
pub(crate) struct Save {
    #[command(flatten)]
    pub(crate) look: Look,
    /// Where to. The file contains what passes through the rings.
    pub(crate) file: PathBuf,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The earlier one.
    pub(crate) before: String,
    /// The later one.
    pub(crate) after: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write ring-dump.1 and a page for each command to this directory instead.
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

const AFTER_DOCTOR: &str = "\
Examples:
  ring-dump doctor                    is this machine good for rings?
  ring-dump doctor /run/app/x.sock    what limits the server there
  ring-dump doctor 4711 --json

Exit status:
  0    Nothing needs to be done: all is good, a note, or unknown.
  1    Something is poor (it works, with less than it could) or bad (it does not work).
  2    Wrong use.
  3    The process cannot be looked at.";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_DOCTOR)]
pub(crate) struct Doctor {
    /// The socket of a server, or a pid: look at what limits that process, not at the machine.
    pub(crate) target: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Parses the command line, or says what is wrong with it and ends the program with status 2.
pub(crate) fn parse(arguments: Vec<OsString>) -> Cli {
    let command = || Cli::command().color(help_color(&arguments));
    let error = match try_parse(command(), arguments.clone()) {
        Ok(cli) => return cli,
        Err(error) => error,
    };
    let mut command = command();
    let Some(word) = first_word(&arguments).filter(|_| is_about_the_first_word(&error)) else {
        error.exit();
    };
    if is_target(word) {
        let mut shown = arguments.clone();
        shown.insert(1, "show".into());
        try_parse(command, shown).unwrap_or_else(|error| error.exit())
    } else if error.kind() == ErrorKind::InvalidSubcommand {
        let names: Vec<_> = command.get_subcommands().map(|one| one.get_name()).collect();
        let names = names.join(", ");
        let word = word.to_string_lossy();
        let suggested = match error.get(ContextKind::SuggestedSubcommand) {
            Some(ContextValue::Strings(names)) => names.first(),
            Some(ContextValue::String(name)) => Some(name),
            _ => None,
        };
        let tip = suggested.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        let why = format!(
            "{word:?} is neither a command nor a target{tip}\n\n\
             commands: {names}\n\
             targets:  the pid of a process, or the path of a socket, of a saved file or of a core dump"
        );
        command.error(ErrorKind::InvalidSubcommand, why).exit()
    } else {
        error.exit()
    }
}

fn try_parse(command: clap::Command, arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    command
        .clone()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| error.format(&mut command.clone()))
}

/// The first argument that is no option.
fn first_word(arguments: &[OsString]) -> Option<&OsString> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("--color") => drop(rest.next()),
            Some(option) if option.starts_with('-') => {}
            _ => return Some(argument),
        }
    }
    None
}

/// Whether parsing failed since there is no command: at the word that should be one, or at an
/// option of `show` in front of it.
fn is_about_the_first_word(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument)
}

/// Whether a word names something to look at.
fn is_target(word: &OsStr) -> bool {
    let text = word.to_string_lossy();
    let is_command = Cli::command()
        .get_subcommands()
        .any(|command| command.get_name_and_visible_aliases().contains(&&*text) || text == "help");
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    !is_command && (is_number || text.contains('/') || Path::new(word).symlink_metadata().is_ok())
}

/// What clap's own help and errors are told of colours: they come before the arguments are parsed.
fn help_color(arguments: &[OsString]) -> ColorChoice {
    let words = || arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    let separate = words().zip(words().skip(1)).filter(|(option, _)| option == "--color");
    let joined = words().filter_map(|word| word.strip_prefix("--color=").map(str::to_owned));
    let given = separate.map(|(_, when)| when.into_owned()).chain(joined).last();
    match given.as_deref() {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

impl Choice {
    /// Whether records of a kind were asked for.
    pub(crate) fn wants(&self, kind: Option<Kind>) -> bool {
        self.kind.is_empty() || kind.is_some_and(|kind| self.kind.contains(&kind))
    }
}

/// A kind of record, by the name that it has in JSON.
fn kind() -> impl TypedValueParser<Value = Kind> {
    let named = || {
        (0..=u8::MAX).filter_map(Kind::from_u8).filter(|kind| *kind != Kind::Padding).filter_map(
            |kind| match serde_json::to_value(kind) {
                Ok(serde_json::Value::String(name)) => Some((name, kind)),
                _ => None,
            },
        )
    };
    PossibleValuesParser::new(named().map(|(name, _)| name)).try_map(move |given| {
        named()
            .find(|(name, _)| *name == given)
            .map(|(_, kind)| kind)
            .ok_or("there is no such kind")
    })
}

/// A share of a CPU.
fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(percent) if (0.01..=100.0).contains(&percent) => Ok(percent),
        _ => Err("a budget is 0.01 to 100 per cent of a CPU".into()),
    }
}

/// `100ms`, `2s`, `5us`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: a number and one of us, ms, s, such as 100ms");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let time = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    if time.is_zero() || time > Duration::from_secs(86_400) {
        return Err("a time is more than nothing and at most a day".into());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_budget_is_a_share() {
        assert_eq!((percent("1"), percent("2.5%")), (Ok(1.0), Ok(2.5)));
        for wrong in ["", "0", "-1", "101", "NaN", "much"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        for wrong in ["", "5", "ms", "0s", "-1s", "1h", "99999999999999999999s", "90000s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
