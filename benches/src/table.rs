//! The table for people: one block for each scenario.

use std::fmt::Write;

use crate::row::Row;
use crate::scenario::Scenario;

/// The headings, and on which side their columns are flush. The last one's is the [`yardstick`].
const COLUMNS: [(&str, Flush); 17] = [
    ("system", Flush::Left),
    ("size", Flush::Right),
    ("flight", Flush::Right),
    ("clients", Flush::Right),
    ("placement", Flush::Left),
    ("p50", Flush::Right),
    ("p90", Flush::Right),
    ("p99", Flush::Right),
    ("p99.9", Flush::Right),
    ("max", Flush::Right),
    ("ops/s", Flush::Right),
    ("cpu/op", Flush::Right),
    ("calls/op", Flush::Right),
    ("p50 min", Flush::Right),
    ("p50 max", Flush::Right),
    ("x limit", Flush::Right),
    ("", Flush::Right),
];

/// What the rows of a scenario are judged beside, as a heading.
fn yardstick(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::ServiceDepth | Scenario::ServiceClients => "of in-process",
        Scenario::ServiceEmpty => "of ringbell",
        Scenario::SlowClient => "of the 7 alone",
        Scenario::Tasks => "of tokio-uds",
        Scenario::UdpEchoSmall
        | Scenario::UnixEchoSmall
        | Scenario::UnixAccept
        | Scenario::TcpEcho64k
        | Scenario::HttpLoopbackGet => "of native",
        _ => "",
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Left,
    Right,
}

/// All rows, in their order, with a heading wherever the scenario changes.
pub(crate) fn render(rows: &[Row]) -> String {
    let cells: Vec<[String; COLUMNS.len()]> = rows.iter().map(cells).collect();
    let mut widths = COLUMNS.map(|(heading, _)| heading.len());
    for (row, scenario) in cells.iter().zip(rows.iter().map(|row| row.scenario)) {
        let last = &mut widths[COLUMNS.len() - 1];
        *last = (*last).max(yardstick(scenario).len());
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut text = String::new();
    let mut scenario = None;
    for (row, cells) in rows.iter().zip(&cells) {
        if scenario != Some(row.scenario) {
            scenario = Some(row.scenario);
            let rounds =
                rows.iter().filter(|other| other.scenario == row.scenario).map(|row| row.rounds);
            let rounds = rounds.max().unwrap_or(0);
            let measured = match rounds {
                0 => "not measured".to_owned(),
                1 => "one round".to_owned(),
                rounds => format!("median of {rounds} rounds"),
            };
            text += &format!("\n{} ({measured})\n", row.scenario);
            let mut headings = COLUMNS.map(|(heading, _)| heading);
            headings[COLUMNS.len() - 1] = yardstick(row.scenario);
            line(&mut text, &widths, headings);
        }
        match &row.error {
            None => line(&mut text, &widths, cells.each_ref().map(String::as_str)),
            Some(reason) => {
                text += &format!("{:<width$}  {reason}\n", row.system, width = widths[0])
            }
        }
    }
    text
}

fn line(text: &mut String, widths: &[usize; COLUMNS.len()], cells: [&str; COLUMNS.len()]) {
    let mut line = String::new();
    for ((cell, &width), (_, flush)) in cells.iter().zip(widths).zip(COLUMNS) {
        line += &match flush {
            Flush::Left => format!("{cell:<width$}  "),
            Flush::Right => format!("{cell:>width$}  "),
        };
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", line.trim_end());
}

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let ratio = |figure: Option<f64>| {
        figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"))
    };
    [
        row.system.to_owned(),
        bytes(row.size as u64),
        row.in_flight.to_string(),
        row.clients.to_string(),
        row.placement.to_string(),
        time(row.p50_ns),
        time(row.p90_ns),
        time(row.p99_ns),
        time(row.p999_ns),
        time(row.max_ns),
        rate(row.per_second),
        time(row.cpu_ns_per_op),
        ratio(row.syscalls_per_op),
        time(row.min),
        time(row.max),
        ratio(row.ratio_to_limit),
        row.percent_of_yardstick.map_or_else(String::new, |percent| format!("{percent:.1} %")),
    ]
}

/// Nanoseconds below 1 us, with a fraction where that matters; then us, then ms.
pub(crate) fn time(nanos: f64) -> String {
    match nanos {
        n if n.is_nan() => "-".to_owned(),
        n if n < 100.0 => format!("{n:.1} ns"),
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e5 => format!("{:.2} us", n / 1e3),
        n if n < 1e6 => format!("{:.0} us", n / 1e3),
        n => format!("{:.1} ms", n / 1e6),
    }
}

pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        n if n.is_nan() => "-".to_owned(),
        n if n < 1e4 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n => format!("{:.2} M", n / 1e6),
    }
}

pub(crate) fn bytes(size: u64) -> String {
    match size {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{} KiB", n >> 10),
        n => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(time(4.83), "4.8 ns");
        assert_eq!(time(312.4), "312 ns");
        assert_eq!(time(62_830.0), "62.83 us");
        assert_eq!(time(752_900.0), "753 us");
        assert_eq!(rate(207_000_000.0), "207.00 M");
        assert_eq!(bytes(64 << 10), "64 KiB");
        assert_eq!(bytes(1000), "1000 B");
    }
}
