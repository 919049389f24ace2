//! Parts of the decision that a policy under comparison does without, to see what each of them is worth.
//!
//! They are taken away around the product and not inside it: the configuration is written otherwise, a counter is told something else,
//! or what the product computed is replaced before it is used. So nothing here can be switched on in a proxy, and the code that is
//! judged is the code that runs. A part that could only be taken away inside is not in the list: that a token's time is learned as a
//! level and a shape and not as a straight line, for one.
//!
//! # What they are worth
//!
//! ```text
//! cargo build --release
//! WINDWARD_DATA=DIR benches/decision.py --ablations --worlds eu --first 301 --seeds 3
//! ```
//!
//! prints a row for each, here with `--first 301`, recorded grids and lengths: the share of the oracle's saving in percent, and the
//! percentage of requests that were late, failed or refused.
//!
//! | eu | normal | overload_green | noisy | brownout |
//! |---|---|---|---|---|
//! | nothing taken away | 98.8 / 0.15 | 97.2 / 0.26 | 96.2 / 0.25 | 97.7 / 0.32 |
//! | no price of capacity | 93.0 / 0.12 | 87.2 / 0.19 | 87.8 / 0.53 | 91.9 / 0.30 |
//! | a price at any load, not only near the limit | 97.0 / 0.15 | 94.3 / 0.28 | 92.3 / 0.42 | 96.0 / 0.41 |
//! | no error budget | 98.4 / 0.05 | 96.8 / 0.14 | 95.2 / 0.17 | 97.3 / 0.23 |
//! | queue guessed from requests in flight | 95.4 / 0.16 | 92.3 / 0.26 | 87.3 / 0.34 | 94.1 / 0.33 |
//! | limits fixed at 74 % of what is declared | 98.1 / 0.13 | 94.4 / 8.72 | 96.1 / 11.50 | 98.3 / 1.44 |
//! | no limits | 99.0 / 1.26 | 98.5 / 1.98 | 95.6 / 2.08 | 98.1 / 1.33 |
//! | one length of answers for a route | 97.8 / 0.14 | 95.9 / 0.27 | 95.2 / 0.38 | 96.6 / 0.33 |
//! | limits and prices every 5 s | 98.5 / 0.17 | 97.0 / 0.30 | 95.7 / 0.54 | 97.5 / 0.37 |
//! | every 15 s | 98.1 / 0.42 | 96.4 / 0.60 | 95.5 / 1.33 | 97.2 / 0.64 |
//! | quantile 0.995 instead of 0.9975 | 98.9 / 0.28 | 97.6 / 0.50 | 96.9 / 0.43 | 97.9 / 0.44 |
//! | a second of waiting worth 10 mg | 98.5 / 0.14 | 97.3 / 0.25 | 95.9 / 0.23 | 97.6 / 0.32 |
//! | worth 50 mg | 97.6 / 0.10 | 96.2 / 0.22 | 94.8 / 0.22 | 96.7 / 0.27 |
//! | worth 300 mg | 91.2 / 0.03 | 89.1 / 0.08 | 85.2 / 0.22 | 90.0 / 0.22 |
//!
//! The price is worth most, then the prompt tokens that wait; limits are for punctuality and not for grams. Differences below half a point
//! are none.
//!
//! The command's other rows and columns, of a later version. What is done in a crowd does nothing elsewhere (97.3 in overload_green
//! and 97.8 in brownout with and without each of them), and conversations are in `cache` alone:
//!
//! | eu | flash | cache |
//! |---|---|---|
//! | nothing taken away | 96.3 / 1.35 | 102.9 / 0.13 |
//! | nobody is held: refused at once | 96.3 / 1.49 | 102.9 / 0.13 |
//! | nobody is held or refused | 94.4 / 5.37 | 102.9 / 0.13 |
//! | no place is kept free for those in a hurry | 95.5 / 1.65 | 102.9 / 0.13 |
//! | nobody is sent beyond a learned limit | 96.2 / 1.34 | 102.9 / 0.13 |
//! | no conversation is known again | 96.3 / 1.35 | 101.4 / 0.13 |
//! | no belief fades that nothing confirms | 96.2 / 1.33 | 102.9 / 0.12 |
//!
//! That a belief fades which nothing confirms (`no_doubt`) is worth nothing there, nor in normal, overload_green and brownout. It is not
//! the ageing that cost up to three points in noisy and that stays off: that let every cell of the first token go back towards what was
//! declared, most of the way in two minutes, also what was learned of a queue that is seldom so long. This one only touches what is
//! believed to be more than twice as slow as declared, goes no further than to that, and not after a response. It is kept for a case that
//! these scenarios do not have: a backend that was slow once, is over every budget by that, and would never be asked again.
//!
//! # What its settings are worth
//!
//! A setting is no part that could be taken away, so each of these rows was made with the constant changed where it stands, by
//!
//! ```text
//! WINDWARD_DATA=DIR benches/decision.py --first 200 --seeds 2 --scenarios steep_curve,overload_green,noisy,normal
//! ```
//!
//! Share of the oracle's saving and percentage missed, the two worlds; a ramp of 1.4, a caution of 0.1 and a weight of 0.7 are what is
//! built in, and had 95.1 / 0.28 and 94.7 / 0.20 in `steep_curve` on seeds 101 to 105 before a backend was filled as far as whole answers
//! stay in time, and have 95.6 / 0.28 and 95.5 / 0.20 with it.
//!
//! | ramp, caution, weight of a new price | world | steep_curve | overload_green | noisy | normal |
//! |---|---|---|---|---|---|
//! | 2.2, 0.5, 0.4 | eu | 94.2 / 0.31 | 96.8 / 0.20 | 94.9 / 0.12 | 98.2 / 0.11 |
//! | | us | 91.7 / 0.14 | 93.5 / 0.15 | 94.3 / 0.12 | 96.4 / 0.09 |
//! | 1.7, 0, 0.4 | eu | 95.0 / 0.30 | 97.2 / 0.21 | 95.5 / 0.16 | 98.5 / 0.12 |
//! | | us | 93.6 / 0.12 | 95.0 / 0.17 | 95.5 / 0.15 | 97.3 / 0.10 |
//! | 1.4, 0, 0.4 | eu | 94.9 / 0.30 | 97.1 / 0.21 | 95.4 / 0.17 | - |
//! | | us | 94.5 / 0.12 | 95.6 / 0.17 | 96.1 / 0.18 | 97.7 / 0.11 |
//! | 1.4, 0, 0.7, 2 % in reserve and not 3 | eu | 95.0 / 0.27 | - | - | - |
//! | | us | 94.5 / 0.11 | - | - | - |
//! | 1.2, 0, 0.7, 2 % in reserve | eu | 93.9 / 0.28 | - | - | - |
//! | | us | 93.6 / 0.11 | - | - | - |
//!
//! The first row has three seeds in `overload_green` and `noisy`. Four proxies under noise, `four_noisy` in `us`: 91.0 with a message
//! every 50 ms, 93.6 with one every 20 ms, both with the settings of the first row.
//!
//! What is kept free in a crowd, and for whom ([`decide`](mod@crate::decide)), by the same command with `--first 401 --worlds eu` and
//! `--scenarios flash,steep_curve`: percentage missed, of chats in brackets.
//!
//! | what is kept free of places | flash | steep_curve |
//! |---|---|---|
//! | 7 %, more for long answers, nothing of chats | 1.43 (0.50) | 0.31 |
//! | the same of those places where the first token would be in time, and a twentieth of it of chats | 1.37 (0.46) | 0.30 |
//! | from 0.3 to 1.2 times that, by what chats ask for | 1.29 (0.69) | 0.26 |
//! | the same, and chats go up to 4 % beyond a limit: as built in | 1.40 (0.43) | 0.26 |
//!
//! # What was left out
//!
//! With wrong figures traffic moves nearly twice as fast in `ap` as an oracle moves it that knows the true ones, and as fast as one does
//! that is told the same. It is the hour's errors that move it, while those of energy cost most of the share and move nothing. `normal`
//! with one of the two `errors`, seeds 501 to 503 of `ap`: share of the oracle's saving of the policy and of an oracle told the same, and
//! what they move in a minute.
//!
//! | errors | share | told the same | moved | told the same |
//! |---|---|---|---|---|
//! | none | 96.9 | 100 | 7.8 | 7.6 |
//! | energy, 0.15 | 91.9 | 94.4 | 7.8 | 7.6 |
//! | carbon, 0.1 | 94.0 | 97.2 | 13.3 | 13.2 |
//! | both | 89.9 | 92.4 | 13.3 | 13.2 |
//!
//! To trust a reading less damps that. Tried on the same seeds, with a filter before [`Router::reading`](super::router::Router::reading):
//! share, and movement over the oracle's.
//!
//! | what is believed of a zone | normal | both errors |
//! |---|---|---|
//! | the reading: as built in | 96.9, 1.03 | 89.9, 1.77 |
//! | as it was, moved as far as to within 5 % of the reading | 96.7, 1.00 | 90.7, 1.48 |
//! | within 10 % | 96.7, 0.98 | 91.5, 1.22 |
//! | six tenths of the reading, the rest as it was | 96.9, 1.01 | 90.9, 1.33 |
//! | as it was, until the reading is 10 % off | 96.7, 0.97 | 89.7, 1.79 |
//!
//! With 5 % nothing changes in `eu` and `us`, and `ap` loses 0.1 to 0.5 in six other scenarios and nothing in noisy. It stays out:
//! what it gains comes of errors that are drawn anew each hour, and of a feed that is always wrong the same way it would only lose. Nor
//! would what a decision was made with be what the feed said and the ledger charges.

