//! `race report`: BENCHMARKS.md, its plots and the README's summary, all from the JSON file of one
//! race.

mod bars;
mod plots;
mod record;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use self::plots::Plot;
use self::record::{Line, Record};
use crate::outcome::Outcome;
use crate::table::{rate, time};

/// What to make of which file.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// What `race --json` wrote
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Where BENCHMARKS.md and the directory `benchmarks` with its plots go
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Also replace what this file has between the lines `<!-- race: summary -->` and
    /// `<!-- race: end -->`
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
}

/// Where the plots lie beside BENCHMARKS.md.
const PLOTS: &str = "benchmarks";

/// Notes by people, kept beside the plots: what was tried, with figures. Taken over as it is.
const NOTES: &str = "notes.md";

const SUMMARY_BEGINS: &str = "<!-- race: summary -->";
const SUMMARY_ENDS: &str = "<!-- race: end -->";

/// Writes everything.
pub(crate) fn write(report: &Report) -> Outcome<()> {
    let name = |error: &dyn std::fmt::Display| format!("{}: {error}", report.json.display());
    let text = fs::read_to_string(&report.json).map_err(|error| name(&error))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| name(&error))?;
    let directory = report.out.join(PLOTS);
    fs::create_dir_all(&directory)?;
    let plots = plots::draw(&record, &directory)?;
    let notes = fs::read_to_string(directory.join(NOTES)).ok();
    fs::write(report.out.join("BENCHMARKS.md"), page(&record, &plots, notes.as_deref()))?;
    if let Some(readme) = &report.readme {
        let text = fs::read_to_string(readme)?;
        fs::write(readme, with_summary(&text, &summary(&record), readme)?)?;
    }
    Ok(())
}

/// The text with the summary between its marks.
fn with_summary(text: &str, summary: &str, file: &Path) -> Outcome<String> {
    let missing = || format!("{} lacks {SUMMARY_BEGINS} or {SUMMARY_ENDS}", file.display());
    let (before, rest) = text.split_once(SUMMARY_BEGINS).ok_or_else(missing)?;
    let (_, after) = rest.split_once(SUMMARY_ENDS).ok_or_else(missing)?;
    Ok(format!("{before}{SUMMARY_BEGINS}\n\n{summary}\n{SUMMARY_ENDS}{after}"))
}

/// The whole of BENCHMARKS.md.
fn page(record: &Record, plots: &[Plot], notes: Option<&str>) -> String {
    let mut page = "# Benchmarks\n\nWritten by `race report` from what `race --json` found; not to be edited. What people \
         found out beside it stands in `benchmarks/notes.md`, and at the end of this page.\n"
        .to_owned();
    page += &method(record);
    page += &bar_table(record);
    page += &losses(record);
    page += "\n## Plots\n";
    for Plot { file, caption } in plots {
        let _ = write!(page, "\n![{caption}]({PLOTS}/{file})\n");
    }
    page += &tables(record);
    page += &absent(record);
    if let Some(notes) = notes {
        let _ = write!(page, "\n{}\n", notes.trim());
    }
    page
}

