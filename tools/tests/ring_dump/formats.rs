//! What programs read: metrics (`--prometheus`) and JSON, and how the command line is used.

use crate::promlint::Metrics;
use crate::scene::{Scene, finds, output, report, ring_dump, say_of, sleeps, stopped_pair, text};
use crate::schema::Schema;
use ringbell::{Client, ConnectOptions};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a program with some input: what it prints if it ends well, an error if it does not, `None`
/// if it is not installed.
fn filter(program: &str, arguments: &[&str], input: &str) -> Option<Result<String, String>> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // It may have read enough.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("waited for");
    writer.join().expect("written");
    let said = text(&output.stdout) + &text(&output.stderr);
    Some(if output.status.success() && output.stderr.is_empty() { Ok(said) } else { Err(said) })
}

fn connect(scene: &Scene, count: usize) -> Vec<Client> {
    let client = |_| ConnectOptions::new().name("crowd").connect(&scene.path).expect("connected");
    (0..count).map(client).collect()
}

fn metrics(arguments: &[&str]) -> (Metrics, String) {
    let (text, _) = say_of(&[&["show", "--prometheus"], arguments].concat());
    let metrics = Metrics::read(&text);
    assert!(metrics.flaws.is_empty(), "{}\n{text}", metrics.flaws.join("\n"));
    for sample in &metrics.samples {
        assert!(sample.labels.contains_key("server"), "{sample:?}");
    }
    (metrics, text)
}

pub(crate) fn d8_metrics_keep_the_rules_of_prometheus() -> Ran {
    let scene = Scene::with(&[("sample", "1")]);
    let mut client = scene.client_with(&[("sample", "1")]);
    for call in 0..20 {
        client.tell(&format!("call echo {call}"));
        client.expect("done");
    }
    let mut checked = 0;
    let mut promtool = "promtool, which is not installed here, was not asked".to_owned();
    for target in [scene.socket(), scene.pid(), client.id().to_string()] {
        let (metrics, text) = metrics(&[&target]);
        checked += metrics.samples.len();
        if let Some(judged) = filter("promtool", &["check", "metrics"], &text) {
            promtool = format!("promtool says {judged:?}");
            assert_eq!(judged, Ok(String::new()), "{text}");
        }
        // Of a timed call each part is told, as gauges.
        let medians = metrics.of("ringbell_session_timed_call_median_seconds");
        let parts: BTreeSet<_> = medians.iter().map(|sample| &sample.labels["part"]).collect();
        assert_eq!(parts.len(), 3, "{parts:?}");
        assert!(medians.iter().all(|sample| sample.value >= 0.0 && sample.value < 60.0));
    }
    let (metrics, text) = metrics(&[&scene.socket()]);
    let requests = metrics.of("ringbell_server_requests_total");
    assert_eq!((requests.len(), requests[0].value), (1, 20.0));
    assert_eq!(requests[0].labels["server"], scene.socket());
    assert!(text.contains("# HELP ringbell_server_requests_total Requests handled.\n"), "{text}");
    // An id or a moment would be another series each time.
    let only_in_info = metrics.samples.iter().filter(|sample| !sample.name.ends_with("_info"));
    for label in only_in_info.flat_map(|sample| sample.labels.keys()) {
        assert!(!["generation", "pid", "call", "name"].contains(&label.as_str()), "{label}");
    }
    done!("{checked} samples; {promtool}")
}

