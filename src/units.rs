//! Quantities whose unit is their type.
//!
//! A gateway that reports grams has to be certain that it never added joules to them. Every quantity below is finite and not
//! negative by construction, so the arithmetic that follows needs no checks; only a *difference* of grams may be negative, and
//! it has a type of its own.

use std::ops::{Add, AddAssign, Mul, Sub};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// Joules in one kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $unit:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(f64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0.0);

            #[doc = concat!("A value in ", $unit, "; `None` unless it is finite and not negative.")]
            pub const fn new(value: f64) -> Option<Self> {
                // Of the two zeros the positive one.
                if value.is_finite() && value >= 0.0 { Some(Self(value + 0.0)) } else { None }
            }

            #[doc = concat!("A value in ", $unit, "; what is not finite or negative becomes the nearest value that is allowed.")]
            pub const fn saturating(value: f64) -> Self {
                // Two comparisons without a branch: NaN is not above zero, and what is not below the largest one is that.
                let value = if value > 0.0 { value } else { 0.0 };
                Self::bounded(value)
            }

            /// Of what is neither negative nor NaN: a sum of quantities, or a product of two.
            const fn bounded(value: f64) -> Self {
                debug_assert!(value >= 0.0);
                Self(if value < f64::MAX { value } else { f64::MAX })
            }

            #[doc = concat!("The value in ", $unit, ".")]
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self::bounded(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl Mul<f64> for $name {
            type Output = Self;
            fn mul(self, factor: f64) -> Self {
                Self::saturating(self.0 * factor)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = f64::deserialize(deserializer)?;
                Self::new(value).ok_or_else(|| {
                    serde::de::Error::custom(concat!("expected a finite number of ", $unit, " that is not negative"))
                })
            }
        }
    };
}

quantity! {
    /// Carbon intensity of electricity.
    GramsPerKwh, "gCO2e/kWh"
}
quantity! {
    /// Emissions.
    Grams, "gCO2e"
}
quantity! {
    /// Energy.
    Joules, "J"
}
quantity! {
    /// What one token costs, at the level of the machine: before the building's share ([`Pue`]).
    JoulesPerToken, "J/token"
}
quantity! {
    /// A span of time as the estimators and the log handle it.
    Millis, "ms"
}

quantity! {
    /// Money.
    Usd, "USD"
}

/// A difference of emissions: the one quantity that may be negative, because a saving may be a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GramsSaved(f64);

impl GramsSaved {
    /// The value in gCO2e; negative means that more was emitted than the baseline would have.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl AddAssign for GramsSaved {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Grams {
    type Output = GramsSaved;
    fn sub(self, other: Self) -> GramsSaved {
        GramsSaved(self.0 - other.0)
    }
}

impl Mul<GramsPerKwh> for Joules {
    type Output = Grams;
    fn mul(self, intensity: GramsPerKwh) -> Grams {
        Grams::bounded(self.0 / JOULES_PER_KWH * intensity.0)
    }
}

impl Mul<u64> for JoulesPerToken {
    type Output = Joules;
    /// That many tokens' energy.
    fn mul(self, tokens: u64) -> Joules {
        Joules::bounded(self.0 * tokens as f64)
    }
}

/// Power usage effectiveness: how many joules a building draws for each joule that reaches its machines. At least 1 by its
/// definition; above 3 it is a slip of the pen rather than a data centre.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Pue(f64);

impl Pue {
    /// A building that adds nothing, for energy that was metered at its door.
    pub const ONE: Self = Self(1.0);
    /// The mean that operators reported for their largest site in the Uptime Institute's survey of 2024. It stands in where
    /// nothing was published, and is above every figure in the shipped table on purpose: silence must not look efficient.
    pub const UNPUBLISHED: Self = Self(1.56);
    /// The largest value believed.
    pub const MAX: Self = Self(3.0);

    /// A value without unit; `None` unless it lies in 1 to 3.
    pub const fn new(value: f64) -> Option<Self> {
        if value >= Self::ONE.0 && value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The value, without unit.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl Mul<Pue> for Joules {
    type Output = Self;
    /// What the building drew for this much at its machines.
    fn mul(self, pue: Pue) -> Self {
        Self::bounded(self.0 * pue.0)
    }
}

impl<'de> Deserialize<'de> for Pue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        Self::new(value).ok_or_else(|| serde::de::Error::custom("expected a PUE between 1 and 3"))
    }
}

