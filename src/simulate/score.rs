//! What a run is judged by: grams by the true intensity, and the share of requests that were not served as they should have been.

use std::time::Duration;

use serde::Serialize;

use super::traffic::Ask;
use crate::config::scenario::{Class, Scenario};
use crate::units::Grams;

/// The window in which shares of regions are compared.
pub(super) const MOVEMENT_WINDOW: Duration = Duration::from_mins(1);

/// How one request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// With its answer, after these spans from its arrival.
    Answered {
        /// Until the first token.
        first_token: Duration,
        /// Until the last.
        total: Duration,
    },
    /// Without one.
    Failed,
    /// Refused by the proxy itself.
    Shed,
}

/// The figures of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Requests that are scored: those after the warm-up.
    pub requests: u64,
    /// What they emitted in truth, everything that was tried included.
    pub grams: f64,
    /// Of those the part that gave nobody an answer.
    pub waste_grams: f64,
    /// Energy of the requests that were answered, in joules at the machine, if nothing of them was at hand.
    pub joules: f64,
    /// What it would have been of those that were not.
    pub unanswered_joules: f64,
    /// Requests that missed a budget or got no answer.
    pub missed: u64,
    /// Whose first token was late.
    pub late_first_token: u64,
    /// Whose end was late.
    pub late_end: u64,
    /// That failed.
    pub failed: u64,
    /// That the proxy refused.
    pub shed: u64,
    /// Sent although nobody was believed to meet the budget.
    pub spilled: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Refusals by backends.
    pub refusals: u64,
    /// Times to the first token, in milliseconds: the median and the 99th percentile.
    pub first_token_ms: [f64; 2],
    /// By class: requests and misses.
    pub classes: Vec<[u64; 2]>,
    /// By region: requests that it answered.
    pub regions: Vec<u64>,
    /// The share of requests, in percent, that changes its region from one minute to the next, as a mean.
    pub movement_percent: f64,
}

/// The figures of a run that goes on.
#[derive(Debug)]
pub struct Tally<'s> {
    scenario: &'s Scenario,
    score: Score,
    first_tokens: Vec<f32>,
    /// By window and region: requests answered.
    windows: Vec<Vec<f64>>,
    /// All requests, the unscored ones included: answered, failed, shed.
    pub all: [u64; 3],
}

impl<'s> Tally<'s> {
    /// Nothing yet.
    pub fn new(scenario: &'s Scenario, requests: usize) -> Self {
        let score =
            Score { classes: vec![[0; 2]; scenario.classes.len()], regions: vec![0; scenario.regions.len()], ..Score::default() };
        Self { scenario, score, first_tokens: Vec::with_capacity(requests), windows: Vec::new(), all: [0; 3] }
    }

    /// Whether a request counts.
    pub fn scores(&self, ask: &Ask) -> bool {
        ask.at >= self.scenario.warm_up
    }

    /// A request emitted so much somewhere.
    pub fn emitted(&mut self, ask: &Ask, grams: Grams, wasted: bool) {
        if self.scores(ask) {
            self.score.grams += grams.get();
            self.score.waste_grams += if wasted { grams.get() } else { 0.0 };
        }
    }

    /// A request was sent again.
    pub fn retried(&mut self, ask: &Ask) {
        self.score.retries += u64::from(self.scores(ask));
    }

    /// A backend refused a request.
    pub fn refused(&mut self, ask: &Ask) {
        self.score.refusals += u64::from(self.scores(ask));
    }

    /// A request was sent although nobody was believed to meet the budget.
    pub fn spilled(&mut self, ask: &Ask) {
        self.score.spilled += u64::from(self.scores(ask));
    }

