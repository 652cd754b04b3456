//! Builds the library's examples and runs them: the digest service against `sha256sum`.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The executable of an example, built now. Optimized, since a plain build hashes 20 MB/s.
fn example(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = Command::new(cargo)
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--package",
            "ringbell",
            "--message-format",
            "json",
            "--example",
            name,
        ])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success());
    let executable = built
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.expect("cargo names what it built")
}

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stdout_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A file of bytes that do not repeat with any power of two.
fn file_of(path: &Path, len: usize) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let block: Vec<u8> =
        (0..1_000_003_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let mut left = len;
    while left > 0 {
        let part = left.min(block.len());
        file.write_all(&block[..part]).unwrap();
        left -= part;
    }
    file.flush().unwrap();
}

#[test]
fn digest_says_what_sha256sum_says() {
    let digest = example("digest");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("digest.sock");
    let mut server =
        Command::new(&digest).arg("serve").arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut first).unwrap();
    let server = Serving(server);
    assert!(first.starts_with("serving at"), "{first}");

    let files: Vec<PathBuf> = [0, 1, 1 << 20, 200_000_000]
        .into_iter()
        .map(|len| {
            let file = directory.path().join(format!("{len}"));
            file_of(&file, len);
            file
        })
        .collect();
    let ours = stdout_of(Command::new(&digest).arg("sum").arg(&path).args(&files));
    assert_eq!(ours, stdout_of(Command::new("sha256sum").args(&files)));

    let missing = Command::new(&digest).arg("sum").arg(&path).arg("/nonexistent").output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    drop(server);
    let nobody = Command::new(&digest).arg("sum").arg(&path).args(&files).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
}

#[test]
fn digest_shows_itself() {
    let shown = stdout_of(&mut Command::new(example("digest")));
    assert_eq!(shown.lines().filter(|line| line.ends_with(": correct")).count(), 5, "{shown}");
    assert_eq!(
        Command::new(example("digest")).arg("nonsense").output().unwrap().status.code(),
        Some(2)
    );
}

#[test]
fn echo_echoes() {
    assert_eq!(stdout_of(&mut Command::new(example("echo"))), "hello, server\n1 request served\n");
}

#[test]
fn the_pool_survives_its_server() {
    let shown = stdout_of(&mut Command::new(example("pool")));
    assert!(shown.contains("one restart of the server: all correct"), "{shown}");
}

#[test]
fn workers_are_replaced() {
    let shown = stdout_of(&mut Command::new(example("workers")));
    assert_eq!(shown.matches("all correct").count(), 2, "{shown}");
    assert!(shown.contains("killing worker"), "{shown}");
}

#[test]
fn a_guest_has_its_sockets_in_a_host() {
    let shown = stdout_of(&mut Command::new(example("guest_sockets")));
    for pace in ["push", "poll"] {
        let lines = shown.lines().filter(|line| line.starts_with(pace));
        let correct = lines.filter(|line| line.ends_with(": correct"));
        assert_eq!(correct.count(), if pace == "push" { 5 } else { 4 }, "{shown}");
    }
    assert!(shown.contains("push: 0 sleeps ended by a timer, 0 by nothing\n"), "{shown}");
    assert!(!shown.contains("poll: 0 sleeps ended by a timer"), "{shown}");
    assert_eq!(
        shown.matches("the guest is killed, and its sockets are gone").count(),
        2,
        "{shown}"
    );
    assert!(shown.ends_with(" 0 for nothing; 0 lost wakes\n"), "{shown}");
}

#[test]
fn an_event_loop_is_told_of_every_answer() {
    let shown = stdout_of(&mut Command::new(example("epoll")));
    let lines: Vec<&str> = shown.lines().collect();
    let answers: Vec<String> = (1..=10).map(|answer| format!("answer {answer}")).collect();
    assert_eq!(lines[..10], answers);
    assert!(lines[10].starts_with("10 requests, "), "{shown}");
}
