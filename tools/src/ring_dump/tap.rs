//! Records as they pass, as tcpdump shows packets. What is looked at is not slowed: `tap` runs when
//! a CPU has nothing better to do, for a share of one CPU that is small unless asked for more
//! ([`crate::pace`]), printing included. A look reads a few lines of a ring ([`follow`]); what came
//! in between and is overwritten is counted as missed, not waited for.
//!
//! A ring holds its last lap at most, so of a stream that goes round it between two looks a part is
//! seen.

mod follow;

use crate::cli::{Tap, Which};
use crate::frames::Origin;
use crate::handle::Handle;
use crate::pace::{self, Pace};
use crate::report::JSON_VERSION;
use crate::source::{self, Target};
use crate::style::{DIM, END, WARN};
use crate::{Failure, Healthy, Usage};
use follow::{Burst, Event, Followed, Passed};
use ringbell::inspect::Segment;
use ringbell::sync::{Ordering, PlainBool};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often sessions are looked for that began or ended, at most.
const REFRESH: Duration = Duration::from_millis(500);
/// What of the budget the looks get; looking for sessions gets the rest.
const LOOKS: f64 = 0.75;

type Rings = BTreeMap<(u64, u64), Vec<Followed>>;

/// The tap at work.
struct Tapping<'a> {
    asked: &'a Tap,
    target: Target,
    began: Instant,
    /// The same by the clock of segments.
    began_ns: u64,
    rings: Rings,
    passed: Passed,
    looks: u64,
    /// Which session is looked at first: each in its turn.
    turn: usize,
    events: Vec<Event>,
    out: Output,
}

/// Standard output, written to once a look.
struct Output {
    plain: bool,
    text: String,
}

impl Output {
    fn new() -> Self {
        let choice = anstream::AutoStream::choice(&std::io::stdout());
        Self { plain: choice == anstream::ColorChoice::Never, text: String::new() }
    }

    /// Waits for whoever reads it: nothing is queued here, and more is missed meanwhile.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.text.is_empty() {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        if self.plain {
            out.write_all(anstream::adapter::strip_str(&self.text).to_string().as_bytes())?;
        } else {
            out.write_all(self.text.as_bytes())?;
        }
        self.text.clear();
        Ok(out.flush()?)
    }
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    version: u32,
    end: Passed,
    looks: u64,
    cpu_ns: u128,
    wall_ns: u128,
}

impl Tapping<'_> {
    /// Brings the rings that are followed up to date.
    fn refresh(&mut self) -> Result<(), Failure> {
        let found = source::find(&self.target)?;
        let mut requests = BTreeMap::new();
        let mut responses = BTreeMap::new();
        for handle in &found.handles {
            match handle.decode() {
                Some(Segment::Request(segment)) => {
                    let identity = segment.identity;
                    let key = (identity.generation, identity.session);
                    requests.insert(key, (handle, identity.capacity, identity.created_ns));
                }
                Some(Segment::Response(segment)) => {
                    let identity = segment.identity;
                    responses.insert(
                        (identity.generation, identity.session),
                        (handle, identity.capacity),
                    );
                }
                _ => {}
            }
        }
        let is_over =
            |key: &&(u64, u64)| !(requests.contains_key(*key) && responses.contains_key(*key));
        let over: Vec<_> = self.rings.keys().filter(is_over).copied().collect();
        for key in over {
            if let Some(mut rings) = self.rings.remove(&key) {
                self.look_at(&mut rings, true)?;
            }
        }
        for (key, (request, request_capacity, created_ns)) in requests {
            let Some((response, response_capacity)) = responses.get(&key) else { continue };
            if self.asked.choice.session.is_some_and(|session| session != key.1)
                || self.rings.contains_key(&key)
            {
                continue;
            }
            // Of a session that began meanwhile nothing was missed yet.
            let is_new = found.our_time(created_ns) > self.began_ns;
            let follow = |ring, handles: [&Handle; 2], capacity| {
                let origin = Origin { generation: key.0, session: key.1, ring };
                let wanted = self.asked.choice.ring.is_none_or(|wanted| wanted == ring);
                wanted.then(|| Followed::new(origin, handles, capacity, is_new)).flatten()
            };
            let both = [
                follow(Which::Request, [request, response], request_capacity),
                follow(Which::Response, [response, request], *response_capacity),
            ];
            self.rings.insert(key, both.into_iter().flatten().collect());
        }
        Ok(())
    }

    fn burst(&self) -> Burst {
        if self.asked.all { Burst::ALL } else { Burst::SMALL }
    }

    /// Whether as many records were shown as were asked for.
    fn left(&self) -> u64 {
        self.asked.count.unwrap_or(u64::MAX).saturating_sub(self.passed.records)
    }

    /// Looks at rings of a session; `last` if it is over.
    fn look_at(&mut self, rings: &mut [Followed], last: bool) -> Result<(), Failure> {
        for followed in rings {
            let (left, burst) = (self.left(), self.burst());
            followed.look(&self.asked.choice, burst, left, &mut self.passed, &mut self.events);
            if last && self.left() != 0 {
                followed.end(&mut self.passed, &mut self.events);
            }
            let at = self.began.elapsed().as_secs_f64();
            for event in self.events.drain(..) {
                write_event(
                    &mut self.out.text,
                    &event,
                    followed.ring(),
                    at,
                    self.asked.choice.json,
                )?;
            }
        }
        Ok(())
    }

    /// Looks at everything.
    fn look(&mut self, last: bool) -> Result<(), Failure> {
        let mut all = std::mem::take(&mut self.rings);
        let turn = self.turn.checked_rem(all.len()).unwrap_or(0);
        for rings in all.values_mut().skip(turn) {
            self.look_at(rings, last)?;
        }
        for rings in all.values_mut().take(turn) {
            self.look_at(rings, last)?;
        }
        self.turn = self.turn.wrapping_add(1);
        self.looks += 1;
        self.rings = all;
        self.out.flush()
    }

    fn is_over(&self) -> bool {
        self.left() == 0 || self.asked.time.is_some_and(|time| self.began.elapsed() >= time)
    }

    /// What is said at the end.
    fn end(&mut self, cpu: Duration) -> Result<(), Failure> {
        let wall = self.began.elapsed();
        if self.asked.choice.json {
            let summary = Summary {
                version: JSON_VERSION,
                end: self.passed,
                looks: self.looks,
                cpu_ns: cpu.as_nanos(),
                wall_ns: wall.as_nanos(),
            };
            writeln_json(&mut self.out.text, &summary)?;
            self.out.flush()?;
        }
        let Passed { bytes, records, left_out, missed_bytes, missed_records_at_most, .. } =
            self.passed;
        let left_out = match left_out {
            0 => String::new(),
            records => format!(", {records} of other kinds"),
        };
        anstream::eprintln!(
            "{DIM}{records} records{left_out}; missed {missed_bytes} bytes of {bytes}, at most {missed_records_at_most} \
             records; {} looks with {:.2} % of a CPU{END}",
            self.looks,
            100.0 * cpu.as_secs_f64() / wall.as_secs_f64().max(1e-9)
        );
        if missed_bytes != 0 && !self.asked.all {
            anstream::eprintln!("{DIM}--budget and --all miss less, and cost more{END}");
        }
        Ok(())
    }
}

