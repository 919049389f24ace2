//! How the candidates of one decision are put in order: who may be tried, by what each objective ranks them, and why one came behind
//! another.

use std::cmp::Ordering;

use super::scratch::{List, Scratch};
use super::{Candidate, NoCandidate, Reason, Standing, Verdict, excluded, latency, over_budget};
use crate::backend::BackendId;
use crate::estimate::Estimate;
use crate::policy::{LatencyBudget, Objective, OnNoCandidate, Policy};
use crate::units::{Grams, Millis, Usd};

/// Whoever is within this share of the best is as good: the estimates are not that exact.
pub(super) const TIE: f64 = 0.01;

/// One too many counts for so many times its lateness: it makes others late, too. In `simulate`, crowds in `us`, seeds 101, 102 and 105,
/// 0.41 % of chats were late and not 0.60 %; 4 and 30 did the same.
const CROWDED: f64 = 8.0;

/// One decision in the making.
pub(super) struct Weighing<'a> {
    pub(super) policy: &'a Policy,
    pub(super) budget: Option<LatencyBudget>,
    pub(super) streamed: bool,
    pub(super) candidates: &'a [Candidate],
    pub(super) turn: u32,
    /// Whether dollars count and some are known.
    pub(super) priced: bool,
    /// Whether each would miss the budget, and how.
    pub(super) late: List<Option<Verdict>>,
    /// Room for what is put in order.
    pub(super) scratch: &'a Scratch,
}

/// What a candidate is put in order by, worked out once and not for each comparison. With that, and with each held against the budget
/// once, a decision among three takes 3,580 instructions instead of 4,220 (`benches/peers/instr.py`, its profile, without LTO).
///
/// The fields in their order are the order: the numbers as [`rank_of`], so that two are compared as what a processor compares at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Keyed {
    cost: i64,
    latency: i64,
    backend: BackendId,
    index: u16,
}

