//! The choice: of the candidates that meet every constraint, the one that the policy's objective likes best, with a verdict for
//! every other.
//!
//! Constraints come first and are never traded for grams: residency, capacity, health, then the latency budget. One score with a
//! weight for each of them would be shorter, and somebody's data would leave the continent on a clean afternoon.
//!
//! A best candidate that is best by a hair would take all traffic until it is full, so whoever comes within 1 % of its grams shares
//! with it: the less loaded first, and among equals each in turn. The choice does not depend on the order of the candidates, except
//! where the policy asks for the listed one.
//!
//! Nothing here allocates for up to 16 candidates: the two lists of a [`Decision`] are the only things that grow, and they hold as
//! many in place.

mod hedge;
mod overload;
mod residency;
mod verdict;

use std::cmp::Ordering;

use smallvec::SmallVec;

pub use hedge::{Second, second};
pub use overload::{Outcome, Waiting, decide_in_time};
pub use residency::resident;
pub use verdict::{NoCandidate, Reason, Standing, Verdict};

use crate::backend::BackendId;
use crate::estimate::Estimate;
use crate::policy::{LatencyBudget, Objective, OnNoCandidate, Policy};
use crate::units::{Grams, Millis, Usd};

/// Somebody who serves the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Who. No two candidates of one request are the same backend.
    pub backend: BackendId,
    /// What it would take.
    pub estimate: Estimate,
    /// Whether it may be used at all.
    pub standing: Standing,
    /// Its share under the objective `weighted`. Who has none is only ever a fallback to who has.
    pub weight: u32,
}

/// What was decided for one request. Candidates are named by their index in the slice that was decided on.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Those that may be tried, in that order: the chosen one first, so it is never empty.
    pub order: SmallVec<[u16; 16]>,
    /// Who would have been chosen with carbon switched off: same policy, same candidates, same moment, same turn.
    pub baseline: u16,
    /// Why the chosen one was chosen.
    pub reason: Reason,
    /// One for each candidate, in their order; `Chosen` for the first of [`Decision::order`] and nobody else.
    pub verdicts: SmallVec<[Verdict; 16]>,
}

impl Decision {
    /// The decision over a single candidate that was not to be decided: the request has to go there and nowhere else.
    pub fn pinned() -> Self {
        Self {
            order: smallvec::smallvec![0],
            baseline: 0,
            reason: Reason::Pinned,
            verdicts: smallvec::smallvec![Verdict::Chosen],
        }
    }

    /// The index of the chosen candidate.
    pub fn chosen(&self) -> u16 {
        self.order.first().copied().unwrap_or(self.baseline)
    }
}

/// Whoever is within this share of the best is as good: the estimates are not that exact.
const TIE: f64 = 0.01;

/// One too many counts for so many times its lateness: it makes others late, too. In `simulate`, crowds in `us`, seeds 101, 102 and 105,
/// 0.41 % of chats were late and not 0.60 %; 4 and 30 did the same.
const CROWDED: f64 = 8.0;

/// Decides who serves a request. `streamed` says which of its latencies the budget is about; `turn` counts the decisions of the
/// route, moves ties and `round_robin` on, and seeds `weighted`.
///
/// [`Decision::order`] holds the candidates that are [`Standing::Ready`]: those within the budget by the objective, then, unless the
/// policy rejects what is over budget, the others by latency, because a late answer is better than none once the punctual ones have
/// failed. Those that are [`Standing::Returning`] follow, for the same reason. When nobody is ready they are tried as if they were,
/// and only when nobody is returning either are the ejected ones, under the same rules: the ejections are a guess from past failures,
/// and refusing everything would make it come true.
///
/// Under `least_carbon` the sum of grams, of the price of capacity, of the policy's price of the first token's latency, and of what the
/// dollars would buy at the policy's price of a kilogram is to be least. A candidate of unknown emissions never wins over one that is
/// known; when none is known, latency decides. So it is with dollars where they count, as long as anybody's are known.
///
/// At most 65,536 candidates are looked at, as there are no more backends in a plan.
pub fn decide(policy: &Policy, streamed: bool, candidates: &[Candidate], turn: u32) -> Result<Decision, NoCandidate> {
    decide_within(policy, policy.budget, streamed, candidates, turn)
}

