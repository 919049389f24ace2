//! One attempt at one backend, of which a request may take several.

use std::time::Instant;

use http::StatusCode;

use crate::backend::BackendId;

/// How one attempt at one backend went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Its response was passed on.
    Answered,
    /// No connection came about; nothing was sent.
    Unreachable,
    /// It said 429, 503 or 529, or 401 or 403 to the gateway's own credential: nothing was done.
    Refused,
    /// The request was sent and no valid answer came.
    Broken,
    /// The request was sent and no answer came in time.
    TimedOut,
    /// The client left while it was being worked on.
    Abandoned,
    /// Another backend was asked besides and answered sooner, so it was broken off.
    Hedged,
}

impl AttemptOutcome {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
            Self::Hedged => "hedged",
        }
    }

    /// Whether the backend may have read the prompt, which costs energy.
    pub const fn burned_prompt(self) -> bool {
        matches!(self, Self::Answered | Self::Broken | Self::TimedOut | Self::Abandoned | Self::Hedged)
    }
}

/// One attempt at one backend.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Which.
    pub backend: BackendId,
    /// How it went.
    pub outcome: AttemptOutcome,
    /// What it answered, if it did.
    pub status: Option<StatusCode>,
    /// When it began.
    pub begun: Instant,
    /// When it was known how it went (for the one that answered: when the head was there).
    pub ended: Instant,
}
