//! The command line: what can be asked for, and which of it makes sense.

use crate::{Failure, Usage};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ringbell::config::{Config, ConfigError, Ipc};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest request in bytes: the largest message of a server with default settings.
const MAX_SIZE: usize = 64 << 20;
/// Longest path of a socket in bytes.
const MAX_PATH: usize = 107;
/// Nothing that is awaited takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Verified requests over Ringbell, and over plain Unix domain sockets beside it: one table.
///
/// Without a command it starts a server process and client processes for each transport, and takes
/// turns between them. Every answer is compared with what was sent, byte for byte: client, sequence
/// number and a pattern.
///
/// Each request is timed on its own, and the figures contain the clock: 19 to 25 ns. CPU time is
/// that of client and server together, waiting and verifying included. System calls are counted
/// from outside, in a round of their own, by `perf` or else `strace`, if there is one that may.
/// Latencies and rates are medians over interleaved rounds; max is the worst of all rounds.
///
/// Transports: `shm` is Ringbell; `uds` a persistent connection, blocking, with length-prefixed
/// messages and a thread per connection; `uds-dial` a new connection for each request.
///
/// Numbers may have units: k, M and G are thousands, millions and billions of requests, and K, M
/// and G (or KiB, MiB and GiB) are 1024, 1024^2 and 1024^3 bytes.
#[derive(Debug, Parser)]
#[command(
    name = "ring-echo",
    version,
    args_conflicts_with_subcommands = true,
    after_long_help = AFTER
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) compare: Compare,
}

const AFTER: &str = "\
Examples:
  ring-echo                                      the three transports in one table
  ring-echo --size 64K --clients 4 --transport shm,uds
  ring-echo --requests 1M --pipeline 32 --json > echo.json
  ring-echo serve /run/user/1000/echo.sock       in one terminal, and in another one:
  ring-echo call /run/user/1000/echo.sock --paced 10k

Exit status:
  0    Every answer was verified. `serve`: SIGINT or SIGTERM ended it.
  1    It failed, or an answer was wrong. Standard error says why.
  2    Wrong use: an option, a number outside its range, a setting in the file of --config.
  129, 130, 143
       SIGHUP, SIGINT or SIGTERM ended a comparison. Its processes and files are gone.
       Such a signal kills `call`, for which a shell shows the same number.";

/// What to do other than comparing.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve echo requests at PATH until SIGINT or SIGTERM, then print what was counted.
    Serve {
        #[command(flatten)]
        place: Place,
        /// Make the directory of the socket if it is missing, for this user only (mode 0700);
        /// nothing above it. Without this a missing directory is an error.
        #[arg(long)]
        create_directory: bool,
        /// Time one of so many calls on its way, for ring-dump to tell waiting from working; 0 for
        /// none.
        #[arg(long, default_value_t = 0, value_name = "CALLS")]
        sample: u32,
    },
    /// Send requests to the server at PATH (`ring-echo serve`). CPU time is the client's alone.
    /// With --config each request takes a connection out of a warm pool, and gives it back.
    Call {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        load: LoadArgs,
        /// Print JSON: an array of one object.
        #[arg(long)]
        json: bool,
    },
    /// A server process of a comparison.
    #[command(hide = true)]
    RoleServe(RoleServe),
    /// A client process of a comparison.
    #[command(hide = true)]
    RoleCall(RoleCall),
}

/// The name of the socket under the configured directory, unless another one is given.
pub(crate) const SOCKET: &str = "echo.sock";

/// Where a server is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where the server listens. With --config, a name in its socket_dir. [default: echo.sock]
    #[arg(value_parser = socket_path, required_unless_present = "config")]
    pub(crate) path: Option<PathBuf>,

    /// Read settings from a YAML file: where sockets are, how large the pool of connections is.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Place {
    /// The path of the socket, and the settings if there are some.
    pub(crate) fn resolve(&self) -> Result<(PathBuf, Option<Ipc>), Failure> {
        let Some(file) = &self.config else {
            return Ok((self.path.clone().unwrap_or_default(), None));
        };
        let config = match Config::read(file) {
            Ok(config) => config,
            Err(error @ ConfigError::Io { .. }) => return Err(error.into()),
            Err(error) => return Err(Usage(format!("{}: {error}", file.display())).into()),
        };
        let name = self.path.as_deref().unwrap_or(Path::new(SOCKET));
        Ok((config.ipc.socket_dir.join(name), Some(config.ipc)))
    }
}

/// What a comparison is made of.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// Client processes.
    #[arg(long, default_value_t = 1, value_parser = number::<u32>(1, 1000))]
    pub(crate) clients: u32,

    /// Transports, as a list with commas or one by one.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Transport::ALL)]
    pub(crate) transport: Vec<Transport>,

    /// Pin the server to the first CPU and the clients to the others in turn. Off by default: the
    /// scheduler places processes as it would in production. On an idle machine it may put both
    /// ends of a socket on one CPU, where a wake-up is cheap; pinned, each is on its own.
    #[arg(long)]
    pub(crate) pin: bool,

    /// Print JSON: an array with one object per transport.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a client does.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Requests per transport, all clients and rounds together. [default: 200000 for shm, 50000 for
    /// sockets; fewer with a large --size, four seconds' worth with --paced]
    #[arg(long, value_parser = number::<u64>(1, 10_000_000_000))]
    pub(crate) requests: Option<u64>,

    /// Rounds into which the requests are divided. Latencies and rates are medians over them.
    #[arg(long, default_value_t = 5, value_parser = number::<u32>(1, 1000))]
    pub(crate) rounds: u32,

    /// Size of a request and of its answer in bytes.
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = size)]
    pub(crate) size: usize,

    /// Requests that each client keeps in flight. uds-dial has one per connection, whatever is
    /// asked for.
    #[arg(long, default_value_t = 1, value_parser = number::<usize>(1, 65_536))]
    pub(crate) pipeline: usize,

    /// Requests per second and client, evenly spaced; a request that is late because the one before
    /// it took too long is timed from when it was due. [default: as fast as possible]
    #[arg(long, value_name = "RATE", conflicts_with = "pipeline",
          value_parser = number::<u32>(1, 1_000_000))]
    pub(crate) paced: Option<u32>,
}

