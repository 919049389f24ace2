//! The decision allocates nothing for up to 16 candidates: counted, not argued.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use smallvec::SmallVec;
use windward::affinity::Warm;
use windward::backend::BackendId;
use windward::cli::surroundings::Disk;
use windward::clock::{Clock, SystemClock};
use windward::config::{self, Env};
use windward::decide::{Candidate, Outcome, Standing, Waiting, decide, decide_in_time};
use windward::estimate::{Demand, Estimate};
use windward::policy::{Objective, Policy};
use windward::state::{Question, Snapshot};
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
                let _ = black_box(decide(&policy, true, &candidates[..count], 7));
            });
            assert_eq!(allocations.count_total, 0, "{objective:?} among {count}");
        }
    }
}

/// A plan of sixteen backends under a policy with everything that a decision can look at.
fn sixteen() -> Snapshot {
    let mut text = "policies:\n  - { name: p, latency_budget: { first_token: 1s, per_prompt_token: 100us, per_output_token: 35ms }, overload: \
                    hold_then_shed, residency: [SE-SE3, FR, DE, PL], max_usd_per_kg: 2, latency_price_mg_per_s: 10 }\n"
        .to_owned();
    let names: Vec<String> = (0..16).map(|name| format!("b{name}")).collect();
    let _ = writeln!(text, "routes: [{{ name: r, policy: p, backends: [{}] }}]\nbackends:", names.join(", "));
    for name in 0..16 {
        let zone = ["SE-SE3", "FR", "DE", "PL"][name % 4];
        let price = "price_usd_per_million_tokens: { input: 1, output: 3 }";
        let _ =
            writeln!(text, "  - {{ name: b{name}, url: \"http://127.0.0.1:1/v1\", grid_zone: {zone}, models: [m], {price} }}");
    }
    let plan = config::load("t.yaml", &text, &Env::default(), &Disk).unwrap_or_else(|errors| panic!("{errors}")).plan;
    Snapshot::first(Arc::new(plan), SystemClock.monotonic())
}

#[test]
fn what_is_estimated_and_decided_for_a_request_allocates_nothing_up_to_sixteen() {
    let (snapshot, now, wall) = (sixteen(), SystemClock.monotonic(), SystemClock.wall());
    let route = &snapshot.plan.routes[0];
    let demand = Demand { body_bytes: 4500, max_output_tokens: Some(500), streamed: true, embeddings: false };
    let counted = || {
        let mut outcome = None;
        let allocations = allocation_counter::measure(|| {
            let deployments = route.candidates("m");
            let size = snapshot.size(deployments[0].flow, &demand);
            let (policy, warm) = (&*route.policy, Warm::default());
            let question = Question { model: "m", size, policy, warm, now, wall, turn: 3 };
            let inside = |id: &BackendId| !route.outside.contains(id);
            let all = deployments.iter().filter_map(|one| snapshot.candidate(one, inside(&one.backend), &question));
            let candidates: SmallVec<[Candidate; 16]> = all.collect();
            outcome = Some(black_box(decide_in_time(policy, true, &candidates, 3, Waiting::default())));
        });
        assert_eq!(allocations.count_total, 0);
        outcome.unwrap().unwrap()
    };
    assert!(matches!(counted(), Outcome::Serve(_)));
    // With that much ahead everywhere nobody is in time: it is held, the longest way through.
    let _held: Vec<_> = snapshot.live.iter().map(|live| live.admit(100_000)).collect();
    assert!(matches!(counted(), Outcome::Hold(_)));
}

#[test]
fn the_count_can_fail() {
    let allocations = allocation_counter::measure(|| drop(black_box(Arc::new(1))));
    assert_eq!(allocations.count_total, 1);
}
