//! The prices of capacity, held against two solvers of linear programmes that know nothing of how they are found: `microlp`, which is
//! nobody's here, and the simplex method that the bound of a simulation is found with.

use std::time::Duration;

use microlp::{ComparisonOp, OptimizationDirection, Problem};
use windward::cli::surroundings::Disk;
use windward::clock::{Clock, SystemClock};
use windward::config::{self, Env, Plan};
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

/// What serving all of a market costs at least, with a place of last resort at that cost.
fn least_by_microlp(market: &Market, last_resort: f64) -> f64 {
    let mut problem = Problem::new(OptimizationDirection::Minimize);
    let (groups, backends) = (market.demand.len(), market.capacity.len());
    let amount = |problem: &mut Problem, cost| problem.add_var(cost, (0.0, f64::INFINITY));
    let (mut served, mut taken) = (vec![Vec::new(); groups], vec![Vec::new(); backends]);
    for (group, served) in served.iter_mut().enumerate() {
        served.push((amount(&mut problem, last_resort), 1.0));
        for (backend, taken) in taken.iter_mut().enumerate() {
            let cost = market.cost[group * backends + backend];
            if cost.is_finite() {
                let flow = amount(&mut problem, cost);
                served.push((flow, 1.0));
                taken.push((flow, 1.0));
            }
        }
    }
    for (served, demand) in served.iter().zip(&market.demand) {
        problem.add_constraint(served, ComparisonOp::Eq, *demand);
    }
    for (taken, capacity) in taken.iter().zip(&market.capacity) {
        problem.add_constraint(taken, ComparisonOp::Le, *capacity);
    }
    problem.solve().unwrap().into_solution().unwrap().objective()
}

/// What the same costs at least by the prices alone: of all prices those of an optimum say most, and then as much as it costs.
fn least_by_prices(market: &Market, prices: &[f64], last_resort: f64) -> f64 {
    let rows = market.demand.iter().zip(market.cost.chunks(prices.len()));
    let of_group =
        |(demand, row): (&f64, &[f64])| demand * row.iter().zip(prices).map(|(c, p)| c + p).fold(last_resort, f64::min);
    rows.map(of_group).sum::<f64>() - market.capacity.iter().zip(prices).map(|(room, price)| room * price).sum::<f64>()
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
        let outside = least_by_microlp(&market, last_resort);
        assert!((found - outside).abs() <= 1e-6 * outside, "case {case}: {found} and not {outside}, by microlp");
        let priced = least_by_prices(&market, &cleared.prices, last_resort);
        assert!((priced - outside).abs() <= 1e-6 * outside, "case {case}: by the prices {priced}, and {outside} by microlp");
        for (backend, (price, dual)) in cleared.prices.iter().zip(&solved.prices).enumerate() {
            let dual = dual / market.capacity[backend];
            assert!((price - dual).abs() <= 1e-6 * (1.0 + dual), "case {case}, backend {backend}: {price} and not {dual}");
            dear += usize::from(*price > 0.0);
        }
    }
    assert!(dear > CASES, "most of the markets were tight");
}

#[test]
fn a_price_goes_most_of_the_way_each_second_and_not_all_of_it() {
    let (plan, begun) = (plan(TWO_KEYS), SystemClock.monotonic());
    let snapshot = Snapshot::first(plan.into(), begun);
    let flow = snapshot.flow(snapshot.plan.routes[0].candidates("m")[0].flow).unwrap();
    let mut pricer = Pricer::new(&snapshot);
    let mut second = |nth: u64| {
        // So much that the clean one is full whatever else is known: the price is the same each second.
        (0..5_000).for_each(|_| flow.asked(Size { prompt_tokens: 500, output_tokens: 300 }, true));
        let now = begun + Duration::from_secs(nth);
        pricer.tick(&snapshot, now, SystemClock.wall()).prices.unwrap()[0].get()
    };
    let prices: Vec<f64> = (1..40).map(&mut second).collect();
    let last = prices[38];
    assert!(last > 0.0);
    for (nth, price) in (1..).zip(prices.iter().take(4)) {
        let left = (1.0 - 0.7_f64).powi(nth);
        assert!((price / last - (1.0 - left)).abs() < 1e-3, "{nth}: {prices:?}");
    }
}

#[test]
fn long_prompts_are_a_group_of_their_own() {
    // The clean one reads so slowly that only short prompts are in time there.
    let text = TWO_KEYS.replace("max_in_flight: 4", "max_in_flight: 4, expect: { first_token: 1s, per_prompt_token: 2ms }");
    let clean = |sizes: &[u32]| priced_of(&text, 1, sizes)[0];
    assert!(clean(&[500]) > 0.0);
    assert!(clean(&[8_000]) == 0.0, "who cannot be in time there makes nothing scarce there");
    assert!(clean(&[500, 8_000]) > 0.0, "and is no reason to take the short ones for long");
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

fn plan(text: &str) -> Plan {
    config::load("t.yaml", text, &Env::default(), &Disk).unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// The prices after half a minute in which the key at that place asked for far more than the clean one gives.
fn priced(text: &str, key: usize) -> Vec<f64> {
    priced_of(text, key, &[500])
}

/// The same with prompts of these lengths.
fn priced_of(text: &str, key: usize, prompts: &[u32]) -> Vec<f64> {
    let plan = plan(text);
    let begun = SystemClock.monotonic();
    let snapshot = Snapshot::first(plan.into(), begun);
    let of_route = snapshot.plan.routes[0].candidates("m")[0].flow;
    let own = snapshot.plan.keys.get(key).and_then(|key| key.policy.as_ref());
    let flow = snapshot.flow(own.map_or(of_route, |own| own.demand_of(of_route))).unwrap();
    let mut pricer = Pricer::new(&snapshot);
    let mut prices = None;
    for second in 1..30 {
        for prompt_tokens in prompts {
            (0..20).for_each(|_| flow.asked(Size { prompt_tokens: *prompt_tokens, output_tokens: 300 }, true));
        }
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
        let plan = plan(text);
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