/// A way for requests to travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// Ringbell over shared memory.
    Shm,
    /// A Unix domain socket, one connection per client.
    Uds,
    /// A Unix domain socket, one connection per request.
    UdsDial,
}

impl Transport {
    pub(crate) const ALL: [Self; 3] = [Self::Shm, Self::Uds, Self::UdsDial];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Uds => "uds",
            Self::UdsDial => "uds-dial",
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl LoadArgs {
    /// Requests over `transport`, all clients and rounds together.
    pub(crate) fn requests_over(&self, transport: Transport, clients: u32) -> u64 {
        if let Some(requests) = self.requests {
            return requests;
        }
        let clients = u64::from(clients);
        if let Some(rate) = self.paced {
            return 4 * clients * u64::from(rate);
        }
        let (most, bytes) = match transport {
            Transport::Shm => (200_000, 2 << 30),
            Transport::Uds | Transport::UdsDial => (50_000, 1 << 30),
        };
        (bytes / self.size.max(1) as u64).min(most).max(clients)
    }
}

/// Arguments of a server process.
#[derive(Debug, Args)]
pub(crate) struct RoleServe {
    /// What to serve.
    #[arg(long, value_enum)]
    pub(crate) transport: Transport,
    /// Where to listen.
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// How many clients will connect.
    #[arg(long)]
    pub(crate) clients: u32,
    #[command(flatten)]
    pub(crate) common: RoleCommon,
}

/// Arguments of a client process.
#[derive(Debug, Args)]
pub(crate) struct RoleCall {
    /// Over what to send.
    #[arg(long, value_enum)]
    pub(crate) transport: Transport,
    /// Where the server listens.
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// The number of this client.
    #[arg(long)]
    pub(crate) client: u32,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) common: RoleCommon,
}

/// Arguments of every process of a comparison.
#[derive(Debug, Args)]
pub(crate) struct RoleCommon {
    /// The process that started this one, and without which it ends.
    #[arg(long)]
    pub(crate) parent: i32,
    /// The CPU to run on.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Allow any process to trace this one.
    #[arg(long)]
    pub(crate) traceable: bool,
}

/// Reads a number that may have a unit: so many `step`s, their squares, their cubes.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

const COUNTS: [(&str, u64); 3] = [("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
const BYTES: [(&str, u64); 6] = [
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
];

/// A number in a range, with or without a unit.
fn number<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        with_unit(text, &COUNTS)
            .filter(|number| (least..=most).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("not a number from {least} to {most}, such as 20 or 20k"))
    }
}

fn size(text: &str) -> Result<usize, String> {
    with_unit(text, &BYTES)
        .and_then(|size| usize::try_from(size).ok())
        .filter(|&size| size <= MAX_SIZE)
        .ok_or_else(|| {
            format!(
                "not a number of bytes from 0 to {MAX_SIZE} (the largest message), such as 64 or 64K"
            )
        })
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        0 => Err("the path is empty".to_owned()),
        1..=MAX_PATH => Ok(PathBuf::from(text)),
        len => Err(format!("the path has {len} bytes: that of a socket has at most {MAX_PATH}")),
    }
}

/// What is wrong with a command line that parses.
pub(crate) fn check(compare: &Compare) -> Result<(), String> {
    if let Some(requests) = compare.load.requests
        && requests < u64::from(compare.clients)
    {
        return Err(format!("{requests} requests are too few for {} clients", compare.clients));
    }
    Ok(())
}

/// Where the sockets of a comparison lie in its directory.
pub(crate) fn socket_in(directory: &std::path::Path) -> Result<PathBuf, String> {
    let path = directory.join("socket");
    match path.as_os_str().len() {
        ..=MAX_PATH => Ok(path),
        len => Err(format!(
            "the path of a socket in the temporary directory has {len} bytes, and at most {MAX_PATH} are possible: \
             set TMPDIR to a shorter one"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_have_units_and_ranges() {
        let count = number::<u64>(1, 10_000_000);
        assert_eq!((count("7"), count("20k"), count("3M")), (Ok(7), Ok(20_000), Ok(3_000_000)));
        for wrong in ["", "k", "0", "-1", "1.5k", "20K", "11M", "1 k", "99999999999999999999"] {
            assert!(count(wrong).is_err_and(|text| text.contains("from 1 to 10000000")), "{wrong}");
        }
        assert_eq!((size("0"), size("64K"), size("64MiB")), (Ok(0), Ok(64 << 10), Ok(MAX_SIZE)));
        for wrong in ["", "K", "65M", "67108865", "1k", "18446744073709551615G"] {
            assert!(size(wrong).is_err_and(|text| text.contains("67108864")), "{wrong}");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for transport in Transport::ALL {
            assert_eq!(transport.to_possible_value().unwrap().get_name(), transport.name());
            assert_eq!(serde_json::to_value(transport).unwrap(), transport.name());
        }
    }
}