pub(crate) fn d8_findings_are_metrics_by_code() -> Ran {
    let (scene, _client) = stopped_pair("4096");
    let (found, _) = metrics(&[&scene.socket()]);
    let of = |code: &str, severity: &str| {
        let samples = found.of("ringbell_findings");
        let is_it = |labels: &std::collections::BTreeMap<String, String>| {
            labels["code"] == code && labels["severity"] == severity
        };
        let matching: Vec<_> =
            samples.into_iter().filter(|sample| is_it(&sample.labels)).cloned().collect();
        assert_eq!(matching.len(), 1, "{code} {severity}");
        assert_eq!(matching[0].labels["server"], scene.socket());
        matching[0].value
    };
    assert!(of("server-stopped", "problem") >= 1.0);
    // What is not found is told as 0, so that an alert has a series before.
    assert_eq!(of("damaged", "problem"), 0.0);
    let (report, _) = report(&scene.socket());
    let sum: f64 = found.of("ringbell_findings").iter().map(|sample| sample.value).sum();
    assert_eq!(sum, report["findings"].as_array().expect("an array").len() as f64);
    let running = found.of("ringbell_server_running");
    assert_eq!((running.len(), running[0].value), (1, 0.0));
    assert!(found.of("ringbell_server_oldest_call_seconds")[0].value > 0.0);
    done!("{} series of findings", found.of("ringbell_findings").len())
}

/// The checker of these tests finds what was wrong with the metrics once, and more.
pub(crate) fn d8_bad_metrics_are_told() -> Ran {
    let head = "# HELP a_total Things.\n# TYPE a_total counter\n";
    assert!(
        Metrics::read(&format!("{head}a_total{{server=\"x \\\"y\\\"\"}} 1\n")).flaws.is_empty()
    );
    let cases = [
        ("# TYPE a_total counter\na_total{s=\"x\"} 1\n".to_owned(), "no help"),
        (format!("{head}a_total{{s=\"x\"}} 1\na_total{{s=\"x\"}} 2\n"), "twice"),
        (format!("{head}a_total{{s=\"x\",quantile=\"0.5\"}} 1\n"), "quantile"),
        (format!("{head}a_total{{s=\"x\"y\"}} 1\n"), "no sample"),
        (
            format!("{head}a_total{{s=\"x\"}} 1\n# HELP b B.\n# TYPE b gauge\nb{{}} 1\n"),
            "no sample",
        ),
        ("# HELP a A.\n# TYPE a counter\na{s=\"x\"} 1\n".to_owned(), "no _total"),
        ("# HELP a_total A.\n# TYPE a_total gauge\na_total{s=\"x\"} 1\n".to_owned(), "gauge with"),
        ("# HELP a_ns A.\n# TYPE a_ns gauge\na_ns{s=\"x\"} 1\n".to_owned(), "base unit"),
        ("# HELP a-b A.\n# TYPE a-b gauge\na-b{s=\"x\"} 1\n".to_owned(), "no name"),
        (
            format!(
                "{head}a_total{{s=\"x\"}} 1\n# HELP b B.\n# TYPE b gauge\nb{{s=\"x\"}} 1\na_total{{s=\"y\"}} 1\n"
            ),
            "begins twice",
        ),
    ];
    for (bad, why) in &cases {
        let flaws = Metrics::read(bad).flaws.join("\n");
        assert!(flaws.contains(why), "{why}: {flaws}\n{bad}");
    }
    done!("{} texts that break a rule each", cases.len())
}

pub(crate) fn sessions_beyond_the_limit_have_no_series_and_are_counted() -> Ran {
    let scene = Scene::new();
    let clients = connect(&scene, 7);
    let sessions = |metrics: &Metrics| -> Vec<String> {
        let infos = metrics.of("ringbell_session_info");
        infos.iter().map(|sample| sample.labels["session"].clone()).collect()
    };
    let (few, _) = metrics(&[&scene.socket(), "--max-sessions", "4"]);
    assert_eq!(sessions(&few), ["1", "2", "3", "4"], "the oldest");
    assert_eq!(few.of("ringbell_sessions_left_out")[0].value, 3.0);
    assert_eq!(few.of("ringbell_server_sessions")[0].value, 7.0, "the server tells of all");
    let named: BTreeSet<_> =
        few.samples.iter().filter_map(|sample| sample.labels.get("session")).collect();
    assert_eq!(named.len(), 4);
    let (all, _) = metrics(&[&scene.socket()]);
    assert_eq!((sessions(&all).len(), all.of("ringbell_sessions_left_out")[0].value), (7, 0.0));
    let (none, _) = metrics(&[&scene.socket(), "--max-sessions", "0"]);
    assert_eq!(none.of("ringbell_sessions_left_out")[0].value, 7.0);
    assert!(sessions(&none).is_empty());
    drop(clients);
    done!("{} series of 4 sessions, {} of 7", few.samples.len(), all.samples.len())
}