fn writeln_json(to: &mut String, value: &impl Serialize) -> Result<(), Failure> {
    *to += &serde_json::to_string(value)?;
    to.push('\n');
    Ok(())
}

/// A record, or a gap in their row.
fn write_event(
    to: &mut String,
    event: &Event,
    ring: Which,
    at: f64,
    json: bool,
) -> Result<(), Failure> {
    let arrow = match ring {
        Which::Request => '>',
        Which::Response => '<',
    };
    match event {
        Event::Frame(frame) if json => writeln_json(to, frame)?,
        Event::Gap(gap) if json => writeln_json(to, gap)?,
        Event::Frame(frame) => {
            let text = frame.text();
            *to += &format!(
                "{DIM}{at:10.6}{END} {arrow} session {} {}",
                frame.session,
                text.trim_start()
            );
        }
        Event::Gap(gap) => {
            let (session, missed, records) =
                (gap.session, gap.missed_bytes, gap.missed_records_at_most);
            *to += &format!(
                "{DIM}{at:10.6}{END} {arrow} session {session} {WARN}missed {missed} bytes, at most {records} records{END}\n"
            );
        }
    }
    Ok(())
}

/// Follows the rings of a target until something ends it.
pub(crate) fn run(asked: &Tap) -> Result<Healthy, Failure> {
    let target = Target::of(&asked.target)?;
    if !target.is_live() {
        return Err(Box::new(Usage("tap follows what is alive: see frames for files".into())));
    }
    if !asked.all
        && let Err(refused) = pace::give_way()
    {
        anstream::eprintln!(
            "{WARN}SCHED_IDLE is refused ({refused}): only the budget spares the target{END}"
        );
    }
    let stop = Arc::new(PlainBool::new(false));
    let (told, this) = (stop.clone(), std::thread::current());
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            told.store(true, Ordering::Relaxed);
            this.unpark();
        }
        // Standard output takes nothing, and whoever runs this has asked twice.
        if signals.next().is_some() {
            std::process::exit(3);
        }
    });
    let share = (!asked.all).then_some(asked.budget / 100.0);
    let mut looks = Pace::new(share.map(|share| share * LOOKS), asked.every);
    let mut refreshes = Pace::new(share.map(|share| share * (1.0 - LOOKS)), REFRESH);
    let mut tapping = Tapping {
        asked,
        target,
        began: Instant::now(),
        began_ns: crate::process::now_ns(),
        rings: Rings::new(),
        passed: Passed::default(),
        looks: 0,
        turn: 0,
        events: Vec::new(),
        out: Output::new(),
    };
    tapping.refresh()?;
    // Whoever waits for the first record to send something needs to know.
    anstream::eprintln!(
        "{DIM}following {} sessions of {}{END}",
        tapping.rings.len(),
        tapping.target
    );
    // Beginning is not looking.
    let cpu_before = pace::cpu_time();
    let mut refresh_at = Instant::now() + refreshes.pause();
    while !stop.load(Ordering::Relaxed) && !tapping.is_over() {
        looks.begin();
        tapping.look(false)?;
        let pause = looks.pause();
        if Instant::now() >= refresh_at {
            refreshes.begin();
            if tapping.refresh().is_err() {
                anstream::eprintln!("{DIM}the target is gone{END}");
                break;
            }
            refresh_at = Instant::now() + refreshes.pause();
        }
        let left = asked.time.map_or(pause, |time| time.saturating_sub(tapping.began.elapsed()));
        std::thread::park_timeout(pause.min(left));
    }
    if tapping.left() != 0 {
        tapping.look(true)?;
    }
    tapping.end(pace::cpu_time().saturating_sub(cpu_before))?;
    Ok(true)
}
