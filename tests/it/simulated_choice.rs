//! What a simulated proxy chooses and believes, one request at a time.

use std::path::Path;
use std::time::Duration;

use windward::clock::{Clock as _, SystemClock};
use windward::config::Env;
use windward::config::scenario::{self, Ablation, Scenario, Settings};
use windward::decide::Reason;
use windward::estimate::Demand;
use windward::policy::Objective;
use windward::simulate::players;
use windward::simulate::router::{FirstSeen, Moment, Outcome, Router};
use windward::simulate::world::World;

use super::simulate::{Disk, policy_of, short};

/// A scenario of the world `eu` that says this.
fn eu(text: &str) -> Scenario {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios/eu/own.yaml");
    let read = scenario::load(&path.display().to_string(), &format!("extends: world.yaml\n{text}"), &Env::default(), &Disk);
    read.unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn a_region_has_a_price_and_the_cheapest_is_chosen_by_it() {
    let chosen = |prices: [&str; 3]| {
        let region =
            |(name, price): (&str, &str)| format!("  - {{ name: {name}, grid_zone: DE, rtt: 10ms, replicas: 2{price} }}\n");
        let regions: String = ["a", "b", "c"].into_iter().zip(prices).map(region).collect();
        let scenario = eu(&format!("regions:\n{regions}policies: [{{ name: cheap, objective: least_cost }}]\n"));
        let world = World::read(&scenario, &Disk).unwrap();
        let at = Moment { now: SystemClock.monotonic(), wall: scenario.from };
        let mut router = Router::new(0, &players(&scenario, &world).unwrap()[0], at.now);
        let decided = router.decide(0, Demand { body_bytes: 3000, streamed: true, ..Demand::default() }, None, at);
        let Outcome::Serve(decision) = &decided.outcome else { panic!("{decided:?}") };
        (decision.chosen(), decision.reason)
    };
    let price = |input: f64| format!(", price_usd_per_million_tokens: {{ input: {input}, output: {} }}", 4.0 * input);
    let (dear, cheap) = (price(0.2), price(0.1));
    assert_eq!(chosen([&dear, &cheap, &dear]), (1, Reason::Objective(Objective::LeastCost)));
    assert_eq!(chosen([&dear, &dear, &cheap]), (2, Reason::Objective(Objective::LeastCost)));
    assert_eq!(chosen(["", &dear, ""]).0, 1, "whose price nobody knows is not chosen for it");
}

/// No run of a few minutes needs it, so it is shown by what is believed of one backend.
#[test]
fn without_doubt_what_was_slow_once_is_believed_slow_for_ever() {
    let mut scenario = short("eu/normal.yaml", 1.0);
    let whole = policy_of(&scenario, "windward");
    scenario.policies = vec![whole.clone(), Settings { ablate: vec![Ablation::NoDoubt], ..whole }];
    let world = World::read(&scenario, &Disk).unwrap();
    let begin = Moment { now: SystemClock.monotonic(), wall: scenario.from };
    let demand = Demand { body_bytes: 3000, streamed: true, ..Demand::default() };
    let believed = players(&scenario, &world).unwrap().into_iter().map(|player| {
        let mut router = Router::new(0, &player, begin.now);
        for _ in 0..40 {
            let decided = router.decide(0, demand, None, begin);
            let mut permit = router.dispatched(&decided.candidates[0], true, begin);
            let took = Duration::from_secs(20);
            router.first_token(&mut permit, &decided, &decided.candidates[0], FirstSeen { took, waited: took, now: begin.now });
        }
        let mut first_token = |seconds| {
            let at = Moment { now: begin.now + Duration::from_secs(seconds), ..begin };
            router.decide(0, demand, None, at).candidates[0].estimate.first_token.get()
        };
        let slow = first_token(1);
        (slow, (1..=100).map(|nth| first_token(10 * nth)).last().unwrap())
    });
    let [(slow, faded), (still_slow, kept)] = believed.collect::<Vec<_>>()[..] else { panic!("two policies") };
    assert!(slow > 5000.0 && faded < 1000.0, "{slow} ms, then {faded} ms");
    assert!((kept / still_slow - 1.0).abs() < 1e-9, "{still_slow} ms, then {kept} ms");
}