pub(crate) fn a_server_that_was_restarted_has_the_same_series() -> Ran {
    let series = |scene: &Scene| -> BTreeSet<String> {
        let (metrics, _) = metrics(&[&scene.socket()]);
        let lasting = metrics.samples.iter().filter(|sample| !sample.name.ends_with("_info"));
        lasting.map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect()
    };
    let first = Scene::new();
    let before = series(&first);
    let generation = |scene: &Scene| report(&scene.socket()).0["servers"][0]["generation"].clone();
    let old = generation(&first);
    let second = first.restarted();
    assert_ne!(generation(&second), old, "it is another server");
    assert_eq!(series(&second), before);
    done!("{} series", before.len())
}

/// All fields that name something are strings, wherever they stand.
fn assert_ids_are_strings(value: &Value, at: &str) -> usize {
    const IDS: [&str; 11] = [
        "generation",
        "session",
        "call",
        "first_call",
        "oldest_call",
        "oldest_session",
        "tail",
        "head",
        "position",
        "inode",
        "word",
    ];
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| {
                let is_id = IDS.contains(&name.as_str());
                assert!(!is_id || field.is_string() || field.is_null(), "{at}.{name}: {field}");
                usize::from(is_id) + assert_ids_are_strings(field, &format!("{at}.{name}"))
            })
            .sum(),
        Value::Array(items) => items.iter().map(|item| assert_ids_are_strings(item, at)).sum(),
        _ => 0,
    }
}