use crate::config::scenario::Ablation;
use crate::decide::{Candidate, InTime, NoCandidate, Outcome, Reason, Scratch, Waiting, decide_in_time};
use crate::demand::Demand;
use crate::estimate::{Estimate, Size};
use crate::live::Flow;
use crate::policy::{Overload, Policy};
use crate::units::Grams;

/// The share of the declared maximum at which a healthy region of the shipped worlds is still in time: 47 requests of 64.
pub(super) const FIXED_LIMIT: f64 = 0.74;
/// What each request counts for where only their number does, whatever its prompt and until its end: as many tokens as let the queue
/// that is guessed move through the classes of queues, instead of being beyond the last one all day.
const COUNTED_TOKENS: u32 = 50;

/// What a policy does without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ablations(Vec<Ablation>);

impl Ablations {
    /// Those.
    pub fn new(those: &[Ablation]) -> Self {
        Self(those.to_vec())
    }

    /// Whether it does without that.
    pub fn has(&self, one: Ablation) -> bool {
        self.0.contains(&one)
    }

    /// Whether the nth second since the start is one of which `control` knows.
    pub(super) fn ticks(&self, second: u64) -> bool {
        let every = if self.has(Ablation::Tick15s) {
            15
        } else if self.has(Ablation::Tick5s) {
            5
        } else {
            1
        };
        second.is_multiple_of(every)
    }