/// Where and how.
fn method(record: &Record) -> String {
    let (machine, run) = (&record.machine, &record.run);
    let mut text = "\n## Machine and method\n\n| | |\n|---|---|\n".to_owned();
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(text, "| {name} | {value} |");
    };
    let optional = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
    let threads = machine
        .threads_per_core
        .map_or_else(String::new, |threads| format!(", {threads} thread(s) a core"));
    let vm = if machine.virtual_machine { ", virtual" } else { "" };
    fact("CPU", format!("{}, {} usable{threads}{vm}", machine.cpu, machine.cpus));
    fact(
        "memory",
        machine.memory_mib.map_or_else(|| "not known".to_owned(), |mib| format!("{mib} MiB")),
    );
    fact("kernel", format!("{} ({})", machine.kernel, machine.architecture));
    fact("frequency governor", optional(&machine.frequency_governor));
    fact("ringbell", format!("{}, commit {}", machine.ringbell, optional(&machine.commit)));
    fact("compiler", optional(&machine.rustc));
    let features = machine.features.join(", ");
    fact("peers built on demand", if features.is_empty() { "none".to_owned() } else { features });
    fact(
        "two CPUs apart",
        run.atomic_round_trip_ns.map_or_else(
            || "not measured".to_owned(),
            |nanos| format!("an atomic goes there and back in {}", time(nanos)),
        ),
    );
    let rounds = record.rows.iter().filter(|line| line.error.is_none()).count();
    fact(
        "run",
        format!(
            "{rounds} rows, up to {} rounds of {} ms each{}, seed {}, {} s, on {}",
            run.rounds,
            run.millis,
            if run.quick { " (--quick: for a look, not for publication)" } else { "" },
            run.seed,
            run.seconds,
            date(run.began),
        ),
    );
    text += "\nServer and clients are processes of their own, pinned as the row says. Every round runs all trials in random \
             order; a figure is the median over the rounds, and with several clients a percentile is that of the worst \
             client. Every answer is verified: its number, its sender's pattern, every byte. A trial counts only while the \
             two CPUs are as far apart as usual, and none counts whose CPUs are siblings of one core. The ratio to the \
             limit compares with the least that this machine allows in the same case: hand-written probes, in the same \
             rounds. CPU time is that of all processes of a trial. System calls are counted in a run of their own.\n";
    if !run.remarks.is_empty() {
        text += "\nThe race remarked:\n\n";
        for remark in &run.remarks {
            let _ = writeln!(text, "- {remark}");
        }
    }
    text
}

/// The day of a time in seconds since 1970, in the Gregorian calendar (Howard Hinnant's
/// `civil_from_days`).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// The bars.
fn bar_table(record: &Record) -> String {
    let verdicts = bars::judge(record);
    let count = |met| verdicts.iter().filter(|verdict| verdict.met == met).count();
    let mut text = format!(
        "\n## Bars\n\n{} met, {} missed, {} could not be compared in this race. All with one and the same default \
         setting.\n\n| case | bar | found | |\n|---|---|---|---|\n",
        count(Some(true)),
        count(Some(false)),
        count(None)
    );
    for verdict in &verdicts {
        let met = match verdict.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "-",
        };
        let _ =
            writeln!(text, "| {} | {} | {} | {met} |", verdict.case, verdict.bar, verdict.found);
    }
    text
}

/// One measure by which somebody else is better.
#[derive(Debug)]
struct Loss<'a> {
    ours: &'a Line,
    theirs: &'a Line,
    measure: &'static str,
    figures: (String, String),
    factor: f64,
}

/// Differences below this factor are noise.
const NOISE: f64 = 1.02;

/// Everything in which a peer beats `ringbell` in the same case; the best peer for each.
fn lost(record: &Record) -> Vec<Loss<'_>> {
    let mut losses = Vec::new();
    for ours in record.rows.iter().filter(|line| line.system == "ringbell") {
        let peers = || {
            record
                .rows
                .iter()
                .filter(|line| line.is_peer() && line.error.is_none() && line.is_of_case_of(ours))
        };
        let mut lower = |measure, figure: fn(&Line) -> f64, show: fn(f64) -> String| {
            let best = peers().min_by(|a, b| figure(a).total_cmp(&figure(b)));
            if let Some(theirs) = best
                && figure(ours) > figure(theirs) * NOISE
            {
                let figures = (show(figure(ours)), show(figure(theirs)));
                losses.push(Loss {
                    ours,
                    theirs,
                    measure,
                    figures,
                    factor: figure(ours) / figure(theirs),
                });
            }
        };
        if ours.by_rate || ours.clients > 1 {
            lower("rate", |line| 1e9 / line.per_second, |nanos| format!("{}/s", rate(1e9 / nanos)));
        } else {
            lower("p50", |line| line.p50_ns, time);
        }
        lower("p99", |line| line.p99_ns, time);
        lower("CPU", |line| line.cpu_ns_per_op, time);
    }
    losses
}

