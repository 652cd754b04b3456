//! How it looks: what is watched and whether it goes on, the verdicts, then the sessions. What does
//! not fit is left out from the end; the first verdict is the last to go.

use super::app::{App, Over, Standing, id};
use super::look::{BOLD, DIM, ring_style, state};
use super::table;
use super::text::{plain, wrap};
use crate::finding::{Finding, Severity};
use crate::process::State;
use crate::report::{RingState, Server, Session};
use crate::samples::{Samples, Spread};
use crate::show;
use crate::words::{count, short, time};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};
use ringbell::inspect::Sleep;
use std::collections::VecDeque;

/// Characters of a bar.
const BAR: u64 = 36;
/// From here on it is worth saying where a call is.
const LONG_NS: u64 = 100_000_000;
/// From so many rows on there is room for more than what is needed.
const HIGH: u16 = 20;
/// From so many columns on there is room beside the header.
const WIDE: u16 = 100;

/// What must not be overlooked.
const LOUD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::REVERSED);

const HELP: &[&str] = &[
    "up, down, k, j          select a session; the selection follows it",
    "PgUp, PgDn, Home, End   a page, the first, the last",
    "Enter                   open the selected session, and back",
    "s                       sort by session, fill, rate, oldest call",
    "/                       filter: part of a name or a pid, or a session",
    "n                       only sessions that a verdict is about",
    "Esc                     back; clears the filter",
    "Tab                     the next server of a process with several",
    "v                       all verdicts, with what to do about them",
    "p, Space                pause, and go on",
    "Ctrl-L                  draw everything anew",
    "q, Ctrl-C               quit",
    "",
    "Of a bar, # is in the ring now, - was at most. Yellow does not move, red is full.",
    "WAIT WORK WAIT: a timed call in the request ring, the handler, the response ring.",
];

/// Draws everything.
pub(super) fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let high = area.height >= HIGH;
    let beside = if area.width >= WIDE && high { 40 } else { 0 };
    let mut head = header(app, area.width - beside, high);
    if beside != 0 {
        head.resize(head.len().max(4), Line::raw(""));
    }
    let below = u16::from(area.height >= 4);
    // The title of the table, its columns and a session.
    let least = if high { 8 } else { 3 };
    let room = |rows: usize| usize::from(area.height - below).saturating_sub(rows);
    let verdicts = if app.over == Over::Nothing {
        let rows = room(head.len());
        verdicts(app, usize::from(area.width), rows, rows.saturating_sub(least))
    } else {
        Vec::new()
    };
    let rows = |lines: &Vec<Line<'_>>| u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [top, middle, body, keys] = Layout::vertical([
        Constraint::Length(rows(&head).min(area.height)),
        Constraint::Length(rows(&verdicts)),
        Constraint::Fill(1),
        Constraint::Length(below),
    ])
    .areas(area);
    let [text, picture] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(beside)]).areas(top);
    frame.render_widget(Paragraph::new(head), text);
    if beside != 0 {
        picture_of_all(app, frame, picture);
    }
    frame.render_widget(Paragraph::new(verdicts), middle);
    frame.render_widget(footer(app), keys);
    match app.over {
        Over::Help => {
            let lines = HELP.iter().flat_map(|line| wrap_hanging(line, body.width, 24));
            scrolled(app, " keys ", lines.collect(), frame, body);
        }
        Over::Verdicts => {
            let mut lines = Vec::new();
            for finding in app.findings() {
                lines.extend(verdict(finding, usize::from(body.width)));
                lines.extend(advice(finding, usize::from(body.width)));
            }
            if lines.is_empty() {
                lines.push(Line::styled("all is well", Color::Green));
            }
            let title = format!(" {} ", count(app.findings().len() as u64, "verdict"));
            scrolled(app, &title, lines, frame, body);
        }
        Over::Nothing => sessions(app, frame, body),
    }
}

/// A line whose continuation begins at a column.
fn wrap_hanging(line: &'static str, width: u16, hang: usize) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let Some((key, text)) = line.split_at_checked(hang).filter(|(key, _)| key.ends_with("  "))
    else {
        return wrap(line, width).into_iter().map(Line::raw).collect();
    };
    if width < hang + 20 {
        return wrap(line, width).into_iter().map(Line::raw).collect();
    }
    let lines = wrap(text, width - hang).into_iter().enumerate();
    lines
        .map(|(at, text)| {
            let before = if at == 0 { key.to_owned() } else { " ".repeat(hang) };
            Line::from(vec![Span::styled(before, BOLD), Span::raw(text)])
        })
        .collect()
}

