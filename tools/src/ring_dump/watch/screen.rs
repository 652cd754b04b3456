//! How it looks.

use super::{App, Past, rate};
use crate::finding::Severity;
use crate::process::State;
use crate::report::{Report, RingState, Session};
use crate::samples::{Samples, Spread};
use crate::show::{self, short};
use crate::verdict::time;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table, TableState, Wrap};
use ringbell::inspect::Sleep;
use std::collections::VecDeque;

/// Characters of a bar in the table.
const BAR: u64 = 12;

/// From here on it is worth saying where a call is.
const LONG_NS: u64 = 100_000_000;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws everything.
pub(super) fn draw(app: &App, frame: &mut Frame<'_>) {
    let Some(report) = &app.report else { return };
    let findings = findings(app, report);
    let high = u16::try_from(findings.len()).unwrap_or(u16::MAX).clamp(1, 6) + 2;
    let [head, body, verdicts, keys] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Min(5),
        Constraint::Length(high),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(app, report, frame, head);
    let sessions = app.sorted();
    match sessions.get(app.selected.min(sessions.len().saturating_sub(1))) {
        Some(session) if app.open => one(app, session, frame, body),
        _ => table(app, &sessions, frame, body),
    }
    let verdicts_block = Block::bordered().title(" verdicts ");
    frame.render_widget(
        Paragraph::new(findings).wrap(Wrap { trim: true }).block(verdicts_block),
        verdicts,
    );
    let paused =
        if app.paused { Span::styled(" PAUSED ", BOLD.fg(Color::Yellow)) } else { Span::raw("") };
    let help = format!("q quit  p pause  s sort: {}  up/down select  enter open", app.sort.name());
    frame.render_widget(Line::from(vec![paused, Span::styled(help, DIM)]), keys);
}

fn findings<'a>(app: &'a App, report: &'a Report) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    if let Some(why) = &app.failure {
        lines.push(Line::styled(format!("the last look failed: {why}"), Color::Red));
    }
    lines.extend(report.findings.iter().map(|finding| {
        let style = match finding.severity {
            Severity::Problem => Style::from(Color::Red),
            Severity::Note => Style::from(Color::Yellow),
        };
        Line::styled(finding.text.as_str(), style)
    }));
    if lines.is_empty() {
        lines.push(Line::styled("all is well", Color::Green));
    }
    lines
}

fn header(app: &App, report: &Report, frame: &mut Frame<'_>, area: Rect) {
    let [text, line] =
        Layout::horizontal([Constraint::Min(40), Constraint::Length(40)]).areas(area);
    let mut lines = Vec::new();
    for server in &report.servers {
        lines.push(Line::from(vec![
            Span::styled(format!("{} ", server.peer.name), BOLD),
            Span::raw(format!("pid {} ", server.peer.pid)),
            state(server.state),
            Span::raw(format!("  {}", report.listens_at.join(" "))),
        ]));
        let rate =
            |name: &str| server.rates.get(name).map_or_else(|| "-".to_owned(), |rate| short(*rate));
        lines.push(Line::raw(format!(
            "{} sessions, {} requests/s, {} in handlers",
            server.counters.sessions,
            rate("requests"),
            server.counters.in_flight
        )));
        let asleep = server.domains.iter().any(|domain| domain.sleep != Sleep::Awake);
        lines.push(Line::raw(format!(
            "reactor {}: {} spins paid/s, {} yields/s, {} parks/s, {} wakes/s",
            if asleep { "asleep" } else { "awake" },
            rate("spins_paid"),
            rate("yields"),
            rate("parks"),
            rate("wakes_sent")
        )));
    }
    if report.servers.is_empty() {
        lines.push(Line::raw(format!("{}: no server in sight", app.target)));
    }
    frame.render_widget(Paragraph::new(lines), text);
    spark(&app.rates, "requests/s", Color::Cyan, None, frame, line);
}

fn state(state: State) -> Span<'static> {
    let color = match state {
        State::Alive => Color::Green,
        State::Unknown => Color::Gray,
        _ => Color::Red,
    };
    Span::styled(state.word(), color)
}

