//! What is done with a request that nobody can serve in time just now.
//!
//! Sent on at once it makes a crowd worse for everybody, and most crowds are over before a patient request's budget is. So a policy may
//! have it held back and decided again, as long as its budget bears that, and refused where it would come to nothing: in `simulate`,
//! with crowds of two to three times what all regions can serve, holding batch work and agents and shedding some of them keeps nearly
//! all chats in time. A policy that says nothing of it spills: the least late backend gets the request.

use std::time::Duration;

use super::{Candidate, Decision, NoCandidate, Reason, Scratch, Standing, decide_within, latency, over_budget, strained};
use crate::demand::Usual;
use crate::policy::{LatencyBudget, Overload, Policy};
use crate::units::Millis;

/// From one decision to the next: long enough for some answers to end, short beside any budget.
const HOLD: Duration = Duration::from_millis(50);
/// A request is held while it has so many times what the quickest backend takes ..
const HEADROOM: f64 = 1.2;
/// .. or so much of its budget: a backend that is thought to be very slow just now must not end the waiting at once.
const LONGEST_NEED: f64 = 0.4;
/// Of all capacity so much is left free for those who cannot wait: less would leave nothing for their bursts. In `simulate`, crowds in
/// `us` as `flash_utc` of `benches/decision.py` has them, seeds 101 to 105: 0.43 % of chats late and 1.9 % of all late or shed; with 0.03
/// it
/// was 0.52 % and 2.0 %. The next two were found with these crowds as well.
const RESERVE: f64 = 0.07;
/// Whose budget lets it wait no longer than this leaves nothing free, and whose lets it wait as long as that all of it: who cannot wait is
/// who the places are kept for, also where its policy has it refused rather than sent too late. In `simulate`, crowds in `us`, seeds 101,
/// 102 and 105, all classes held and refused: 1.9 % late or refused, of chats 0.45 %; with 100 and 400 ms it was 1.7 % and, of chats, 0.8
/// %.
const IMPATIENT: Millis = Millis::saturating(200.0);
const PATIENT: Millis = Millis::saturating(500.0);
/// Whose answer will be four times as long leaves twice as much free, and so on within these: where not all can be served, more are when
/// those who take most are the first to wait and to be refused. In `simulate`, crowds, seeds 101 to 105: 1.9 % of all late or shed in
/// `us` and 1.3 % in `eu`, where without regard to lengths it was 2.4 % and 1.8 %.
const LEAST_RESERVE: f64 = 0.01;
const MOST_RESERVE: f64 = 0.1;
/// Who cannot wait leaves that part of it free, so that of them, too, those who take most are refused first where they alone are more
/// than can be served. In `simulate`, crowds in `eu`, seeds 401 to 405: 0.48 % of chats missed, 0.50 % without it, and 0.52 % with 0.15.
const IMPATIENT_SHARE: f64 = 0.05;
/// The reserve is smaller by that, while those who can hardly wait ask for no more than that share of what there is for them ..
const CALM: f64 = 0.3;
const CALM_SHARE: f64 = 0.55;
/// .. and larger by that, from this share on: what is kept free for a burst of theirs that cannot come is refused to others for nothing.
/// In `simulate`, an engine that slows down steeply, `eu`, seeds 401 to 405: 0.26 % missed, where one reserve for all times missed 0.30 %.
const PRESSED: f64 = 1.2;
const PRESSED_SHARE: f64 = 0.85;
/// Rather than be refused, who cannot wait is sent where there is one too many, up to that share of a limit as learned, rounded, and never
/// of what was declared, which is a matter of [`Standing`]. Every answer there is slower by less than its first token came early; and a
/// limit that a refusal cut was cut by 15 %. In `simulate`, crowds in `eu`, seeds 401 to 405: 0.43 % of chats missed, 0.69 % without it.
const STRAIN: f64 = 0.04;

/// What comes of a request.
#[expect(clippy::large_enum_variant, reason = "nearly every one is served, and a box would be an allocation for each")]
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is sent.
    Serve(Decision),
    /// It is held back for so long, and then decided again.
    Hold(Duration),
    /// It is refused, because it could only come too late.
    Shed,
}

/// What comes of a request, and on what ground beside its candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct InTime {
    /// What is done with it.
    pub outcome: Outcome,
    /// The share of the places in time, in [0, 1), that is kept free of it for those who cannot wait, where no more than so many are free
    /// and it is held back or refused for that. 0 in all other cases.
    pub reserve: f64,
    /// The share of a limit as learned, in [0, 1), by which those were raised under which it was sent, or under which too few are left
    /// even so, as it cannot wait and found none that has a place. 0 in all other cases.
    pub strain: f64,
}