/// What we lose.
fn losses(record: &Record) -> String {
    let losses = lost(record);
    let mut text = format!(
        "\n## What we lose\n\nEvery case and measure in which a peer beats `ringbell` by more than {:.0} %, with the best \
         peer: {} of them. Beside these, the missed bars above.\n\n",
        (NOISE - 1.0) * 100.0,
        losses.len()
    );
    if losses.is_empty() {
        return text;
    }
    text += "| case | measure | ringbell | best peer | | factor |\n|---|---|---|---|---|---|\n";
    for Loss { ours, theirs, measure, figures, factor } in losses {
        let (case, peer) = (ours.details(), &theirs.system);
        let (own, other) = figures;
        let _ = writeln!(
            text,
            "| `{}` {case} | {measure} | {own} | {other} | `{peer}` | {factor:.2} |",
            ours.scenario
        );
    }
    text
}

/// All rows, by scenario.
fn tables(record: &Record) -> String {
    let mut text = "\n## All rows\n".to_owned();
    let mut scenario = "";
    for line in record.rows.iter().filter(|line| line.error.is_none()) {
        if scenario != line.scenario {
            scenario = &line.scenario;
            let _ = write!(
                text,
                "\n### `{scenario}`\n\n| system | case | p50 | p99 | p99.9 | a second | CPU | system calls | x limit |\n\
                 |---|---|---|---|---|---|---|---|---|\n"
            );
        }
        let ratio = |figure: Option<f64>| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"))
        };
        let name = if line.system == "ringbell" { "**ringbell**" } else { &line.system };
        let cells = [
            line.details(),
            time(line.p50_ns),
            time(line.p99_ns),
            time(line.p999_ns),
            rate(line.per_second),
            time(line.cpu_ns_per_op),
            ratio(line.syscalls_per_op),
            ratio(line.ratio_to_limit),
        ];
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text
}

/// Rows without figures.
fn absent(record: &Record) -> String {
    let mut text = String::new();
    for line in &record.rows {
        if let Some(reason) = &line.error {
            let reason = reason.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | `{}` {} | {reason} |",
                line.system,
                line.scenario,
                line.details()
            );
        }
    }
    if text.is_empty() {
        return text;
    }
    format!("\n## Not measured\n\n| system | case | why |\n|---|---|---|\n{text}")
}

/// The rows of the README: the bars' cases, beside the limit and plain sockets.
const SUMMARY: [(&str, u64, u32, u32, &str); 14] = [
    ("echo", 48, 1, 1, "two-cpus"),
    ("echo", 64, 1, 1, "two-cpus"),
    ("echo", 1 << 10, 1, 1, "two-cpus"),
    ("echo", 64 << 10, 1, 1, "two-cpus"),
    ("echo", 1 << 20, 1, 1, "two-cpus"),
    ("one-cpu", 64, 1, 1, "one-cpu"),
    ("parked", 64, 1, 1, "two-cpus"),
    ("paced", 64, 1, 1, "two-cpus"),
    ("setup", 64, 1, 1, "two-cpus"),
    ("pipelined", 64, 64, 1, "two-cpus"),
    ("stream", 48, 1, 1, "two-cpus"),
    ("clients", 64, 1, 8, "unpinned"),
    ("clients", 64, 1, 32, "unpinned"),
    ("crowded", 64, 1, 4, "unpinned"),
];

