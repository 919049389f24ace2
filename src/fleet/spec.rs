//! What a region is built of, as numbers that cannot be out of range: a rate of zero or a share above one would only surface as a
//! request that never ends, far from the file that asked for it.

use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::Noise;
use crate::units::Millis;

/// A factor or rate that is finite and above zero.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Positive(f64);

impl Positive {
    /// The neutral factor.
    pub const ONE: Self = Self(1.0);
    /// The largest value believed: with it the slowest step still ends within a Julian century.
    pub const MAX: f64 = 1e9;

    /// `None` unless the value lies above zero and is at most [`Positive::MAX`].
    pub const fn new(value: f64) -> Option<Self> {
        if value > 0.0 && value <= Self::MAX { Some(Self(value)) } else { None }
    }

    /// The value, in the unit that its place gives it.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Positive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("expected a number above 0 and at most 1e9"))
    }
}

/// A probability, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Share(f64);

impl Share {
    /// Never.
    pub const ZERO: Self = Self(0.0);

    /// `None` unless the value lies in 0 to 1.
    pub const fn new(value: f64) -> Option<Self> {
        if value >= 0.0 && value <= 1.0 { Some(Self(value)) } else { None }
    }

    /// The value, without unit.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?).ok_or_else(|| serde::de::Error::custom("expected a share between 0 and 1"))
    }
}

/// How the time of a decoding step grows with the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenCurve {
    /// Each neighbour adds as much as the one before.
    #[default]
    Linear,
    /// The first third of the slots is free, as while the engine waits for memory; a full batch takes as long as on the straight line.
    FlatThenLinear,
    /// Each neighbour adds 1.6 times as much.
    Steep,
}

/// What a region is built of.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The cloud's name for it: `aws/us-west-2`.
    pub name: Arc<str>,
    /// The median round trip to the client.
    pub rtt: Millis,
    /// Identical replicas behind one ideal balancer.
    pub replicas: NonZeroU16,
    /// Requests that one replica keeps resident; memory for their keys and values is what bounds it.
    pub slots_per_replica: NonZeroU16,
    /// Requests that may wait for each replica before the region refuses.
    pub queue_per_replica: u16,
    /// How fast one idle replica reads prompts, in tokens a second.
    pub prefill_rate: Positive,
    /// The time of one decoding step with nothing in the batch.
    pub token_base: Millis,
    /// What each request in a replica's batch adds to that step.
    pub token_per_request: Millis,
    /// How that grows with the batch.
    pub token_curve: TokenCurve,
    /// Tokens sent together once the first was sent.
    pub tokens_per_chunk: NonZeroU8,
    /// How far single draws stray.
    pub noise: Noise,
}

impl Spec {
    /// Resident requests of one replica: as many sequences of a usual conversation as one modern accelerator's memory holds.
    pub const SLOTS: NonZeroU16 = NonZeroU16::new(64).expect("not zero");
    /// A quarter of the slots: a longer queue would only hand out answers that nobody waits for any more.
    pub const QUEUE: u16 = 16;
    /// Prompt tokens a second of one replica.
    pub const PREFILL_RATE: Positive = Positive(24_000.0);
    /// An idle decoding step, in milliseconds.
    pub const TOKEN_BASE_MS: f64 = 16.0;
    /// What a neighbour in the batch adds to it, in milliseconds.
    pub const TOKEN_PER_REQUEST_MS: f64 = 0.4;

    /// A region with the usual engine.
    pub fn new(name: &str, rtt: Millis, replicas: NonZeroU16) -> Self {
        Self {
            name: Arc::from(name),
            rtt,
            replicas,
            slots_per_replica: Self::SLOTS,
            queue_per_replica: Self::QUEUE,
            prefill_rate: Self::PREFILL_RATE,
            token_base: Millis::saturating(Self::TOKEN_BASE_MS),
            token_per_request: Millis::saturating(Self::TOKEN_PER_REQUEST_MS),
            token_curve: TokenCurve::Linear,
            tokens_per_chunk: NonZeroU8::MIN,
            noise: Noise::default(),
        }
    }

    /// The time of one decoding step of one replica with so many requests in its batch, without noise.
    pub fn token_time(&self, batch: f64) -> Millis {
        let slots = f64::from(self.slots_per_replica.get());
        let neighbours = match self.token_curve {
            TokenCurve::Linear => batch,
            TokenCurve::FlatThenLinear => (batch - slots / 3.0).max(0.0) * 1.5,
            TokenCurve::Steep => batch * 1.6,
        };
        self.token_base + self.token_per_request * neighbours
    }
}
