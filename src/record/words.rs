//! The words that a line has for how an exchange went.

use serde::{Deserialize, Serialize};

/// Where token counts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The backend said so.
    Reported,
    /// The proxy counted what passed.
    Counted,
    /// From the size of what passed.
    Estimated,
    /// Nobody knows.
    #[default]
    Unknown,
}

impl UsageSource {
    /// Each of them, best first.
    pub const ALL: [Self; 4] = [Self::Reported, Self::Counted, Self::Estimated, Self::Unknown];

    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Counted => "counted",
            Self::Estimated => "estimated",
            Self::Unknown => "unknown",
        }
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The whole response was passed on.
    Complete,
    /// The client hung up.
    ClientGone,
    /// The gateway was told to end, and it was still open when that had to be.
    Drained,
    /// The backend broke off, or said within its stream that it failed.
    UpstreamBroke,
    /// A time limit passed.
    TimedOut,
    /// The proxy or every backend refused it.
    Rejected,
}

impl Ended {
    /// Each of them.
    pub const ALL: [Self; 6] =
        [Self::Complete, Self::ClientGone, Self::Drained, Self::UpstreamBroke, Self::TimedOut, Self::Rejected];

    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::Drained => "drained",
            Self::UpstreamBroke => "upstream_broke",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
        }
    }
}
