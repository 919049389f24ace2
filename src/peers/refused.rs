//! Words for a message that says nothing.

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Sealed with another secret, or cut short.
    Forged,
    /// Of another version.
    Version,
    /// Sealed, but no message.
    Malformed,
    /// It was there before, or comes after a later one.
    Repeated,
    /// By this process itself.
    Own,
    /// Its sender has not heard this process yet, so it may be a recording.
    Unmet,
    /// There are too many replicas.
    Crowded,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Forged, Self::Version, Self::Malformed, Self::Repeated, Self::Own, Self::Unmet, Self::Crowded];

    /// As metrics say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Version => "other_version",
            Self::Malformed => "malformed",
            Self::Repeated => "repeated",
            Self::Own => "own",
            Self::Unmet => "unmet",
            Self::Crowded => "crowded",
        }
    }
}
