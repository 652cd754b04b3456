//! The page in which a server tells of itself.

use crate::link::segment::{Segment, SegmentError};
use crate::memory::{Window, layout};

/// The page in which a server tells of itself.
#[derive(Debug)]
pub(crate) enum Status {
    Shared(Segment),
    /// Memory of this process alone, where memfds are refused or may not be so large: no client
    /// maps it, and no tool sees it. With the reason.
    Private(Window, SegmentError),
}

impl Status {
    /// What came of making the segment. Without memfds there may still be sessions over the socket.
    pub(super) fn new(
        made: Result<Segment, SegmentError>,
        armed_words: u64,
        fallback: bool,
    ) -> Result<Self, SegmentError> {
        match made {
            Ok(segment) => Ok(Self::Shared(segment)),
            Err(error @ (SegmentError::Io(_) | SegmentError::FileSizeLimit { .. })) if fallback => {
                let size = usize::try_from(layout::status_segment_size(armed_words));
                let window = Window::heap(size.map_err(|_| SegmentError::OutOfMemory)?);
                Ok(Self::Private(window, error))
            }
            Err(error) => Err(error),
        }
    }

    /// The segment, or why there is none.
    pub(super) fn segment(&self) -> Result<&Segment, &SegmentError> {
        match self {
            Self::Shared(segment) => Ok(segment),
            Self::Private(_, error) => Err(error),
        }
    }

    pub(super) fn window(&self) -> &Window {
        match self {
            Self::Shared(segment) => &segment.window,
            Self::Private(window, _) => window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_may_not_make_memfds_goes_on_without() {
        let refused = || Err(SegmentError::Io(rustix::io::Errno::PERM.into()));
        let status = Status::new(refused(), 64, true).expect("private");
        assert!(status.segment().is_err());
        assert_eq!(status.window().len() as u64, layout::status_segment_size(64));
        assert!(matches!(Status::new(refused(), 64, false), Err(SegmentError::Io(_))));
        let lack = Status::new(Err(SegmentError::OutOfMemory), 64, true);
        assert!(matches!(lack, Err(SegmentError::OutOfMemory)));
    }
}
