//! The decision allocates nothing for up to 16 candidates: counted, not argued.

use std::sync::Arc;

use windward::backend::BackendId;
use windward::decide::{Candidate, Standing, decide};
use windward::estimate::Estimate;
use windward::policy::{Objective, Policy};
use windward::units::{Grams, GramsPerKwh, Joules, Millis, Usd};

fn candidate(id: u16) -> Candidate {
    let estimate = Estimate {
        prompt_tokens: 1000,
        known_tokens: 0,
        cached_tokens: 0,
        output_tokens: 200,
        first_token: Millis::saturating(100.0 + f64::from(id)),
        queue: Millis::ZERO,
        per_output_token: Millis::saturating(20.0),
        total: Millis::saturating(4000.0),
        energy: Joules::saturating(100.0),
        intensity: Some(GramsPerKwh::saturating(f64::from(id) * 20.0)),
        emissions: Some(Grams::saturating(f64::from(id))),
        cost: Some(Usd::saturating(0.01 * f64::from(id % 5))),
        in_flight: u32::from(id % 3),
        limit: 64,
        price: Grams::ZERO,
    };
    Candidate { backend: BackendId(id), estimate, standing: Standing::Ready, weight: 1 }
}

#[test]
fn a_decision_among_sixteen_allocates_nothing() {
    let candidates: Vec<Candidate> = (0..17).map(candidate).collect();
    for objective in Objective::ALL {
        let policy = Policy { objective, max_usd_per_kg: Some(Usd::saturating(1.0)), ..Policy::standard("p") };
        for count in [1, 3, 8, 16] {
            let allocations = allocation_counter::measure(|| {
                let _ = std::hint::black_box(decide(&policy, true, &candidates[..count], 7));
            });
            assert_eq!(allocations.count_total, 0, "{objective:?} among {count}");
        }
    }
}

#[test]
fn the_count_can_fail() {
    let allocations = allocation_counter::measure(|| drop(std::hint::black_box(Arc::new(1))));
    assert_eq!(allocations.count_total, 1);
}
