//! A run as an access log: one line for each request, in the form in which the proxy writes it, so that `windward report` reads it.
//!
//! The grams of a line are the proxy's own figures, made with the readings it had; those of the score are true. That the two agree
//! where the feed is right is one of the things that a simulation can show. Every line says that it is simulated.

use std::io::{self, Write};
use std::time::Duration;

use smallvec::SmallVec;

use super::engine::{Over, Watch};
use super::flight::{Attempt, Failure};
use super::router::{MODEL, Outcome};
use super::score::End;
use crate::backend::Backend;
use crate::decide::{Verdict, exclusion};
use crate::grid::Intensity;
use crate::ledger::{Attempted, Baseline, Place, account, at_baseline};
use crate::record::{
    AccessRecord, AttemptUsed, Carbon, DecisionUsed, Emissions, Ended, EnergyUsed, ShadowUsed, Text, UsageSource,
};
use crate::state::Snapshot;
use crate::tables::{Coefficients, EnergyBand};
use crate::telemetry::line;
use crate::units::Millis;

/// Writes a line for every request that is over.
pub struct LogWriter<W> {
    out: W,
    run: String,
    seq: u64,
    line: Vec<u8>,
    failed: Option<io::Error>,
}

impl<W: Write> LogWriter<W> {
    /// A log of the run of that seed.
    pub fn new(out: W, seed: u64) -> Self {
        Self { out, run: format!("{seed:016x}"), seq: 0, line: Vec::new(), failed: None }
    }

    /// How many lines there are, once all of them are written.
    pub fn finish(mut self) -> io::Result<u64> {
        match self.failed {
            Some(error) => Err(error),
            None => self.out.flush().map(|()| self.seq),
        }
    }
}

impl<W: Write> Watch for LogWriter<W> {
    fn ended(&mut self, over: &Over<'_>) {
        if self.failed.is_some() {
            return;
        }
        self.seq += 1;
        self.line.clear();
        let written = Written { over, snapshot: &over.decided.snapshot };
        line::append(&mut self.line, &written.record(&self.run, self.seq));
        self.line.push(b'\n');
        self.failed = self.out.write_all(&self.line).err();
    }
}

/// A request with the snapshot that it was decided with.
struct Written<'o> {
    over: &'o Over<'o>,
    snapshot: &'o Snapshot,
}

/// A backend, and what was known of its grid.
type At<'w> = (&'w Backend, Option<Intensity<'w>>);

