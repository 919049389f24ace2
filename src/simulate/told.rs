//! What a router is told of grids and machines where that is not the truth: the other side of [`truth`](super::truth).
//!
//! The figures are those of the product: its own grid takes the readings that the engine gives it, so that they grow old and are drawn
//! towards what is usual as in the proxy. They are taken once an hour of the grid; what they fade within that hour is left out.

use jiff::Timestamp;

use super::Player;
use super::conditions;
use super::router::simulated;
use super::traffic::{Ask, Course};
use super::truth::{grams, hour, wall};
use super::world::World;
use crate::config::scenario::Scenario;
use crate::grid::{Grid, ZoneId};
use crate::tables::TokenCounts;
use crate::units::{Grams, GramsPerKwh};

/// What is told over a whole course.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// By hour and region, in gCO2e/kWh.
    hourly: Vec<Vec<GramsPerKwh>>,
}

impl Told {
    /// What a player is told on a course; `None` where all of it is true.
    pub fn of(scenario: &Scenario, world: &World, course: &Course, player: &Player) -> Option<Self> {
        let zones: Vec<Option<ZoneId>> =
            player.plan.backends.iter().map(|backend| backend.placement.zones.first().copied()).collect();
        let mut grid = Grid::clone(&player.grid);
        let hours = hour(scenario, scenario.duration()) + 1;
        let hourly: Vec<Vec<GramsPerKwh>> = (0..hours as u32)
            .map(|nth| {
                let at = scenario.carbon_hour * nth;
                let now = wall(scenario, at);
                for (region, (readings, zone)) in course.readings.iter().zip(&zones).enumerate() {
                    let reading = readings.get(nth as usize).or(readings.last());
                    let heard = reading.filter(|_| !conditions::at(scenario, course, region, at).stale);
                    if let (Some(zone), Some(intensity)) = (zone, heard) {
                        grid.set(*zone, simulated(*intensity, now));
                    }
                }
                zones.iter().map(|zone| known(&grid, *zone, now)).collect()
            })
            .collect();
        let is_true = |(nth, regions): (usize, &Vec<GramsPerKwh>)| {
            world.grids.iter().zip(regions).all(|(truth, told)| truth.at(nth) == *told)
        };
        let all_true = hourly.iter().enumerate().all(is_true)
            && course.energy_factors.iter().all(|factor| (factor - 1.0).abs() < f64::EPSILON);
        (!all_true).then_some(Self { hourly })
    }

    /// What tokens emit in a region at the time of a request, by what is told: the machines take what the scenario says they do.
    pub fn grams(&self, scenario: &Scenario, ask: &Ask, region: usize, tokens: TokenCounts) -> Grams {
        let regions = self.hourly.get(hour(scenario, ask.at)).or(self.hourly.last());
        let intensity = regions.and_then(|regions| regions.get(region)).copied().unwrap_or(GramsPerKwh::ZERO);
        grams(scenario, region, tokens, 1.0, intensity)
    }
}

fn known(grid: &Grid, zone: Option<ZoneId>, now: Timestamp) -> GramsPerKwh {
    zone.and_then(|zone| grid.at(zone, now)).map_or(GramsPerKwh::ZERO, |intensity| intensity.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scenario::load;
    use crate::config::{Env, NoFiles};
    use crate::simulate::players;
    use crate::simulate::truth::truth;

    /// Six hours of two regions with what goes wrong in them, the truth, and what is told.
    fn told(wrong: &str) -> (Scenario, World, Course, Option<Told>) {
        let text = format!(
            "hours: 6\ncarbon_hour: 10s\nregions:\n  - {{ name: a, grid_zone: DE, rtt: 5ms, replicas: 1 }}\n  - {{ name: b, grid_zone: FR, \
             rtt: 5ms, replicas: 1 }}\nclasses: [{{ name: c, share: 1, first_token: 1s, per_output_token: 35ms }}]\npolicies: [{{ name: p \
             }}]\n{wrong}\n"
        );
        let scenario = load("s.yaml", &text, &Env::default(), &NoFiles).unwrap_or_else(|errors| panic!("{errors}"));
        let world = World::read(&scenario, &NoFiles).unwrap();
        let course = Course::draw(&scenario, &world, 1);
        let players = players(&scenario, &world).unwrap_or_else(|errors| panic!("{errors}"));
        let told = Told::of(&scenario, &world, &course, &players[0]);
        (scenario, world, course, told)
    }

    #[test]
    fn where_all_that_is_told_is_true_there_is_nothing_else_to_say() {
        assert_eq!(told("").3, None);
        assert_eq!(told("events: [{ at: 5s, for: 20s, region: a, slow: 3 }]").3, None, "this is not told at all");
    }

    #[test]
    fn what_is_told_is_what_the_feed_says_and_what_machines_should_take() {
        let (_, true_grids, _, energy_alone) = told("errors: { energy: 0.15 }");
        assert!(energy_alone.is_some_and(|told| told.hourly[3][1] == true_grids.grids[1].at(3)));
        let (scenario, world, course, told) = told("errors: { energy: 0.15, carbon: 0.1 }");
        let told = told.unwrap();
        for ask in &course.asks {
            let tokens = TokenCounts { input: u64::from(ask.prompt), cached: 0, output: u64::from(ask.output) };
            for region in 0..2 {
                let nth = hour(&scenario, ask.at);
                let wrong =
                    course.readings[region][nth].get() / world.grids[region].at(nth).get() / course.energy_factors[region];
                let grams = truth(&scenario, &world, &course, ask, region, tokens).get() * wrong;
                let said = told.grams(&scenario, ask, region, tokens).get();
                assert!((said / grams - 1.0).abs() < 1e-9 && (wrong - 1.0).abs() > 1e-3, "{said} and not {grams}");
            }
        }
    }

    #[test]
    fn what_a_stale_feed_said_last_fades_towards_what_is_usual() {
        let (_, world, _, told) = told("events: [{ at: 15s, for: 20s, region: a, stale: true }]");
        let hourly = told.unwrap().hourly;
        let (truth, usual) = (|nth| world.grids[0].at(nth).get(), world.grids[0].mean.get());
        for (nth, regions) in hourly.iter().enumerate() {
            let is_heard = ![2, 3].contains(&nth);
            assert_eq!((regions[0].get() - truth(nth)).abs() < 1e-9, is_heard, "hour {nth}: {regions:?}");
            assert_eq!(regions[1], world.grids[1].at(nth), "the other feed goes on");
        }
        // An hour after it was over: the way of 60 minutes at 360, in tenths.
        let faded = usual + (-60.0_f64 / 360.0).exp() * (truth(1) - usual);
        assert!((hourly[3][0].get() - faded).abs() <= 0.051, "{} and not {faded}", hourly[3][0].get());
    }
}
