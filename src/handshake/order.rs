//! What client and server agree on about the order of answers.

/// In which order the answers of one session are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AnswerOrder {
    /// As they are completed; the call id says which call each belongs to.
    #[default]
    Completion,
    /// As the requests came. An answer that is complete before its turn is kept until then.
    Request,
}
