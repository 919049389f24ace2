//! What is promised by the clock: 300 ns for the framing guard over a chat request of 1.5 KB, 1 us for a decision among 8 candidates
//! and 3 us among 32.
//!
//! ```text
//! cargo bench --manifest-path benches/instructions/Cargo.toml --target-dir target --bench nanoseconds
//! ```
//!
//! A clock also sees the neighbours, so the figure is that of the best of many rounds, and nothing fails by it; the gate is the count of
//! instructions. A decision is given as `decide` alone, and with the estimates of all candidates before it.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement reads a clock and prints what it read")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use windward::affinity::Warm;
use windward::clock::{Clock, SystemClock};
use windward::decide::{Candidate, Scratch, decide_with};
use windward::estimate::Demand;
use windward::policy::Policy;
use windward::state::{Question, Snapshot};
use windward::wire::framing::Framing;
use windward_instructions::{candidates, message, plan};

/// Long enough for a round to be far above the clock's own steps, short enough for some to be undisturbed.
const TIMES: u32 = 2_000;
const ROUNDS: usize = 500;

fn main() {
    let message = message(1536);
    measure(&format!("framing guard, a request of {} bytes", message.len()), || {
        let mut framing = Framing::new(64 << 10);
        black_box(framing.feed(black_box(&message)));
    });
    for count in [8, 32] {
        let (policy, candidates, scratch) = (Policy::standard("standard"), candidates(count), Scratch::default());
        measure(&format!("a decision among {count}"), || {
            let decided = black_box(decide_with(black_box(&policy), true, black_box(&candidates), 7, &scratch));
            if let Ok(decision) = decided {
                scratch.give_back(decision);
            }
        });
        let snapshot = Snapshot::first(Arc::new(plan(count)), SystemClock.monotonic());
        let mut room = Vec::new();
        measure(&format!("estimates and a decision among {count}"), || {
            let _ = black_box(estimated(black_box(&snapshot), &mut room, &scratch));
        });
    }
}

/// What a request does from its size to its decision. Both clocks are read, as they are for it, and candidates are put where they stay.
fn estimated(snapshot: &Snapshot, room: &mut Vec<Candidate>, scratch: &Scratch) -> usize {
    let route = &snapshot.plan.routes[0];
    let demand = Demand { body_bytes: 1536, max_output_tokens: None, streamed: true, embeddings: false };
    let deployments = route.candidates("m");
    let size = snapshot.size(deployments[0].flow, &demand);
    let (policy, warm, wall) = (&*route.policy, Warm::default(), SystemClock.wall());
    let now = snapshot.now(SystemClock.monotonic());
    let question = Question { model: "m", size, policy, warm, now, wall, turn: 3 };
    room.clear();
    room.extend(deployments.iter().filter_map(|one| snapshot.candidate(one, true, &question)));
    decide_with(policy, true, room, 3, scratch).map_or(0, |decision| {
        let tried = decision.order.len();
        scratch.give_back(decision);
        tried
    })
}

fn measure(what: &str, mut one: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            (0..TIMES).for_each(|_| one());
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
        })
        .collect();
    rounds.sort_unstable_by(f64::total_cmp);
    let [best, median] = [0, ROUNDS / 2].map(|place| rounds.get(place).copied().unwrap_or_default());
    println!("{what}: {best:.0} ns at best, {median:.0} ns at the median");
}