/// The newest points that there is room for.
fn spark(
    past: &VecDeque<u64>,
    title: &str,
    color: Color,
    most: Option<u64>,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let now = past.back().copied().unwrap_or(0);
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let block = Block::bordered().title(format!(" {title}: {} ", short(now as f64)));
    let room = usize::from(area.width.saturating_sub(2));
    let points: Vec<u64> = past.iter().skip(past.len().saturating_sub(room)).copied().collect();
    let mut sparkline = Sparkline::default().data(&points).style(color).block(block);
    if let Some(most) = most {
        sparkline = sparkline.max(most);
    }
    frame.render_widget(sparkline, area);
}

fn ring_style(ring: &RingState) -> Style {
    match () {
        () if ring.flaw.is_some() || (ring.stuck && ring.full) => Style::from(Color::Red),
        () if ring.stuck => Style::from(Color::Yellow),
        () => Style::from(Color::Green),
    }
}

/// The last points of a line in one cell of text.
fn tiny(past: Option<&Past>, points: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let Some(past) = past else { return String::new() };
    let points: Vec<u64> = past.rates.iter().rev().take(points).rev().copied().collect();
    let most = points.iter().copied().max().unwrap_or(0).max(1);
    points
        .iter()
        .map(|point| STEPS[usize::try_from(point.saturating_mul(7) / most).unwrap_or(7).min(7)])
        .collect()
}

fn bar_width(bar: u64) -> Constraint {
    Constraint::Length(u16::try_from(bar).unwrap_or(12) + 2)
}

fn table(app: &App, sessions: &[&Session], frame: &mut Frame<'_>, area: Rect) {
    // Room for where the time goes is taken from the pictures.
    let timed = sessions.iter().any(|session| session.samples.is_some());
    let (bar, points) = if timed { (BAR / 2, 8) } else { (BAR, 12) };
    let rows = sessions.iter().map(|session| {
        let oldest = session.oldest_age_ns.map_or_else(|| "-".to_owned(), time);
        let sleep = match session.sleep {
            Sleep::Awake => "awake",
            Sleep::Armed { .. } => "asleep",
            Sleep::Impossible { .. } => "impossible",
        };
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let speed = short(rate(session) as f64);
        let past = app.past.get(&(session.generation, session.session));
        let mut cells = vec![
            Line::raw(session.session.to_string()),
            Line::raw(session.peer.pid.to_string()),
            Line::raw(session.peer.name.clone()),
            Line::from(state(session.state)),
            Line::raw(sleep),
            Line::styled(show::bar(&session.request, bar), ring_style(&session.request)),
            Line::styled(show::bar(&session.response, bar), ring_style(&session.response)),
            Line::raw(speed),
            Line::styled(tiny(past, points), Color::Cyan),
            Line::raw(session.in_flight.to_string()),
            Line::raw(oldest),
        ];
        if timed {
            cells.push(split(session.samples.as_ref()));
        }
        Row::new(cells)
    });
    let columns = [
        ("ID", Constraint::Length(5)),
        ("PID", Constraint::Length(8)),
        ("NAME", Constraint::Min(8)),
        ("PROCESS", Constraint::Length(8)),
        ("CLIENT", Constraint::Length(7)),
        (if timed { "REQ" } else { "REQUESTS" }, bar_width(bar)),
        (if timed { "RESP" } else { "RESPONSES" }, bar_width(bar)),
        ("REQ/S", Constraint::Length(7)),
        ("", Constraint::Length(u16::try_from(points).unwrap_or(12))),
        ("FLIGHT", Constraint::Length(6)),
        ("OLDEST", Constraint::Length(8)),
        (" WAIT  WORK  WAIT", Constraint::Length(17)),
    ];
    let shown = columns.len() - usize::from(!timed);
    let (titles, widths): (Vec<_>, Vec<_>) = columns.into_iter().take(shown).unzip();
    let table = Table::new(rows, widths)
        .header(Row::new(titles).style(BOLD))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(format!(" {} sessions ", sessions.len())));
    let mut selected =
        TableState::default().with_selected(app.selected.min(sessions.len().saturating_sub(1)));
    frame.render_stateful_widget(table, area, &mut selected);
}

