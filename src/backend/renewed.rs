//! A credential that somebody else makes anew: a command, or whoever writes a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::Secret;

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// A file, which is looked at every few seconds.
    File(PathBuf),
    /// A program that writes it to its standard output.
    Command {
        /// The program, and what it is told.
        words: Arc<[Box<str>]>,
        /// How long after it had one it is asked for the next.
        every: Duration,
    },
}

impl TokenSource {
    /// Whether the same token comes from it, however often it is asked.
    fn gives_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(path), Self::File(other)) => path == other,
            (Self::Command { words, .. }, Self::Command { words: other, .. }) => words == other,
            (Self::File(_), Self::Command { .. }) | (Self::Command { .. }, Self::File(_)) => false,
        }
    }

    /// Seconds after which a program is asked for the next one; 0 for a file, which is not asked.
    pub fn every_s(&self) -> i64 {
        match self {
            Self::File(_) => 0,
            Self::Command { every, .. } => i64::try_from(every.as_secs()).unwrap_or(i64::MAX),
        }
    }
}

/// A header field with a token that is renewed beside the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The field.
    pub name: HeaderName,
    /// What stands before the token in it.
    pub prefix: &'static str,
    /// Where the token comes from.
    pub source: TokenSource,
    /// The token as it was when the plan was made; `None` where that runs nothing.
    pub first: Option<Secret>,
}

impl Renewed {
    /// Whether it is the same token in the same place, as of whatever time.
    pub fn is_kept_as(&self, other: &Self) -> bool {
        (&self.name, self.prefix) == (&other.name, other.prefix) && self.source.gives_as(&other.source)
    }
}