/// The bits of `value` as an integer; integers made so are in the order of [`f64::total_cmp`], which makes them in the same way.
pub(super) const fn rank_of(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// Those that may be tried.
pub(super) struct Eligible {
    /// The ones within the budget first; each part in the order of the slice.
    pub(super) order: List<u16>,
    /// How many are within the budget.
    pub(super) within: usize,
    /// What they all are: ready, or the best that there is.
    pub(super) standing: Standing,
}

/// What a candidate's cost is made of, beside the price of capacity: worked out once of the chosen one, whom all others are compared with.
pub(super) struct Parts {
    grams: Option<Grams>,
    waiting: Grams,
    money: Option<Grams>,
}

/// What came of putting the candidates within the budget in order.
pub(super) struct Ranking {
    /// Who would lead with carbon switched off; `None` for the same that leads now.
    pub(super) baseline: Option<u16>,
    pub(super) reason: Reason,
    /// How many at the head are as good as the best.
    pub(super) tied: usize,
}

impl Weighing<'_> {
    fn at(&self, index: u16) -> &Candidate {
        // Indices come from enumerating this very slice.
        &self.candidates[usize::from(index)]
    }

    fn latency(&self, index: u16) -> f64 {
        latency(self.streamed, self.at(index)).get()
    }

    pub(super) fn eligible(&self) -> Result<Eligible, NoCandidate> {
        let count = |standing| self.candidates.iter().filter(|candidate| candidate.standing == standing).count();
        let mut usable = [Standing::Ready, Standing::Returning, Standing::Ejected].into_iter();
        let best = usable.find_map(|standing| Some((standing, count(standing))).filter(|(_, there)| *there > 0));
        let Some((standing, all)) = best else {
            return Err(if self.candidates.is_empty() {
                NoCandidate::NoneServes
            } else {
                NoCandidate::AllExcluded {
                    no_capacity: count(Standing::NoCapacity) as u32,
                    outside_residency: count(Standing::OutsideResidency) as u32,
                }
            });
        };
        let those = || {
            let listed = self.candidates.iter().zip(&self.late).enumerate();
            listed.filter(|(_, (candidate, _))| candidate.standing == standing)
        };
        let in_time =
            |in_time: bool| those().filter(move |(_, (_, late))| late.is_none() == in_time).map(|(index, _)| index as u16);
        let mut order = self.scratch.indices.list(self.candidates.len());
        order.extend(in_time(true));
        let within = order.len();
        match self.policy.on_no_candidate {
            // Most often all of them are in time, and then nobody has to be looked for.
            OnNoCandidate::Fastest if within < all => order.extend(in_time(false)),
            OnNoCandidate::Reject if within == 0 => {
                let excess = |(_, (candidate, _))| over_budget(self.budget, self.streamed, candidate).map(Millis::get);
                let refusal = match those().filter_map(excess).reduce(f64::min) {
                    Some(least) => NoCandidate::OverBudget { by: Millis::saturating(least) },
                    None => NoCandidate::AllExcluded {
                        no_capacity: (those().count() + count(Standing::NoCapacity)) as u32,
                        outside_residency: count(Standing::OutsideResidency) as u32,
                    },
                };
                self.scratch.indices.keep(order);
                return Err(refusal);
            }
            OnNoCandidate::Fastest | OnNoCandidate::Reject => {}
        }
        Ok(Eligible { order, within, standing })
    }

    /// Adds those that come back and whose turn it is not, the fastest first, unless the policy rejects them for being late.
    pub(super) fn fall_back(&self, order: &mut List<u16>) {
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
    pub(super) fn rank(&self, order: &mut [u16]) -> Ranking {
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
        // `f64::min` also looks for NaN, which no latency is, and each comparison here waits for the one before it.
        let less = |best: f64, other: f64| if other < best { other } else { best };
        let best = order.iter().map(|index| self.latency(*index)).reduce(less)?;
        let limit = (best + best * TIE).min(f64::MAX);
        let tied = || order.iter().copied().filter(|index| self.latency(*index) <= limit);
        let idlest = tied().min_by(|a, b| self.by_load(*a, *b))?;
        let mut equals = self.scratch.indices.list(order.len());
        equals.extend(tied().filter(|index| self.by_load(*index, idlest).is_eq()));
        equals.sort_unstable_by(|a, b| self.by_id(*a, *b));
        let fastest = equals.get((self.turn as usize).checked_rem(equals.len())?).copied();
        self.scratch.indices.keep(equals);
        fastest
    }

    /// What keeps each from being weighed.
    pub(super) fn exclusions(&self) -> impl Iterator<Item = Option<Verdict>> {
        self.candidates.iter().zip(&self.late).map(|(candidate, late)| excluded(candidate, || *late))
    }

    /// Of those that miss the budget, those that miss it least first: by the share of it that their first token takes, or that each
    /// further token takes of its own; who has no room comes behind who has. Without a budget, the fastest.
    pub(super) fn rank_by_lateness(&self, order: &mut [u16]) {
        let Some(budget) = self.budget else {
            self.rank_by_latency(order);
            return;
        };
        let share = |index: u16| lateness(budget, self.streamed, self.at(index));
        self.rank_by(order, share, |index| share(index) * TIE);
    }

    /// The least `cost` first, but at the head those that come within `tolerance` of the best by their load, and those of the least
    /// load in turn. Returns how many are within it.
    fn rank_by(&self, order: &mut [u16], cost: impl Fn(u16) -> f64, tolerance: impl Fn(u16) -> f64) -> usize {
        let key = |index: &u16| {
            let (cost, latency) = (rank_of(cost(*index)), rank_of(self.latency(*index)));
            Keyed { cost, latency, backend: self.at(*index).backend, index: *index }
        };
        let mut keyed = self.scratch.keyed.list(order.len());
        keyed.extend(order.iter().map(key));
        keyed.sort_unstable();
        order.iter_mut().zip(&keyed).for_each(|(place, keyed)| *place = keyed.index);
        let Some(best) = keyed.first() else { return 0 };
        // Kept finite, so that what is infinitely dear is never a tie.
        let limit = rank_of((cost(best.index) + tolerance(best.index)).min(f64::MAX));
        let tied = keyed.partition_point(|keyed| keyed.cost <= limit);
        self.scratch.keyed.keep(keyed);
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
        self.policy.grams_for_waiting(estimate.first_token)
    }

    /// What the chosen one is compared by.
    pub(super) fn parts(&self, index: u16) -> Parts {
        let estimate = &self.at(index).estimate;
        Parts { grams: estimate.emissions, waiting: self.price_of_waiting(estimate), money: self.worth_of_money(estimate) }
    }

    /// Why a candidate within the budget and outside the tie came behind the chosen one, whose parts are `those`.
    pub(super) fn compare(&self, index: u16, chosen: u16, those: &Parts) -> Verdict {
        let (it, that) = (&self.at(index).estimate, &self.at(chosen).estimate);
        let slower = Verdict::Slower { by: Millis::saturating(self.latency(index) - self.latency(chosen)) };
        match self.policy.objective {
            Objective::LeastCarbon => {}
            Objective::LeastCost => return dearer(it, that).unwrap_or(slower),
            Objective::LeastLatency => return slower,
            Objective::ListedOrder | Objective::RoundRobin | Objective::Weighted => return Verdict::LaterInOrder,
        }
        let (grams, chosen_grams) = match (it.emissions, those.grams) {
            (Some(grams), Some(chosen_grams)) => (grams, chosen_grams),
            (None, Some(_)) => return Verdict::UnknownCarbon,
            (_, None) => return slower,
        };
        let (Some(money), Some(chosen_money)) = (self.worth_of_money(it), those.money) else {
            return dearer(it, that).unwrap_or(slower);
        };
        // The largest part of the difference is the reason.
        let more = [
            (grams - chosen_grams).get(),
            (self.price_of_waiting(it) - those.waiting).get(),
            (it.price - that.price).get(),
            (money - chosen_money).get(),
        ];
        if more[..3].iter().all(|other| more[3] > *other) {
            return dearer(it, that).unwrap_or(slower);
        }
        if more[0] >= more[1] && more[0] >= more[2] {
            Verdict::Dirtier { by: Grams::saturating(more[0]) }
        } else if more[1] >= more[2] {
            Verdict::Slower { by: Millis::saturating(it.first_token.get() - that.first_token.get()) }
        } else {
            Verdict::Scarcer { by: Grams::saturating(more[2]) }
        }
    }
}

/// The share of a budget that a candidate's first token takes, or that each further one takes of its own, whichever is more; so many times
/// as much for one that has no room. Above 1 it is late. Of a budget that is over a millisecond is taken to be left: late beyond all measure
/// they would all be alike, the one without room too.
pub(super) fn lateness(budget: LatencyBudget, streamed: bool, candidate: &Candidate) -> f64 {
    let estimate = &candidate.estimate;
    let waits = latency(streamed, candidate).get();
    let of_first = budget.of(streamed, estimate.prompt_tokens).map_or(0.0, |span| waits / span.get().max(1.0));
    let of_next = budget.per_output_token.map_or(0.0, |span| estimate.per_output_token.get() / span.get());
    of_first.max(of_next) * if estimate.in_flight < estimate.limit { 1.0 } else { CROWDED }
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
