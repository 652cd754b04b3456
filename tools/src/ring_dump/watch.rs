//! A target on the screen: looked at again and again, with what changed in between.

mod screen;

use crate::assemble;
use crate::capture::{Capture, Origin, Take};
use crate::cli::Watch;
use crate::report::{Report, Session};
use crate::source::{self, Target};
use crate::{Failure, Healthy, Unattachable, Usage};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Points of a sparkline that are kept.
const HISTORY: usize = 240;

/// By what sessions are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Their number.
    Session,
    /// The fuller ring.
    Fill,
    /// Requests a second.
    Rate,
    /// The age of the oldest call.
    Oldest,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Session => Self::Fill,
            Self::Fill => Self::Rate,
            Self::Rate => Self::Oldest,
            Self::Oldest => Self::Session,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Fill => "fill",
            Self::Rate => "rate",
            Self::Oldest => "oldest call",
        }
    }
}

/// What a session did in the past.
#[derive(Debug, Default)]
struct Past {
    /// Requests a second.
    rates: VecDeque<u64>,
    /// Bytes in the request ring.
    requests: VecDeque<u64>,
    /// Bytes in the response ring.
    responses: VecDeque<u64>,
}

fn remember(past: &mut VecDeque<u64>, value: u64) {
    if past.len() == HISTORY {
        past.pop_front();
    }
    past.push_back(value);
}

/// What is on the screen.
struct App {
    target: Target,
    interval: Duration,
    late: Duration,
    sort: Sort,
    paused: bool,
    /// Of the sorted sessions.
    selected: usize,
    /// Whether the selected session is shown alone.
    open: bool,
    take: Option<Take>,
    listens_at: Vec<String>,
    report: Option<Report>,
    /// By generation and session.
    past: BTreeMap<(u64, u64), Past>,
    /// All sessions together.
    rates: VecDeque<u64>,
    /// Why the last look failed.
    failure: Option<String>,
}

/// Whether to go on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Go,
    Quit,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates for a picture")]
fn rate(session: &Session) -> u64 {
    session.rates.get("received").map_or(0, |rate| rate.round() as u64)
}

impl App {
    fn new(target: Target, interval: Duration, late: Duration) -> Self {
        Self {
            target,
            interval,
            late,
            sort: Sort::Session,
            paused: false,
            selected: 0,
            open: false,
            take: None,
            listens_at: Vec::new(),
            report: None,
            past: BTreeMap::new(),
            rates: VecDeque::new(),
            failure: None,
        }
    }

    /// Looks once more.
    fn look(&mut self) -> Result<(), Unattachable> {
        let found = source::find(&self.target)?;
        let take = source::take(&found, true);
        self.listens_at = found.listens_at.iter().map(|path| path.display().to_string()).collect();
        let before = self.take.replace(take.clone());
        let capture = Capture::live(
            self.target.to_string(),
            Origin::Process,
            self.listens_at.clone(),
            before.into_iter().chain([take]).collect(),
        );
        let report = assemble::report_with(&capture, self.late);
        self.past.retain(|key, _| {
            report.sessions.iter().any(|session| (session.generation, session.session) == *key)
        });
        for session in &report.sessions {
            let past = self.past.entry((session.generation, session.session)).or_default();
            remember(&mut past.rates, rate(session));
            remember(&mut past.requests, session.request.fill);
            remember(&mut past.responses, session.response.fill);
        }
        remember(&mut self.rates, report.sessions.iter().map(rate).sum());
        self.report = Some(report);
        Ok(())
    }

    /// The sessions in the order in which they are shown.
    fn sorted(&self) -> Vec<&Session> {
        let Some(report) = &self.report else { return Vec::new() };
        let mut sessions: Vec<&Session> = report.sessions.iter().collect();
        let fill = |session: &&Session| session.request.fill.max(session.response.fill);
        match self.sort {
            Sort::Session => {}
            Sort::Fill => sessions.sort_by_key(|session| std::cmp::Reverse(fill(session))),
            Sort::Rate => sessions.sort_by_key(|session| std::cmp::Reverse(rate(session))),
            Sort::Oldest => {
                sessions.sort_by_key(|session| std::cmp::Reverse(session.oldest_age_ns))
            }
        }
        sessions
    }

    fn key(&mut self, key: KeyEvent) -> Next {
        let last = self.report.as_ref().map_or(0, |report| report.sessions.len().saturating_sub(1));
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Next::Quit;
            }
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Esc if self.open => self.open = false,
            KeyCode::Esc => return Next::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::Enter => self.open = !self.open,
            _ => {}
        }
        Next::Go
    }
}

/// Watches until a key ends it.
pub(crate) fn run(asked: &Watch) -> Result<Healthy, Failure> {
    let target = Target::of(&asked.target)?;
    if !target.is_live() {
        return Err(Box::new(Usage("watch looks at what is alive: see show for files".into())));
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Box::new(Usage("watch needs a terminal: see show --json for programs".into())));
    }
    let mut app = App::new(target, asked.interval, asked.late.late);
    app.look()?;
    let mut terminal = ratatui::try_init()?;
    let result = follow(&mut app, &mut terminal);
    ratatui::restore();
    result.map(|()| true)
}

fn follow(app: &mut App, terminal: &mut ratatui::DefaultTerminal) -> Result<(), Failure> {
    // Rates need a second look, and soon.
    let mut next = Instant::now() + app.interval.min(Duration::from_millis(100));
    loop {
        terminal.draw(|frame| screen::draw(app, frame))?;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && app.key(key) == Next::Quit
            {
                return Ok(());
            }
            terminal.draw(|frame| screen::draw(app, frame))?;
        }
        next = Instant::now() + app.interval;
        if !app.paused {
            app.failure = app.look().err().map(|why| why.to_string());
        }
    }
}