/// Lines of which as many are shown as there is room for.
fn scrolled(app: &App, title: &str, lines: Vec<Line<'_>>, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::new().borders(Borders::TOP).title(title.to_owned());
    let inner = block.inner(area);
    let room = usize::from(inner.height);
    app.page.set(room);
    let most = lines.len().saturating_sub(room);
    app.scrolled.set(app.scrolled.get().min(most));
    let from = app.scrolled.get();
    let block = if most == 0 {
        block
    } else {
        let to = (from + room).min(lines.len());
        block.title(Line::raw(format!(" {} to {to} of {} ", from + 1, lines.len())).right_aligned())
    };
    frame.render_widget(block, area);
    let shown: Vec<Line<'_>> = lines.into_iter().skip(from).take(room).collect();
    frame.render_widget(Paragraph::new(shown), inner);
}

/// The keys, or what is being typed.
fn footer(app: &App) -> Line<'static> {
    if app.typing {
        return Line::from(vec![
            Span::styled("filter: ", BOLD),
            Span::raw(app.filter.clone()),
            Span::styled("_", Style::new().add_modifier(Modifier::SLOW_BLINK)),
            Span::styled("   Enter keeps it, Esc clears it", DIM),
        ]);
    }
    let mut spans = Vec::new();
    if let Some(since) = &app.paused {
        spans.push(Span::styled(
            format!(" PAUSED since {since}, p goes on "),
            Style::new().fg(Color::Yellow).add_modifier(Modifier::REVERSED.union(Modifier::BOLD)),
        ));
        spans.push(Span::raw(" "));
    }
    let keys = match app.over {
        Over::Nothing => format!(
            "q quit  ? help  s sort: {}  / filter  enter open  v verdicts  p pause",
            app.sort.name()
        ),
        _ => "Esc back  up/down PgUp/PgDn scroll  q quit".to_owned(),
    };
    spans.push(Span::styled(keys, DIM));
    Line::from(spans)
}

/// What is watched, and whether it goes on.
fn header(app: &App, width: u16, high: bool) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let mut lines = Vec::new();
    let paths = app.report.iter().flat_map(|report| &report.listens_at);
    let paths: Vec<_> = paths.map(|path| plain(path)).collect();
    match app.server() {
        Some((at, server)) => {
            let mut line = vec![
                Span::styled(format!("{} ", plain(&server.peer.name)), BOLD),
                Span::raw(format!("pid {} ", server.peer.shown())),
            ];
            match app.standing() {
                Standing::Dead { .. } => line.push(state(State::Dead)),
                Standing::Seen => line.push(state(server.state)),
                // How it is now is not known.
                Standing::Lost { .. } => {}
            }
            if app.servers().len() > 1 {
                let all = app.servers().len();
                let text = format!("  server {} of {all} (Tab)", at + 1);
                line.push(Span::styled(text, BOLD));
            }
            line.push(Span::raw(format!("  {}", paths.join(" "))));
            lines.push(Line::from(line));
        }
        None => {
            lines.push(Line::raw(format!("{}: no server in sight", plain(&app.target.to_string()))))
        }
    }
    let loud = |text: String| {
        let lines = wrap(&plain(&text), width).into_iter();
        lines.map(|line| Line::styled(line, LOUD)).collect::<Vec<_>>()
    };
    let last = format!("what follows is the last that was seen, at {}", app.seen_at);
    let standing = match app.standing() {
        Standing::Dead { pid, since } => loud(format!("pid {pid} is dead since {since}: {last}")),
        Standing::Lost { since, why } => {
            loud(format!("cannot be looked at since {since} ({why}): {last}"))
        }
        Standing::Seen => match app.slow_since() {
            Some(since) => loud(format!("does not answer since {since}: {last}")),
            None => Vec::new(),
        },
    };
    lines.extend(standing);
    for news in app.told() {
        let style = Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD);
        let news = wrap(&plain(news), width).into_iter();
        lines.extend(news.map(|line| Line::styled(line, style)));
    }
    if let Some((_, server)) = app.server() {
        lines.extend(activity(app, server, high));
    }
    lines
}

