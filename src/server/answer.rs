//! What a handler answers when it fails: an error of the application, or a panic.

use crate::memory::layout::code;

/// An error that a handler answers.
#[derive(Clone, PartialEq, Eq)]
pub struct HandlerError {
    /// As it travels.
    code: u16,
    text: String,
}

impl HandlerError {
    /// An error of the application: `code` counts from 0 in the application's own range, and
    /// arrives as [`APPLICATION`](crate::layout::code::APPLICATION)` + code` (at most 65 279). A
    /// text longer than 1 KiB is cut.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code: code::APPLICATION.saturating_add(code), text: text.into() }
    }

    /// The code as it travels.
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// The code that was given to [`Self::new`].
    pub fn application_code(&self) -> u16 {
        self.code.saturating_sub(code::APPLICATION)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for HandlerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (application code {})", self.text, self.application_code())
    }
}

impl std::fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerError")
            .field("application_code", &self.application_code())
            .field("text", &self.text)
            .finish()
    }
}

impl std::error::Error for HandlerError {}

impl From<String> for HandlerError {
    fn from(text: String) -> Self {
        Self::new(0, text)
    }
}

impl From<&str> for HandlerError {
    fn from(text: &str) -> Self {
        Self::new(0, text)
    }
}

/// Most bytes of an error's text that travel.
pub(crate) const ERROR_TEXT: usize = 1024;

/// As much of an error's text as travels.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(ERROR_TEXT)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// What stands in the place of an answer of so many bytes for which there is no room: code and
/// text. `max`: the most bytes for which there can ever be room.
#[cold]
pub(crate) fn refusal(len: usize, max: usize) -> (u16, String) {
    if len > max {
        let text = format!("the answer of {len} bytes is too large: at most {max} may be held");
        return (code::TOO_LARGE, text);
    }
    let text =
        format!("the server has no room for an answer of {len} bytes: earlier ones are unread");
    (code::EXHAUSTED, text)
}

/// Writes what is known of a handler's panic.
pub(crate) fn describe_panic(panic: &(dyn std::any::Any + Send), into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(b"the handler panicked");
    let text =
        panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(|s| &**s));
    if let Some(text) = text {
        into.extend_from_slice(b": ");
        into.extend_from_slice(text.as_bytes());
    }
}
