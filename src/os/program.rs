//! The name of this program.

use crate::memory::layout;
use std::path::PathBuf;

/// The name of this program, for tools to show.
pub(crate) fn program_name() -> String {
    let path = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let mut name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    while name.len() > layout::NAME {
        name.pop();
    }
    name
}
