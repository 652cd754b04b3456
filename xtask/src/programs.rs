//! Tasks that start a program and end as it does.

use crate::output::Outcome;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

/// What models are compiled with.
const LOOM: &str = "--cfg ringbell_loom";

pub(crate) fn test(repository: &Path, arguments: &[String]) -> Outcome {
    run(script(repository, "test").args(arguments))
}

pub(crate) fn ci(repository: &Path, arguments: &[String]) -> Outcome {
    run(script(repository, ".ci/run").args(arguments))
}

pub(crate) fn mutate(repository: &Path, arguments: &[String]) -> Outcome {
    run(script(repository, "loom-tests/mutate").args(arguments))
}

pub(crate) fn race(repository: &Path, arguments: &[String]) -> Outcome {
    let race = ["run", "--release", "--package", "ringbell-benches", "--bin", "race", "--"];
    run(cargo(repository).args(race).args(arguments))
}

pub(crate) fn loom(repository: &Path, arguments: &[String]) -> Outcome {
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    if !flags.is_empty() {
        flags.push(" ");
    }
    flags.push(LOOM);
    let test = [
        "test",
        "--release",
        "--package",
        "ringbell-loom-tests",
        "--target-dir",
        "target/loom",
        "--",
    ];
    // A `--` between the filter and what follows is the habit of `cargo test`.
    let arguments = arguments.iter().filter(|argument| *argument != "--");
    run(cargo(repository).env("RUSTFLAGS", flags).args(test).args(arguments))
}

pub(crate) fn fuzz(repository: &Path, arguments: &[String]) -> Outcome {
    let targets = fuzz_targets(&repository.join("fuzz/fuzz_targets"))?;
    let (target, arguments) = fuzz_target(&targets, arguments)?;
    let nightly = ["run", "nightly", "cargo", "fuzz"];
    let mut version = Command::new("rustup");
    let version = version.current_dir(repository).args(nightly).arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        return Err(
            "`rustup run nightly cargo fuzz` does not work here. Install what is missing:\n  \
                    rustup toolchain install nightly\n  cargo install cargo-fuzz"
                .to_owned(),
        );
    }
    let seeds = ["run", "--manifest-path", "fuzz/Cargo.toml", "--bin", "seeds"];
    let made = status(cargo(repository).args(seeds))?;
    if !made.success() {
        return ended(made, "the program that writes the seeds");
    }
    // The toolchain and the compiler that cargo chose for this program are not those of the target.
    let mut fuzz = Command::new("rustup");
    fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    run(fuzz.current_dir(repository).args(nightly).args(["run", target, "--"]).args(arguments))
}

/// The names of the fuzz targets.
fn fuzz_targets(folder: &Path) -> Result<Vec<String>, String> {
    let unreadable = |error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// The target that is asked for, and its arguments.
fn fuzz_target<'a>(
    targets: &[String],
    arguments: &'a [String],
) -> Result<(&'a str, &'a [String]), String> {
    let all = targets.join(", ");
    let (target, rest) =
        arguments.split_first().ok_or_else(|| format!("which target? The targets are {all}"))?;
    if !targets.contains(target) {
        return Err(format!("there is no fuzz target `{target}`; the targets are {all}"));
    }
    Ok((target, rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest)))
}

/// A program of the repository.
fn script(repository: &Path, path: &str) -> Command {
    let mut command = Command::new(repository.join(path));
    command.current_dir(repository);
    command
}

/// The cargo that runs this program.
fn cargo(repository: &Path) -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(repository);
    command
}

/// Runs a program to its end, whose status becomes that of the task.
fn run(command: &mut Command) -> Outcome {
    let name = command.get_program().display().to_string();
    ended(status(command)?, &name)
}

fn status(command: &mut Command) -> Result<ExitStatus, String> {
    command.status().map_err(|error| {
        let name = command.get_program().display();
        match error.kind() {
            ErrorKind::NotFound => {
                format!("{name} is not there, or the program that should run it")
            }
            _ => format!("{name} cannot be started: {error}"),
        }
    })
}

fn ended(status: ExitStatus, name: &str) -> Outcome {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(code)), _) => Ok(ExitCode::from(code)),
        (_, Some(signal)) => Err(format!("{name} was ended by signal {signal}")),
        _ => Err(format!("{name} ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_targets_are_those_of_the_fuzz_package() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder");
        let manifest = fs::read_to_string(repository.join("fuzz/Cargo.toml")).expect("a manifest");
        let targets = fuzz_targets(&repository.join("fuzz/fuzz_targets")).expect("targets");
        assert!(!targets.is_empty());
        for target in targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        }
    }

    #[test]
    fn a_fuzz_target_is_checked() {
        let targets = words(&["image", "ring"]);
        let asked = words(&["ring", "-max_total_time=600"]);
        assert_eq!(fuzz_target(&targets, &asked), Ok(("ring", &asked[1..])));
        let asked = words(&["ring", "--", "-runs=1"]);
        assert_eq!(fuzz_target(&targets, &asked), Ok(("ring", &asked[2..])));
        let error = fuzz_target(&targets, &[]).expect_err("no target");
        assert_eq!(error, "which target? The targets are image, ring");
        let asked = words(&["rign"]);
        let error = fuzz_target(&targets, &asked).expect_err("a wrong one");
        assert_eq!(error, "there is no fuzz target `rign`; the targets are image, ring");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = run(&mut Command::new("/no/such/program")).expect_err("nothing to run");
        assert_eq!(error, "/no/such/program is not there, or the program that should run it");
    }

    #[test]
    fn the_status_is_that_of_the_program() {
        let shell = |line: &str| run(Command::new("sh").args(["-c", line]));
        assert_eq!(shell("exit 0"), Ok(ExitCode::SUCCESS));
        assert_eq!(shell("exit 3"), Ok(ExitCode::from(3)));
        assert_eq!(shell("kill -9 $$"), Err("sh was ended by signal 9".to_owned()));
    }
}
