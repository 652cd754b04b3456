//! The tasks, their help texts, and which of them is asked for.

use crate::output::Outcome;
use crate::{lines, programs, width};
use std::fmt::Write;
use std::path::Path;

/// Something that `cargo xtask` does.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: &'static str,
    /// What may follow the name.
    arguments: &'static str,
    /// One line.
    about: &'static str,
    /// More about it.
    details: &'static str,
    /// Does it in the repository, with these arguments.
    pub(crate) run: fn(&Path, &[String]) -> Outcome,
}

const TASKS: &[Task] = &[
    Task {
        name: "test",
        arguments: "[ARGUMENTS]",
        about: "Run all tests: units, documentation, examples, real processes, loom models",
        details: "Runs `./test`. Needs a Rust toolchain and a C compiler.",
        run: programs::test,
    },
    Task {
        name: "race",
        arguments: "[ARGUMENTS]",
        about: "Measure Ringbell, its peers and the limits of this machine",
        details: "Runs the program `race` of benches/, built with optimization. The full race\n\
                  takes about ten minutes, `--quick` less than one. All arguments are shown by\n\
                  `cargo xtask race -- --help`. Peers that take long to build are features:\n\
                  see `benches/peers`.",
        run: programs::race,
    },
    Task {
        name: "loom",
        arguments: "[FILTER] [ARGUMENTS]",
        about: "Run the loom models of the protocols",
        details: "Builds loom-tests/ with `--cfg ringbell_loom` in target/loom and runs the\n\
                  models whose names contain FILTER. Arguments go to the test program, such as\n\
                  `--nocapture`.",
        run: programs::loom,
    },
    Task {
        name: "mutate",
        arguments: "[ARGUMENTS]",
        about: "Check that the loom models notice every weakened memory ordering",
        details: "Runs `loom-tests/mutate`. Needs Python 3. Useful arguments are `--jobs N`,\n\
                  `--only TEXT` and `--list`; `cargo xtask mutate -- --help` shows all.",
        run: programs::mutate,
    },
    Task {
        name: "fuzz",
        arguments: "TARGET [ARGUMENTS]",
        about: "Run a fuzz target until it is interrupted or finds a fault",
        details: "Writes the seeds, then runs a target of fuzz/fuzz_targets/. Needs rustup\n\
                  with a nightly toolchain, and cargo-fuzz. Arguments go to the target, such\n\
                  as `-max_total_time=600`.",
        run: programs::fuzz,
    },
    Task {
        name: "ci",
        arguments: "[ARGUMENTS]",
        about: "Check everything that a change must pass",
        details: "Runs `.ci/run`: format, lints, documentation, all tests, a short race,\n\
                  instruction budgets.",
        run: programs::ci,
    },
    Task {
        name: "width",
        arguments: "",
        about: "Check that no line has more than 100 characters",
        details: "Looks at all *.rs files, and at README.md, CHANGELOG.md, CONTRIBUTING.md and\n\
                  DESIGN.md. Tables, code blocks and lines that consist of links only may be\n\
                  wider in the latter. Prints `file:line: N characters` for each line that is\n\
                  too wide, and fails if there is one.",
        run: width::run,
    },
    Task {
        name: "lines",
        arguments: "",
        about: "Count the lines of each module and folder of src/",
        details: "Prints files, lines, and lines of code for each: those that are neither\n\
                  blank nor a comment. `name` stands for src/name.rs and all files in\n\
                  src/name/.",
        run: lines::run,
    },
];

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Request<'a> {
    /// Print this text.
    Help(String),
    /// Run a task with these arguments.
    Run(&'static Task, &'a [String]),
}

/// What these arguments ask for.
pub(crate) fn request(arguments: &[String]) -> Result<Request<'_>, String> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(format!("no task is given\n\n{}", overview()));
    };
    match (name.as_str(), rest) {
        ("-h" | "--help" | "help", []) => Ok(Request::Help(overview())),
        ("-h" | "--help" | "help", [name, ..]) => Ok(Request::Help(find(name)?.help())),
        (_, [flag, ..]) if flag == "-h" || flag == "--help" => {
            Ok(Request::Help(find(name)?.help()))
        }
        _ => {
            // `cargo xtask race -- --help`
            let rest = rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest);
            let task = find(name)?;
            match rest.first() {
                Some(extra) if task.arguments.is_empty() => {
                    Err(format!("`{name}` takes no arguments, but `{extra}` is given"))
                }
                _ => Ok(Request::Run(task, rest)),
            }
        }
    }
}

fn find(name: &str) -> Result<&'static Task, String> {
    TASKS.iter().find(|task| task.name == name).ok_or_else(|| {
        let names: Vec<_> = TASKS.iter().map(|task| task.name).collect();
        format!("there is no task `{name}`; the tasks are {}", names.join(", "))
    })
}

impl Task {
    fn help(&self) -> String {
        let usage = format!("cargo xtask {} {}", self.name, self.arguments);
        format!("{}.\n\nUsage: {}\n\n{}\n", self.about, usage.trim_end(), self.details)
    }
}

/// All tasks, one a line.
fn overview() -> String {
    let mut text = "Usage: cargo xtask TASK [ARGUMENTS]\n\nTasks:\n".to_owned();
    for Task { name, about, .. } in TASKS {
        writeln!(text, "  {name:<8}{about}").expect("room");
    }
    text + "\n`cargo xtask help TASK` says more about one.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_help(asked: &str, begin: &str) {
        match request(&words(asked)) {
            Ok(Request::Help(text)) => assert!(text.starts_with(begin), "{text}"),
            other => panic!("{asked}: {other:?}"),
        }
    }

    #[track_caller]
    fn assert_runs(asked: &str, name: &str, arguments: &str) {
        match request(&words(asked)) {
            Ok(Request::Run(task, passed)) => {
                assert_eq!((task.name, passed), (name, &*words(arguments)))
            }
            other => panic!("{asked}: {other:?}"),
        }
    }

    #[test]
    fn arguments_are_passed_through() {
        assert_runs("race", "race", "");
        assert_runs("race --only echo --rounds 3", "race", "--only echo --rounds 3");
        assert_runs("race -- --help", "race", "--help");
        assert_runs("loom ring:: -- --nocapture", "loom", "ring:: -- --nocapture");
    }

    #[test]
    fn every_task_has_help() {
        assert_help("help", "Usage: cargo xtask TASK");
        assert_help("--help", "Usage: cargo xtask TASK");
        for task in TASKS {
            assert_help(&format!("help {}", task.name), task.about);
            assert_help(&format!("{} --help", task.name), task.about);
            assert!(overview().contains(task.about));
        }
    }

    #[test]
    fn bad_requests_are_explained() {
        let error = |asked: &str| request(&words(asked)).expect_err("a bad request");
        assert!(error("").starts_with("no task is given\n\nUsage: "));
        let tasks = "the tasks are test, race, loom, mutate, fuzz, ci, width, lines";
        assert_eq!(error("rcae --quick"), format!("there is no task `rcae`; {tasks}"));
        assert_eq!(error("help rcae"), format!("there is no task `rcae`; {tasks}"));
        assert_eq!(error("width src"), "`width` takes no arguments, but `src` is given");
    }
}
