//! What the answers of backends teach: at the first token, and at the end.

use std::time::Instant;

use super::Snapshot;
use crate::affinity::{Session, Warm};
use crate::decide::Candidate;
use crate::estimate::{Demand, Estimate};
use crate::live::ModelLive;
use crate::policy::Policy;
use crate::route::Deployment;
use crate::units::Millis;

/// What was seen of a request by its end, when a backend answered it as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// From the attempt's begin to the first data, where that shows when the prompt was read.
    pub first_token: Option<Millis>,
    /// From the attempt's begin to the end.
    pub whole: Millis,
    /// From the request's arrival to the end.
    pub waited: Millis,
    /// Whether it lay ready for a client that did not take it, too long to show how fast its tokens came. What it lay there cannot be
    /// taken off: the backend went on meanwhile, as far as the buffers on the way had room.
    pub held_up: bool,
    /// Requests that the backend had in flight at the first token.
    pub in_flight_then: u32,
    /// Generated tokens, as reported or counted.
    pub output_tokens: Option<u64>,
    /// Prompt tokens, as reported.
    pub input_tokens: Option<u64>,
    /// Of these, those that came out of a cache, as reported.
    pub cached_tokens: Option<u64>,
    /// When.
    pub now: Instant,
}

/// Output tokens of an answer in one piece from which on its time is mostly theirs.
const LONG_ANSWER: u64 = 64;

/// What was asked of a backend, and under which policy: what a lesson is about.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// Who was asked.
    pub deployment: &'a Deployment,
    /// What was expected.
    pub candidate: &'a Candidate,
    /// What was wanted.
    pub policy: &'a Policy,
    /// What was asked for.
    pub demand: &'a Demand,
    /// The conversation that it is a turn of.
    pub session: Option<&'a Session>,
}

impl Snapshot {
    /// The first token of a stream, or the whole of an answer without tokens, is there: `took` after it was asked for, and `waited`
    /// after the request came. It is learned at once: the end of a stream is many decisions later.
    pub fn learn_first_token(&self, lesson: &Lesson<'_>, took: Millis, waited: Millis, now: Instant) {
        let Estimate { queue, .. } = lesson.candidate.estimate;
        if let Some(model) = self.live(lesson.deployment.backend).model(&lesson.deployment.model) {
            model.saw_first_token(lesson.candidate.estimate.tokens_to_read(), queue, took);
        }
        self.remember(lesson, now);
        if lesson.demand.streamed {
            self.learn_waiting(lesson, waited);
        }
    }

    /// Nothing had come from it after `waited`, when another's answer was taken.
    pub fn learn_lost(&self, lesson: &Lesson<'_>, waited: Millis) {
        let Estimate { prompt_tokens, queue, .. } = lesson.candidate.estimate;
        if let Some(model) = self.live(lesson.deployment.backend).model(&lesson.deployment.model) {
            model.saw_no_first_token(prompt_tokens, queue, waited);
        }
    }

    /// The backend has read the prompt, and has it at hand for a while.
    fn remember(&self, lesson: &Lesson<'_>, now: Instant) {
        if let (Some(session), Some(tag)) = (lesson.session, self.tags.get(lesson.deployment.backend.index())) {
            self.conversations.served(session, *tag, lesson.demand.body_bytes, now);
        }
    }

    /// Who has something of a request's prompt, under a policy that counts that.
    pub fn warm(&self, session: Option<&Session>, policy: &Policy, body_bytes: usize, now: Instant) -> Warm {
        let known = session.zip(policy.affinity.as_ref());
        known.map_or_else(Warm::default, |(session, affinity)| self.conversations.warm(session, body_bytes, affinity.ttl, now))
    }

    /// Whether a budget was met says how far predictions can be trusted.
    fn learn_waiting(&self, lesson: &Lesson<'_>, waited: Millis) {
        let Lesson { candidate, policy, demand, .. } = lesson;
        // A budget of the client's own says nothing of the policy: with one that nobody can meet it would speak for everybody.
        let own = policy.budget.filter(|budget| budget.at_most.is_none());
        let budget = own.and_then(|it| it.of(demand.streamed, candidate.estimate.prompt_tokens).map(|of| (of, it.quantile)));
        if let (Some((budget, quantile)), Some(margin)) = (budget, self.margin(policy.id)) {
            margin.saw(waited > budget, quantile);
        }
    }

    /// The answer is there as a whole: how fast its tokens came, and how long prompt and answer were.
    pub fn learn(&self, lesson: &Lesson<'_>, seen: &Seen) {
        let Lesson { deployment, candidate, demand, .. } = lesson;
        if !demand.streamed {
            self.learn_waiting(lesson, seen.waited);
        }
        let live = self.live(deployment.backend);
        let (Some(model), Some(flow)) = (live.model(&deployment.model), self.flow(deployment.flow)) else { return };
        if let Some(output) = seen.output_tokens.filter(|_| !demand.embeddings) {
            learn_end(lesson, seen, output, model);
            flow.saw_output(candidate.estimate.prompt_tokens, output);
            // Of an answer that came in one piece it is only believed when its first token would have come, and of a short one that
            // is most of it.
            let shows_rate = seen.first_token.is_some() || output >= LONG_ANSWER;
            let before = seen.first_token.unwrap_or(candidate.estimate.first_token);
            if let Some(streaming) =
                Millis::new(seen.whole.get() - before.get()).filter(|left| shows_rate && *left > Millis::ZERO && !seen.held_up)
            {
                let then = if seen.first_token.is_some() { seen.in_flight_then } else { candidate.estimate.in_flight };
                // The mean of both ends: the requests of the time between are nearly those of one or the other.
                let in_flight = f64::midpoint(f64::from(then), f64::from(live.load().in_flight.saturating_add(1)));
                model.saw_output(output, streaming, in_flight, self.plan.backend(deployment.backend).max_in_flight);
            }
        }
        if let Some(input) = seen.input_tokens {
            flow.saw_prompt(demand.body_bytes, input);
            let Estimate { prompt_tokens, known_tokens, .. } = candidate.estimate;
            if let Some(cached) = seen.cached_tokens.filter(|_| known_tokens > 0) {
                model.saw_cached(f64::from(known_tokens) / f64::from(prompt_tokens) * input as f64, cached);
            }
        }
        self.remember(lesson, seen.now);
    }
}

/// Whether a stream kept the time of its first token and of all tokens after it together says how full its backend may be.
fn learn_end(lesson: &Lesson<'_>, seen: &Seen, output_tokens: u64, model: &ModelLive) {
    let Lesson { candidate, policy, demand, .. } = lesson;
    // As for the first token: a client's own budget says nothing of the policy.
    let Some(budget) = policy.budget.filter(|budget| budget.at_most.is_none() && demand.streamed && !seen.held_up) else {
        return;
    };
    let whole = budget.of(true, candidate.estimate.prompt_tokens).zip(budget.per_output_token);
    if let Some((first, each)) = whole {
        model.saw_end(seen.waited > first + each * output_tokens as f64, each, budget.quantile);
    }
}
