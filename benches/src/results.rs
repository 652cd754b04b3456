//! The file for the results. It is opened before anything is measured, and replaced in one step at
//! the end: a race that fails leaves the old one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::interrupt;
use crate::outcome::Outcome;

/// A file that will have the results.
#[derive(Debug)]
pub(crate) struct Results {
    target: PathBuf,
    file: File,
    /// What becomes the target, and goes with this value unless it has. None where the target
    /// itself is written to.
    temporary: Option<PathBuf>,
}

impl Results {
    /// Makes sure that `path` can be written.
    ///
    /// # Errors
    /// One that names the path.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        Self::try_open(path).map_err(|error| format!("--json {}: {error}", path.display()).into())
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        // A link stays; what it leads to is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let kind = fs::metadata(&target).map(|metadata| metadata.file_type()).ok();
        if kind.is_some_and(|kind| kind.is_dir()) {
            return Err(ErrorKind::IsADirectory.into());
        }
        let in_place = |target: PathBuf| {
            let file = OpenOptions::new().write(true).open(&target)?;
            Ok(Self { target, file, temporary: None })
        };
        if kind.is_some_and(|kind| !kind.is_file()) {
            // A pipe, a terminal, /dev/null.
            return in_place(target);
        }
        let temporary = target.with_file_name(format!(".race-{}.json", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => {
                interrupt::is_temporary(temporary.clone());
                Ok(Self { target, file, temporary: Some(temporary) })
            }
            // Only the file may be written, not its directory.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && kind.is_some() => {
                in_place(target)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// One that names the path.
    pub(crate) fn write(mut self, text: &str) -> Outcome<()> {
        self.try_write(text)
            .map_err(|error| format!("--json {}: {error}", self.target.display()).into())
    }

    fn try_write(&mut self, text: &str) -> io::Result<()> {
        if self.temporary.is_none() && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(text.as_bytes())?;
        if let Some(temporary) = &self.temporary {
            self.file.sync_all()?;
            fs::rename(temporary, &self.target)?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}
