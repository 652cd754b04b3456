//! Configurations that are right, and what is told of those that are not.

use super::*;

fn wrong(text: &str) -> String {
    Config::from_yaml(text).expect_err("it is wrong").to_string()
}

#[test]
fn the_short_form() {
    let text =
        "ipc:\n  socket_dir: /run/app\n  pool: { min_idle: 2, max_size: 16, idle_timeout: 30s }\n";
    let config = Config::from_yaml(text).expect("it is right");
    assert_eq!(config.ipc.socket_dir, Path::new("/run/app"));
    assert_eq!(config.ipc.pool, Settings::default(), "these are the defaults");
    assert!(config.ipc.workers.is_empty());
}

#[test]
fn the_long_form() {
    let config = Config::from_yaml(include_str!("full.yaml")).expect("it is right");
    let Ipc { pool, workers, transport, server, .. } = &config.ipc;
    assert_eq!(*transport, TransportChoice::Socket);
    assert!(config.ipc.create_directory);
    assert_eq!(server.slow_client_timeout, None);
    assert_eq!(server.stream_stall_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(
        ServerLimits::default().stream_stall_timeout,
        Some(Duration::from_secs(5)),
        "as the builder has it"
    );
    let millis = |millis| Some(Duration::from_millis(millis));
    let expected = Settings {
        enabled: true,
        min_idle: 1,
        min_size: 2,
        max_size: 8,
        max_starting: 3,
        idle_timeout: millis(90_000),
        max_lifetime: None,
        acquire_timeout: millis(2500),
        health_check_interval: None,
        backoff: Backoff { first: Duration::from_millis(10), longest: Duration::from_secs(2) },
    };
    assert_eq!(*pool, expected);
    let server = format!("{:?}", config.ipc.server());
    for limit in
        ["max_clients_per_uid: 8,", "max_handshakes_per_uid: 4,", "ring_bytes: Some(268435456),"]
    {
        assert!(server.contains(limit), "{server}");
    }
    let held = config.ipc.server().held_limits();
    assert_eq!((held.client, held.uid, held.total), (1 << 20, 1 << 30, (1 << 30) + (128 << 20)));
    let api = &workers["node:api"];
    assert_eq!(api.command, ["/usr/lib/app/api", "--serve", "{socket}"]);
    assert_eq!(
        (api.kind, api.attach, api.start_timeout),
        (WorkerKind::Serving, Attach::Path, ten_seconds())
    );
    let own = api.pool.over(pool);
    assert_eq!(
        own,
        Settings {
            max_size: 3,
            max_starting: 2,
            max_lifetime: millis(3_600_000),
            idle_timeout: None,
            ..expected
        }
    );
    let calculator = &workers["calc"];
    assert_eq!((calculator.kind, calculator.env["LC_ALL"].as_str()), (WorkerKind::Lines, "C"));
    assert_eq!(calculator.probe, Some(Probe { ask: "1+1".into(), answer: "2".into() }));
    let pools = config.ipc.pools().expect("all make sense");
    assert!(pools.stats().is_empty(), "nothing is started");
    assert!(
        matches!(pools.acquire("nobody"), Err(crate::worker::PoolsError::UnknownWorker(id)) if id == "nobody")
    );
    assert!(matches!(pools.acquire("calc"), Err(crate::worker::PoolsError::OtherKind(_))));
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    let text = "ipc:\n  socket_dir: /run/app\n  pool:\n    min_idle: 1\n    max_sise: 3\n";
    let error = Config::from_yaml(text).expect_err("a typing error");
    assert!(matches!(error, ConfigError::Syntax { line: 5, column: 5, .. }), "{error:?}");
    assert!(
        error.to_string().contains("max_sise") && error.to_string().contains("line 5"),
        "{error}"
    );
    for (text, key, line) in [
        ("pic:\n  socket_dir: /run\n", "pic", 1),
        ("ipc:\n  socket_dir: /run\n  pol: {}\n", "pol", 3),
        ("ipc:\n  socket_dir: /run\n  pool: { backoff: { frist: 1s } }\n", "frist", 3),
        (
            "ipc:\n  socket_dir: /run\n  workers:\n    a:\n      command: [x]\n      pool: { max: 1 }\n",
            "max",
            6,
        ),
        ("ipc:\n  socket_dir: /run\n  workers:\n    a:\n      comand: [x]\n", "comand", 5),
    ] {
        let error = wrong(text);
        assert!(error.contains(&format!("`{key}`")), "{error}");
        assert!(error.contains(&format!("line {line},")), "{error}");
    }
}

#[test]
fn wrong_values_are_told_with_their_line() {
    let with = |pool: &str| wrong(&format!("ipc:\n  socket_dir: /run\n  pool:\n    {pool}\n"));
    for pool in
        ["idle_timeout: 30", "idle_timeout: soon", "max_size: -1", "enabled: 7", "backoff: 1s"]
    {
        let error = with(pool);
        assert!(error.contains("line 4"), "{pool}: {error}");
    }
    assert!(with("idle_timeout: 30").contains("such as 30s"), "{}", with("idle_timeout: 30"));
    assert!(wrong("ipc:\n  pool: {}\n").contains("socket_dir"));
    assert!(wrong("ipc: [").contains("line"));
}

#[test]
fn nonsense_is_told_with_its_place() {
    let text = "ipc:\n  socket_dir: /run\n  pool: { max_size: 0 }\n";
    assert!(matches!(
        Config::from_yaml(text),
        Err(ConfigError::Settings { at, error: SettingsError::MaxSizeZero }) if at == "ipc.pool"
    ));
    let worker =
        |rest: &str| wrong(&format!("ipc:\n  socket_dir: /run\n  workers:\n    \"a:b\": {rest}\n"));
    let expected = "ipc.workers.a:b.pool: min_idle is 9, more than max_size, which is 3";
    assert_eq!(worker("{ command: [x], pool: { min_idle: 9, max_size: 3 } }"), expected);
    assert_eq!(worker("{ command: [] }"), "ipc.workers.a:b: command is empty");
    assert_eq!(
        worker("{ command: [x], ready_line: go }"),
        "ipc.workers.a:b: ready_line is for workers that speak lines"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error =
        Config::read("/nonexistent/ringbell.yaml").expect_err("it is not there").to_string();
    assert!(error.starts_with("/nonexistent/ringbell.yaml: "), "{error}");
}

#[test]
fn block_scalars_are_those_of_yaml() {
    // The examples of chapter 8 of YAML 1.2, in what a program is told: its arguments.
    for (written, expected) in [
        // Literal: line breaks stay, and the last one does unless it is stripped (8.7, 8.4).
        ("|\n  one\n  two\n", "one\ntwo\n"),
        ("|-\n  one\n  two\n", "one\ntwo"),
        ("|+\n  one\n\n", "one\n\n"),
        ("|\n  one\n\n", "one\n"),
        // Deeper indentation, blank lines and the start of a comment are content (8.8).
        ("|\n  if x\n    then # no comment\n\n  fi\n", "if x\n  then # no comment\n\nfi\n"),
        ("|\n\n  after a blank line\n", "\nafter a blank line\n"),
        // Folded: a line break is a space, two of them are one (8.9, 8.10).
        (">\n  one\n  two\n", "one two\n"),
        (">-\n  one\n  two\n", "one two"),
        (">\n  one\n\n  two\n", "one\ntwo\n"),
        (">+\n  one\n\n", "one\n\n"),
        // Deeper lines are not folded (8.11).
        (">\n  one\n    two\n  three\n", "one\n  two\nthree\n"),
        // Indentation indicators, on either side of the other one (8.2, 8.5).
        ("|2\n     one\n  two\n", "   one\ntwo\n"),
        ("|1-\n   one\n", "  one"),
        (">-1\n   one\n   two\n", "  one\n  two"),
        // A comment behind the header.
        ("|- # the script\n  one\n", "one"),
        // Empty.
        ("|\n", ""),
        ("|-\n\n", ""),
    ] {
        // Indentation indicators count from the indentation of the sequence.
        let written: String = written
            .split_inclusive('\n')
            .enumerate()
            .map(|(number, line)| match line {
                _ if number == 0 => line.to_owned(),
                "\n" => line.to_owned(),
                line => format!("      {line}"),
            })
            .collect();
        let text = format!(
            "ipc:\n  socket_dir: /run\n  workers:\n    a:\n      command:\n      - sh\n      - {written}      - last\n"
        );
        let config = Config::from_yaml(&text).unwrap_or_else(|error| panic!("{text}{error}"));
        assert_eq!(config.ipc.workers["a"].command, ["sh", expected, "last"], "{text}");
    }
}

#[test]
fn lines_of_workers_may_be_block_scalars() {
    let with = |lines: &str| {
        Config::from_yaml(&format!(
            "ipc:\n  socket_dir: /run\n  workers:\n    a:\n      kind: lines\n      \
             command:\n        - sh\n        - -c\n        - |\n          echo it is ready\n          \
             while read x; do\n            echo \"$x\"\n          done\n      \
             pool: {{ min_idle: 0 }}\n{lines}"
        ))
    };
    for style in ["|", "|-", "|+", ">", ">-", "|2"] {
        let lines = format!(
            "      ready_line: {style}\n        it is ready\n      probe:\n        \
             ask: {style}\n          well?\n        answer: {style}\n          well?\n"
        );
        let pools = with(&lines).expect("it is right").ipc.pools().expect("they are right");
        let mut worker = pools.acquire_line("a").expect("it becomes ready");
        worker.write_line("here", None).expect("it takes it");
        assert_eq!(worker.read_line(None).expect("a line"), "here");
    }
    for (lines, expected) in [
        ("      ready_line: |\n        it\n        is\n", "ready_line has more than one line"),
        ("      probe: { ask: \"a\\nb\", answer: x }\n", "probe.ask has more than one line"),
        ("      probe: { ask: a, answer: \"x\\ny\" }\n", "probe.answer has more than one line"),
        ("      max_uses: 0\n", "max_uses is 0"),
    ] {
        let error = with(lines).expect_err("it can never be said").to_string();
        assert_eq!(error, format!("ipc.workers.a: {expected}"));
    }
    let config = with("      max_uses: 3\n").expect("it is right");
    assert_eq!(config.ipc.workers["a"].max_uses, Some(3));
}
