//! The rules of Prometheus's text format and of `promtool check metrics`, as far as ring-dump can
//! break them. Tests hold it to them where promtool is not installed.

use std::collections::{BTreeMap, BTreeSet};

/// A sample: its name, its labels and its value.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// All samples of a text, or what breaks a rule.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) samples: Vec<Sample>,
    pub(crate) flaws: Vec<String>,
}

/// Units that have a base unit.
const UNITS: [&str; 9] =
    ["ns", "us", "ms", "milliseconds", "microseconds", "nanoseconds", "kilobytes", "kb", "percent"];

impl Metrics {
    pub(crate) fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        let mut kinds: BTreeMap<String, String> = BTreeMap::new();
        let mut helps = BTreeSet::new();
        let mut series = BTreeSet::new();
        let mut family = String::new();
        let begin = |name: &str, family: &mut String, flaws: &mut Vec<String>| {
            if family != name {
                name.clone_into(family);
            }
            if !is_name(name, true) {
                flaws.push(format!("{name}: no name"));
            }
        };
        let mut closed = BTreeSet::new();
        for line in text.lines() {
            let flaws = &mut metrics.flaws;
            let before = family.clone();
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                begin(name, &mut family, flaws);
                if help.trim().is_empty() || !helps.insert(name.to_owned()) {
                    flaws.push(format!("{name}: no help text, or two"));
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
                begin(name, &mut family, flaws);
                if kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                    flaws.push(format!("{name}: two types"));
                }
                check_type(name, kind, flaws);
            } else {
                match sample(line) {
                    Some(sample) => {
                        begin(&sample.name, &mut family, flaws);
                        if !kinds.contains_key(&sample.name) || !helps.contains(&sample.name) {
                            flaws.push(format!("{}: no type or no help", sample.name));
                        }
                        if sample.labels.contains_key("quantile") {
                            flaws.push(format!("{line}: quantile on what is no summary"));
                        }
                        if !series.insert((sample.name.clone(), sample.labels.clone())) {
                            flaws.push(format!("{line}: twice"));
                        }
                        metrics.samples.push(sample);
                    }
                    None => flaws.push(format!("{line}: no sample")),
                }
            }
            if before != family && !closed.insert(family.clone()) {
                metrics.flaws.push(format!("{family}: begins twice"));
            }
        }
        if !text.ends_with('\n') {
            metrics.flaws.push("the last line has no end".into());
        }
        metrics
    }

    /// The samples of one name.
    pub(crate) fn of(&self, name: &str) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.name == name).collect()
    }
}

fn check_type(name: &str, kind: &str, flaws: &mut Vec<String>) {
    match kind {
        "counter" if !name.ends_with("_total") => flaws.push(format!("{name}: no _total")),
        "gauge" if name.ends_with("_total") => flaws.push(format!("{name}: a gauge with _total")),
        "counter" | "gauge" => {}
        other => flaws.push(format!("{name}: {other} is not used here")),
    }
    for part in name.split('_') {
        if UNITS.contains(&part) {
            flaws.push(format!("{name}: {part} is no base unit"));
        }
        if ["counter", "gauge", "histogram", "summary"].contains(&part) {
            flaws.push(format!("{name}: has a type in its name"));
        }
    }
    // A unit stands at the end.
    let stem = name.strip_suffix("_total").unwrap_or(name);
    for unit in ["_bytes", "_seconds"] {
        if stem.contains(&format!("{unit}_")) {
            flaws.push(format!("{name}: {unit} is not at the end"));
        }
    }
    if ["_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix)) {
        flaws.push(format!("{name}: ends as a part of a histogram does"));
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colon && byte == b':');
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(good)
        // promtool demands snake_case.
        && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `name{label="value",...} 1`
fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = line.split_once('{')?;
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    loop {
        let (label, behind) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = behind.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other @ ('\\' | '"') => other,
                    _ => return None,
                }),
                (_, other) => value.push(other),
            }
        };
        if !is_name(label, false) || labels.insert(label.to_owned(), value).is_some() {
            return None;
        }
        rest = &behind[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let value = rest.strip_prefix("} ")?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}