pub(crate) fn d9_ids_survive_programs_whose_numbers_are_doubles() -> Ran {
    let (scene, _client) = stopped_pair("4096");
    let (shown, _) = say_of(&["show", &scene.socket(), "--json"]);
    let report: Value = serde_json::from_str(&shown).expect("JSON");
    let generation = report["servers"][0]["generation"].as_str().expect("a string");
    assert!(generation.len() == 16 && u64::from_str_radix(generation, 16).is_ok(), "{generation}");
    // The same as people see, and as the other commands say.
    let (text, _) = say_of(&["show", &scene.socket()]);
    assert!(text.contains(&format!("generation {generation}")), "{text}");
    let (listed, _) = say_of(&["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let servers = listed["servers"].as_array().expect("an array");
    assert!(servers.iter().any(|server| server["generation"] == generation), "{listed:#}");
    let mut ids = assert_ids_are_strings(&report, "show") + assert_ids_are_strings(&listed, "list");
    let (frames, _) = say_of(&["frames", &scene.socket(), "--json", "--all"]);
    for line in frames.lines() {
        let frame: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(frame["generation"], generation);
        ids += assert_ids_are_strings(&frame, "frame");
    }
    let jq = match filter("jq", &["-r", ".servers[0].generation, .version, .date"], &shown) {
        None => "without jq, which is not installed here",
        Some(said) => {
            let said = said.expect("jq reads it");
            let date = report["date"].as_str().expect("a date");
            assert_eq!(said, format!("{generation}\n2\n{date}\n"));
            "and jq says the same"
        }
    };
    done!("{ids} ids are strings, {jq}")
}

pub(crate) fn d9_json_is_as_its_schema_says() -> Ran {
    let schema = Schema::read();
    let scene = Scene::with(&[("sample", "1")]);
    let mut client = scene.client_with(&[("sample", "1")]);
    let mut over_socket = scene.client_with(&[("socket", "yes")]);
    for client in [&mut client, &mut over_socket] {
        client.tell("call echo 1");
        client.expect("done");
    }
    let before = scene.file("before");
    say_of(&["save", &scene.pid(), &before]);
    let check = |definition: &str, arguments: &[&str]| {
        let (text, _) = say_of(&[arguments, &["--json"]].concat());
        let value = serde_json::from_str(&text).expect("JSON");
        schema.assert(definition, &value);
        value
    };
    let shown = check("show", &[&scene.socket()]);
    assert!(shown["sessions"][0]["samples"].is_object() && shown["over_sockets"] == 1, "{shown:#}");
    check("show", &["show", &client.id().to_string()]);
    check("list", &["list", &scene.directory.path().display().to_string()]);
    check("doctor", &["doctor"]);
    let mut lines = 0;
    // While it passes: records, gaps, and the end.
    client.tell("load 0");
    let tap = ["tap", &scene.socket(), "--json", "--every", "50ms", "--count", "300"];
    let (tapped, _) = say_of(&tap);
    // The line ends the load, and is an order after that.
    client.tell("call echo 2");
    client.expect("done");
    client.expect("done");
    let tapped: Vec<Value> =
        tapped.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for line in &tapped {
        schema.assert("tap_line", line);
        assert_ids_are_strings(line, "tap");
        lines += 1;
    }
    assert!(tapped.iter().any(|line| line["missed_bytes"].is_u64()), "a gap is among them");
    assert!(tapped.last().is_some_and(|line| line["end"].is_object()));
    client.stop();
    let mut second = scene.client();
    second.tell("call echo 1");
    second.expect("done");
    scene.server.stop();
    let shown = check("show", &["show", &scene.pid()]);
    assert!(!shown["findings"].as_array().expect("an array").is_empty());
    let changed = check("diff", &["diff", &before, &scene.pid()]);
    assert!(changed["servers"][0]["numbers"]["requests"].is_array(), "{changed:#}");
    assert_eq!(changed["sessions"].as_array().map(Vec::len), Some(2), "{changed:#}");
    let (frames, _) = say_of(&["frames", &scene.pid(), "--all", "--json"]);
    for line in frames.lines() {
        schema.assert("frames_line", &serde_json::from_str(line).expect("JSON"));
        lines += 1;
    }
    // The check finds what is not as it should be.
    for (path, value) in [
        ("/servers/0/generation", json!(7)),
        ("/servers/0/generation", json!("7")),
        ("/servers/0/state", json!("fine")),
        ("/servers/0/counters", json!({ "sessions": 1 })),
        ("/sessions/0/request/tail", json!(64)),
        ("/sessions/0/samples", json!(1)),
        ("/date", json!("2026-12-01")),
        ("/findings/0", json!({ "more": true })),
        ("/version", json!(1)),
    ] {
        let mut wrong = shown.clone();
        *wrong.pointer_mut(path).expect("there") = value;
        assert!(!schema.flaws("show", &wrong).is_empty(), "{path}");
    }
    let mut more = shown;
    more["servers"][0]["memory"]["colour"] = json!("red");
    assert_eq!(schema.flaws("show", &more), ["show.servers[0].memory.colour: not in the schema"]);
    done!("show, list, diff, doctor, and {lines} lines of frames and tap")
}

pub(crate) fn the_verdict_comes_first() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    sleeps(&scene.socket());
    let (text, status) = say_of(&["show", &scene.socket()]);
    assert!(text.starts_with("all is well\nserver "), "{text}");
    let (brief, _) = say_of(&["show", &scene.socket(), "--brief"]);
    let lines: Vec<_> = brief.lines().collect();
    assert!(lines.len() == 3 && lines[0] == "all is well" && status == 0, "{brief}");
    assert!(lines[1].starts_with("server ") && lines[1].contains(&scene.socket()), "{brief}");
    assert!(lines[2].starts_with("session 1 caller pid "), "{brief}");
    scene.server.stop();
    finds(&scene.pid(), "server-stopped", "problem");
    for options in [&[][..], &["--brief"]] {
        let (text, status) = say_of(&[&["show", &scene.socket()], options].concat());
        let server = text.find("\nserver ").expect("a server");
        let problem = text.find("problem").expect("a problem");
        assert!(problem == 0 && problem < server && status == 1, "{text}");
        assert!(!text[server..].contains("\nproblem"), "{text}");
    }
    done!("of a server that is well, and of a stopped one")
}

pub(crate) fn one_session_is_shown_with_its_own_findings() -> Ran {
    let scene = Scene::new();
    let [mut well, stopped] = [scene.client(), scene.client()];
    well.tell("call echo 1");
    well.expect("done");
    stopped.stop();
    finds(&scene.socket(), "client-stopped", "problem");
    let (text, status) = say_of(&["show", &scene.socket(), "--session", "1"]);
    assert!(text.starts_with("all is well\n") && status == 0, "{text}");
    assert!(text.contains("\nsession 1 ") && !text.contains("session 2"), "{text}");
    let (text, status) = say_of(&[&scene.socket(), "--session", "2", "--brief"]);
    assert!(text.starts_with("problem  session 2 ") && status == 1, "{text}");
    assert!(!text.contains("session 1 "), "{text}");
    let (json, _) = say_of(&["show", &scene.socket(), "--session", "2", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["sessions"][0]["session"], "2");
    // The findings of the server belong to each of its sessions.
    scene.server.stop();
    finds(&scene.pid(), "server-stopped", "problem");
    let (text, _) = say_of(&["show", &scene.pid(), "--session", "1"]);
    assert!(text.starts_with("problem  the server "), "{text}");
    let none = output(&["show", &scene.pid(), "--session", "9"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(3));
    assert!(said.contains("no session 9") && said.contains("2 from 1 to 2"), "{said}");
    done!("2 sessions, each alone")
}

pub(crate) fn of_many_sessions_some_are_shown_and_the_others_counted() -> Ran {
    let scene = Scene::new();
    let clients = connect(&scene, 24);
    let stopped = scene.client();
    stopped.stop();
    finds(&scene.socket(), "client-stopped", "problem");
    let told = |text: &str| -> Vec<String> {
        let heads = text.lines().filter(|line| line.starts_with("session "));
        heads.map(|line| line.split(' ').nth(1).expect("a number").to_owned()).collect()
    };
    let (text, _) = say_of(&[&scene.socket()]);
    let sessions = told(&text);
    assert!(sessions.len() == 20 && sessions[19] == "25", "the last one has a finding: {text}");
    let note = text.lines().find(|line| line.contains("left out")).expect("a note");
    assert!(note.starts_with("5 of 25 sessions") && note.contains("--all"), "{note}");
    let (text, _) = say_of(&[&scene.socket(), "--all"]);
    assert!(told(&text).len() == 25 && !text.contains("left out"), "{text}");
    let (text, _) = say_of(&[&scene.socket(), "--brief"]);
    assert_eq!(told(&text).len(), 25, "{text}");
    drop(clients);
    done!("20 of 25")
}

pub(crate) fn a_target_alone_is_shown() -> Ran {
    let (scene, client) = stopped_pair("2048");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    for target in [scene.socket(), scene.pid(), client.id().to_string(), file] {
        let (short, status) = say_of(&[&target]);
        assert!(short.starts_with("problem") && status == 1, "{target}: {short}");
        let (json, _) = say_of(&["--json", &target]);
        let (long, _) = say_of(&["show", &target, "--json"]);
        let id = |text: &str| {
            let report: Value = serde_json::from_str(text).expect("JSON");
            (report["version"].clone(), report["sessions"][0]["generation"].clone())
        };
        assert_eq!(id(&json), id(&long));
        assert!(say_of(&["--color", "never", &target, "--brief"]).0.starts_with("problem"));
        assert!(say_of(&["--color=always", &target]).0.contains('\x1b'));
    }
    // In the working directory a name is enough.
    let here = ring_dump(&["s"]).current_dir(scene.directory.path()).output().expect("started");
    assert_eq!(here.status.code(), Some(1), "{}", text(&here.stderr));
    for (arguments, status, said) in [
        (&["nonsense"][..], 2, "\"nonsense\" is neither a command nor a target"),
        (&["shwo"], 2, "did you mean `show`?"),
        (&["--color", "always", "nonsense"], 2, "\"nonsense\" is neither"),
        (&["nonsense", "--json"], 2, "\"nonsense\" is neither"),
        (&["--nonsense"], 2, "unexpected argument '--nonsense'"),
        (&["/nowhere/at/all"], 3, "/nowhere/at/all: No such file"),
        (&["4294967294"], 3, "there is no process 4294967294"),
        (&["list", "--brief"], 2, "unexpected argument '--brief'"),
    ] {
        let output = output(arguments);
        let stderr = anstream::adapter::strip_bytes(&output.stderr).into_vec();
        let stderr = text(&stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
    let neither = text(&output(&["nonsense"]).stderr);
    assert!(neither.contains("commands: list, show") && neither.contains("targets:"), "{neither}");
    done!("a socket, two pids, a file, and 8 words that are none")
}

pub(crate) fn every_manual_page_that_is_named_exists() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    say_of(&["man", "--directory", &directory.path().display().to_string()]);
    let pages: BTreeSet<String> = std::fs::read_dir(directory.path())
        .expect("read")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    // Those that the program lists have one each.
    let (help, _) = say_of(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let commands: Vec<_> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 8, "{help}");
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(pages.contains(&format!("ring-dump-{command}.1")), "{command}: {pages:?}");
    }
    let named = |text: &str| -> Vec<String> {
        let text = text.replace("\\-", "-").replace("\\fR", "");
        let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == 'B');
        let names = words.filter_map(|word| word.strip_suffix("(1)"));
        names.map(|name| format!("{}.1", name.trim_start_matches("\\f"))).collect()
    };
    let mut names = 0;
    let mut formatter = "groff is not installed here";
    for page in &pages {
        let path = directory.path().join(page);
        let text = std::fs::read_to_string(&path).expect("read");
        for name in named(&text) {
            assert!(pages.contains(&name), "{page} names {name}");
            names += 1;
        }
        if let Some(formatted) = filter("groff", &["-man", "-Tutf8", "-ww"], &text) {
            formatter = "groff takes them";
            assert!(formatted.expect("no warnings").contains("ring-dump"), "{page}");
        }
    }
    assert!(names >= 2 * (pages.len() - 1), "the program's page names all, and they name it");
    let (alone, _) = say_of(&["man"]);
    assert_eq!(named(&alone), Vec::<String>::new(), "what is printed alone names no other page");
    assert!(alone.contains("a\\-target") || alone.contains("TARGET"), "{alone}");
    let refused = output(&["man", "--directory", "/nowhere/at/all"]);
    assert!(refused.status.code() == Some(3) && text(&refused.stderr).contains("/nowhere/at/all/"));
    done!("{} pages name each other {names} times; {formatter}", pages.len())
}

pub(crate) fn colours_are_where_they_are_wanted() -> Ran {
    let (scene, _client) = stopped_pair("2048");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let mut commands = vec![
        vec!["list"],
        vec!["show", &file],
        vec![&file],
        vec!["frames", &file],
        vec!["diff", &file, &file],
        vec!["doctor"],
        vec!["--help"],
        vec!["nonsense"],
        vec!["show", "/nowhere/at/all"],
    ];
    let socket = scene.socket();
    commands.push(vec!["tap", &socket, "--time", "1ms"]);
    let looks = |arguments: &[&str], options: &[&str], variable: Option<&str>| {
        let mut command = ring_dump(&[options, arguments].concat());
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        if let Some(name) = variable {
            command.env(name, "1");
        }
        let output = command.env("TERM", "xterm").output().expect("started");
        output.stdout.contains(&0x1b) || output.stderr.contains(&0x1b)
    };
    for command in &commands {
        // What differs in nothing has nothing to colour.
        let some = command[0] != "diff";
        assert_eq!(looks(command, &["--color", "always"], None), some, "{command:?}");
        assert_eq!(looks(command, &["--color=always"], Some("NO_COLOR")), some, "{command:?}");
        assert_eq!(looks(command, &[], Some("CLICOLOR_FORCE")), some, "{command:?}");
        assert!(!looks(command, &[], None), "{command:?} at a pipe");
        assert!(!looks(command, &["--color", "never"], Some("CLICOLOR_FORCE")), "{command:?}");
        assert!(!looks(command, &[], Some("NO_COLOR")), "{command:?}");
    }
    // Programs get none.
    for format in ["--json", "--prometheus"] {
        assert!(!looks(&["show", &file, format], &["--color", "always"], None), "{format}");
    }
    done!("{} commands", commands.len())
}

/// The commands of ring-dump.md print what stands below them there, and its script writes a file
/// that a collector reads.
pub(crate) fn the_examples_of_the_manual_run() -> Ran {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("ring-dump.md")).expect("read");
    let block = |fence: &str, with: &str| {
        let begin = format!("```{fence}\n");
        let blocks = manual.split(begin.as_str()).skip(1);
        let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
        blocks.find(|block| block.contains(with)).expect("an example").to_owned()
    };
    let program = Path::new(env!("CARGO_BIN_EXE_ring-dump"));
    let path = std::env::var("PATH").expect("a path");
    let path = format!("{}:{path}", program.parent().expect("a directory").display());
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("PATH", &path).current_dir(root.join("tests/data"));
        let output = command.output().expect("started");
        assert!(output.stderr.is_empty(), "{script}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let scene = Scene::new();
    let file = scene.file("app.prom");
    let script = block("sh", "--prometheus")
        .replace("/var/lib/node_exporter/textfile/ringbell_app.prom", &file)
        .replace("/run/app/x.sock", &scene.socket());
    assert!(script.contains(&file) && script.contains(&scene.socket()), "{script}");
    shell(&script);
    let metrics = Metrics::read(&std::fs::read_to_string(&file).expect("written"));
    assert!(metrics.flaws.is_empty() && metrics.of("ringbell_server_info").len() == 1);
    // What is printed is put in the place of what stands there: it must be the same.
    let shown = block("text", "stopped by a signal");
    // How long ago it was taken changes.
    let all = shell("ring-dump stopped.ringsave");
    let lines = all.split_inclusive('\n').filter(|line| !line.starts_with("saved file; taken "));
    let mut right = manual.replacen(&shown, &lines.collect::<String>(), 1);
    let mut examples = 0;
    if filter("jq", &["--version"], "").is_some() {
        let console = block("console", "jq");
        let mut printed = String::new();
        for example in console.split("$ ").skip(1) {
            let (command, _) = example.split_once('\n').expect("a line");
            printed += &format!("$ {command}\n{}", shell(command));
            examples += 1;
        }
        assert!(examples >= 3 && printed.lines().count() > examples, "{printed}");
        right = right.replacen(&console, &printed, 1);
    }
    if std::env::var_os("RINGBELL_BLESS").is_some() {
        std::fs::write(root.join("ring-dump.md"), &right).expect("written");
    } else {
        assert!(right == manual, "RINGBELL_BLESS=1 makes it so: {right}");
    }
    done!("the collector's, and {examples} with jq")
}
