//! What tokens cost in dollars: the list of prices of one model at one backend.

use serde::{Deserialize, Serialize};

use crate::tables::TokenCounts;
use crate::units::Usd;

/// Dollars for a million tokens of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenPrices {
    /// Prompt tokens.
    pub input: Usd,
    /// Prompt tokens that came out of a cache.
    pub cached_input: Usd,
    /// Generated tokens.
    pub output: Usd,
}

/// Tokens that a price is for.
const MILLION: f64 = 1e6;

impl TokenPrices {
    /// What these tokens cost. Never are more tokens cached than there are in the prompt.
    pub fn of(&self, tokens: TokenCounts) -> Usd {
        let cached = tokens.cached.min(tokens.input);
        let part = |price: Usd, count: u64| price * (count as f64 / MILLION);
        part(self.input, tokens.input - cached) + part(self.cached_input, cached) + part(self.output, tokens.output)
    }
}

/// What an exchange cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// All attempts together.
    pub usd: Usd,
    /// What the answer would have cost at the baseline; 0 when there was no answer.
    pub baseline_usd: Usd,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_price() {
        let prices =
            TokenPrices { input: Usd::saturating(2.0), cached_input: Usd::saturating(0.5), output: Usd::saturating(10.0) };
        let cost = |input, cached, output| prices.of(TokenCounts { input, cached, output }).get();
        assert!((cost(1_000_000, 0, 0) - 2.0).abs() < 1e-12 && (cost(0, 0, 1_000_000) - 10.0).abs() < 1e-12);
        assert!((cost(1000, 800, 100) - (0.0004 + 0.0004 + 0.001)).abs() < 1e-12);
        assert!((cost(100, 900, 0) - 0.000_05).abs() < 1e-12, "no more is cached than there is");
    }
}
