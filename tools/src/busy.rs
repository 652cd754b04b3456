//! Whether the machine has other work than ours: the load average, threads that want a CPU, and
//! time that a hypervisor took away. `ring-echo`, `race` and `ring-dump doctor` share this file.

use serde::Serialize;
use std::fmt::Write;
use std::fs::read_to_string;
use std::time::Duration;

/// Load average from which on others want the CPUs, too.
const CROWDED: f64 = 0.7;
/// CPUs that others may use while we do nothing: timers, kernel threads, a shell.
const QUIET_CPUS: f64 = 0.15;
/// Per cent of the CPU time that a hypervisor may take away.
const QUIET_STEAL: f64 = 1.0;
/// Per cent from which on stolen time is seen in every measurement.
#[allow(dead_code, reason = "one of the programs judges it")]
pub(crate) const MUCH_STEAL: f64 = 10.0;
/// How often the threads that run are counted, and the pause between two counts.
const LOOKS: usize = 8;
const PAUSE: Duration = Duration::from_millis(25);

/// What `/proc/stat` has counted since the machine started, over all CPUs: in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ticks {
    busy: u64,
    steal: u64,
    all: u64,
    /// CPUs that are online.
    cpus: u64,
}

impl Ticks {
    /// Now, if the kernel says so.
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&read_to_string("/proc/stat").ok()?)
    }

    /// Source: proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, and two that
    /// are contained in the first two.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<u64> = text
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))?
            .split_ascii_whitespace()
            .take(8)
            .map_while(|field| field.parse().ok())
            .collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal] = *fields.as_slice() else {
            return None;
        };
        let busy = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
        let all = [busy, idle, iowait, steal].into_iter().fold(0, u64::saturating_add);
        let is_cpu = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let cpus = text.lines().filter(is_cpu).count() as u64;
        Some(Self { busy, steal, all, cpus })
    }

    /// Per cent of the CPU time since `before` that a hypervisor took away.
    #[allow(clippy::cast_precision_loss, reason = "ticks since the start are far below 2^52")]
    pub(crate) fn steal_percent_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1) as f64;
        self.steal.saturating_sub(before.steal) as f64 * 100.0 / all
    }

    /// CPUs that were busy since `before`.
    #[allow(clippy::cast_precision_loss, reason = "ticks since the start are far below 2^52")]
    fn busy_cpus_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1) as f64;
        self.busy.saturating_sub(before.busy) as f64 / all * self.cpus.max(1) as f64
    }
}

/// How busy the machine is while this process does nothing. What cannot be read is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Busy {
    /// Load average of the last minute.
    pub(crate) load: Option<f64>,
    /// Threads that run or want to, without the one that looks: the median of several counts.
    pub(crate) runnable: Option<u64>,
    /// CPUs that others used.
    pub(crate) others_cpus: Option<f64>,
    /// Per cent of the CPU time that a hypervisor took away.
    pub(crate) steal_percent: Option<f64>,
}

impl Busy {
    /// Looks for a fifth of a second, in which this process must not do anything else.
    pub(crate) fn look() -> Self {
        let before = Ticks::now();
        let mut counts = Vec::new();
        let mut load = None;
        for _ in 0..LOOKS {
            std::thread::sleep(PAUSE);
            if let Some((average, running)) =
                read_to_string("/proc/loadavg").ok().as_deref().and_then(load_average)
            {
                load = Some(average);
                counts.push(running.saturating_sub(1));
            }
        }
        counts.sort_unstable();
        let between = before.zip(Ticks::now());
        Self {
            load,
            runnable: counts.get(counts.len() / 2).copied(),
            others_cpus: between.map(|(before, now)| now.busy_cpus_since(before)),
            steal_percent: between.map(|(before, now)| now.steal_percent_since(before)),
        }
    }

    /// What others do, in words; none if they do nothing that matters. The load average of a
    /// minute counts only where this process did nothing in that minute: `was_idle`.
    pub(crate) fn remark(&self, was_idle: bool) -> Option<String> {
        let mut said = Vec::new();
        if let Some(load) = self.load.filter(|&load| was_idle && load > CROWDED) {
            said.push(format!("load average {load:.2}"));
        }
        if let Some(cpus) = self.others_cpus.filter(|&cpus| cpus > QUIET_CPUS) {
            said.push(format!("other programs use {cpus:.1} CPUs"));
        }
        if let Some(runnable) = self.runnable.filter(|&runnable| runnable > 0) {
            let s = if runnable == 1 { "thread wants" } else { "threads want" };
            said.push(format!("{runnable} other {s} a CPU"));
        }
        if let Some(steal) = self.steal_percent.filter(|&steal| steal > QUIET_STEAL) {
            said.push(stolen(steal));
        }
        (!said.is_empty()).then(|| said.join(", "))
    }
}

/// What a hypervisor took away in a longer time, in words; none if that is next to nothing.
#[allow(dead_code, reason = "one of the programs measures for a longer time")]
pub(crate) fn steal_remark(percent: Option<f64>) -> Option<String> {
    percent.filter(|&percent| percent > QUIET_STEAL).map(stolen)
}

fn stolen(percent: f64) -> String {
    let mut text = String::new();
    let _ = write!(text, "the hypervisor took away {percent:.1} % of the CPU time");
    text
}

/// The load average of a minute, and the threads that run now or want to.
fn load_average(text: &str) -> Option<(f64, u64)> {
    let mut fields = text.split_ascii_whitespace();
    let load = fields.next()?.parse().ok()?;
    let (running, _) = fields.nth(2)?.split_once('/')?;
    Some((load, running.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts_is_read() {
        let before = Ticks::parse("cpu  10 0 10 60 0 0 0 0 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5\n");
        let now = Ticks::parse("cpu  60 0 10 100 0 0 0 10 0 0\ncpu0 1 1\ncpu1 1 1\n");
        let (before, now) = before.zip(now).expect("parsed");
        assert_eq!(before, Ticks { busy: 20, steal: 0, all: 80, cpus: 2 });
        assert!((now.busy_cpus_since(before) - 1.0).abs() < 1e-9, "half of two CPUs");
        assert!((now.steal_percent_since(before) - 10.0).abs() < 1e-9);
        for wrong in ["", "cpu", "cpu  1 2 3\n", "cpu  1 2 3 4 5 6 7 x\n"] {
            assert_eq!(Ticks::parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(load_average("1.50 0.9 0.8 3/200 4711\n"), Some((1.5, 3)));
        assert_eq!(load_average("nonsense"), None);
    }

    #[test]
    fn only_others_work_is_remarked() {
        let quiet = Busy {
            load: Some(0.1),
            runnable: Some(0),
            others_cpus: Some(0.05),
            steal_percent: Some(0.2),
        };
        assert_eq!(quiet.remark(true), None);
        assert_eq!(Busy::default().remark(true), None, "what cannot be read is not guessed");
        let after = Busy { load: Some(2.0), ..quiet };
        assert_eq!(after.remark(false), None, "the load of the last minute was our own");
        assert_eq!(after.remark(true).as_deref(), Some("load average 2.00"));
        let busy = Busy { runnable: Some(1), steal_percent: Some(7.0), ..quiet };
        let said = busy.remark(false).expect("busy");
        assert!(said.contains("1 other thread wants a CPU") && said.contains("7.0 %"), "{said}");
        assert_eq!(steal_remark(Some(0.5)), None);
    }
}