/// How a request stands among others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waiting {
    /// Since it came.
    pub spent: Millis,
    /// What others ask for.
    pub usual: Usual,
}

/// As [`decide`](super::decide()), for a request that came some time ago, so that only what is left of its budget counts, and under a
/// policy that may rather hold or shed it than send it too late.
pub fn decide_in_time(
    policy: &Policy,
    streamed: bool,
    candidates: &[Candidate],
    turn: u32,
    waiting: Waiting,
    scratch: &Scratch,
) -> Result<InTime, NoCandidate> {
    // The size of a request is the same for all of its candidates.
    let (prompt_tokens, output_tokens) =
        candidates.first().map_or((0, 0), |candidate| (candidate.estimate.prompt_tokens, candidate.estimate.output_tokens));
    // What is left of the budget is what has to be met now.
    let rest = policy.budget.map(|budget| budget.after(waiting.spent, streamed, prompt_tokens));
    let whole = policy.budget.and_then(|budget| budget.of(streamed, prompt_tokens).map(|of| (budget, of)));
    let mut decision = decide_within(policy, rest, 0.0, streamed, candidates, turn, scratch);
    let (Overload::HoldThenShed, Some((budget, whole))) = (policy.overload, whole) else {
        return decision.map(InTime::serve);
    };
    let quickest = usable(candidates).map(|candidate| latency(streamed, candidate).get()).fold(f64::INFINITY, f64::min);
    let need = HEADROOM * quickest.min(LONGEST_NEED * whole.get());
    // By the policy's own budget: who asks for a shorter one may be late sooner, but gets no place that is kept from its like.
    let own = LatencyBudget { at_most: None, ..budget }.of(streamed, prompt_tokens).unwrap_or(whole);
    let patience = patience(own.get() - need);
    let kept = reserve(output_tokens, waiting.usual) * (IMPATIENT_SHARE + (1.0 - IMPATIENT_SHARE) * patience);
    let strain = STRAIN * (1.0 - patience);
    let in_time = candidates.iter().filter(|candidate| over_budget(rest, streamed, candidate).is_none());
    let full = full(in_time, kept - strain);
    let part = if full { kept - strain } else { 0.0 };
    let not_now = |outcome| InTime { outcome, reserve: part.max(0.0), strain: (-part).max(0.0) };
    let left = Millis::saturating(whole.get() - waiting.spent.get());
    let unused = |decision: Result<Decision, NoCandidate>| decision.into_iter().for_each(|decision| scratch.give_back(decision));
    let mut beyond = 0.0;
    if strain > 0.0 && !full && !is_in_time(&decision) {
        let mut other = decide_within(policy, rest, strain, streamed, candidates, turn, scratch);
        if is_in_time(&other) {
            std::mem::swap(&mut decision, &mut other);
            beyond = strain;
        }
        unused(other);
    }
    let serve = |decision| InTime { strain: beyond, ..InTime::serve(decision) };
    if is_in_time(&decision) && !full || is_not_worth_a_wait(policy, streamed, candidates, &decision) {
        return decision.map(serve);
    }
    if left.get() - Millis::from(HOLD).get() > need {
        unused(decision);
        return Ok(not_now(Outcome::Hold(HOLD)));
    }
    let lateness = |candidate: &Candidate| {
        let of_next = budget.per_output_token.map_or(0.0, |span| candidate.estimate.per_output_token.get() / span.get());
        (latency(streamed, candidate).get() / left.get().max(1e-3)).max(of_next)
    };
    // One more than it can give tokens to in time makes all late whom it serves, also those who could not be held.
    let has_room = |candidate: &&Candidate| {
        candidate.standing == Standing::Ready && candidate.estimate.in_flight < strained(candidate.estimate.limit, strain)
    };
    let least = usable(candidates).filter(has_room).map(lateness).fold(f64::INFINITY, f64::min);
    if least > 1.0 || full {
        unused(decision);
        return Ok(not_now(Outcome::Shed));
    }
    decision.map(serve)
}

/// Those who serve the request as soon as there is a place.
fn usable(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    candidates.iter().filter(|candidate| matches!(candidate.standing, Standing::Ready | Standing::NoCapacity))
}