/// What a server does; without rates if they are not those of now.
fn activity(app: &App, server: &Server, high: bool) -> Vec<Line<'static>> {
    let live = app.is_live(server.generation);
    let rate = |name: &str| match server.rates.get(name) {
        Some(rate) if live => short(*rate),
        _ => "-".to_owned(),
    };
    let style = if live { Style::new() } else { DIM };
    let mut lines = vec![Line::styled(
        format!(
            "{}, {} requests/s, {} in handlers",
            count(server.counters.sessions, "session"),
            rate("requests"),
            server.counters.in_flight
        ),
        style,
    )];
    if high {
        let asleep = server.domains.iter().any(|domain| domain.sleep != Sleep::Awake);
        lines.push(Line::styled(
            format!(
                "reactor {}: {} spins paid/s, {} yields/s, {} parks/s, {} wakes/s",
                if asleep { "asleep" } else { "awake" },
                rate("spins_paid"),
                rate("yields"),
                rate("parks"),
                rate("wakes_sent")
            ),
            style,
        ));
    }
    lines
}

fn picture_of_all(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let Some((_, server)) = app.server() else { return };
    let Some(rates) = app.rates.get(&server.generation) else { return };
    spark(rates, "requests/s", Color::Cyan, None, app.is_live(server.generation), frame, area);
}

/// A verdict, wrapped.
fn verdict(finding: &Finding, width: usize) -> Vec<Line<'static>> {
    let (word, style) = match finding.severity {
        Severity::Problem => ("problem", Style::from(Color::Red)),
        Severity::Note => ("note", Style::from(Color::Yellow)),
    };
    let text = format!("{word}: {}", plain(&finding.text));
    wrap(&text, width)
        .into_iter()
        .enumerate()
        .map(|(at, line)| match line.strip_prefix(word).filter(|_| at == 0) {
            Some(rest) => {
                let word = Span::styled(word, style.add_modifier(Modifier::BOLD));
                Line::from(vec![word, Span::styled(rest.to_owned(), style)])
            }
            None => Line::styled(line, style),
        })
        .collect()
}

/// What to do about it, wrapped and set in.
fn advice(finding: &Finding, width: usize) -> Vec<Line<'static>> {
    let set_in = if width < 20 { 0 } else { 2 };
    let lines = wrap(finding.code.advice(), width - set_in).into_iter();
    lines.map(|line| Line::raw(format!("{}{line}", " ".repeat(set_in)))).collect()
}

/// The verdicts for which there is room: the first one whole if it fits into `most` lines, its
/// advice and the others into `room`.
fn verdicts(app: &App, width: usize, most: usize, room: usize) -> Vec<Line<'static>> {
    let findings = app.findings();
    let Some((first, others)) = findings.split_first() else {
        if most == 0 {
            return Vec::new();
        }
        let live = app.standing() == Standing::Seen;
        let line = if live {
            Line::styled("all is well", Color::Green)
        } else {
            Line::styled("all was well when it was seen last", DIM)
        };
        return vec![line];
    };
    let more = |hidden: usize| {
        Line::styled(format!("and {}: v shows all", count(hidden as u64, "more verdict")), DIM)
    };
    let mut lines = verdict(first, width);
    if lines.len() > most {
        lines.truncate(most);
        if most > 1 {
            lines.pop();
            lines.push(Line::styled("... (v shows all of it)", DIM));
        }
        return lines;
    }
    // A line is kept for how many more there are.
    let kept = usize::from(!others.is_empty());
    let what_to_do = advice(first, width);
    if lines.len() + what_to_do.len() + kept <= room {
        lines.extend(what_to_do);
    }
    let mut hidden = others.len();
    for finding in others {
        let next = verdict(finding, width);
        if lines.len() + next.len() + usize::from(hidden > 1) > room {
            break;
        }
        lines.extend(next);
        hidden -= 1;
    }
    if hidden != 0 && lines.len() < most {
        lines.push(more(hidden));
    }
    lines
}

/// The newest points that there is room for.
fn spark(
    past: &VecDeque<u64>,
    title: &str,
    color: Color,
    most: Option<u64>,
    live: bool,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let now = match past.back() {
        Some(now) if live => short(*now as f64),
        _ => "-".to_owned(),
    };
    let block = Block::bordered().title(format!(" {title}: {now} "));
    let room = usize::from(area.width.saturating_sub(2));
    let points: Vec<u64> = past.iter().skip(past.len().saturating_sub(room)).copied().collect();
    let style = if live { Style::from(color) } else { DIM };
    let mut sparkline = Sparkline::default().data(&points).style(style).block(block);
    if let Some(most) = most {
        sparkline = sparkline.max(most);
    }
    frame.render_widget(sparkline, area);
}

