//! What is going on in a region at a moment: the scenario's events, put together.

use std::time::Duration;

use super::traffic::{Course, TENANTS_STEP};
use crate::config::scenario::{Changes, Scenario};
use crate::fleet::{Faults, Positive, Share};

/// Nothing out of the ordinary.
const CALM: Changes =
    Changes { slow: 1.0, down: false, replicas: None, error_rate: Share::ZERO, tenants: 0.0, stale: false, crowd: 1.0 };

/// All that events and other tenants change in a region at a moment.
pub fn at(scenario: &Scenario, course: &Course, region: usize, now: Duration) -> Changes {
    let mut all = CALM;
    all.tenants = course.tenants_at(region, now);
    let here = scenario.events.iter().filter(|event| event.region.is_none_or(|place| place == region));
    for event in here.filter(|event| event.from <= now && now < event.until) {
        let Changes { slow, down, replicas, error_rate, tenants, stale, crowd } = event.change;
        all = Changes {
            slow: all.slow * slow,
            down: all.down || down,
            replicas: match (all.replicas, replicas) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
            error_rate: if error_rate > all.error_rate { error_rate } else { all.error_rate },
            tenants: (all.tenants + tenants).min(1.0),
            stale: all.stale || stale,
            crowd: all.crowd * crowd,
        };
    }
    all
}

/// The same as faults of the model, and how many requests of others it has.
pub fn of_model(scenario: &Scenario, region: usize, changes: &Changes) -> (Faults, usize) {
    let faults = Faults {
        slow: Positive::new(changes.slow).unwrap_or(Positive::ONE),
        up: !changes.down,
        replicas: changes.replicas,
        error_rate: changes.error_rate,
        ..Faults::default()
    };
    let spec = scenario.regions.get(region).map(|region| &region.spec);
    let slots = spec
        .map_or(0.0, |spec| f64::from(changes.replicas.unwrap_or(spec.replicas).get()) * f64::from(spec.slots_per_replica.get()));
    (faults, (slots * changes.tenants).round() as usize)
}

/// The moments at which anything may change, in order, each once.
pub fn moments(scenario: &Scenario) -> Vec<Duration> {
    let end = scenario.duration();
    // Also what changes after the last arrival: those who still wait then are to see it.
    let mut moments: Vec<Duration> = scenario.events.iter().flat_map(|event| [event.from, event.until]).collect();
    if scenario.tenants.is_some() {
        let steps = (end.as_secs_f64() / TENANTS_STEP.as_secs_f64()) as u32;
        moments.extend((0..=steps).map(|step| TENANTS_STEP * step));
    }
    moments.push(Duration::ZERO);
    moments.retain(|moment| *moment < Duration::MAX);
    moments.sort_unstable();
    moments.dedup();
    moments
}
