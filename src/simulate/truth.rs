//! What is so, whatever the router believes.

use std::time::Duration;

use jiff::Timestamp;

use super::traffic::{Ask, Course};
use super::world::World;
use crate::config::scenario::Scenario;
use crate::tables::TokenCounts;
use crate::units::{Grams, GramsPerKwh, Joules};

/// The grid's clock.
pub fn wall(scenario: &Scenario, at: Duration) -> Timestamp {
    let hours = at.as_secs_f64() / scenario.carbon_hour.as_secs_f64().max(1e-9);
    scenario.from.checked_add(Duration::from_secs_f64(hours * 3600.0)).unwrap_or(Timestamp::MAX)
}

/// What tokens emitted in a region at the time of a request, in truth.
pub fn truth(scenario: &Scenario, world: &World, course: &Course, ask: &Ask, region: usize, tokens: TokenCounts) -> Grams {
    let Some(grid) = world.grids.get(region) else { return Grams::ZERO };
    let factor = course.energy_factors.get(region).copied().unwrap_or(1.0);
    grams(scenario, region, tokens, factor, grid.at(hour(scenario, ask.at)))
}

/// The hour of the grid, counted from the scenario's first.
pub(super) fn hour(scenario: &Scenario, at: Duration) -> usize {
    (at.as_secs_f64() / scenario.carbon_hour.as_secs_f64().max(1e-9)) as usize
}

/// What tokens emit in a region whose machines take `factor` times the scenario's energy, at that intensity.
pub(super) fn grams(scenario: &Scenario, region: usize, tokens: TokenCounts, factor: f64, intensity: GramsPerKwh) -> Grams {
    let Some(place) = scenario.regions.get(region) else { return Grams::ZERO };
    let energy = scenario.energy;
    let joules =
        [energy.input * tokens.input.saturating_sub(tokens.cached), energy.cached * tokens.cached, energy.output * tokens.output];
    let sum: f64 = joules.iter().map(|joules| joules.get()).sum();
    Joules::saturating(sum * factor) * place.pue * intensity
}

/// How much of a prompt a region has at hand, because it served the turn before a short while ago. `last` says who served that, and
/// when.
pub fn cached(scenario: &Scenario, last: Option<(usize, Duration)>, ask: &Ask, region: usize, now: Duration) -> u32 {
    let Some(sessions) = scenario.traffic.sessions else { return 0 };
    let is_warm = last.is_some_and(|(place, at)| place == region && now.saturating_sub(at) <= sessions.ttl);
    if is_warm { (f64::from(ask.prompt) * sessions.skipped.get()) as u32 } else { 0 }
}

/// What was read and generated.
pub fn counts(ask: &Ask, cached: u32, output: u32) -> TokenCounts {
    TokenCounts { input: u64::from(ask.prompt), cached: u64::from(cached), output: u64::from(output) }
}
