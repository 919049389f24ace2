//! What a line says once, though it holds for several of its parts.
//!
//! All candidates of a request are weighed with its tokens, and mostly with the same coefficients; and where one attempt gave the
//! answer, its books are those of the whole exchange. Said again for each, that was 270 of the 2,430 bytes of a line among three
//! candidates (`benches/peers`), which is written, copied and kept for every request. Whoever reads a line spells it out first, and has every part with all that it rests on.

use super::{AccessRecord, CandidateUsed, DecisionUsed, Ended};

impl DecisionUsed<'_> {
    /// Says once what the first candidate and others have in common.
    #[must_use]
    pub fn said_once(mut self) -> Self {
        let Some(first) = self.candidates.first() else { return self };
        (self.input_tokens, self.output_tokens, self.coefficient) =
            (first.input_tokens, first.output_tokens, first.coefficient.clone());
        let mut candidates = std::mem::take(&mut self.candidates);
        for candidate in &mut candidates {
            candidate.leave_out(&self);
        }
        self.candidates = candidates;
        self
    }

    fn spell_out(&mut self) {
        for candidate in &mut self.candidates {
            candidate.input_tokens = candidate.input_tokens.or(self.input_tokens);
            candidate.output_tokens = candidate.output_tokens.or(self.output_tokens);
            candidate.coefficient = candidate.coefficient.take().or_else(|| self.coefficient.clone());
        }
        (self.input_tokens, self.output_tokens, self.coefficient) = (None, None, None);
    }
}

impl CandidateUsed<'_> {
    /// Leaves out what the decision says of every candidate that says no other.
    #[inline]
    pub fn leave_out(&mut self, said: &DecisionUsed<'_>) {
        debug_assert!(
            self.coefficient.is_some() || said.coefficient.is_none(),
            "one without would come back with the decision's"
        );
        self.input_tokens = self.input_tokens.filter(|_| self.input_tokens != said.input_tokens);
        self.output_tokens = self.output_tokens.filter(|_| self.output_tokens != said.output_tokens);
        if self.coefficient == said.coefficient {
            self.coefficient = None;
        }
    }
}

impl<'a> AccessRecord<'a> {
    /// Reads a line, and [spells it out](Self::spell_out).
    pub fn of_line(line: &'a [u8]) -> serde_json::Result<Self> {
        let mut record: Self = serde_json::from_slice(line)?;
        record.spell_out();
        Ok(record)
    }

    /// Gives every candidate and every attempt what the line says of them elsewhere.
    pub fn spell_out(&mut self) {
        if let Some(decision) = &mut self.decision {
            decision.spell_out();
        }
        self.spell_out_attempt();
    }

    /// The books of the line are those of its attempt, if that is the only one, gave the answer and says nothing of its own: an attempt
    /// that has books of its own has at least a PUE.
    fn spell_out_attempt(&mut self) {
        let answered = self.ended == Ended::Complete && self.status.is_some_and(|status| (200..300).contains(&status));
        let Self { input_tokens, output_tokens, cached_input_tokens, energy, emissions, cost, carbon, attempts, .. } = self;
        let ([attempt], Some(energy), Some(carbon), true) = (&mut attempts[..], energy, carbon, answered) else { return };
        if attempt.pue.is_some() || &*attempt.outcome != "answered" {
            return;
        }
        attempt.input_tokens = *input_tokens;
        attempt.cached_input_tokens = cached_input_tokens.filter(|cached| *cached > 0);
        // None were made where none could be.
        attempt.output_tokens = Some(output_tokens.unwrap_or(0));
        attempt.coefficient = Some(energy.coefficient.clone());
        attempt.joules = Some(energy.joules);
        attempt.pue = carbon.chosen.pue;
        attempt.intensity_g_per_kwh = carbon.chosen.intensity_g_per_kwh;
        attempt.grams = emissions.as_ref().map(|emissions| emissions.grams);
        attempt.cost_usd = cost.as_ref().map(|cost| cost.usd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AttemptUsed, Text};

    fn sample() -> AccessRecord<'static> {
        serde_json::from_str(include_str!("../../tests/cases/log/full.json")).unwrap()
    }

    /// A decision among three that have everything in common.
    fn spelled() -> DecisionUsed<'static> {
        let mut decision = sample().decision.unwrap();
        let first = decision.candidates[0].clone();
        decision.candidates = vec![first.clone(), first.clone(), first];
        decision
    }

    #[test]
    fn what_is_said_once_comes_back_for_each() {
        let spelled = spelled();
        let once = spelled.clone().said_once();
        assert_eq!(once.input_tokens, spelled.candidates[0].input_tokens);
        assert!(once.input_tokens.is_some() && once.output_tokens.is_some() && once.coefficient.is_some());
        for it in &once.candidates {
            assert_eq!((it.input_tokens, it.output_tokens, &it.coefficient), (None, None, &None));
        }
        let mut again = once;
        again.spell_out();
        assert_eq!(again, spelled);
    }

    #[test]
    fn a_candidate_that_differs_says_so_itself() {
        let mut spelled = spelled();
        spelled.candidates[1].output_tokens = Some(77);
        spelled.candidates[1].coefficient = Some(Text::from("another@1"));
        let once = spelled.clone().said_once();
        assert_eq!((once.candidates[1].output_tokens, once.candidates[1].input_tokens), (Some(77), None));
        assert_eq!(once.candidates[1].coefficient, Some(Text::from("another@1")));
        let mut again = once;
        again.spell_out();
        assert_eq!(again, spelled);
    }

    #[test]
    fn the_only_answer_has_the_books_of_its_line() {
        let full = sample();
        let mut answer = full.clone();
        (answer.status, answer.ended) = (Some(200), Ended::Complete);
        let bare = AttemptUsed {
            input_tokens: None,
            cached_input_tokens: None,
            output_tokens: None,
            coefficient: None,
            joules: None,
            pue: None,
            intensity_g_per_kwh: None,
            grams: None,
            cost_usd: None,
            outcome: Text::from("answered"),
            ..full.attempts[0].clone()
        };
        let spelled = |record: &AccessRecord<'static>| {
            let mut record = record.clone();
            record.spell_out();
            record.attempts
        };
        answer.attempts = vec![bare.clone()];
        let [only] = &spelled(&answer)[..] else { panic!("one") };
        assert_eq!((only.input_tokens, only.output_tokens), (answer.input_tokens, answer.output_tokens));
        let (energy, emissions) = (answer.energy.clone().unwrap(), answer.emissions.unwrap());
        assert_eq!((only.joules, only.grams), (Some(energy.joules), Some(emissions.grams)));
        assert_eq!((&only.coefficient, only.pue), (&Some(energy.coefficient), answer.carbon.as_ref().unwrap().chosen.pue));
        // Of two, of one that did not answer, and where it has books of its own, nothing is added.
        for attempts in [vec![bare.clone(); 2], vec![AttemptUsed { outcome: Text::from("broken"), ..bare.clone() }]] {
            answer.attempts = attempts;
            assert_eq!(spelled(&answer), answer.attempts);
        }
        let own = AttemptUsed { pue: energy_pue(&answer), ..bare.clone() };
        answer.attempts = vec![own];
        assert_eq!(spelled(&answer), answer.attempts);
        (answer.attempts, answer.ended) = (vec![bare], Ended::ClientGone);
        assert_eq!(spelled(&answer), answer.attempts);
    }

    fn energy_pue(record: &AccessRecord<'_>) -> Option<crate::units::Pue> {
        record.carbon.as_ref()?.chosen.pue
    }
}
