//! How things look on the screen.

use crate::process::State;
use crate::report::RingState;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) fn ring_style(ring: &RingState) -> Style {
    match () {
        () if ring.flaw.is_some() || (ring.stuck && ring.full) => Style::from(Color::Red),
        () if ring.stuck => Style::from(Color::Yellow),
        () => Style::from(Color::Green),
    }
}

pub(super) fn state(state: State) -> Span<'static> {
    let color = match state {
        State::Alive => Color::Green,
        State::Unknown => Color::Gray,
        _ => Color::Red,
    };
    Span::styled(state.word(), color)
}