    /// A request is over. `region` is who answered it.
    pub fn ended(&mut self, ask: &Ask, end: End, region: Option<usize>) {
        let place = match end {
            End::Answered { .. } => 0,
            End::Failed => 1,
            End::Shed => 2,
        };
        self.all[place] += 1;
        let Some(class) = self.scenario.classes.get(usize::from(ask.class)).filter(|_| self.scores(ask)) else { return };
        self.score.requests += 1;
        let energy = self.scenario.energy;
        let joules = (energy.input * u64::from(ask.prompt) + energy.output * u64::from(ask.output)).get();
        match end {
            End::Answered { .. } => self.score.joules += joules,
            End::Failed | End::Shed => self.score.unanswered_joules += joules,
        }
        let missed = match end {
            End::Answered { first_token, total } => {
                self.first_tokens.push(first_token.as_secs_f64() as f32 * 1e3);
                let (first_budget, end_budget) = budgets(class, ask);
                let (late_first, late_end) = (first_token > first_budget, total > end_budget);
                self.score.late_first_token += u64::from(late_first);
                self.score.late_end += u64::from(late_end);
                late_first || late_end
            }
            End::Failed => {
                self.score.failed += 1;
                true
            }
            End::Shed => {
                self.score.shed += 1;
                true
            }
        };
        self.score.missed += u64::from(missed);
        if let Some([requests, misses]) = self.score.classes.get_mut(usize::from(ask.class)) {
            *requests += 1;
            *misses += u64::from(missed);
        }
        if let Some(region) = region {
            self.answered_by(ask, region);
        }
    }

    fn answered_by(&mut self, ask: &Ask, region: usize) {
        let window = (ask.at.as_secs_f64() / MOVEMENT_WINDOW.as_secs_f64()) as usize;
        if self.windows.len() <= window {
            self.windows.resize(window + 1, vec![0.0; self.scenario.regions.len()]);
        }
        if let Some(count) = self.windows.get_mut(window).and_then(|window| window.get_mut(region)) {
            *count += 1.0;
        }
        if let Some(count) = self.score.regions.get_mut(region) {
            *count += 1;
        }
    }

    /// The figures.
    pub fn finish(mut self) -> Score {
        self.first_tokens.sort_unstable_by(f32::total_cmp);
        let quantile = |q: f64| {
            let place = (self.first_tokens.len() as f64 * q) as usize;
            self.first_tokens.get(place).or(self.first_tokens.last()).map_or(0.0, |ms| f64::from(*ms))
        };
        self.score.first_token_ms = [quantile(0.5), quantile(0.99)];
        self.score.movement_percent = movement(&self.windows);
        self.score
    }
}

/// Until when the first token and the end of a request have to be there.
pub fn budgets(class: &Class, ask: &Ask) -> (Duration, Duration) {
    let first = class.first_token + class.per_prompt_token * f64::from(ask.prompt);
    let end = first + class.per_output_token * f64::from(ask.output);
    (first.to_duration(), end.to_duration())
}

/// Half the sum of the changes of all shares from one window to the next, in percent, as a mean over the windows.
pub fn movement(windows: &[Vec<f64>]) -> f64 {
    let shares: Vec<Vec<f64>> = windows
        .iter()
        .map(|window| (window, window.iter().sum::<f64>()))
        .filter(|(_, sum)| *sum > 0.0)
        .map(|(window, sum)| window.iter().map(|count| count / sum).collect())
        .collect();
    let moved: f64 = shares
        .windows(2)
        .map(|pair| match pair {
            [before, after] => before.iter().zip(after).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0,
            _ => 0.0,
        })
        .sum();
    100.0 * moved / shares.len().saturating_sub(1).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn movement_is_the_share_that_is_somewhere_else() {
        assert!((movement(&[vec![10.0, 0.0], vec![5.0, 5.0], vec![0.0, 20.0]]) - 50.0).abs() < 1e-9);
        assert!(
            (movement(&[vec![10.0, 30.0], vec![0.0, 0.0], vec![1.0, 3.0]])).abs() < 1e-9,
            "a minute without a request says nothing"
        );
        assert!(movement(&[]).abs() < 1e-9);
    }
}
