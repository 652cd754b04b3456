//! The table, and the histograms below it.

use crate::measure::Measurement;
use hdrhistogram::Histogram;
use std::fmt::Write;

const HEADS: [&str; 9] = [
    "transport",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "requests/s",
    "CPU/request",
    "syscalls/request",
];

/// One line for each measurement.
pub(crate) fn table(measurements: &[Measurement]) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(measurements.iter().map(|m| {
        [
            m.transport.to_string(),
            time(m.p50_ns as f64),
            time(m.p90_ns as f64),
            time(m.p99_ns as f64),
            time(m.p999_ns as f64),
            time(m.max_ns as f64),
            rate(m.per_second),
            time(m.cpu_ns_per_request),
            m.syscalls_per_request.map_or("-".to_owned(), calls),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        let mut line = format!("{:<1$}", row[0], width(0));
        for (column, cell) in row.iter().enumerate().skip(1) {
            let _ = write!(line, "  {cell:>0$}", width(column));
        }
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Three digits and a unit.
pub(crate) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..1e3 => return format!("{ns:.0} ns"),
        ..1e6 => (ns / 1e3, "us"),
        ..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

fn calls(per_request: f64) -> String {
    if per_request < 0.1 { format!("{per_request:.4}") } else { format!("{per_request:.2}") }
}

fn rate(per_second: f64) -> String {
    if per_second < 1e6 { thousands(per_second) } else { format!("{:.2} M", per_second / 1e6) }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns for each power of ten.
const PER_DECADE: u32 = 12;
/// Rows of a histogram, of eight steps each.
const HEIGHT: usize = 2;

/// A histogram for each measurement, over one logarithmic axis.
pub(crate) fn histograms(measurements: &[Measurement]) -> String {
    let (Some(least), Some(most)) = (
        measurements.iter().map(|m| m.latencies.min()).min(),
        measurements.iter().map(|m| m.latencies.max()).max(),
    ) else {
        return String::new();
    };
    let first = least.max(1).ilog10();
    let decades = most.max(1).ilog10() + 1 - first;
    let label = measurements.iter().map(|m| m.transport.name().len()).max().unwrap_or(0);
    let mut text = String::new();
    for m in measurements {
        let columns = columns(&m.latencies, first, decades);
        let highest = columns.iter().copied().max().unwrap_or(0).max(1);
        for row in (0..HEIGHT).rev() {
            let name = if row == 0 { m.transport.name() } else { "" };
            let bars: String = columns.iter().map(|&count| bar(count, highest, row)).collect();
            let _ = writeln!(text, "{}", format!("{name:<label$} |{bars}").trim_end());
        }
    }
    let mut ticks = format!("{:label$} ", "");
    for decade in first..=first + decades {
        let tick = time(10f64.powi(i32::try_from(decade).unwrap_or(0)))
            .replace(".00", "")
            .replace(".0", "");
        let _ = write!(ticks, "{tick:<0$}", PER_DECADE as usize);
    }
    let _ = writeln!(text, "{}", ticks.trim_end());
    text
}

/// How many latencies fall into each column.
fn columns(latencies: &Histogram<u64>, first: u32, decades: u32) -> Vec<u64> {
    let mut columns = vec![0; (decades * PER_DECADE) as usize];
    let edge = |column: usize| 10f64.powf(f64::from(first) + column as f64 / f64::from(PER_DECADE));
    let mut column = 0;
    for bucket in latencies.iter_recorded() {
        while column + 1 < columns.len() && bucket.value_iterated_to() as f64 >= edge(column + 1) {
            column += 1;
        }
        columns[column] += bucket.count_at_value();
    }
    columns
}

/// The part of a column that lies in a row, counted from below. Whatever is there is seen.
fn bar(count: u64, highest: u64, row: usize) -> char {
    let steps = u64::try_from(HEIGHT * 8).unwrap_or(u64::MAX);
    let filled = (count * steps).div_ceil(highest);
    let here = usize::try_from(filled).unwrap_or(usize::MAX).saturating_sub(row * 8).min(8);
    BARS[here]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::histogram;

    #[test]
    fn times_have_three_digits() {
        let texts = [340.0, 1_234.0, 75_060.0, 999_000.0, 1_500_000.0, 2e9].map(time);
        assert_eq!(texts, ["340 ns", "1.23 us", "75.1 us", "999 us", "1.50 ms", "2.00 s"]);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [7.0, 999.0, 1_000.0, 14_205.4, 999_999.0].map(thousands),
            ["7", "999", "1 000", "14 205", "999 999"]
        );
    }

    #[test]
    fn every_latency_is_in_a_column() {
        let mut latencies = histogram();
        for ns in [100, 101, 900, 5_000, 99_999, 1_000_000] {
            latencies.record(ns).unwrap();
        }
        let columns = columns(&latencies, 2, 5);
        assert_eq!(columns.iter().sum::<u64>(), 6);
        assert_eq!(columns[0], 2);
        assert_eq!(columns[48], 1);
    }

    #[test]
    fn what_is_there_is_seen() {
        assert_eq!(bar(0, 1_000_000, 0), ' ');
        assert_eq!(bar(1, 1_000_000, 0), '▁');
        assert_eq!((bar(7, 7, 0), bar(7, 7, 1)), ('█', '█'));
    }
}
