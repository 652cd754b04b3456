//! The sessions, one line each: only those for which there is room.

use super::app::{App, Past, id, rate};
use super::look::{BOLD, DIM, ring_style, state};
use super::text::plain;
use crate::report::Session;
use crate::samples::Samples;
use crate::show;
use crate::words::{short, time};
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Row, Table};
use ringbell::inspect::Sleep;

/// Columns, those first that are left out last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Column {
    Session,
    Pid,
    Rate,
    Oldest,
    Name,
    Requests,
    Responses,
    Split,
    Process,
    Flight,
    Client,
    Picture,
}

/// In the order in which they stand.
const ORDER: [Column; 12] = [
    Column::Session,
    Column::Pid,
    Column::Name,
    Column::Process,
    Column::Client,
    Column::Requests,
    Column::Responses,
    Column::Rate,
    Column::Picture,
    Column::Flight,
    Column::Oldest,
    Column::Split,
];

/// How wide columns are.
#[derive(Debug, Clone, Copy)]
struct Widths {
    session: u16,
    pid: u16,
    bar: u16,
    points: u16,
}

impl Widths {
    fn of(self, column: Column) -> u16 {
        match column {
            Column::Session => self.session,
            Column::Pid => self.pid,
            Column::Name | Column::Oldest => 8,
            Column::Process | Column::Client | Column::Rate => 7,
            Column::Requests | Column::Responses => self.bar + 2,
            Column::Picture => self.points,
            Column::Flight => 6,
            Column::Split => 17,
        }
    }
}

/// The columns for which there is room, with their widths; the name has what is left.
fn columns(width: u16, timed: bool, widths: Widths) -> Vec<(Column, Constraint)> {
    let mut by_rank = ORDER;
    by_rank.sort_unstable();
    let mut left = width;
    let mut chosen = Vec::new();
    for column in by_rank {
        if column == Column::Split && !timed {
            continue;
        }
        let wide = widths.of(column) + u16::from(!chosen.is_empty());
        if wide > left && !chosen.is_empty() {
            break;
        }
        left = left.saturating_sub(wide);
        chosen.push(column);
    }
    let shown = ORDER.into_iter().filter(|column| chosen.contains(column));
    shown
        .map(|column| {
            let wide = widths.of(column);
            let constraint = match column {
                // Long names are cut; a column that is all blank draws nothing together.
                Column::Name => Constraint::Length(wide + left.min(16)),
                _ => Constraint::Length(wide),
            };
            (column, constraint)
        })
        .collect()
}

fn title(column: Column, bar: u16) -> &'static str {
    match column {
        Column::Session => "ID",
        Column::Pid => "PID",
        Column::Name => "NAME",
        Column::Process => "PROCESS",
        Column::Client => "CLIENT",
        Column::Requests if bar < 8 => "REQUEST",
        Column::Requests => "REQUESTS",
        Column::Responses if bar < 8 => "RESPONSE",
        Column::Responses => "RESPONSES",
        Column::Rate => "REQ/S",
        Column::Picture => "",
        Column::Flight => "FLIGHT",
        Column::Oldest => "OLDEST",
        Column::Split => " WAIT  WORK  WAIT",
    }
}

fn cell(app: &App, session: &Session, column: Column, widths: Widths) -> Line<'static> {
    let live = app.is_live(session.generation);
    let bar = u64::from(widths.bar);
    match column {
        Column::Session => Line::raw(session.session.to_string()),
        Column::Pid => Line::raw(session.peer.pid.to_string()),
        Column::Name => Line::raw(plain(&session.peer.name).into_owned()),
        Column::Process => Line::from(state(session.state)),
        Column::Client => Line::raw(match session.sleep {
            Sleep::Awake => "awake",
            Sleep::Armed { .. } => "asleep",
            Sleep::Impossible { .. } => "damaged",
        }),
        Column::Requests => {
            Line::styled(show::bar(&session.request, bar), ring_style(&session.request))
        }
        Column::Responses => {
            Line::styled(show::bar(&session.response, bar), ring_style(&session.response))
        }
        // What was is not what is.
        Column::Rate if !live => Line::raw("-"),
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        Column::Rate => Line::raw(short(rate(session) as f64)),
        Column::Picture => {
            let past = app.past.get(&id(session));
            Line::styled(tiny(past, usize::from(widths.points)), Color::Cyan)
        }
        Column::Flight => Line::raw(session.in_flight.to_string()),
        Column::Oldest => Line::raw(session.oldest_age_ns.map_or_else(|| "-".to_owned(), time)),
        Column::Split => split(session.samples.as_ref()),
    }
}

/// Draws the sessions around the selected one, and keeps in mind how many that were.
pub(super) fn draw(app: &App, sessions: &[&Session], frame: &mut Frame<'_>, area: Rect) {
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    app.page.set(room);
    // So that the selected one is in the middle, as far as there are such around it.
    let most = sessions.len().saturating_sub(room);
    let from = app.row.saturating_sub(room / 2).min(most);
    let window = sessions.iter().skip(from).take(room);
    let timed = sessions.iter().any(|session| session.samples.is_some());
    let digits = |number: u64| u16::try_from(number.to_string().len()).unwrap_or(20);
    let most_digits = |of: fn(&Session) -> u64| {
        sessions.iter().map(|session| digits(of(session))).max().unwrap_or(1)
    };
    let wide = area.width >= 110;
    let widths = Widths {
        session: most_digits(|session| session.session).max(2),
        pid: most_digits(|session| session.peer.pid.into()).max(5),
        bar: if wide && !timed { 12 } else { 6 },
        points: if wide && !timed { 12 } else { 8 },
    };
    let chosen = columns(area.width, timed, widths);
    let titles = chosen.iter().map(|(column, _)| title(*column, widths.bar));
    let header = Row::new(titles.map(Line::raw)).style(BOLD);
    let rows = window.enumerate().map(|(at, session)| {
        let style = match () {
            () if from + at == app.row => Style::new().add_modifier(Modifier::REVERSED),
            () if !app.is_live(session.generation) => DIM,
            () => Style::new(),
        };
        Row::new(chosen.iter().map(|(column, _)| cell(app, session, *column, widths))).style(style)
    });
    let table = Table::new(rows, chosen.iter().map(|(_, constraint)| *constraint)).header(header);
    frame.render_widget(table, area);
}

/// The last points of a line in one cell of text.
pub(super) fn tiny(past: Option<&Past>, points: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let Some(past) = past else { return String::new() };
    let points: Vec<u64> = past.rates.iter().rev().take(points).rev().copied().collect();
    let most = points.iter().copied().max().unwrap_or(0).max(1);
    points
        .iter()
        .map(|point| STEPS[usize::try_from(point.saturating_mul(7) / most).unwrap_or(7).min(7)])
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_never_take_more_than_there_is() {
        let widths = Widths { session: 5, pid: 8, bar: 6, points: 8 };
        for timed in [false, true] {
            for width in 0..250 {
                let columns = columns(width, timed, widths);
                let sum: u16 = columns
                    .iter()
                    .map(|(_, constraint)| match constraint {
                        Constraint::Length(length) => *length,
                        other => panic!("{other:?}"),
                    })
                    .sum();
                let gaps = u16::try_from(columns.len()).expect("few") - 1;
                assert!(sum + gaps <= width.max(widths.session), "{width}: {columns:?}");
            }
            assert_eq!(columns(80, timed, widths).len(), if timed { 8 } else { 9 });
        }
    }
}