    /// A request as large as it is expected to be, by a flow.
    pub(super) fn size(&self, size: Size, flow: &Flow, demand: &Demand) -> Size {
        if self.has(Ablation::OneAnswerLength) {
            // Nobody sends a prompt of this length, so nothing was learned of its answers but what holds for all.
            return Size { output_tokens: flow.size_of(u32::MAX, demand).output_tokens, ..size };
        }
        size
    }

    /// An estimate at a backend where capacity is worth `price` for each output token.
    pub(super) fn estimate(&self, estimate: &mut Estimate, price: Grams) {
        if self.has(Ablation::FlatPrice) {
            estimate.price = price * f64::from(estimate.output_tokens);
        }
        if self.has(Ablation::NoLimits) {
            estimate.limit = u32::MAX;
        }
    }

    /// What comes of a request, without what is taken away of what is done in a crowd. That nobody is refused is written into the policy.
    pub(super) fn in_time(
        &self,
        policy: &Policy,
        streamed: bool,
        candidates: &[Candidate],
        turn: u32,
        waiting: Waiting,
        scratch: &Scratch,
    ) -> Result<InTime, NoCandidate> {
        let decide =
            |policy: &Policy, candidates: &[Candidate]| decide_in_time(policy, streamed, candidates, turn, waiting, scratch);
        let mut it = decide(policy, candidates)?;
        if self.has(Ablation::NoStrain) && goes_beyond(&it.outcome, candidates) {
            // Who is far beyond its limit is so however much further one might go, and else all is as it was.
            let mut full: Vec<Candidate> = candidates.to_vec();
            for own in full.iter_mut().map(|one| &mut one.estimate).filter(|own| own.in_flight >= own.limit) {
                own.in_flight = own.limit.saturating_mul(2).saturating_add(2);
            }
            it = decide(policy, &full)?;
        }
        if self.has(Ablation::NoReserve) && !matches!(it.outcome, Outcome::Serve(_)) {
            // Who spills goes wherever there is a place, in time if there is one in time.
            let spills = Policy { overload: Overload::Spill, ..policy.clone() };
            if let Ok(other) = decide(&spills, candidates)
                && is_in_time(&other.outcome)
            {
                it = other;
            }
        }
        if self.has(Ablation::NoHold) && matches!(it.outcome, Outcome::Hold(_)) {
            it.outcome = Outcome::Shed;
        }
        Ok(it)
    }

