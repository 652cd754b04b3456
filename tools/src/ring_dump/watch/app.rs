//! What is looked at, and how: the state behind the screen, without a terminal.

use super::keys::Key;
use super::text::{clock, plain};
use crate::finding::Finding;
use crate::process::State;
use crate::report::{Report, Server, Session};
use crate::source::Target;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Points of a sparkline that are kept.
const HISTORY: usize = 240;
/// How long a piece of news stands.
const NEWS: Duration = Duration::from_secs(15);
/// The same of a server that has taken the place of another one.
const BIG_NEWS: Duration = Duration::from_secs(120);
/// From here on a look that is not done is told.
const SLOW: Duration = Duration::from_millis(700);

/// By what sessions are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
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

    pub(super) fn name(self) -> &'static str {
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
pub(super) struct Past {
    /// Requests a second.
    pub(super) rates: VecDeque<u64>,
    /// Bytes in the request ring.
    pub(super) requests: VecDeque<u64>,
    /// Bytes in the response ring.
    pub(super) responses: VecDeque<u64>,
}

fn remember(past: &mut VecDeque<u64>, value: u64) {
    if past.len() == HISTORY {
        past.pop_front();
    }
    past.push_back(value);
}

/// Whether what is shown goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// It was looked at just now.
    Seen,
    /// Its process is gone, since when it was noticed.
    Dead {
        /// The process.
        pid: u32,
        /// A time of day.
        since: &'a str,
    },
    /// It cannot be looked at any more.
    Lost {
        /// A time of day.
        since: &'a str,
        /// Why.
        why: &'a str,
    },
}

/// What covers the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing.
    Nothing,
    /// What the keys do.
    Help,
    /// All verdicts, with their advice.
    Verdicts,
}

/// What to do behind a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    Redraw,
    Quit,
}

/// A session: generation of the server, number.
pub(super) type Id = (u64, u64);