impl Written<'_> {
    fn record<'w>(&'w self, run: &'w str, seq: u64) -> AccessRecord<'w> {
        let over = self.over;
        let policy = over.router.policy(over.decided.route);
        let attempts = self.attempts();
        let last = over.attempts.last();
        let chosen = last.map(|attempt| self.at(attempt.region));
        let baseline = self.baseline().map(|index| self.at(index));
        let booked: Option<SmallVec<[Attempted; 2]>> = over.attempts.iter().map(|attempt| self.booked(attempt)).collect();
        let emissions = booked.zip(baseline).and_then(|(booked, (backend, intensity))| {
            account(&booked, Baseline { place: place(backend, intensity), energy: self.energy_at_baseline() })
        });
        let (status, ended, error) = self.ending();
        let (first_token, total) = self.spans();
        let budget = policy
            .zip(over.decided.candidates.first())
            .and_then(|(policy, candidate)| policy.budget.as_ref()?.of(true, candidate.estimate.prompt_tokens));
        let used = last.and_then(|last| last.tokens);
        AccessRecord {
            narrowed: None,
            shadow: None,
            backend_time: None,
            time: over.wall,
            instance: Text::from("simulate"),
            run: Text::from(run),
            seq,
            generation: self.snapshot.generation,
            id: Text::from(format!("{run}-{:08x}", over.index)),
            client_request_id: None,
            provider_request_id: None,
            route: self.snapshot.plan.routes.get(over.decided.route).map(|route| Text::from(&*route.name)),
            policy: policy.map(|policy| Text::from(&*policy.name)),
            key: None,
            method: Text::from("POST"),
            path: Text::from("/v1/chat/completions"),
            status: Some(status),
            request_bytes: Some(u64::from(over.ask.bytes)),
            response_bytes: None,
            operation: Some(Text::from("chat")),
            model: Some(Text::from(MODEL)),
            response_model: None,
            stream: true,
            backend: chosen.map(|(backend, _)| Text::from(&*backend.name)),
            region: chosen.map(|(backend, _)| Text::from(&*backend.region)),
            grid_zone: chosen.and_then(|(backend, intensity)| self.snapshot.zone_used(backend, intensity)),
            placement: chosen.map(|(backend, _)| backend.placement.kind),
            placement_evidence: None,
            decision: self.decision(),
            carbon: chosen.zip(baseline).map(|(chosen, baseline)| self.carbon(chosen, baseline)),
            input_tokens: used.map(|tokens| tokens.input),
            output_tokens: used.map(|tokens| tokens.output),
            cached_input_tokens: used.map(|tokens| tokens.cached),
            reasoning_tokens: None,
            usage_source: if used.is_some() { UsageSource::Reported } else { UsageSource::Unknown },
            input_tokens_source: None,
            energy: last.and_then(|last| self.energy(last)),
            emissions: emissions.as_ref().map(Emissions::from),
            cost: None,
            attempts,
            first_token_ms: first_token,
            total_ms: total,
            budget_ms: budget,
            within_budget: budget.zip(first_token).map(|(budget, took)| took <= budget),
            overhead_us: None,
            ended,
            error: error.map(Text::from),
            simulated: true,
        }
    }

    /// Until the first token and until the end, from the arrival.
    fn spans(&self) -> (Option<Millis>, Millis) {
        let since = |at: Duration| Millis::from(at.saturating_sub(self.over.ask.at));
        match self.over.end {
            End::Answered { first_token, total } => (Some(Millis::from(first_token)), Millis::from(total)),
            End::Failed | End::Shed => {
                (self.over.attempts.last().and_then(|last| last.first_token).map(since), since(self.over.at))
            }
        }
    }

    fn at(&self, region: usize) -> At<'_> {
        #[expect(clippy::indexing_slicing, reason = "a scenario's regions are the backends of its plans, in their order")]
        let backend = &*self.snapshot.plan.backends[region];
        (backend, self.snapshot.intensity(backend, self.over.wall))
    }

    fn coefficients(&self, region: usize) -> Option<&Coefficients> {
        let deployment = self.over.router.deployments(self.over.decided.route).get(region)?;
        Some(deployment.coefficients.as_deref().unwrap_or_else(|| self.snapshot.plan.energy.find(MODEL)))
    }

    fn baseline(&self) -> Option<usize> {
        match &self.over.decided.outcome {
            Outcome::Serve(decision) => Some(usize::from(decision.baseline)),
            _ => None,
        }
    }

    /// Status, end and code of the error, as the client meets them.
    fn ending(&self) -> (u16, Ended, Option<&'static str>) {
        let failure = self.over.attempts.last().and_then(|last| last.failure);
        match (self.over.end, failure) {
            (End::Answered { .. }, _) => (200, Ended::Complete, None),
            (End::Shed, _) if matches!(self.over.decided.outcome, Outcome::Refuse(_)) => {
                (503, Ended::Rejected, Some("no_candidate"))
            }
            (End::Shed, _) => (429, Ended::Rejected, Some("shed")),
            (End::Failed, Some(Failure::Refused(_))) => (429, Ended::Complete, None),
            (End::Failed, Some(Failure::Error)) => (500, Ended::Complete, None),
            (End::Failed, Some(Failure::Cut)) => (200, Ended::UpstreamBroke, None),
            (End::Failed, Some(Failure::Unreachable) | None) => (502, Ended::Rejected, Some("backend_unreachable")),
            (End::Failed, Some(Failure::Broken)) => (502, Ended::Rejected, Some("bad_gateway")),
        }
    }

    fn booked(&self, attempt: &Attempt) -> Option<Attempted> {
        let (backend, intensity) = self.at(attempt.region);
        let at = place(backend, intensity);
        let table = self.coefficients(attempt.region)?;
        Some(match attempt.tokens {
            None => Attempted::refused(at),
            tokens if attempt.answered => Attempted::answered(at, table, tokens),
            tokens => Attempted::abandoned(at, table, tokens),
        })
    }

    fn carbon<'w>(&'w self, chosen: At<'w>, baseline: At<'w>) -> Carbon<'w> {
        let used = |(backend, intensity): At<'w>| self.snapshot.carbon_used(backend, intensity, self.over.wall);
        Carbon { chosen: used(chosen), baseline: (baseline.0.id != chosen.0.id).then(|| used(baseline)) }
    }

    fn energy(&self, attempt: &Attempt) -> Option<EnergyUsed<'_>> {
        let table = self.coefficients(attempt.region)?;
        let energy = table.energy(attempt.tokens?);
        Some(EnergyUsed::of(Text::from(&*table.id), table.quality, &energy))
    }

    /// What the answer would have burned at the baseline.
    fn energy_at_baseline(&self) -> Option<EnergyBand> {
        let (index, tokens) = (self.baseline()?, self.over.attempts.last()?.tokens?);
        let believed = self.over.decided.candidates.get(index)?.estimate.cached_tokens;
        Some(self.coefficients(index)?.energy(at_baseline(tokens, believed.into())))
    }

    fn attempts(&self) -> Vec<AttemptUsed<'_>> {
        let several = self.over.attempts.len() > 1;
        let attempt = |attempt: &Attempt| {
            let (backend, intensity) = self.at(attempt.region);
            let booked = self.booked(attempt);
            let (outcome, status) = match attempt.failure {
                None => ("answered", Some(200)),
                Some(Failure::Unreachable) => ("unreachable", None),
                Some(Failure::Refused(_)) => ("refused", Some(429)),
                Some(Failure::Error) => ("answered", Some(500)),
                Some(Failure::Broken) => ("broken", None),
                Some(Failure::Cut) => ("broken", Some(200)),
            };
            AttemptUsed {
                backend: Text::from(&*backend.name),
                outcome: Text::from(outcome),
                status,
                provider_request_id: None,
                begun_ms: several.then(|| Millis::from(attempt.begun.saturating_sub(self.over.ask.at)).rounded()),
                ms: Millis::from(attempt.ended.saturating_sub(attempt.begun)),
                input_tokens: attempt.tokens.map(|tokens| tokens.input),
                cached_input_tokens: attempt.tokens.map(|tokens| tokens.cached).filter(|cached| *cached > 0),
                output_tokens: attempt.tokens.map(|tokens| tokens.output),
                coefficient: self.coefficients(attempt.region).map(|table| Text::from(&*table.id)),
                joules: booked.and_then(|booked| booked.energy).map(|energy| energy.mid()),
                pue: Some(backend.pue),
                intensity_g_per_kwh: intensity.map(|intensity| intensity.value),
                grams: booked.and_then(|booked| booked.grams()).map(|[_, mid, _]| mid),
                cost_usd: None,
            }
        };
        self.over.attempts.iter().map(attempt).collect()
    }

    fn decision(&self) -> Option<DecisionUsed<'_>> {
        let decided = self.over.decided;
        let policy = self.over.router.policy(decided.route)?;
        let decision = match &decided.outcome {
            Outcome::Serve(decision) => Some(decision),
            _ => None,
        };
        let candidates = decided.candidates.iter().enumerate().map(|(index, candidate)| {
            let verdict = match decision {
                Some(decision) => decision.verdicts.get(index).copied().unwrap_or(Verdict::LaterInOrder),
                None => exclusion(policy, true, candidate, decided.spent).unwrap_or(Verdict::KeptFree),
            };
            let (_, intensity) = self.at(candidate.backend.index());
            let counted_by = (self.coefficients(index), None);
            self.snapshot.candidate_used(candidate, verdict, (intensity, self.over.wall), counted_by, policy, None)
        });
        let reason = match &decided.outcome {
            Outcome::Serve(decision) => decision.reason.as_str(),
            Outcome::Refuse(_) => ShadowUsed::REFUSED,
            Outcome::Shed => ShadowUsed::SHED,
            Outcome::Hold(_) => ShadowUsed::HELD,
        };
        let used = DecisionUsed {
            reason: Text::from(reason),
            baseline: self.baseline().map(|index| Text::from(&*self.at(index).0.name)),
            turn: Some(u64::from(decided.turn)),
            spent_ms: policy.budget.map(|_| decided.spent),
            reserve: DecisionUsed::share(decided.reserve),
            strain: DecisionUsed::share(decided.strain),
            input_tokens: None,
            output_tokens: None,
            coefficient: None,
            candidates: candidates.collect(),
        };
        Some(used.said_once())
    }
}

fn place(backend: &Backend, intensity: Option<Intensity<'_>>) -> Place {
    Place { pue: backend.pue, intensity: intensity.map(|intensity| intensity.value) }
}
