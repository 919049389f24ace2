//! A credential that somebody else makes anew: a command, whoever writes a file, a machine's metadata, or AWS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{AwsChain, Credential, KeySource, Secret};

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
    /// The metadata of a machine of Google's, which says whose token it is and when that ends.
    GoogleMetadata {
        /// Host and port, as in a URL.
        authority: Arc<str>,
        /// As above.
        every: Duration,
    },
}

impl TokenSource {
    /// Whether the same token comes from it, however often it is asked.
    fn gives_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(path), Self::File(other)) => path == other,
            (Self::Command { words, .. }, Self::Command { words: other, .. }) => words == other,
            (Self::GoogleMetadata { authority, .. }, Self::GoogleMetadata { authority: other, .. }) => authority == other,
            (Self::File(_) | Self::Command { .. } | Self::GoogleMetadata { .. }, _) => false,
        }
    }

    /// Seconds after which it is asked for the next one; 0 for a file, which is not asked.
    pub fn every_s(&self) -> i64 {
        match self {
            Self::File(_) => 0,
            Self::Command { every, .. } | Self::GoogleMetadata { every, .. } => {
                i64::try_from(every.as_secs()).unwrap_or(i64::MAX)
            }
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

/// Whatever of a backend's credential is asked for beside the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewable {
    /// A token, sent in a field.
    Token(Arc<Renewed>),
    /// Keys of AWS, which sign.
    Keys(Arc<AwsChain>),
}

impl Renewable {
    /// Of a credential; `None` for one that is the plan's, or the client's.
    pub fn of(credential: &Credential) -> Option<Self> {
        match credential {
            Credential::Renewed(how) => Some(Self::Token(Arc::clone(how))),
            Credential::SigV4(how) => match &how.source {
                KeySource::Chain(chain) => Some(Self::Keys(Arc::clone(chain))),
                KeySource::Fixed(_) | KeySource::Profile { .. } => None,
            },
            Credential::None | Credential::PassThrough | Credential::Header(..) => None,
        }
    }

    /// Whether it is the same one in the same place, as of whatever time.
    pub fn is_kept_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Token(one), Self::Token(other)) => one.is_kept_as(other),
            (Self::Keys(one), Self::Keys(other)) => one.gives_as(other),
            (Self::Token(_), Self::Keys(_)) | (Self::Keys(_), Self::Token(_)) => false,
        }
    }

    /// The token as it was when the plan was made.
    pub fn first(&self) -> Option<&Secret> {
        match self {
            Self::Token(how) => how.first.as_ref(),
            Self::Keys(_) => None,
        }
    }

    /// Seconds after which it is asked for anew although nobody says when it ends; 0 for what is looked at all the time.
    pub fn every_s(&self) -> i64 {
        /// Whoever writes keys into a profile may do so again.
        const KEYS_EVERY_S: i64 = 300;
        match self {
            Self::Token(how) => how.source.every_s(),
            Self::Keys(_) => KEYS_EVERY_S,
        }
    }
}