/// Waiting, working, waiting: in the request ring, the handler, the response ring.
fn split(samples: Option<&Samples>) -> Line<'static> {
    let Some(samples) = samples else { return Line::raw("-") };
    let [request, handler, response] =
        [samples.request_ring, samples.handler, samples.response_ring]
            .map(|spread| if spread.calls == 0 { "-".to_owned() } else { brief(spread.median_ns) });
    // Most of the time stands out.
    let worked = samples.handler.median_ns;
    let waited = samples.request_ring.median_ns.max(samples.response_ring.median_ns);
    let style = if waited > worked { Style::from(Color::Yellow) } else { Style::new() };
    Line::from(vec![
        Span::styled(format!("{request:>5}"), style),
        Span::styled(format!(" {handler:>5}"), BOLD),
        Span::styled(format!(" {response:>5}"), style),
    ])
}

/// A time in five characters.
fn brief(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        1_000_000_000..10_000_000_000_000 => format!("{}s", ns / 1_000_000_000),
        _ => "long".to_owned(),
    }
}

fn split_line(samples: Option<&Samples>) -> Line<'static> {
    let Some(samples) = samples else {
        return Line::styled("split    no calls are timed (sample_calls is off)", DIM);
    };
    let part = |spread: &Spread| match spread.calls {
        0 => "-".to_owned(),
        _ => format!("{} (at most {})", time(spread.median_ns), time(spread.most_ns)),
    };
    let mut text = format!(
        "split    request ring {}, handler {}, response ring {}",
        part(&samples.request_ring),
        part(&samples.handler),
        part(&samples.response_ring)
    );
    if let Some(call) = &samples.on_its_way
        && call.age_ns > LONG_NS
    {
        text +=
            &format!("; call {} in the {} for {}", call.call, call.stage.name(), time(call.age_ns));
    }
    Line::raw(text)
}

/// One session alone.
fn one(app: &App, session: &Session, frame: &mut Frame<'_>, area: Rect) {
    let [text, lines] = Layout::vertical([Constraint::Length(8), Constraint::Min(3)]).areas(area);
    let ring = |name: &str, ring: &RingState| {
        Line::from(vec![
            Span::raw(format!("{name:<9}")),
            Span::styled(show::bar(ring, 3 * BAR), ring_style(ring)),
            Span::raw(format!(
                " {} of {} B, at most {} B",
                ring.fill, ring.capacity, ring.high_water
            )),
        ])
    };
    let oldest = session
        .oldest_age_ns
        .map_or_else(String::new, |age| format!(", oldest at least {}", time(age)));
    let client = &session.client;
    let content = vec![
        ring("requests", &session.request),
        ring("responses", &session.response),
        Line::raw(format!(
            "calls    {} in flight{oldest}; {} handled, {} timed out, {} errors",
            session.in_flight, session.server.received, client.timeouts, session.server.errors
        )),
        split_line(session.samples.as_ref()),
        Line::raw(format!(
            "client   spins paid {}, yields {}, parks {}, wakes sent {}, full stalls {}",
            client.spins_paid, client.yields, client.parks, client.wakes_sent, client.full_stalls
        )),
        Line::raw(format!(
            "server   wakes sent {}, full stalls {}, fragments {}",
            session.server.wakes_sent, session.server.full_stalls, session.server.fragments_sent
        )),
    ];
    let title =
        format!(" session {} {} (pid {}) ", session.session, session.peer.name, session.peer.pid);
    frame.render_widget(Paragraph::new(content).block(Block::bordered().title(title)), text);
    let Some(past) = app.past.get(&(session.generation, session.session)) else { return };
    let [rates, requests, responses] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)])
            .areas(lines);
    spark(&past.rates, "requests/s", Color::Cyan, None, frame, rates);
    spark(
        &past.requests,
        "request ring, B",
        Color::Green,
        Some(session.request.capacity),
        frame,
        requests,
    );
    spark(
        &past.responses,
        "response ring, B",
        Color::Green,
        Some(session.response.capacity),
        frame,
        responses,
    );
}
