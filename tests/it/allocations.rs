//! The decision allocates nothing for up to 16 candidates, and nothing for more once its worker has made one among as many: counted, not
//! argued.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use smallvec::SmallVec;
use windward::affinity::{Session, SessionKey};
use windward::backend::BackendId;
use windward::cli::surroundings::Disk;
use windward::clock::{Clock, SystemClock};
use windward::config::{self, Env};
use windward::decide::{Candidate, Outcome, Scratch, Standing, Waiting, decide, decide_in_time, decide_with};
use windward::estimate::{Demand, Estimate};
use windward::policy::{Objective, OnNoCandidate, Policy};
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

fn policy(objective: Objective) -> Policy {
    Policy { objective, max_usd_per_kg: Some(Usd::saturating(1.0)), ..Policy::standard("p") }
}

#[test]
fn a_decision_among_sixteen_allocates_nothing() {
    let candidates: Vec<Candidate> = (0..17).map(candidate).collect();
    for objective in Objective::ALL {
        let policy = policy(objective);
        for count in [1, 3, 8, 16] {
            let allocations = allocation_counter::measure(|| {
                let _ = black_box(decide(&policy, true, &candidates[..count], 7));
            });
            assert_eq!(allocations.count_total, 0, "{objective:?} among {count}");
        }
    }
}

#[test]
fn nor_does_one_among_more_once_its_worker_has_made_one() {
    let in_time: Vec<Candidate> = (0..64).map(candidate).collect();
    let late = |mut candidate: Candidate| {
        candidate.estimate.first_token = Millis::saturating(1e6);
        candidate
    };
    let half: Vec<Candidate> = (0..).zip(&in_time).map(|(nth, it)| if nth % 2 == 0 { late(*it) } else { *it }).collect();
    let none: Vec<Candidate> = in_time.iter().copied().map(late).collect();
    let nobody: Vec<Candidate> = in_time.iter().map(|it| Candidate { standing: Standing::NoCapacity, ..*it }).collect();
    let scratch = Scratch::default();
    for (objective, on_no_candidate) in
        Objective::ALL.into_iter().flat_map(|it| [(it, OnNoCandidate::Fastest), (it, OnNoCandidate::Reject)])
    {
        let policy = Policy { on_no_candidate, ..policy(objective) };
        for (what, count) in [&in_time, &half, &none, &nobody].into_iter().flat_map(|it| [17, 32, 64].map(|count| (it, count))) {
            let decide = || {
                let decided = black_box(decide_with(&policy, true, &what[..count], 7, &scratch));
                if let Ok(decision) = decided {
                    scratch.give_back(decision);
                }
            };
            decide();
            assert_eq!(allocation_counter::measure(decide).count_total, 0, "{objective:?} among {count}, {on_no_candidate:?}");
        }
    }
}

/// A plan of so many backends under a policy with everything that a decision can look at.
fn plan_of(count: usize) -> Snapshot {
    let mut text = "policies:\n  - { name: p, latency_budget: { first_token: 1s, per_prompt_token: 100us, per_output_token: 35ms }, overload: \
                    hold_then_shed, residency: [SE-SE3, FR, DE, PL], max_usd_per_kg: 2, latency_price_mg_per_s: 10 }\n"
        .to_owned();
    let names: Vec<String> = (0..count).map(|name| format!("b{name}")).collect();
    let _ = writeln!(text, "routes: [{{ name: r, policy: p, backends: [{}] }}]\nbackends:", names.join(", "));
    for name in 0..count {
        let zone = ["SE-SE3", "FR", "DE", "PL"][name % 4];
        let price = "price_usd_per_million_tokens: { input: 1, output: 3 }";
        let _ =
            writeln!(text, "  - {{ name: b{name}, url: \"http://127.0.0.1:1/v1\", grid_zone: {zone}, models: [m], {price} }}");
    }
    let plan = config::load("t.yaml", &text, &Env::default(), &Disk).unwrap_or_else(|errors| panic!("{errors}")).plan;
    Snapshot::first(Arc::new(plan), SystemClock.monotonic())
}

#[test]
fn what_is_estimated_and_decided_for_a_request_allocates_nothing() {
    for count in [16, 32] {
        let (snapshot, now, wall, scratch) = (plan_of(count), SystemClock.monotonic(), SystemClock.wall(), Scratch::default());
        let route = &snapshot.plan.routes[0];
        let demand = Demand { body_bytes: 4500, max_output_tokens: Some(500), streamed: true, embeddings: false };
        let key = SessionKey::new([1, 2]);
        let session = Session::called(&key, b"a conversation").of(&key, "m", "");
        let decided = || {
            let deployments = route.candidates("m");
            let size = snapshot.size(deployments[0].flow, &demand);
            let policy = &*route.policy;
            let warm = snapshot.warm(Some(&session), policy, demand.body_bytes, now);
            let question = Question { model: "m", size, policy, warm, now: snapshot.now(now), wall, turn: 3 };
            let inside = |id: &BackendId| !route.outside.contains(id);
            let all = deployments.iter().filter_map(|one| snapshot.candidate(one, inside(&one.backend), &question));
            // The proxy has room of its own for these.
            let candidates: SmallVec<[Candidate; 32]> = all.collect();
            assert_eq!(candidates.len(), count);
            black_box(decide_in_time(policy, true, &candidates, 3, Waiting::default(), &scratch)).unwrap().outcome
        };
        let counted = || {
            let again = |outcome: Outcome| {
                if let Outcome::Serve(decision) = outcome {
                    scratch.give_back(decision);
                }
            };
            // Among up to 16 also the first time.
            if count > 16 {
                again(decided());
            }
            let mut outcome = None;
            let allocations = allocation_counter::measure(|| outcome = Some(decided()));
            assert_eq!(allocations.count_total, 0, "{count}");
            outcome.unwrap()
        };
        assert!(matches!(counted(), Outcome::Serve(_)));
        // With that much ahead everywhere nobody is in time: it is held, the longest way through.
        let _held: Vec<_> = snapshot.live.iter().map(|live| live.admit(100_000)).collect();
        assert!(matches!(counted(), Outcome::Hold(_)));
    }
}

#[test]
fn the_count_can_fail() {
    let allocations = allocation_counter::measure(|| drop(black_box(Arc::new(1))));
    assert_eq!(allocations.count_total, 1);
}