pub(super) fn id(session: &Session) -> Id {
    (session.generation, session.session)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates for a picture")]
pub(super) fn rate(session: &Session) -> u64 {
    session.rates.get("received").map_or(0, |rate| rate.round() as u64)
}

/// What is on the screen.
pub(super) struct App {
    pub(super) target: Target,
    pub(super) sort: Sort,
    /// Since when nothing is looked at.
    pub(super) paused: Option<String>,
    selected: Option<Id>,
    /// Where that session stands, or stood, among those that are shown.
    pub(super) row: usize,
    /// Whether the selected session is shown alone.
    pub(super) open: bool,
    pub(super) over: Over,
    /// Lines of what covers the table that are above the screen; the drawing knows how many there
    /// can be.
    pub(super) scrolled: Cell<usize>,
    /// Whether the filter is being typed.
    pub(super) typing: bool,
    pub(super) filter: String,
    /// Whether only sessions with a finding are shown.
    pub(super) found_only: bool,
    /// The server that is shown, of several.
    server: Option<u64>,
    pub(super) report: Option<Report>,
    /// When it was made.
    pub(super) seen_at: String,
    pub(super) past: BTreeMap<Id, Past>,
    /// All sessions of a server together.
    pub(super) rates: BTreeMap<u64, VecDeque<u64>>,
    /// Servers, by generation, whose process is gone, and since when; `None` is the target.
    dead: BTreeMap<Option<u64>, (u32, String)>,
    /// Since when looks fail, and why.
    lost: Option<(String, String)>,
    news: Vec<(Instant, String)>,
    /// The look that is under way.
    looking: Option<(Instant, String)>,
    /// Rows that there was room for.
    pub(super) page: Cell<usize>,
}

impl App {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            sort: Sort::Session,
            paused: None,
            selected: None,
            row: 0,
            open: false,
            over: Over::Nothing,
            scrolled: Cell::new(0),
            typing: false,
            filter: String::new(),
            found_only: false,
            server: None,
            report: None,
            seen_at: String::new(),
            past: BTreeMap::new(),
            rates: BTreeMap::new(),
            dead: BTreeMap::new(),
            lost: None,
            news: Vec::new(),
            looking: None,
            page: Cell::new(1),
        }
    }

    /// A look begins.
    pub(super) fn begins(&mut self) {
        self.looking = Some((Instant::now(), clock()));
    }

    /// Whether a look is under way.
    pub(super) fn is_looking(&self) -> bool {
        self.looking.is_some()
    }

    /// Since when a look is under way, if that is long.
    pub(super) fn slow_since(&self) -> Option<&str> {
        let (began, since) = self.looking.as_ref()?;
        (began.elapsed() >= SLOW).then_some(since.as_str())
    }

    /// Whether something on the screen changes with time alone.
    pub(super) fn is_timed(&self) -> bool {
        self.looking.is_some() || !self.news.is_empty()
    }

    /// A look was of no use.
    pub(super) fn left_out(&mut self) {
        self.looking = None;
    }

    /// A look has failed.
    pub(super) fn lost(&mut self, why: String) {
        self.looking = None;
        let since = self.lost.take().map_or_else(clock, |(since, _)| since);
        self.lost = Some((since, why));
    }

    /// A process that was looked at is gone.
    pub(super) fn died(&mut self, generation: Option<u64>, pid: u32) {
        self.dead.entry(generation).or_insert_with(|| (pid, clock()));
    }

    /// Whether what is shown goes on.
    pub(super) fn standing(&self) -> Standing<'_> {
        let shown = self.server().map(|(_, server)| server.generation);
        match (self.dead.get(&None).or_else(|| self.dead.get(&shown)), &self.lost) {
            (Some((pid, since)), _) => Standing::Dead { pid: *pid, since },
            (None, Some((since, why))) => Standing::Lost { since, why },
            (None, None) => Standing::Seen,
        }
    }

    /// Whether rates of a server and its sessions are those of now.
    pub(super) fn is_live(&self, generation: u64) -> bool {
        let is_dead = |key| self.dead.contains_key(&key);
        self.lost.is_none() && !is_dead(None) && !is_dead(Some(generation))
    }

    /// A look has brought something.
    pub(super) fn seen(&mut self, report: Report) {
        self.looking = None;
        self.seen_at = clock();
        let old: BTreeSet<u64> = self.servers().iter().map(|server| server.generation).collect();
        let another = report.servers.iter().find(|server| !old.contains(&server.generation));
        let is_left = |gone: u64| !report.servers.iter().any(|server| server.generation == gone);
        if let Some(server) = another
            && old.iter().any(|gone| is_left(*gone))
        {
            let news = format!(
                "another server is here since {}: pid {}, generation {:016x}",
                clock(),
                server.peer.pid,
                server.generation
            );
            self.news.push((Instant::now() + BIG_NEWS, news));
        }
        self.lost = None;
        // A look that had begun before the end still finds the server.
        self.dead.retain(|key, _| key.is_some_and(|gone| !is_left(gone)));
        for server in report.servers.iter().filter(|server| server.state == State::Dead) {
            self.dead.entry(Some(server.generation)).or_insert_with(|| (server.peer.pid, clock()));
        }
        let ids: BTreeSet<Id> = report.sessions.iter().map(id).collect();
        self.past.retain(|key, _| ids.contains(key));
        let mut sums: BTreeMap<u64, u64> =
            report.servers.iter().map(|server| (server.generation, 0)).collect();
        for session in &report.sessions {
            let past = self.past.entry(id(session)).or_default();
            remember(&mut past.rates, rate(session));
            remember(&mut past.requests, session.request.fill);
            remember(&mut past.responses, session.response.fill);
            *sums.entry(session.generation).or_default() += rate(session);
        }
        self.rates.retain(|generation, _| sums.contains_key(generation));
        for (generation, sum) in sums {
            remember(self.rates.entry(generation).or_default(), sum);
        }
        if let Some((generation, number)) = self.selected
            && !ids.contains(&(generation, number))
            && (!is_left(generation) || report.servers.is_empty())
        {
            self.news.push((Instant::now() + NEWS, format!("session {number} has ended")));
        }
        self.report = Some(report);
        self.settle();
    }

    /// What is new, without what is old.
    pub(super) fn news(&mut self) {
        self.news.retain(|(until, _)| Instant::now() < *until);
        // The last few are enough.
        let many = self.news.len().saturating_sub(2);
        self.news.drain(..many);
    }

    pub(super) fn told(&self) -> impl Iterator<Item = &str> {
        self.news.iter().map(|(_, news)| news.as_str())
    }

    pub(super) fn servers(&self) -> &[Server] {
        self.report.as_ref().map_or(&[], |report| &report.servers)
    }

    /// The server that is shown, and its place among all.
    pub(super) fn server(&self) -> Option<(usize, &Server)> {
        let servers = self.servers();
        let chosen =
            servers.iter().position(|server| Some(server.generation) == self.server).unwrap_or(0);
        servers.get(chosen).map(|server| (chosen, server))
    }

    /// Whether something of that generation belongs to what is shown.
    fn is_shown(&self, generation: u64) -> bool {
        match self.server() {
            Some((_, server)) if self.servers().len() > 1 => {
                server.generation == generation
                    || !self.servers().iter().any(|other| other.generation == generation)
            }
            _ => true,
        }
    }

    /// Verdicts: those on what is shown first.
    pub(super) fn findings(&self) -> Vec<&Finding> {
        let Some(report) = &self.report else { return Vec::new() };
        let mut findings: Vec<&Finding> = report.findings.iter().collect();
        findings.sort_by_key(|finding| {
            let here = finding.generation.is_none_or(|generation| self.is_shown(generation));
            (std::cmp::Reverse(finding.severity), !here)
        });
        findings
    }

    /// Sessions of what is shown, whatever the filter says.
    pub(super) fn all(&self) -> usize {
        let Some(report) = &self.report else { return 0 };
        report.sessions.iter().filter(|session| self.is_shown(session.generation)).count()
    }

    /// The sessions in the order in which they are shown.
    pub(super) fn shown(&self) -> Vec<&Session> {
        let Some(report) = &self.report else { return Vec::new() };
        let found: BTreeSet<Id> = report
            .findings
            .iter()
            .filter_map(|finding| Some((finding.generation?, finding.session?)))
            .collect();
        let word = self.filter.to_lowercase();
        let matches = |session: &Session| {
            word.is_empty()
                || session.session.to_string() == word
                || session.peer.pid.to_string().contains(&word)
                || plain(&session.peer.name).to_lowercase().contains(&word)
        };
        let mut sessions: Vec<&Session> = report
            .sessions
            .iter()
            .filter(|session| self.is_shown(session.generation))
            .filter(|session| matches(session))
            .filter(|session| !self.found_only || found.contains(&id(session)))
            .collect();
        let fill = |session: &&Session| session.request.fill.max(session.response.fill);
        match self.sort {
            Sort::Session => sessions.sort_by_key(|session| id(session)),
            Sort::Fill => sessions.sort_by_key(|session| std::cmp::Reverse(fill(session))),
            Sort::Rate => sessions.sort_by_key(|session| std::cmp::Reverse(rate(session))),
            Sort::Oldest => {
                sessions.sort_by_key(|session| std::cmp::Reverse(session.oldest_age_ns))
            }
        }
        sessions
    }

    /// Finds the selected session among those that are shown; the nearest if it is none of them.
    fn settle(&mut self) {
        let shown: Vec<Id> = self.shown().into_iter().map(id).collect();
        let place = shown.iter().position(|id| Some(*id) == self.selected);
        self.row = place.unwrap_or(self.row).min(shown.len().saturating_sub(1));
        self.selected = shown.get(self.row).copied();
        self.open &= self.selected.is_some();
    }

    /// Selects the session that stands in a row.
    fn select(&mut self, row: usize) {
        self.selected = None;
        self.row = row;
        self.settle();
    }

    fn next_server(&mut self, step: usize) {
        let count = self.servers().len();
        let Some((at, _)) = self.server() else { return };
        self.server = self.servers().get((at + step) % count).map(|server| server.generation);
        self.select(0);
    }

    pub(super) fn key(&mut self, key: Key) -> Next {
        if self.typing {
            match key {
                Key::Char(char) => self.filter.extend(plain(char.encode_utf8(&mut [0; 4])).chars()),
                Key::Backspace => drop(self.filter.pop()),
                Key::Enter => self.typing = false,
                Key::Escape => {
                    self.typing = false;
                    self.filter.clear();
                }
                Key::Redraw => return Next::Redraw,
                _ => {}
            }
            self.settle();
            return Next::Go;
        }
        let page = self.page.get().max(1);
        match key {
            Key::Char('q') => return Next::Quit,
            Key::Redraw => return Next::Redraw,
            Key::Char('?' | 'h') if self.over != Over::Help => self.cover(Over::Help),
            Key::Char('v') if self.over != Over::Verdicts => self.cover(Over::Verdicts),
            _ if self.over != Over::Nothing => self.scroll(key, page),
            Key::Escape if self.open => self.open = false,
            Key::Escape => {
                self.filter.clear();
                self.found_only = false;
                self.settle();
            }
            Key::Char('p' | ' ') => {
                self.paused = if self.paused.is_some() { None } else { Some(clock()) };
            }
            Key::Char('s') => {
                self.sort = self.sort.next();
                self.settle();
            }
            Key::Char('n') => {
                self.found_only = !self.found_only;
                self.settle();
            }
            Key::Char('/') => {
                self.typing = true;
                self.filter.clear();
                self.settle();
            }
            Key::Tab => self.next_server(1),
            Key::BackTab => self.next_server(self.servers().len().saturating_sub(1)),
            Key::Up | Key::Char('k') => self.select(self.row.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(self.row + 1),
            Key::PageUp => self.select(self.row.saturating_sub(page)),
            Key::PageDown => self.select(self.row + page),
            Key::Home | Key::Char('g') => self.select(0),
            Key::End | Key::Char('G') => self.select(usize::MAX),
            Key::Enter => {
                self.open = !self.open;
                self.settle();
            }
            _ => {}
        }
        Next::Go
    }

    fn cover(&mut self, over: Over) {
        self.over = over;
        self.scrolled.set(0);
    }

    fn scroll(&mut self, key: Key, page: usize) {
        let at = self.scrolled.get();
        self.scrolled.set(match key {
            Key::Up | Key::Char('k') => at.saturating_sub(1),
            Key::Down | Key::Char('j') => at.saturating_add(1),
            Key::PageUp => at.saturating_sub(page),
            Key::PageDown | Key::Char(' ') => at.saturating_add(page),
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => usize::MAX,
            _ => return self.cover(Over::Nothing),
        });
    }
}