/// The same with another budget than the policy's.
fn decide_within(
    policy: &Policy,
    budget: Option<LatencyBudget>,
    streamed: bool,
    candidates: &[Candidate],
    turn: u32,
) -> Result<Decision, NoCandidate> {
    let candidates = candidates.get(..=usize::from(u16::MAX)).unwrap_or(candidates);
    // Looked for only where dollars count.
    let priced = policy.counts_money() && candidates.iter().any(|candidate| candidate.estimate.cost.is_some());
    let late = candidates.iter().map(|candidate| late(budget, streamed, candidate)).collect();
    let weighing = Weighing { policy, budget, streamed, candidates, turn, priced, late };
    let Eligible { mut order, within, standing } = weighing.eligible()?;
    let last_resort = standing == Standing::Ejected;

    let (punctual, late) = order.split_at_mut(within);
    if !late.is_empty() {
        weighing.rank_by_lateness(late);
    }
    let Ranking { baseline, reason, tied } = weighing.rank(punctual);
    let chosen = punctual.first().or(late.first()).copied().unwrap_or_default();
    let reason = if last_resort {
        Reason::LastResort
    } else if punctual.is_empty() {
        Reason::FastestOverBudget
    } else if punctual.len() == 1 {
        Reason::Only
    } else {
        reason
    };

    let mut verdicts: SmallVec<[Verdict; 16]> =
        weighing.exclusions().map(|exclusion| exclusion.unwrap_or(Verdict::LaterInOrder)).collect();
    let mut set = |index: u16, verdict| {
        if let Some(slot) = verdicts.get_mut(usize::from(index)) {
            *slot = verdict;
        }
    };
    for (place, index) in punctual.iter().enumerate().filter(|_| !last_resort) {
        set(*index, if place < tied { Verdict::Tied } else { weighing.compare(*index, chosen) });
    }
    set(chosen, Verdict::Chosen);
    if standing == Standing::Ready {
        weighing.fall_back(&mut order);
    }
    Ok(Decision { baseline: baseline.unwrap_or(chosen), order, reason, verdicts })
}

/// What keeps a candidate from being weighed at all: its standing, or the latency budget. With it a refused request can be logged
/// with a verdict for every candidate, too.
pub fn exclusion(policy: &Policy, streamed: bool, candidate: &Candidate) -> Option<Verdict> {
    excluded(candidate, || late(policy.budget, streamed, candidate))
}

fn excluded(candidate: &Candidate, late: impl FnOnce() -> Option<Verdict>) -> Option<Verdict> {
    match candidate.standing {
        Standing::Ready => late(),
        Standing::Returning | Standing::Ejected => Some(Verdict::Ejected),
        Standing::NoCapacity => Some(Verdict::NoCapacity),
        Standing::OutsideResidency => Some(Verdict::OutsideResidency),
        Standing::Untranslatable => Some(Verdict::Untranslatable),
    }
}

/// Why a candidate would miss the budget, if it would: its first token (or its end) comes too late, or there are as many requests as
/// it can give tokens to in time.
fn late(budget: Option<LatencyBudget>, streamed: bool, candidate: &Candidate) -> Option<Verdict> {
    let estimate = &candidate.estimate;
    let crowded = (estimate.in_flight >= estimate.limit)
        .then(|| Verdict::Crowded { by: (estimate.in_flight - estimate.limit).saturating_add(1) });
    over_budget(budget, streamed, candidate).map(|by| Verdict::OverBudget { by }).or(crowded)
}

/// By how much a candidate would miss the budget, if it would.
fn over_budget(budget: Option<LatencyBudget>, streamed: bool, candidate: &Candidate) -> Option<Millis> {
    let budget = budget?.of(streamed, candidate.estimate.prompt_tokens)?;
    let latency = latency(streamed, candidate);
    (latency > budget).then(|| Millis::saturating(latency.get() - budget.get()))
}

/// What the client waits for.
const fn latency(streamed: bool, candidate: &Candidate) -> Millis {
    if streamed { candidate.estimate.first_token } else { candidate.estimate.total }
}

/// One decision in the making.
struct Weighing<'a> {
    policy: &'a Policy,
    budget: Option<LatencyBudget>,
    streamed: bool,
    candidates: &'a [Candidate],
    turn: u32,
    /// Whether dollars count and some are known.
    priced: bool,
    /// Whether each would miss the budget, and how.
    late: SmallVec<[Option<Verdict>; 16]>,
}

/// What a candidate is put in order by, worked out once and not for each comparison. With that, and with each held against the budget
/// once, a decision among three takes 3,580 instructions instead of 4,220 (`benches/peers/instr.py`, its profile, without LTO).
#[derive(Clone, Copy)]
struct Keyed {
    cost: f64,
    latency: f64,
    index: u16,
}

/// Those that may be tried.
struct Eligible {
    /// The ones within the budget first; each part in the order of the slice.
    order: SmallVec<[u16; 16]>,
    /// How many are within the budget.
    within: usize,
    /// What they all are: ready, or the best that there is.
    standing: Standing,
}