/// The table, or one session.
fn sessions(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let shown = app.shown();
    let selected = shown.get(app.row).filter(|_| app.open);
    let title = match selected {
        Some(session) => format!(
            " session {} {} (pid {}) ",
            session.session,
            plain(&session.peer.name),
            session.peer.pid
        ),
        None if shown.len() == app.all() => {
            format!(" {} ", count(shown.len() as u64, "session"))
        }
        None => format!(" {} of {} ", shown.len(), count(app.all() as u64, "session")),
    };
    let mut block = Block::new().borders(Borders::TOP).title(Line::styled(title, BOLD));
    let filter = match (app.filter.as_str(), app.found_only) {
        ("", false) => String::new(),
        ("", true) => " with a verdict ".to_owned(),
        (filter, false) => format!(" filter: {filter} "),
        (filter, true) => format!(" filter: {filter}, with a verdict "),
    };
    if !filter.is_empty() {
        block = block.title(Line::styled(filter, Color::Yellow));
    }
    let inner = block.inner(area);
    if shown.len() > usize::from(inner.height.saturating_sub(1)) && selected.is_none() {
        let place = format!(" {} of {} ", app.row + 1, shown.len());
        block = block.title(Line::raw(place).right_aligned());
    }
    frame.render_widget(block, area);
    match selected {
        Some(session) => one(app, session, frame, inner),
        None => table::draw(app, &shown, frame, inner),
    }
}

fn split_line(samples: Option<&Samples>) -> String {
    let Some(samples) = samples else {
        return "split    no calls are timed (sample_calls is off)".into();
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
    text
}

/// One session alone.
fn one(app: &App, session: &Session, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width);
    let live = app.is_live(session.generation);
    let bar = BAR.min((u64::from(area.width) / 2).saturating_sub(2)).max(1);
    let ring = |name: &str, ring: &RingState| {
        Line::from(vec![
            Span::raw(format!("{name:<9}")),
            Span::styled(show::bar(ring, bar), ring_style(ring)),
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
    let sleep = match session.sleep {
        Sleep::Impossible { word } => format!("an impossible armed word {word:#x}"),
        sleep => show::sleep(sleep),
    };
    let mut process =
        vec![Span::raw("client   "), state(session.state), Span::raw(", "), Span::raw(sleep)];
    if !live {
        process.push(Span::styled("  (as it was seen last)", DIM));
    }
    let mut lines = vec![
        Line::from(process),
        ring("requests", &session.request),
        ring("response", &session.response),
    ];
    let texts = [
        format!(
            "calls    {} in flight{oldest}; {} handled, {} timed out, {} errors",
            session.in_flight, session.server.received, client.timeouts, session.server.errors
        ),
        split_line(session.samples.as_ref()),
        format!(
            "waits    spins paid {}, yields {}, parks {}, wakes sent {}, full stalls {}",
            client.spins_paid, client.yields, client.parks, client.wakes_sent, client.full_stalls
        ),
        format!(
            "server   wakes sent {}, full stalls {}, fragments {}",
            session.server.wakes_sent, session.server.full_stalls, session.server.fragments_sent
        ),
    ];
    for text in texts {
        // The word in front stays in its column.
        let (word, rest) = text.split_at(9);
        let wrapped = wrap(rest, width.saturating_sub(9)).into_iter().enumerate();
        lines.extend(wrapped.map(|(at, line)| {
            let word = if at == 0 { word.to_owned() } else { " ".repeat(9) };
            Line::raw(word + &line)
        }));
    }
    let used = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [text, pictures] =
        Layout::vertical([Constraint::Length(used.min(area.height)), Constraint::Fill(1)])
            .areas(area);
    frame.render_widget(Paragraph::new(lines), text);
    let Some(past) = app.past.get(&id(session)).filter(|_| pictures.height >= 3) else { return };
    let [rates, requests, responses] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)])
            .areas(pictures);
    spark(&past.rates, "requests/s", Color::Cyan, None, live, frame, rates);
    let (sent, answered) = (session.request.capacity, session.response.capacity);
    let green = Color::Green;
    spark(&past.requests, "request ring, B", green, Some(sent), live, frame, requests);
    spark(&past.responses, "response ring, B", green, Some(answered), live, frame, responses);
}
