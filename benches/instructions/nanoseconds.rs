//! What the framing guard takes by the clock: the promise is 300 ns for a chat request of 1.5 KB.
//!
//! ```text
//! cargo bench --manifest-path benches/instructions/Cargo.toml --target-dir target --bench nanoseconds
//! ```
//!
//! A clock also sees the neighbours, so the figure is that of the best of many rounds, and nothing fails by it; the gate is the count of
//! instructions.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement reads a clock and prints what it read")]

use std::hint::black_box;
use std::time::Instant;

use windward::wire::framing::Framing;
use windward_instructions::message;

/// Long enough for a round to be far above the clock's own steps, short enough for some to be undisturbed.
const REQUESTS: u32 = 2_000;
const ROUNDS: usize = 500;

fn main() {
    let message = message(1536);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..REQUESTS {
                let mut framing = Framing::new(64 << 10);
                black_box(framing.feed(black_box(&message)));
            }
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(REQUESTS)
        })
        .collect();
    rounds.sort_unstable_by(f64::total_cmp);
    let [best, median] = [0, ROUNDS / 2].map(|place| rounds.get(place).copied().unwrap_or_default());
    println!("framing guard, a request of {} bytes: {best:.0} ns at best, {median:.0} ns at the median", message.len());
}
