//! Asks a second backend beside one that is late, where the policy says so; [`crate::decide::second`] says when and whom.
//!
//! The first head that is an answer wins. The other attempt is broken off, which closes its connection, and is booked as waste and as
//! nothing else: that it was slower this once counts neither for nor against its health, since nobody knows how it would have ended.
//! Its statistics learn no more than that nothing had come until then.
//! An attempt that fails while the other goes on is booked as the failure it is. A backend that sends its head at once and its first
//! token late is not seen to be late: by then its answer has begun. None of this is on the way of a request that is
//! answered in time but one timer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep;

use super::attempt::AttemptOutcome;
use super::exchange::Exchange;
use super::forward::{self, Asked, Came, Outgoing, Waiting};
use super::reject::Error;
use super::tries::Tries;
use crate::decide::{self, Second};
use crate::live::Permit;
use crate::policy::Policy;
use crate::units::Millis;
use crate::upstream::copied;

/// Who is to be asked besides the one who is asked now, and when.
pub(super) fn second(policy: &Policy, x: &Exchange, asked: &Asked, waiting: &Waiting) -> Option<Second> {
    let hedge = policy.hedge?;
    if x.attempts.len() == 1 {
        x.shared.hedges(policy).asked(hedge.at_most);
    }
    if !forward::is_anybody_left(x, policy, waiting) {
        return None;
    }
    let spent = Millis::from(x.attempts.last()?.begun - x.begun);
    decide::second(policy, x.streamed, &x.candidates, asked.index as u16, waiting, spent)
}

/// One attempt that has begun, and what is needed for a second one.
pub(super) struct Race<'a> {
    pub(super) asked: Asked,
    pub(super) second: Second,
    pub(super) policy: &'a Policy,
    pub(super) waiting: &'a mut Waiting,
    pub(super) tries: &'a mut Tries,
}

/// Sends the request, and a second one if that is late. Gives who came in last of those that count: the one that answered, or else
/// the one whose failure is not booked yet. It is the last in the exchange's list, and has its place.
pub(super) async fn race(race: Race<'_>, outgoing: &mut Outgoing<'_>, x: &mut Exchange) -> (Asked, Came) {
    let Race { asked: first, second, policy, waiting, tries } = race;
    // The other attempt is addressed to somebody else while this one is sent.
    let request = copied(&outgoing.request);
    let (shared, backend) = (Arc::clone(&x.shared), Arc::clone(&first.backend));
    let mut one = pin!(forward::send(&shared, &backend, &request, first.within));
    tokio::select! {
        biased;
        sent = &mut one => return (first, sent),
        () = sleep(shared.clock.timer(second.after.to_duration())) => {}
    }
    let Some((other, place)) = join(second.candidate, policy, (&mut *waiting, &mut *tries), outgoing, x) else {
        return (first, one.await);
    };
    let backend = Arc::clone(&other.backend);
    let mut two = pin!(forward::send(&shared, &backend, &outgoing.request, other.within));
    let (first_is_there, sent) = tokio::select! {
        biased;
        sent = &mut one => (true, sent),
        sent = &mut two => (false, sent),
    };
    let now = shared.clock.monotonic();
    let (asked, rest) = if first_is_there { (first, other) } else { (other, first) };
    let answered = forward::is_answer(&sent, &asked, x);
    // The second one has a place of its own, which it keeps only if it is the one that goes on.
    if first_is_there != answered {
        x.permit = Some(place);
    }
    come_in(x, &asked);
    if answered {
        if !first_is_there {
            shared.metrics.hedges_won.add_one();
        }
        break_off(x, &rest, now);
        return (asked, sent);
    }
    forward::book(tries, x, &asked, sent, now);
    come_in(x, &rest);
    let sent = if first_is_there { two.await } else { one.await };
    (rest, sent)
}

/// Begins the second attempt, if it may be made now: some time has gone by since it was thought of.
fn join(
    candidate: u16,
    policy: &Policy,
    (waiting, tries): (&mut Waiting, &mut Tries),
    outgoing: &mut Outgoing<'_>,
    x: &mut Exchange,
) -> Option<(Asked, Permit)> {
    let index = usize::from(candidate);
    let estimate = x.candidates.get(index).map(|candidate| (candidate.backend, candidate.estimate))?;
    let live = Arc::clone(x.snapshot.live(estimate.0));
    let now_ms = live.millis(x.shared.clock.monotonic());
    let model = x.deployments.as_ref().and_then(|all| all.get(index)).and_then(|deployment| live.model(&deployment.model));
    let is_full = model.is_some_and(|model| live.is_full_for(model, now_ms));
    if live.is_shut(now_ms) || is_full || live.load().in_flight >= estimate.1.limit {
        return None;
    }
    if !x.shared.hedges(policy).spend() {
        x.shared.metrics.hedges_withheld.add_one();
        return None;
    }
    waiting.retain(|other| *other != candidate);
    let place = live.admit(estimate.1.tokens_to_read());
    let begun = forward::begin(outgoing, x, index);
    if let Ok(Some(asked)) = begun {
        x.shared.metrics.hedges.add_one();
        return Some((asked, place));
    }
    x.shared.hedges(policy).give_back();
    tries.came_to_nothing(begun.err().unwrap_or(Error::UpstreamTimeout));
    None
}

/// An attempt is over, or is the only one left: from now on it is the one that the exchange is about.
fn come_in(x: &mut Exchange, asked: &Asked) {
    x.serving = Some((Arc::clone(&asked.backend), Some(asked.index)));
    if let Some(place) = x.attempts.iter().position(|attempt| attempt.backend == asked.backend.id) {
        let attempt = x.attempts.remove(place);
        x.attempts.push(attempt);
    }
}

/// Books the attempt that lost. Of a stream it is known that nothing had come until now, and that much is learned: a backend that hangs
/// would otherwise be asked first for ever, its every answer coming from another.
fn break_off(x: &mut Exchange, loser: &Asked, now: Instant) {
    let Some(attempt) = x.attempts.iter_mut().find(|attempt| attempt.backend == loser.backend.id) else { return };
    (attempt.outcome, attempt.ended) = (AttemptOutcome::Hedged, now);
    let waited = Millis::from(now - attempt.begun);
    if let Some(lesson) = x.lesson_of(loser.index).filter(|lesson| lesson.demand.streamed) {
        x.snapshot.learn_lost(&lesson, waited);
    }
}
