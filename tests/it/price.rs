//! The prices of capacity, held against a solver of linear programmes that knows nothing of how they are found.

use windward::price::Market;
use windward::simulate::simplex::{Column, Programme};

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