    /// Prompt tokens that a request counts for while it waits.
    pub(super) fn pending(&self, tokens: u32) -> u32 {
        if self.has(Ablation::QueueByCount) { COUNTED_TOKENS } else { tokens }
    }
}

fn is_in_time(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Serve(decision) if !matches!(decision.reason, Reason::FastestOverBudget | Reason::LastResort))
}

/// Whether it is sent in time to a backend that has as many as its limit, which is done for those alone who cannot wait.
fn goes_beyond(outcome: &Outcome, candidates: &[Candidate]) -> bool {
    let Outcome::Serve(decision) = outcome else { return false };
    let chosen = candidates.get(usize::from(decision.chosen()));
    is_in_time(outcome) && chosen.is_some_and(|chosen| chosen.estimate.in_flight >= chosen.estimate.limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_taken_away() {
        let (none, flow) = (Ablations::default(), Flow::default());
        (0..200).for_each(|_| flow.saw_output(1000, 10));
        (0..30).for_each(|_| flow.saw_output(5000, 900));
        let demand = Demand { body_bytes: 4500, streamed: true, ..Demand::default() };
        let size = flow.size(&demand);
        assert_eq!(none.size(size, &flow, &demand), size);
        let one = Ablations::new(&[Ablation::OneAnswerLength]).size(size, &flow, &demand);
        assert!(
            size.output_tokens < 50 && one.output_tokens > 300 && one.prompt_tokens == size.prompt_tokens,
            "{size:?} {one:?}"
        );
        assert_eq!((none.pending(700), Ablations::new(&[Ablation::QueueByCount]).pending(700)), (700, COUNTED_TOKENS));
        let ticks = |those: &[Ablation]| (0..30).filter(|second| Ablations::new(those).ticks(*second)).count();
        assert_eq!((ticks(&[]), ticks(&[Ablation::Tick5s]), ticks(&[Ablation::Tick15s])), (30, 6, 2));
    }
}