/// Whether nothing comes of holding a request back that cannot be in time: nobody serves it, or all are too late for the whole of its
/// budget and whom it would go to has nothing else to do, so that waiting makes nobody sooner.
fn is_not_worth_a_wait(
    policy: &Policy,
    streamed: bool,
    candidates: &[Candidate],
    decision: &Result<Decision, NoCandidate>,
) -> bool {
    let too_late = |it: &Candidate| over_budget(policy.budget, streamed, it).is_some();
    match decision {
        Ok(it) => {
            let chosen = candidates.get(usize::from(it.chosen()));
            chosen.is_some_and(|chosen| is_idle(chosen) && too_late(chosen)) && usable(candidates).all(too_late)
        }
        Err(NoCandidate::OverBudget { .. }) => usable(candidates).all(|it| is_idle(it) && too_late(it)),
        Err(why) => matches!(why, NoCandidate::NoneServes | NoCandidate::AllExcluded { no_capacity: 0, .. }),
    }
}

impl InTime {
    /// It is sent, and nothing more is to be said of it.
    pub const fn serve(decision: Decision) -> Self {
        Self { outcome: Outcome::Serve(decision), reserve: 0.0, strain: 0.0 }
    }
}

fn is_in_time(decision: &Result<Decision, NoCandidate>) -> bool {
    decision.as_ref().is_ok_and(|decision| decision.reason != Reason::FastestOverBudget)
}

/// Whether nobody is waited for there.
fn is_idle(candidate: &Candidate) -> bool {
    candidate.estimate.in_flight == 0 && candidate.estimate.queue == Millis::ZERO
}

/// The share of the places in time that is left free of a patient request with such an answer: the more, the longer it would keep its
/// place, and
/// the more of what there is those ask for who can hardly wait.
fn reserve(output_tokens: u32, usual: Usual) -> f64 {
    let times = if usual.answer > 0.0 { f64::from(output_tokens) / usual.answer } else { 1.0 };
    let pressed = ((usual.hurried - CALM_SHARE) / (PRESSED_SHARE - CALM_SHARE)).clamp(0.0, 1.0);
    (RESERVE * times.sqrt()).clamp(LEAST_RESERVE, MOST_RESERVE) * (CALM + (PRESSED - CALM) * pressed)
}

/// The part of the reserve that is left by who can wait for so many milliseconds.
fn patience(can_wait: f64) -> f64 {
    ((can_wait - IMPATIENT.get()) / (PATIENT.get() - IMPATIENT.get())).clamp(0.0, 1.0)
}