impl From<Duration> for Millis {
    /// In whole microseconds: nothing finer is measured here, and six more digits would fill the log.
    fn from(duration: Duration) -> Self {
        Self::saturating((duration.as_secs() as f64 * 1e6 + f64::from(duration.subsec_micros())) / 1e3)
    }
}

impl Millis {
    /// To the nearest whole microsecond.
    #[must_use]
    pub fn rounded(self) -> Self {
        Self::bounded(whole(self.0 * 1e3) / 1e3)
    }

    /// The same span as a `Duration`, at most about 584 million years.
    pub fn to_duration(self) -> Duration {
        Duration::try_from_secs_f64(self.0 / 1e3).unwrap_or(Duration::MAX)
    }
}

/// The nearest whole number, of two the even one, for a number that is not negative: what `round_ties_even` gives, which is a call into a
/// library on processors of which no more is taken for granted than that they are of this architecture.
const fn whole(value: f64) -> f64 {
    // From here on there is no number between two whole ones, so a sum is rounded to one.
    const ALL_WHOLE: f64 = (1_u64 << (f64::MANTISSA_DIGITS - 1)) as f64;
    if value < ALL_WHOLE { value + ALL_WHOLE - ALL_WHOLE } else { value }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_quantity() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.001] {
            assert_eq!(Grams::new(bad), None, "{bad}");
        }
        assert_eq!(Grams::saturating(f64::NAN), Grams::ZERO);
        assert_eq!(Grams::saturating(f64::INFINITY).get(), f64::MAX);
    }

    #[test]
    fn a_kilowatt_hour_at_one_gram_is_one_gram() {
        let grams = Joules::saturating(3.6e6) * GramsPerKwh::saturating(1.0);
        assert_eq!(grams.get(), 1.0);
    }

    #[test]
    fn a_pue_is_between_one_and_three() {
        for bad in [f64::NAN, f64::INFINITY, 0.999, 3.001, -1.2] {
            assert_eq!(Pue::new(bad), None, "{bad}");
        }
        let facility = Joules::saturating(100.0) * Pue::new(1.5).unwrap();
        assert_eq!(facility, Joules::saturating(150.0));
        assert!(serde_json::from_str::<Pue>("0.9").is_err());
    }

    #[test]
    fn tokens_make_joules_of_a_rate() {
        assert_eq!(JoulesPerToken::saturating(0.5) * 400, Joules::saturating(200.0));
    }

    #[test]
    fn a_span_has_whole_microseconds() {
        assert_eq!(Millis::from(Duration::from_nanos(1_234_567_999)).get(), 1234.567);
        assert_eq!(Millis::saturating(2.0 / 3.0).rounded().get(), 0.667);
        assert_eq!(Millis::from(Duration::MAX).to_duration().as_secs(), Duration::MAX.as_secs());
    }

    #[test]
    fn a_span_is_rounded_as_the_library_does() {
        let numbers = (0..2000).map(|n| f64::from(n) / 4.0);
        let limits = [4_503_599_627_370_495.5, 4_503_599_627_370_496.0, 4_503_599_627_370_497.0, f64::MAX, f64::INFINITY];
        for value in numbers.chain([0.499_999_999_999_999_94, 2.5_f64.next_up(), 3.5_f64.next_down()]).chain(limits) {
            assert_eq!(whole(value).to_bits(), value.round_ties_even().to_bits(), "{value}");
        }
    }

    #[test]
    fn no_quantity_is_the_negative_zero() {
        for zero in [Grams::new(-0.0).unwrap(), Grams::saturating(-0.0), serde_json::from_str("-0.0").unwrap()] {
            assert!((zero + zero).get().is_sign_positive() && zero.get().is_sign_positive());
        }
        let most = Joules::saturating(f64::MAX);
        assert_eq!((most + most, most * Pue::MAX), (most, most), "no sum or product is infinite");
    }

    #[test]
    fn a_saving_may_be_a_loss() {
        let saved = Grams::saturating(1.0) - Grams::saturating(3.0);
        assert_eq!(saved.get(), -2.0);
    }
}