/// What came of putting the candidates within the budget in order.
struct Ranking {
    /// Who would lead with carbon switched off; `None` for the same that leads now.
    baseline: Option<u16>,
    reason: Reason,
    /// How many at the head are as good as the best.
    tied: usize,
}

impl Weighing<'_> {
    fn at(&self, index: u16) -> &Candidate {
        // Indices come from enumerating this very slice.
        &self.candidates[usize::from(index)]
    }

    fn latency(&self, index: u16) -> f64 {
        latency(self.streamed, self.at(index)).get()
    }

    fn eligible(&self) -> Result<Eligible, NoCandidate> {
        let count = |standing| self.candidates.iter().filter(|candidate| candidate.standing == standing).count();
        let standing = if count(Standing::Ready) > 0 {
            Standing::Ready
        } else if count(Standing::Returning) > 0 {
            Standing::Returning
        } else if count(Standing::Ejected) > 0 {
            Standing::Ejected
        } else if self.candidates.is_empty() {
            return Err(NoCandidate::NoneServes);
        } else {
            return Err(NoCandidate::AllExcluded {
                no_capacity: count(Standing::NoCapacity) as u32,
                outside_residency: count(Standing::OutsideResidency) as u32,
            });
        };
        let those = || {
            let all = self.candidates.iter().zip(&self.late).enumerate();
            all.filter(|(_, (candidate, _))| candidate.standing == standing)
        };
        let in_time =
            |in_time: bool| those().filter(move |(_, (_, late))| late.is_none() == in_time).map(|(index, _)| index as u16);
        let mut order: SmallVec<[u16; 16]> = in_time(true).collect();
        let within = order.len();
        match self.policy.on_no_candidate {
            OnNoCandidate::Fastest => order.extend(in_time(false)),
            OnNoCandidate::Reject if within == 0 => {
                let excess = |(_, (candidate, _))| over_budget(self.budget, self.streamed, candidate).map(Millis::get);
                let Some(least) = those().filter_map(excess).reduce(f64::min) else {
                    let (full, outside) = (count(Standing::NoCapacity), count(Standing::OutsideResidency));
                    return Err(NoCandidate::AllExcluded {
                        no_capacity: (those().count() + full) as u32,
                        outside_residency: outside as u32,
                    });
                };
                return Err(NoCandidate::OverBudget { by: Millis::saturating(least) });
            }
            OnNoCandidate::Reject => {}
        }
        Ok(Eligible { order, within, standing })
    }

    /// Adds those that come back and whose turn it is not, the fastest first, unless the policy rejects them for being late.
    fn fall_back(&self, order: &mut SmallVec<[u16; 16]>) {
        let from = order.len();
        let rejects = self.policy.on_no_candidate == OnNoCandidate::Reject;
        let fits = |late: &Option<Verdict>| !rejects || late.is_none();
        let all = self.candidates.iter().zip(&self.late).enumerate();
        let returning = all.filter(|(_, (candidate, late))| candidate.standing == Standing::Returning && fits(late));
        order.extend(returning.map(|(index, _)| index as u16));
        if let Some(added) = order.get_mut(from..).filter(|added| !added.is_empty()) {
            self.rank_by_latency(added);
        }
    }

    /// Puts `order`, which is in the order of the slice, into that of the objective.
    fn rank(&self, order: &mut [u16]) -> Ranking {
        let objective = self.policy.objective;
        let mut ranking = Ranking { baseline: None, reason: Reason::Objective(objective), tied: 0 };
        match objective {
            Objective::LeastCarbon => {
                ranking.baseline = self.fastest(order);
                ranking.tied = self.rank_by_carbon(order);
                if ranking.tied == 0 {
                    ranking.reason = Reason::CarbonUnknown;
                    ranking.tied = self.rank_by_latency(order);
                }
            }
            Objective::LeastCost => {
                ranking.tied = self.rank_by_cost(order);
                if ranking.tied == 0 {
                    ranking.reason = Reason::CostUnknown;
                    ranking.tied = self.rank_by_latency(order);
                }
            }
            Objective::LeastLatency => ranking.tied = self.rank_by_latency(order),
            Objective::ListedOrder => {}
            Objective::RoundRobin => {
                order.sort_unstable_by(|a, b| self.by_id(*a, *b));
                self.rotate(order);
            }
            Objective::Weighted => order.sort_unstable_by(|a, b| {
                let key = |index: u16| lot(self.turn, self.at(index));
                let ((none_a, a_key), (none_b, b_key)) = (key(*a), key(*b));
                none_a.cmp(&none_b).then(a_key.total_cmp(&b_key)).then_with(|| self.by_id(*a, *b))
            }),
        }
        ranking
    }

    /// Cheapest in grams first, the unknown ones last by latency. Returns how many are as good as the best: 0 when none is known.
    fn rank_by_carbon(&self, order: &mut [u16]) -> usize {
        let tolerance = |index| self.at(index).estimate.emissions.map_or(0.0, |grams| grams.get() * TIE);
        self.rank_by(order, |index| self.cost(index).map_or(f64::INFINITY, Grams::get), tolerance)
    }

    /// Cheapest in dollars first, the unknown ones last by latency. Returns how many are as good as the best: 0 when none is known.
    fn rank_by_cost(&self, order: &mut [u16]) -> usize {
        let dollars = |index| self.at(index).estimate.cost.map_or(f64::INFINITY, Usd::get);
        self.rank_by(order, dollars, |index| dollars(index) * TIE)
    }

    /// Fastest first. Returns how many are as good as the best.
    fn rank_by_latency(&self, order: &mut [u16]) -> usize {
        self.rank_by(order, |index| self.latency(index), |index| self.latency(index) * TIE)
    }

    /// Who would lead by latency: the first that [`Self::rank_by_latency`] gives, without the order of the others.
    fn fastest(&self, order: &[u16]) -> Option<u16> {
        let best = order.iter().map(|index| self.latency(*index)).reduce(f64::min)?;
        let limit = (best + best * TIE).min(f64::MAX);
        let tied = || order.iter().copied().filter(|index| self.latency(*index) <= limit);
        let idlest = tied().min_by(|a, b| self.by_load(*a, *b))?;
        let mut equals: SmallVec<[u16; 16]> = tied().filter(|index| self.by_load(*index, idlest).is_eq()).collect();
        equals.sort_unstable_by(|a, b| self.by_id(*a, *b));
        equals.get((self.turn as usize).checked_rem(equals.len())?).copied()
    }

    /// What keeps each from being weighed.
    fn exclusions(&self) -> impl Iterator<Item = Option<Verdict>> {
        self.candidates.iter().zip(&self.late).map(|(candidate, late)| excluded(candidate, || *late))
    }

    /// Of those that miss the budget, those that miss it least first: by the share of it that their first token takes, or that each
    /// further token takes of its own; who has no room comes behind who has. Without a budget, the fastest.
    fn rank_by_lateness(&self, order: &mut [u16]) {
        let Some(budget) = self.budget else {
            self.rank_by_latency(order);
            return;
        };
        let share = |index: u16| {
            let estimate = &self.at(index).estimate;
            let of_first = budget.of(self.streamed, estimate.prompt_tokens).map_or(0.0, |span| self.latency(index) / span.get());
            let of_next = budget.per_output_token.map_or(0.0, |span| estimate.per_output_token.get() / span.get());
            of_first.max(of_next) * if estimate.in_flight < estimate.limit { 1.0 } else { CROWDED }
        };
        self.rank_by(order, share, |index| share(index) * TIE);
    }

    /// The least `cost` first, but at the head those that come within `tolerance` of the best by their load, and those of the least
    /// load in turn. Returns how many are within it.
    fn rank_by(&self, order: &mut [u16], cost: impl Fn(u16) -> f64, tolerance: impl Fn(u16) -> f64) -> usize {
        let key = |index: &u16| Keyed { cost: cost(*index), latency: self.latency(*index), index: *index };
        let mut keyed: SmallVec<[Keyed; 16]> = order.iter().map(key).collect();
        keyed.sort_unstable_by(|a, b| {
            let by_latency = || a.latency.total_cmp(&b.latency);
            a.cost.total_cmp(&b.cost).then_with(by_latency).then_with(|| self.by_id(a.index, b.index))
        });
        order.iter_mut().zip(&keyed).for_each(|(place, keyed)| *place = keyed.index);
        let Some(best) = keyed.first() else { return 0 };
        // Kept finite, so that what is infinitely dear is never a tie.
        let limit = (best.cost + tolerance(best.index)).min(f64::MAX);
        let tied = keyed.partition_point(|keyed| keyed.cost <= limit);
        let head = &mut order[..tied];
        head.sort_unstable_by(|a, b| self.by_load(*a, *b).then_with(|| self.by_id(*a, *b)));
        if let Some(idlest) = head.first().copied() {
            let equals = head.partition_point(|index| self.by_load(*index, idlest).is_eq());
            self.rotate(&mut head[..equals]);
        }
        tied
    }

    fn rotate(&self, order: &mut [u16]) {
        if let Some(start) = (self.turn as usize).checked_rem(order.len()) {
            order.rotate_left(start);
        }
    }

    fn by_id(&self, a: u16, b: u16) -> Ordering {
        self.at(a).backend.cmp(&self.at(b).backend).then(a.cmp(&b))
    }

    /// Compares shares of capacity in use, by multiplying crosswise.
    fn by_load(&self, a: u16, b: u16) -> Ordering {
        let (a, b) = (&self.at(a).estimate, &self.at(b).estimate);
        let share = |one: &Estimate, other: &Estimate| u64::from(one.in_flight) * u64::from(other.limit.max(1));
        share(a, b).cmp(&share(b, a))
    }

    /// What least carbon minimises, in grams; `None` when the emissions are unknown, or the dollars where they count.
    fn cost(&self, index: u16) -> Option<Grams> {
        let estimate = &self.at(index).estimate;
        let money = self.worth_of_money(estimate)?;
        estimate.emissions.map(|grams| grams + estimate.price + self.price_of_waiting(estimate) + money)
    }

    /// What might be saved elsewhere with the dollars that it costs.
    fn worth_of_money(&self, estimate: &Estimate) -> Option<Grams> {
        if self.priced { estimate.cost.map(|cost| self.policy.grams_for(cost)) } else { Some(Grams::ZERO) }
    }

    fn price_of_waiting(&self, estimate: &Estimate) -> Grams {
        Grams::saturating(self.policy.latency_price_grams_per_second * estimate.first_token.get() / 1e3)
    }

    /// Why a candidate within the budget and outside the tie came behind the chosen one.
    fn compare(&self, index: u16, chosen: u16) -> Verdict {
        let (it, that) = (&self.at(index).estimate, &self.at(chosen).estimate);
        let slower = Verdict::Slower { by: Millis::saturating(self.latency(index) - self.latency(chosen)) };
        match self.policy.objective {
            Objective::LeastCarbon => {}
            Objective::LeastCost => return dearer(it, that).unwrap_or(slower),
            Objective::LeastLatency => return slower,
            Objective::ListedOrder | Objective::RoundRobin | Objective::Weighted => return Verdict::LaterInOrder,
        }
        let (grams, chosen_grams) = match (it.emissions, that.emissions) {
            (Some(grams), Some(chosen_grams)) => (grams, chosen_grams),
            (None, Some(_)) => return Verdict::UnknownCarbon,
            (_, None) => return slower,
        };
        let (Some(money), Some(chosen_money)) = (self.worth_of_money(it), self.worth_of_money(that)) else {
            return dearer(it, that).unwrap_or(slower);
        };
        // The largest part of the difference is the reason.
        let more = [
            (grams - chosen_grams).get(),
            (self.price_of_waiting(it) - self.price_of_waiting(that)).get(),
            (it.price - that.price).get(),
            (money - chosen_money).get(),
        ];
        if more[3] > more[0].max(more[1]).max(more[2]) {
            return dearer(it, that).unwrap_or(slower);
        }
        if more[0] >= more[1].max(more[2]) {
            Verdict::Dirtier { by: Grams::saturating(more[0]) }
        } else if more[1] >= more[2] {
            Verdict::Slower { by: Millis::saturating(it.first_token.get() - that.first_token.get()) }
        } else {
            Verdict::Scarcer { by: Grams::saturating(more[2]) }
        }
    }
}

/// By how much a candidate costs more than the chosen one; `None` when nobody's cost is known.
fn dearer(it: &Estimate, chosen: &Estimate) -> Option<Verdict> {
    let cost = chosen.cost?;
    Some(it.cost.map_or(Verdict::UnknownCost, |own| Verdict::Dearer { by: Usd::saturating(own.get() - cost.get()) }))
}

/// What a candidate draws in a turn's lottery; the least wins. Of draws -ln(u)/weight with u even in (0, 1) the least is each one's
/// in proportion to its weight, and so on for those left (Efraimidis and Spirakis, 2006). A draw depends on its own candidate alone,
/// so that one that drops out moves no others. Who has no weight comes after all who have.
fn lot(turn: u32, candidate: &Candidate) -> (bool, f64) {
    let random = splitmix(u64::from(turn) << 16 | u64::from(candidate.backend.0));
    // 53 bits are what an f64 holds; half a step keeps it off 0.
    let even = ((random >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (candidate.weight == 0, -even.ln() / f64::from(candidate.weight.max(1)))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014) on its `n`-th state: neighbouring numbers come out unrelated.
const fn splitmix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod late_tests;
#[cfg(test)]
mod money_tests;
#[cfg(test)]
mod tests;
