//! How to look without taking the CPU from whoever is looked at: at the lowest priority, and for a
//! share of the time.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// What a look costs others beside its own time: whoever ran on that CPU is switched out and in,
/// and its peer waits for it meanwhile, yields, and may go to sleep.
const SWITCH: Duration = Duration::from_micros(50);

/// CPU time of this thread.
#[allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "a clock that counts from 0"
)]
pub(crate) fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Lets this thread, and those that it starts, run only when a CPU has nothing better to do
/// (`SCHED_IDLE`). It takes no right; a sandbox may refuse it.
#[allow(unsafe_code)]
pub(crate) fn give_way() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is this thread; the parameters are read during the call, and nothing else of this
    // process is touched.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Work that is done again and again and takes no more than a share of one CPU.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Of one CPU; `None` for as much as there is.
    share: Option<f64>,
    /// The shortest pause.
    every: Duration,
    /// CPU time of this thread when the work began.
    began: Duration,
}

impl Pace {
    pub(crate) fn new(share: Option<f64>, every: Duration) -> Self {
        Self { share, every, began: cpu_time() }
    }

    /// The work begins.
    pub(crate) fn begin(&mut self) {
        self.began = cpu_time();
    }

    /// How long to let it be, now that it is done.
    pub(crate) fn pause(&self) -> Duration {
        self.pause_after(cpu_time().saturating_sub(self.began))
    }

    fn pause_after(&self, took: Duration) -> Duration {
        let Some(share) = self.share else { return self.every };
        let pause = Duration::try_from_secs_f64((took + SWITCH).as_secs_f64() / share);
        pause.unwrap_or(Duration::MAX).max(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_makes_the_work_a_share() {
        let ms = Duration::from_millis;
        let pace = Pace::new(Some(0.01), ms(1));
        assert_eq!(pace.pause_after(ms(1)), ms(105));
        assert_eq!(pace.pause_after(Duration::ZERO), ms(5));
        assert_eq!(
            Pace::new(Some(1.0), ms(1)).pause_after(Duration::ZERO),
            ms(1),
            "not more often than asked"
        );
        assert_eq!(Pace::new(None, ms(3)).pause_after(ms(1000)), ms(3));
    }

    #[test]
    fn a_thread_can_give_way_and_its_time_is_known() {
        std::thread::spawn(|| {
            give_way().expect("not refused here");
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("read");
            // Field 41, counted from behind the name.
            let policy =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(38));
            assert_eq!(policy, Some("5"), "SCHED_IDLE: {stat}");
            let before = cpu_time();
            while cpu_time() - before < Duration::from_micros(100) {
                std::hint::spin_loop();
            }
        })
        .join()
        .expect("no panic");
    }
}