/// Whether all but the share `kept` of what the ready ones of those can serve at once is in use; not where none is ready, since who comes
/// back is to be tried. Who would serve it too late has no place for it.
fn full<'c>(candidates: impl Iterator<Item = &'c Candidate>, kept: f64) -> bool {
    let ready = candidates.filter(|candidate| candidate.standing == Standing::Ready).map(|candidate| &candidate.estimate);
    let (taken, limit) =
        ready.fold((0_u64, 0_u64), |(taken, limit), it| (taken + u64::from(it.in_flight), limit + u64::from(it.limit)));
    limit > 0 && taken as f64 >= (1.0 - kept) * limit as f64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{candidate, policy};
    use super::*;
    use crate::decide::Verdict;
    use crate::policy::{Objective, OnNoCandidate};

    fn decide_in_time(
        policy: &Policy,
        streamed: bool,
        candidates: &[Candidate],
        turn: u32,
        waiting: Waiting,
    ) -> Result<Outcome, NoCandidate> {
        super::decide_in_time(policy, streamed, candidates, turn, waiting, &Scratch::default()).map(|it| it.outcome)
    }

    fn patient() -> Policy {
        Policy { overload: Overload::HoldThenShed, ..policy(Objective::LeastCarbon) }
    }

    /// So much for those in a hurry that the reserve is what it is by itself, and a trifle.
    const HURRIED: f64 = CALM_SHARE + (1.0 + 1e-6 - CALM) / (PRESSED - CALM) * (PRESSED_SHARE - CALM_SHARE);

    fn waited(spent: f64) -> Waiting {
        Waiting { spent: Millis::saturating(spent), usual: Usual { answer: 0.0, hurried: HURRIED } }
    }

    /// The budget of these tests is one second.
    fn outcome(policy: &Policy, latency: f64, spent: f64) -> Outcome {
        let candidates = [candidate(0, Some(1.0), latency, 1), candidate(1, Some(9.0), latency, 1)];
        decide_in_time(policy, true, &candidates, 0, waited(spent)).unwrap()
    }

    fn serves(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Serve(_))
    }

    #[test]
    fn it_is_held_while_its_budget_bears_it_and_then_shed() {
        assert!(serves(&outcome(&patient(), 900.0, 0.0)));
        assert_eq!(outcome(&patient(), 1500.0, 0.0), Outcome::Hold(HOLD));
        assert_eq!(outcome(&patient(), 1500.0, 400.0), Outcome::Hold(HOLD));
        assert_eq!(outcome(&patient(), 1500.0, 600.0), Outcome::Shed);
        assert!(serves(&outcome(&patient(), 300.0, 600.0)), "it is in time again");
        assert_eq!(outcome(&patient(), 500.0, 600.0), Outcome::Shed, "what is left of the budget is what counts");
    }

    #[test]
    fn who_is_idle_and_even_so_too_slow_is_not_waited_for() {
        let (busy, idle) = (candidate(0, Some(1.0), 1500.0, 1), candidate(1, Some(9.0), 1200.0, 0));
        let at = |policy: &Policy, candidates: &[Candidate], spent| decide_in_time(policy, true, candidates, 0, waited(spent));
        let is_late =
            |got: Result<Outcome, NoCandidate>| matches!(got, Ok(Outcome::Serve(it)) if it.reason == Reason::FastestOverBudget);
        assert!(
            is_late(at(&patient(), &[idle], 0.0))
                && is_late(at(&patient(), &[idle], 990.0))
                && is_late(at(&patient(), &[busy, idle], 0.0))
        );
        let returning = Candidate { standing: Standing::Returning, ..idle };
        assert!(is_late(at(&patient(), &[returning], 0.0)), "who comes back from a bad hour is tried as well");
        let slower = Candidate { backend: crate::backend::BackendId(2), ..candidate(2, Some(1.0), 2000.0, 0) };
        assert_eq!(at(&patient(), &[busy, slower], 0.0), Ok(Outcome::Hold(HOLD)), "the other one is sooner as it is");
        let taken = Candidate { standing: Standing::NoCapacity, ..candidate(2, Some(1.0), 300.0, 48) };
        assert_eq!(at(&patient(), &[taken, idle], 0.0), Ok(Outcome::Hold(HOLD)), "a place there is worth the wait");
        let mut behind = idle;
        behind.estimate.queue = Millis::saturating(300.0);
        assert_eq!(at(&patient(), &[behind], 0.0), Ok(Outcome::Hold(HOLD)), "what is ahead of it will be gone");
        let strict = Policy { on_no_candidate: OnNoCandidate::Reject, ..patient() };
        assert_eq!(
            at(&strict, &[idle], 0.0),
            Err(NoCandidate::OverBudget { by: Millis::saturating(200.0) }),
            "and nobody is too busy"
        );
        assert_eq!(at(&strict, &[idle, busy], 0.0), Ok(Outcome::Hold(HOLD)));
        let punctual = candidate(0, Some(1.0), 500.0, 0);
        assert_eq!(at(&patient(), &[punctual], 600.0), Ok(Outcome::Shed), "who came just now is in time there, and tries it");
    }

    #[test]
    fn who_can_wait_leaves_the_last_places_to_those_who_cannot() {
        let mut busy = candidate(0, Some(1.0), 100.0, 96);
        busy.estimate.limit = 100;
        let at = |in_flight, spent| {
            busy.estimate.in_flight = in_flight;
            decide_in_time(&patient(), true, &[busy], 0, waited(spent)).unwrap()
        };
        let mut at = at;
        assert!(serves(&at(92, 0.0)));
        assert_eq!(at(93, 0.0), Outcome::Hold(HOLD));
        assert_eq!(at(93, 860.0), Outcome::Shed);
        assert_eq!(at(100, 860.0), Outcome::Shed, "not even where it would be in time itself, as it makes others late");
        let idle = candidate(1, Some(9.0), 100.0, 0);
        let both = decide_in_time(&patient(), true, &[busy, idle], 0, waited(0.0)).unwrap();
        assert!(serves(&both), "there is room elsewhere");
    }

    #[test]
    fn who_can_wait_for_next_to_nothing_gets_the_last_places() {
        let mut busy = candidate(0, Some(1.0), 100.0, 0);
        busy.estimate.limit = 100;
        // 120 ms are needed: 180, 230 and 380 ms are left to wait in.
        let mut at = |budget, in_flight| {
            busy.estimate.in_flight = in_flight;
            let mut policy = patient();
            policy.budget.as_mut().unwrap().first_token = Millis::saturating(budget);
            serves(&decide_in_time(&policy, true, &[busy], 0, waited(0.0)).unwrap())
        };
        assert!(at(300.0, 103) && !at(300.0, 104), "and a few more, which make nobody late");
        assert!(at(350.0, 102) && !at(350.0, 103) && at(500.0, 97) && !at(500.0, 98), "more is left free by who can wait longer");
    }

    #[test]
    fn where_one_is_too_many_the_line_says_how_many_there_are() {
        let at = |in_flight: [u32; 2]| {
            let mut candidates = in_flight.map(|in_flight| candidate(0, Some(1.0), 100.0, in_flight));
            for candidate in &mut candidates {
                candidate.estimate.limit = 100;
            }
            let mut policy = patient();
            policy.budget.as_mut().unwrap().first_token = Millis::saturating(300.0);
            match decide_in_time(&policy, true, &candidates, 0, waited(0.0)) {
                Ok(Outcome::Serve(decision)) => decision.verdicts.to_vec(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(at([99, 102]), [Verdict::Chosen, Verdict::Crowded { by: 3 }], "where there is a place nobody is strained");
        assert_eq!(at([101, 105]), [Verdict::Chosen, Verdict::Crowded { by: 6 }]);
    }

    #[test]
    fn it_says_what_was_kept_free_and_how_far_beyond_a_limit_it_went_and_only_where_that_decided() {
        let mut busy = candidate(0, Some(1.0), 100.0, 0);
        busy.estimate.limit = 100;
        let said = |policy: &Policy, busy: Candidate, spent| {
            let it = super::decide_in_time(policy, true, &[busy], 0, waited(spent), &Scratch::default()).unwrap();
            (it.reserve, it.strain)
        };
        let mut at = |policy: &Policy, in_flight, latency, spent| {
            (busy.estimate.in_flight, busy.estimate.first_token) = (in_flight, Millis::saturating(latency));
            said(policy, busy, spent)
        };
        let mut hurried = patient();
        hurried.budget.as_mut().unwrap().first_token = Millis::saturating(300.0);
        for spent in [0.0, 860.0] {
            let (reserve, strain) = at(&patient(), 93, 100.0, spent);
            assert!((reserve - RESERVE).abs() < 1e-6 && strain == 0.0, "{reserve} and {strain} after {spent}");
            assert_eq!(at(&patient(), 1, 1500.0, spent), (0.0, 0.0), "it is late everywhere, and nobody's place is kept");
        }
        assert_eq!(at(&patient(), 92, 100.0, 0.0), (0.0, 0.0));
        assert_eq!(at(&hurried, 99, 100.0, 0.0), (0.0, 0.0), "there is a place");
        let (reserve, strain) = at(&hurried, 103, 100.0, 0.0);
        assert!(reserve == 0.0 && (strain - STRAIN).abs() < 1e-9, "{reserve} and {strain}");
        let (reserve, strain) = at(&hurried, 104, 100.0, 0.0);
        assert!(reserve == 0.0 && (strain - STRAIN + IMPATIENT_SHARE * RESERVE).abs() < 1e-6, "and was refused at {strain}");
    }

    #[test]
    fn less_is_left_free_while_few_are_in_a_hurry() {
        let mut busy = candidate(0, Some(1.0), 100.0, 0);
        busy.estimate.limit = 100;
        let mut at = |hurried, in_flight| {
            busy.estimate.in_flight = in_flight;
            let usual = Usual { answer: 0.0, hurried };
            serves(&decide_in_time(&patient(), true, &[busy], 0, Waiting { spent: Millis::ZERO, usual }).unwrap())
        };
        assert!(at(0.0, 97) && !at(0.0, 98) && at(CALM_SHARE, 97));
        assert!(at(HURRIED, 92) && !at(HURRIED, 93) && at(PRESSED_SHARE, 91) && !at(3.0, 92));
    }

    #[test]
    fn places_where_it_would_be_late_are_no_places() {
        let mut busy = candidate(0, Some(1.0), 100.0, 93);
        busy.estimate.limit = 100;
        let idle = |latency| candidate(1, Some(9.0), latency, 0);
        let at = |latency| decide_in_time(&patient(), true, &[busy, idle(latency)], 0, waited(0.0)).unwrap();
        assert!(serves(&at(900.0)) && !serves(&at(1100.0)), "the other one's places are kept for nobody who could use them");
    }

    #[test]
    fn of_those_in_a_hurry_too_who_takes_most_is_refused_first() {
        let mut busy = candidate(0, Some(1.0), 100.0, 0);
        busy.estimate.limit = 1000;
        let mut policy = patient();
        policy.budget.as_mut().unwrap().first_token = Millis::saturating(300.0);
        let mut at = |output_tokens, in_flight| {
            (busy.estimate.output_tokens, busy.estimate.in_flight) = (output_tokens, in_flight);
            let usual = Usual { answer: 100.0, hurried: HURRIED };
            serves(&decide_in_time(&policy, true, &[busy], 0, Waiting { spent: Millis::ZERO, usual }).unwrap())
        };
        assert!(at(25, 1037) && !at(100, 1037) && at(100, 1036) && !at(200, 1036));
    }

    #[test]
    fn who_asks_for_less_time_gets_no_place_that_is_kept_from_its_like() {
        let mut busy = candidate(0, Some(1.0), 100.0, 93);
        busy.estimate.limit = 100;
        let mut policy = patient();
        policy.budget.as_mut().unwrap().at_most = Some(Millis::saturating(300.0));
        assert!(!serves(&decide_in_time(&policy, true, &[busy], 0, waited(0.0)).unwrap()));
    }

    #[test]
    fn who_was_shut_is_tried_when_nobody_else_is_there() {
        let at = |standing| Candidate { standing, ..candidate(0, Some(1.0), 100.0, 0) };
        let full = Candidate { backend: crate::backend::BackendId(1), ..at(Standing::NoCapacity) };
        for those in [vec![at(Standing::Ejected)], vec![at(Standing::Returning)], vec![at(Standing::Ejected), full]] {
            assert!(serves(&decide_in_time(&patient(), true, &those, 0, waited(0.0)).unwrap()), "{those:?}");
        }
    }

    #[test]
    fn a_policy_that_says_nothing_of_it_spills() {
        assert!(serves(&outcome(&policy(Objective::LeastCarbon), 5000.0, 0.0)));
        let free = Policy { budget: None, ..patient() };
        assert!(serves(&outcome(&free, 5000.0, 0.0)), "and so does one without a budget");
    }

    #[test]
    fn what_waiting_cannot_change_is_not_waited_for() {
        let outside = Candidate { standing: Standing::OutsideResidency, ..candidate(0, Some(1.0), 100.0, 0) };
        assert!(decide_in_time(&patient(), true, &[outside], 0, waited(0.0)).is_err());
        let full = Candidate { standing: Standing::NoCapacity, ..candidate(0, Some(1.0), 100.0, 0) };
        let at = |spent| decide_in_time(&patient(), true, &[full], 0, waited(spent));
        assert_eq!(at(0.0), Ok(Outcome::Hold(HOLD)));
        assert_eq!(at(990.0), Ok(Outcome::Shed));
    }

    #[test]
    fn whose_answer_is_long_waits_before_whose_is_short() {
        let mut busy = candidate(0, Some(1.0), 100.0, 96);
        busy.estimate.limit = 100;
        let mut at = |output_tokens, in_flight, usual_answer| {
            (busy.estimate.output_tokens, busy.estimate.in_flight) = (output_tokens, in_flight);
            let usual = Usual { answer: usual_answer, hurried: HURRIED };
            serves(&decide_in_time(&patient(), true, &[busy], 0, Waiting { spent: Millis::ZERO, usual }).unwrap())
        };
        assert!(at(100, 92, 100.0) && !at(100, 93, 100.0));
        assert!(at(25, 96, 100.0) && !at(25, 97, 100.0), "a quarter as long: half as much is left free");
        assert!(at(200, 90, 100.0) && !at(200, 91, 100.0), "twice as long: more");
        assert!(at(1_000_000, 89, 100.0) && !at(1_000_000, 90, 100.0), "but nobody is kept from an idle fleet");
        assert!(at(0, 98, 100.0) && !at(0, 99, 100.0));
        assert!(at(1_000_000, 92, 0.0) && !at(1_000_000, 93, 0.0), "as long as nobody knows what is usual all are the same");
    }

    proptest::proptest! {
        #[test]
        fn waiting_ends(latency in 0.0_f64..1e6, limit in 0_u32..3) {
            let mut it = candidate(0, Some(1.0), latency, 1);
            it.estimate.limit = limit;
            let held = (0..=40).take_while(|step| {
                let spent = waited(f64::from(*step) * 50.0);
                matches!(decide_in_time(&patient(), true, &[it], 0, spent), Ok(Outcome::Hold(_)))
            });
            proptest::prop_assert!(held.count() <= 20, "longer than the budget");
        }
    }
}
