//! Where the lines of the access log end up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::config::LogTarget;

/// Takes bytes and can be opened anew.
pub trait LogSink: Write + Send {
    /// Lets go of what is open and opens it again by name. After an error the sink goes on with what it had.
    fn reopen(&mut self) -> io::Result<()>;
}

/// Why the access log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened for appending.
    #[error("cannot open the access log {}: {error}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// No thread for the writer.
    #[error("cannot start the access log's thread: {0}")]
    Thread(io::Error),
}

/// Opens a target.
pub(super) fn open(target: &LogTarget) -> Result<Box<dyn LogSink>, LogError> {
    match target {
        LogTarget::Off => Ok(super::log::no_sink()),
        LogTarget::Stdout => Ok(Box::new(Stdout(io::stdout()))),
        LogTarget::File(path) => match append_to(path) {
            Ok(file) => Ok(Box::new(Appended { path: path.clone(), file })),
            Err(error) => Err(LogError::Open { path: path.clone(), error }),
        },
    }
}

/// Keeps nothing.
pub(super) struct Off;

struct Stdout(io::Stdout);

struct Appended {
    path: PathBuf,
    file: File,
}

fn append_to(path: &Path) -> io::Result<File> {
    // Appending is atomic for each write, so that a second process or a rotation by copying cannot tear lines apart.
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for Off {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogSink for Off {
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl LogSink for Stdout {
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl LogSink for Appended {
    fn reopen(&mut self) -> io::Result<()> {
        self.file = append_to(&self.path)?;
        Ok(())
    }
}
