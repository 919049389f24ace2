//! What can be made to go wrong with a region while it runs.
//!
//! A change is a [`Patch`] that names only what it touches, so that two hands (a test and a person at a terminal) can each turn
//! their own switch.

use std::num::NonZeroU16;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Positive, Share};
use crate::units::Millis;

/// Everything that is presently wrong with a region; the default is nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Faults {
    /// All work takes this many times as long.
    pub slow: Positive,
    /// A region that is not up drops connections without a word.
    pub up: bool,
    /// How many replicas are left, in place of the declared ones.
    pub replicas: Option<NonZeroU16>,
    /// The round trip, in place of the declared one.
    pub rtt_ms: Option<Millis>,
    /// The share of requests answered with 500.
    pub error_rate: Share,
    /// Every request is answered with 429.
    pub refuse: bool,
    /// A stream breaks off after this many tokens.
    pub cut_after_tokens: Option<u32>,
    /// Nothing more is generated until this ends, though connections stay open.
    pub stall: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            slow: Positive::ONE,
            up: true,
            replicas: None,
            rtt_ms: None,
            error_rate: Share::ZERO,
            refuse: false,
            cut_after_tokens: None,
            stall: false,
        }
    }
}

/// A change of some of the [`Faults`]. What is not named stays; `null` takes a replaced value back.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patch {
    /// See [`Faults::slow`].
    pub slow: Option<Positive>,
    /// See [`Faults::up`].
    pub up: Option<bool>,
    /// See [`Faults::replicas`].
    pub replicas: Change<Option<NonZeroU16>>,
    /// See [`Faults::rtt_ms`].
    pub rtt_ms: Change<Option<Millis>>,
    /// See [`Faults::error_rate`].
    pub error_rate: Option<Share>,
    /// See [`Faults::refuse`].
    pub refuse: Option<bool>,
    /// See [`Faults::cut_after_tokens`].
    pub cut_after_tokens: Change<Option<u32>>,
    /// See [`Faults::stall`].
    pub stall: Option<bool>,
}

/// Whether a field is touched at all, which tells a `null` that was written from a field that was not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Change<T> {
    /// It stays.
    #[default]
    Keep,
    /// It becomes this.
    To(T),
}

impl<T> Change<T> {
    fn or(self, present: T) -> T {
        match self {
            Self::Keep => present,
            Self::To(next) => next,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::To)
    }
}

impl Faults {
    /// These faults after that change.
    #[must_use]
    pub fn patched(&self, patch: &Patch) -> Self {
        Self {
            slow: patch.slow.unwrap_or(self.slow),
            up: patch.up.unwrap_or(self.up),
            replicas: patch.replicas.or(self.replicas),
            rtt_ms: patch.rtt_ms.or(self.rtt_ms),
            error_rate: patch.error_rate.unwrap_or(self.error_rate),
            refuse: patch.refuse.unwrap_or(self.refuse),
            cut_after_tokens: patch.cut_after_tokens.or(self.cut_after_tokens),
            stall: patch.stall.unwrap_or(self.stall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_it_names_and_null_takes_back() {
        let faults = Faults::default().patched(&serde_json::from_str(r#"{"slow": 3, "cut_after_tokens": 5}"#).unwrap());
        assert_eq!((faults.slow.get(), faults.cut_after_tokens, faults.up), (3.0, Some(5), true));
        let faults = faults.patched(&serde_json::from_str(r#"{"cut_after_tokens": null, "up": false}"#).unwrap());
        assert_eq!((faults.slow.get(), faults.cut_after_tokens, faults.up), (3.0, None, false));
    }

    #[test]
    fn refuses_what_is_out_of_range_or_unknown() {
        for bad in [r#"{"slow": 0}"#, r#"{"error_rate": 1.5}"#, r#"{"replicas": 0}"#, r#"{"rtt_ms": -1}"#, r#"{"slwo": 2}"#] {
            assert!(serde_json::from_str::<Patch>(bad).is_err(), "{bad}");
        }
    }
}