/// What the README shows.
fn summary(record: &Record) -> String {
    let machine = &record.machine;
    let mut text = format!(
        "{} ({} CPUs), Linux {}: p50, or the rate where many requests are under way; the ratio to what the machine allows \
         in the same run; plain sockets; and the best of all other peers that were there.\n\n\
         | case | ringbell | x limit | UDS stream | best other peer |\n|---|---|---|---|---|\n",
        machine.cpu,
        machine.cpus,
        machine.kernel.split(' ').next().unwrap_or_default()
    );
    for (scenario, size, in_flight, clients, placement) in SUMMARY {
        let here = |line: &&Line| {
            (
                line.scenario.as_str(),
                line.size,
                line.in_flight,
                line.clients,
                line.placement.as_str(),
            ) == (scenario, size, in_flight, clients, placement)
                && line.error.is_none()
        };
        let Some(ours) = record.rows.iter().filter(here).find(|line| line.system == "ringbell")
        else {
            continue;
        };
        let by_rate = ours.by_rate || clients > 1;
        let show = |line: &Line| {
            if by_rate { format!("{}/s", rate(line.per_second)) } else { time(line.p50_ns) }
        };
        let cost = |line: &Line| if by_rate { 1.0 / line.per_second } else { line.p50_ns };
        let uds = record.rows.iter().filter(here).find(|line| line.system == "uds-stream");
        let others = record
            .rows
            .iter()
            .filter(here)
            .filter(|line| line.is_peer() && line.system != "uds-stream");
        let other = others.min_by(|a, b| cost(a).total_cmp(&cost(b)));
        let _ = writeln!(
            text,
            "| `{scenario}` {} | {} | {} | {} | {} |",
            ours.details(),
            show(ours),
            ours.ratio_to_limit.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            uds.map_or_else(|| "-".to_owned(), show),
            other.map_or_else(
                || "-".to_owned(),
                |line| format!("{} (`{}`)", show(line), line.system)
            ),
        );
    }
    let verdicts = bars::judge(record);
    let count = |met| verdicts.iter().filter(|verdict| verdict.met == met).count();
    let _ = write!(
        text,
        "\n{} bars met, {} missed, {} not compared; {} cases and measures in which a peer is better. \
         [BENCHMARKS.md](BENCHMARKS.md) has them all.\n",
        count(Some(true)),
        count(Some(false)),
        count(None),
        lost(record).len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    pub(super) fn line(
        scenario: &str,
        system: &str,
        size: u64,
        p50_ns: f64,
        per_second: f64,
    ) -> Line {
        Line {
            scenario: scenario.to_owned(),
            system: system.to_owned(),
            size,
            in_flight: 1,
            clients: 1,
            placement: "two-cpus".to_owned(),
            p50_ns,
            p99_ns: p50_ns,
            p999_ns: p50_ns,
            per_second,
            cpu_ns_per_op: p50_ns,
            syscalls_per_op: None,
            wake_calls_per_op: None,
            ratio_to_limit: None,
            quantiles_ns: vec![p50_ns; 3],
            wakes_per_sleep: None,
            by_rate: false,
            error: None,
        }
    }

    pub(super) fn record(rows: Vec<Line>) -> Record {
        Record {
            machine: Machine::default(),
            run: record::Run::default(),
            quantiles: vec![0.5, 0.9, 0.99],
            rows,
        }
    }

    #[test]
    fn a_loss_is_told_and_a_win_is_not() {
        let rows = vec![
            line("echo", "ringbell", 64, 100.0, 1.0),
            line("echo", "peer", 64, 50.0, 1.0),
            line("echo", "limit-x", 64, 10.0, 1.0),
            line("echo", "ringbell", 128, 100.0, 1.0),
            line("echo", "peer", 128, 150.0, 1.0),
        ];
        let record = record(rows);
        let losses = lost(&record);
        assert_eq!(
            losses.iter().map(|loss| loss.measure).collect::<Vec<_>>(),
            ["p50", "p99", "CPU"]
        );
        assert!(losses.iter().all(|loss| loss.ours.size == 64 && loss.theirs.system == "peer"));
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
    }

    #[test]
    fn a_summary_goes_between_its_marks() {
        let text = format!("a\n{SUMMARY_BEGINS}\nold\n{SUMMARY_ENDS}\nb\n");
        let made = with_summary(&text, "new\n", Path::new("x")).expect("both marks are there");
        assert_eq!(made, format!("a\n{SUMMARY_BEGINS}\n\nnew\n\n{SUMMARY_ENDS}\nb\n"));
        assert!(with_summary("nothing", "new", Path::new("x")).is_err());
    }

    #[test]
    fn what_a_race_writes_can_be_read() {
        let text = r#"{"machine": {"cpu": "x"}, "run": {"rounds": 3}, "quantiles": [0.5], "rows": [{
            "scenario": "echo", "system": "aeron", "size": 64, "in_flight": 1, "clients": 1, "placement": "two-cpus",
            "p50_ns": null, "p90_ns": null, "p99_ns": null, "p999_ns": null, "max_ns": null, "per_second": null,
            "cpu_ns_per_op": null, "syscalls_per_op": null, "rounds": 0, "min": null, "max": null,
            "ratio_to_limit": null, "error": "not built"}]}"#;
        let record: Record = serde_json::from_str(text).expect("a record");
        assert!(record.rows[0].p50_ns.is_nan());
        assert!(
            page(&record, &[], None).contains("| `aeron` | `echo` 64 B, two cpus | not built |")
        );
    }
}
