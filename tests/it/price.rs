//! The prices of capacity, held against a solver of linear programmes that knows nothing of how they are found.

use std::time::Duration;

use windward::cli::surroundings::Disk;
use windward::clock::{Clock, SystemClock};
use windward::config::{self, Env};
use windward::control::pricing::Pricer;
use windward::estimate::Size;
use windward::price::Market;
use windward::simulate::simplex::{Column, Programme};
use windward::state::Snapshot;

const CASES: usize = 500;
/// What the market takes its place of last resort to cost.
const LAST_RESORT: f64 = 2.0;

fn random(seed: &mut fastrand::Rng) -> Market {
    let (groups, backends) = (seed.usize(1..25), seed.usize(1..17));
    let draw = |seed: &mut fastrand::Rng, most: f64| 1.0 + seed.f64() * most;
    let cost = (0..groups * backends).map(|_| if seed.u8(..8) == 0 { f64::INFINITY } else { draw(seed, 9.0) });
    let cost: Vec<f64> = cost.collect();
    let demand = (0..groups).map(|_| draw(seed, 100.0)).collect();
    // Between far too little for all of it and far too much.
    let plenty = 100.0 * groups as f64 / backends as f64 * seed.f64() * 2.0;
    Market { demand, capacity: (0..backends).map(|_| draw(seed, plenty)).collect(), cost }
}

#[test]
fn what_is_cleared_is_what_a_linear_programme_finds() {
    let mut seed = fastrand::Rng::with_seed(7);
    let mut dear = 0;
    for case in 0..CASES {
        let market = random(&mut seed);
        let backends = market.capacity.len();
        let last_resort = LAST_RESORT * market.cost.iter().copied().filter(|cost| cost.is_finite()).fold(0.0, f64::max);
        let columns = market.cost.iter().enumerate().filter(|(_, cost)| cost.is_finite()).map(|(pair, cost)| {
            let (group, backend) = (pair / backends, pair % backends);
            let demand = market.demand[group];
            Column { group, cost: cost * demand, uses: vec![(backend, demand / market.capacity[backend])] }
        });
        let columns: Vec<Column> = columns.collect();
        let overflow: Vec<f64> = market.demand.iter().map(|demand| demand * last_resort).collect();
        let programme = Programme { overflow, capacities: backends, columns };
        let (solved, cleared) = (programme.solve(), market.clear().expect("it is cleared"));
        assert!(solved.optimal, "case {case}");

        let least: f64 = programme.columns.iter().zip(&solved.shares).map(|(column, share)| column.cost * share).sum::<f64>()
            + programme.overflow.iter().zip(&solved.overflow).map(|(cost, share)| cost * share).sum::<f64>();
        let found = cleared.cost + cleared.unserved * last_resort;
        assert!((found - least).abs() <= 1e-6 * least, "case {case}: {found} and not {least}");
        for (backend, (price, dual)) in cleared.prices.iter().zip(&solved.prices).enumerate() {
            let dual = dual / market.capacity[backend];
            assert!((price - dual).abs() <= 1e-6 * (1.0 + dual), "case {case}, backend {backend}: {price} and not {dual}");
            dear += usize::from(*price > 0.0);
        }
    }
    assert!(dear > CASES, "most of the markets were tight");
}

/// A clean backend that is soon full and a dirty one, with a key that may only use the dirty one and a key that says nothing.
const TWO_KEYS: &str = "
backends:
  - { name: clean, url: http://127.0.0.1:1/v1, grid_zone: SE-SE3, models: [m], max_in_flight: 4 }
  - { name: dirty, url: http://127.0.0.1:1/v1, grid_zone: PL, models: [m] }
policies:
  - { name: standard, latency_budget: { first_token: 9s, per_output_token: 35ms } }
  - { name: local, latency_budget: { first_token: 9s, per_output_token: 50ms }, residency: [PL] }
keys:
  - { name: blue, secret: sk-blue-0123456789abcdef, policy: local }
  - { name: red, secret: sk-red-0123456789abcdef }
";

/// The prices after half a minute in which the key at that place asked for far more than the clean one gives.
fn priced(text: &str, key: usize) -> Vec<f64> {
    let plan = config::load("t.yaml", text, &Env::default(), &Disk).unwrap_or_else(|problems| panic!("{problems}")).plan;
    let begun = SystemClock.monotonic();
    let snapshot = Snapshot::first(plan.into(), begun);
    let of_route = snapshot.plan.routes[0].candidates("m")[0].flow;
    let own = snapshot.plan.keys.get(key).and_then(|key| key.policy.as_ref());
    let flow = snapshot.flow(own.map_or(of_route, |own| own.demand_of(of_route))).unwrap();
    let mut pricer = Pricer::new(&snapshot);
    let mut prices = None;
    for second in 1..30 {
        (0..20).for_each(|_| flow.asked(Size { prompt_tokens: 500, output_tokens: 300 }, true));
        let now = begun + Duration::from_secs(second);
        prices = pricer.tick(&snapshot, now, SystemClock.wall()).prices.or(prices);
    }
    prices.unwrap().iter().map(|price| price.get()).collect()
}

#[test]
fn demand_counts_under_the_policy_that_its_key_brings() {
    let (blue, red) = (priced(TWO_KEYS, 0), priced(TWO_KEYS, 1));
    assert!(blue[0] == 0.0, "who may not go there makes nothing scarce there: {blue:?}");
    assert!(red[0] > 0.0, "{red:?}");
    let only_blue = TWO_KEYS.replace("  - { name: red, secret: sk-red-0123456789abcdef }\n", "");
    assert!(priced(&only_blue, 0)[0] == 0.0);
}

#[test]
fn a_limit_is_that_of_the_strictest_policy_that_anybody_comes_with() {
    let limit = |text: &str| {
        let plan = config::load("t.yaml", text, &Env::default(), &Disk).unwrap_or_else(|problems| panic!("{problems}")).plan;
        let begun = SystemClock.monotonic();
        let snapshot = Snapshot::first(plan.into(), begun);
        Pricer::new(&snapshot).tick(&snapshot, begun + Duration::from_secs(1), SystemClock.wall());
        let dirty = snapshot.plan.backends[1].id;
        snapshot.live(dirty).model("m").unwrap().limit(1024)
    };
    let both = limit(TWO_KEYS);
    let only_blue = limit(&TWO_KEYS.replace("  - { name: red, secret: sk-red-0123456789abcdef }\n", ""));
    let strict_key = limit(&TWO_KEYS.replace("50ms", "25ms"));
    assert!(strict_key < both && both < only_blue, "{strict_key}, {both}, {only_blue}");
}
