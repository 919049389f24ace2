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
        (&self.name, self.prefix, &self.source) == (&other.name, other.prefix, &other.source)
    }
}
