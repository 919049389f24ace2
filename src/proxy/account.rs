//! The end of an exchange: what it taught, what it emitted, and its line in the log.
//!
//! Called once, when the exchange is dropped. Nothing here waits or locks; the line is written into the worker's own buffer.

use std::time::{Duration, Instant};

use http::StatusCode;
use smallvec::SmallVec;

use super::attempt::{Attempt, AttemptOutcome};
use super::backend_time::backend_time;
use super::evidence::{At, Ran};
use super::exchange::{Exchange, Proof};
use super::verdicts::{candidates_used, decision_used};
use super::{forward, relay, shadow};
use crate::backend::Backend;
use crate::cost::{Costs, TokenPrices};
use crate::decide::Candidate;
use crate::grid::Quality;
use crate::ledger::{Account, Attempted, Baseline, account, at_baseline};
use crate::record::{AccessRecord, AttemptUsed, Carbon, Emissions, Ended, EnergyUsed, Text, UsageSource};
use crate::state::Seen;
use crate::tables::{Coefficients, EnergyBand, TokenCounts};
use crate::telemetry::line;
use crate::units::{Millis, Usd};
use crate::wire::usage::Usage;
use crate::wire::{self, Operation};

/// Closes the books of an exchange that found its route.
pub(super) fn close(x: &mut Exchange) {
    let now = x.over.unwrap_or_else(|| x.shared.clock.monotonic());
    x.tell_cut_from_gone();
    // Of two that were asked at once both were going on.
    for attempt in x.attempts.iter_mut().filter(|attempt| attempt.outcome == AttemptOutcome::Abandoned) {
        attempt.ended = now;
    }
    if let Some(attempt) = x.attempts.last_mut() {
        cut_short(attempt, x.ended, now);
    }
    judge(x, now);
    learn(x, now);
    let tokens = Tokens::of(x);
    let ran = Ran::of(x);
    let ledger = Ledger::of(x, &tokens, ran.as_ref());
    let mut record = record(x, now, &tokens, &ledger);
    observe(x, &ledger);
    x.shared.log.append(|line, seq| {
        record.seq = seq;
        line::append_with(line, &record, candidates_used(x, record.decision.as_ref()), attempts_used(x, &ledger));
    });
}

/// An attempt whose answer did not come to its end did not answer: what its head had promised is taken back.
fn cut_short(attempt: &mut Attempt, ended: Ended, now: Instant) {
    let outcome = match ended {
        Ended::ClientGone | Ended::Drained => AttemptOutcome::Abandoned,
        Ended::UpstreamBroke => AttemptOutcome::Broken,
        Ended::TimedOut => AttemptOutcome::TimedOut,
        Ended::Complete | Ended::Rejected => return,
    };
    if matches!(attempt.outcome, AttemptOutcome::Answered | AttemptOutcome::Abandoned) {
        (attempt.outcome, attempt.ended) = (outcome, now);
    }
}

/// Adds the exchange to the counters.
fn observe(x: &Exchange, ledger: &Ledger<'_>) {
    let metrics = &x.shared.metrics;
    if let Some(account) = &ledger.account {
        metrics.emitted(account.mid.grams, account.mid.waste, account.mid.saved);
    }
    if let Some(at) = x.first_token.filter(|_| x.streamed) {
        metrics.first_token(at - x.begun);
    }
    if !x.attempts.is_empty() {
        metrics.overhead(Duration::from_micros(x.overhead_us));
    }
}

/// Whether the client got the answer it asked for.
fn answered(x: &Exchange) -> bool {
    x.ended == Ended::Complete && x.status.is_success()
}

/// Counts how the serving backend did towards its health: at the end of the body and not at its head, because a backend that dies
/// after every first event is as dead as one that never answers.
fn judge(x: &Exchange, now: Instant) {
    let Some((backend, _)) = &x.serving else { return };
    let live = x.snapshot.live(backend.id);
    let status = forward::judged(x.status, backend);
    match x.ended {
        // It works, and says so of the request. Anybody could shut a backend by sending it such ones.
        Ended::UpstreamBroke if relay::clears_backend(x.error) => {}
        // Its status was counted when it came, and a tunnel in which nobody says anything is nobody's fault.
        Ended::UpstreamBroke | Ended::TimedOut if status.is_server_error() => {}
        Ended::UpstreamBroke if let Some(whole) = x.is_full => forward::note_full_within(x, backend, whole, now),
        Ended::TimedOut if x.status == StatusCode::SWITCHING_PROTOCOLS => {}
        // Nor is a backend dead that went on as it should, and whose client may have been slow to read.
        Ended::TimedOut if x.error == Some(relay::NO_END) => {}
        Ended::UpstreamBroke | Ended::TimedOut => live.failed(now, || x.remedy(backend.id, now)),
        Ended::Complete if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS => live.succeeded(now),
        Ended::Complete | Ended::ClientGone | Ended::Drained | Ended::Rejected => {}
    }
}

/// Teaches the serving backend's statistics what this exchange showed by its end.
fn learn(x: &Exchange, now: Instant) {
    let (Some(lesson), Some(attempt)) = (x.lesson(), x.attempts.last()) else { return };
    if !answered(x) {
        return;
    }
    let since = |at: Instant| Millis::from(at - attempt.begun);
    let demand = lesson.demand;
    // Only a stream, or an answer without output tokens, shows when the prompt was read; any other comes whole at its end.
    let first_token = x.first_token.filter(|_| demand.streamed || demand.embeddings).map(since);
    if let Some(took) = first_token.filter(|_| demand.embeddings && !demand.streamed) {
        x.snapshot.learn_first_token(&lesson, took, took, now);
    }
    let (usage, _) = x.usage;
    let (output_tokens, input_tokens) = (usage.output_tokens, usage.input_tokens);
    let waited = Millis::from(now - x.begun);
    let held_up = x.was_held_up(now - x.first_token.unwrap_or(attempt.begun));
    let seen = Seen {
        first_token,
        whole: since(now),
        waited,
        held_up,
        in_flight_then: x.in_flight_then,
        output_tokens,
        input_tokens,
        cached_tokens: usage.cached_tokens,
        now,
    };
    x.snapshot.learn(&lesson, &seen);
}

/// The tokens as the record states them.
struct Tokens {
    input: Option<u64>,
    cached: Option<u64>,
    output: Option<u64>,
    reasoning: Option<u64>,
    source: UsageSource,
    /// Where `input` comes from, when that is not `source`.
    input_source: Option<UsageSource>,
}

impl Tokens {
    /// Reported where the backend said so. Of a stream that broke, the output events were counted; what was not reported of the
    /// prompt is estimated from its bytes, and so is all of it when the prompt was sent and nothing came back.
    fn of(x: &Exchange) -> Self {
        let (usage, source) = x.usage;
        let last = x.attempts.last();
        let estimated = last.and_then(|last| x.candidates.iter().find(|candidate| candidate.backend == last.backend));
        let estimated = estimated.map(|candidate| u64::from(candidate.estimate.prompt_tokens));
        let runs = !x.operation.is_some_and(Operation::runs_no_model);
        let burned = runs && last.is_some_and(|last| !burned_nothing(last));
        let (input, source, input_source) = match source {
            wire::usage::UsageSource::Reported => (usage.input_tokens, UsageSource::Reported, None),
            wire::usage::UsageSource::Counted => {
                let reported = usage.input_tokens.map(|_| UsageSource::Reported);
                let input_source = reported.or_else(|| estimated.map(|_| UsageSource::Estimated));
                (usage.input_tokens.or(estimated), UsageSource::Counted, input_source)
            }
            wire::usage::UsageSource::Unknown if burned && !answered(x) && estimated.is_some() => {
                (estimated, UsageSource::Estimated, None)
            }
            wire::usage::UsageSource::Unknown => (None, UsageSource::Unknown, None),
        };
        let Usage { cached_tokens: cached, output_tokens: output, reasoning_tokens: reasoning, .. } = usage;
        Self { input, cached, output, reasoning, source, input_source }
    }

    fn counts(&self, x: &Exchange) -> Option<TokenCounts> {
        let embeddings = x.demand.is_some_and(|demand| demand.embeddings);
        let output = match self.output {
            Some(output) => output,
            None if embeddings || self.source == UsageSource::Estimated => 0,
            None => return None,
        };
        Some(TokenCounts { input: self.input?, cached: self.cached.unwrap_or(0), output })
    }
}

/// Grams of the exchange, where they can be known.
struct Ledger<'x> {
    /// One for each attempt.
    charged: SmallVec<[Charged<'x>; 2]>,
    account: Option<Account>,
    costs: Option<Costs>,
    chosen: Option<At<'x>>,
    baseline: Option<At<'x>>,
}

/// An attempt with what its grams are made of.
struct Charged<'x> {
    at: At<'x>,
    coefficients: Option<&'x Coefficients>,
    /// What it is charged with: nothing, or so many tokens; `None` when nobody knows.
    burned: Option<Burned>,
    booked: Option<Attempted>,
    cost: Option<Usd>,
}

#[derive(Clone, Copy)]
enum Burned {
    Nothing,
    Tokens(TokenCounts),
}

impl<'x> Ledger<'x> {
    fn of(x: &'x Exchange, tokens: &Tokens, ran: Option<&'x Ran>) -> Self {
        let at = |backend: &'x Backend| At { backend, intensity: x.snapshot.intensity(backend, x.wall), ran: None };
        let charged: SmallVec<[Charged<'x>; 2]> = x
            .attempts
            .iter()
            .enumerate()
            .map(|(nth, attempt)| {
                let at = at(x.snapshot.plan.backend(attempt.backend));
                let last = nth + 1 == x.attempts.len();
                let at = match ran.filter(|_| last) {
                    Some(ran) => At { intensity: ran.intensity(), ran: Some(ran), ..at },
                    None => at,
                };
                Charged::of(x, tokens, attempt, at, last)
            })
            .collect();
        // The one that answered, else the one tried last, which is the same: after an answer nobody else is asked.
        let chosen = charged.last().map(|last| last.at);
        let baseline_index = x.decision.as_ref().map(|decision| usize::from(decision.baseline));
        // It would have run where this one did, if it is the same.
        let same = |other: &Backend| chosen.filter(|chosen| chosen.backend.id == other.id);
        let baseline = match baseline_index {
            Some(index) => x.candidates.get(index).map(|c| {
                let backend = x.snapshot.plan.backend(c.backend);
                same(backend).unwrap_or_else(|| at(backend))
            }),
            None => chosen,
        };
        let booked: Option<SmallVec<[Attempted; 2]>> = charged.iter().map(|charged| charged.booked).collect();
        let believed =
            |index: Option<usize>| index.and_then(|it| x.candidates.get(it)).map_or(0, |it| it.estimate.cached_tokens.into());
        let shadow = baseline.map(|baseline| Baseline {
            place: baseline.place(),
            energy: charged.last().zip(baseline_index).and_then(|(last, index)| {
                let (table, tokens) = (coefficients(x, index)?, last.tokens()?);
                let there = at_baseline(tokens, believed(baseline_index));
                // The same machine and the same tokens, as nearly always: the same energy, which need not be summed up again.
                let same = there == tokens && last.coefficients.is_some_and(|own| std::ptr::eq(own, table) || own == table);
                (!same).then(|| table.energy(there))
            }),
        });
        let account = booked.zip(shadow).and_then(|(booked, shadow)| account(&booked, shadow));
        let there = charged.last().and_then(Charged::tokens).filter(|_| answered(x));
        let there = there.map(|tokens| at_baseline(tokens, believed(baseline_index)));
        let prices = baseline_index.and_then(|index| prices(x, index));
        let baseline_usd = prices.map(|prices| there.map_or(Usd::ZERO, |tokens| prices.of(tokens)));
        let usd = charged.iter().map(|charged| charged.cost).try_fold(Usd::ZERO, |sum, cost| Some(sum + cost?));
        let costs = usd.zip(baseline_usd).map(|(usd, baseline_usd)| Costs { usd, baseline_usd });
        Self { charged, account, costs, chosen, baseline }
    }

    /// Whether one attempt was all there was and gave the answer, so that the books of the line are its own, and all that it has.
    fn is_of_one_answer(&self, x: &Exchange) -> bool {
        let ([only], [attempt]) = (&self.charged[..], &x.attempts[..]) else { return false };
        answered(x)
            && attempt.outcome == AttemptOutcome::Answered
            && only.tokens().is_some()
            && only.energy().is_some()
            && self.account.is_some()
            && only.cost.is_some() == self.costs.is_some()
    }
}

impl<'x> Charged<'x> {
    fn of(x: &'x Exchange, tokens: &Tokens, attempt: &Attempt, at: At<'x>, last: bool) -> Self {
        let index = x.candidates.iter().position(|candidate| candidate.backend == attempt.backend);
        let coefficients = index.and_then(|index| coefficients(x, index));
        let estimated = || index.and_then(|index| Some(u64::from(x.candidates.get(index)?.estimate.prompt_tokens)));
        let is_answer = last && answered(x);
        let burned = if burned_nothing(attempt) || x.operation.is_some_and(Operation::runs_no_model) {
            Some(Burned::Nothing)
        } else if is_answer || (last && tokens.output.is_some()) {
            tokens.counts(x).map(Burned::Tokens)
        } else {
            let prompt = tokens.input.or_else(estimated);
            prompt.map(|input| Burned::Tokens(TokenCounts { input, cached: 0, output: 0 }))
        };
        let place = at.place();
        let booked = coefficients.map(|table| match burned {
            Some(Burned::Nothing) => Attempted::refused(place),
            burned => {
                let tokens = burned.and_then(Burned::tokens);
                if is_answer { Attempted::answered(place, table, tokens) } else { Attempted::abandoned(place, table, tokens) }
            }
        });
        let cost = index.and_then(|index| prices(x, index)).zip(burned).map(|(prices, burned)| match burned {
            Burned::Nothing => Usd::ZERO,
            Burned::Tokens(tokens) => prices.of(tokens),
        });
        Self { at, coefficients, burned, booked, cost }
    }

    fn tokens(&self) -> Option<TokenCounts> {
        self.burned.and_then(Burned::tokens)
    }

    fn energy(&self) -> Option<EnergyBand> {
        self.booked.and_then(|booked| booked.energy)
    }
}

impl Burned {
    const fn tokens(self) -> Option<TokenCounts> {
        match self {
            Self::Nothing => None,
            Self::Tokens(tokens) => Some(tokens),
        }
    }
}

/// Whether the model did not run: nothing arrived, the backend refused the work, or it found fault with the request.
fn burned_nothing(attempt: &Attempt) -> bool {
    !attempt.outcome.burned_prompt() || attempt.status.is_some_and(|status| status.is_client_error())
}

/// The coefficients of a candidate, as the estimate had them; none for a call that names no model.
pub(super) fn coefficients(x: &Exchange, candidate: usize) -> Option<&Coefficients> {
    let model = x.model.as_deref()?;
    let deployment = x.deployments.as_ref()?.get(candidate)?;
    Some(deployment.coefficients.as_deref().unwrap_or_else(|| x.snapshot.plan.energy.find(model)))
}

/// What tokens cost at a candidate.
pub(super) fn prices(x: &Exchange, candidate: usize) -> Option<TokenPrices> {
    x.deployments.as_ref()?.get(candidate)?.prices
}

/// Whether anything that its figures rest on was made up. What was sent nowhere is judged by where it might have gone: one of the
/// candidates or, when it was over before there were any, a backend of its route.
fn simulated(x: &Exchange, ledger: &Ledger<'_>) -> bool {
    let made_up = |At { backend, intensity, .. }: &At<'_>| {
        backend.simulated || intensity.is_some_and(|intensity| intensity.quality == Quality::Simulated)
    };
    let might = |candidate: &Candidate| x.snapshot.plan.backend(candidate.backend).simulated;
    let route = || x.candidates.is_empty() && x.route().is_some_and(|route| route.simulated);
    ledger.charged.iter().any(|charged| made_up(&charged.at))
        || ledger.baseline.as_ref().is_some_and(made_up)
        || (ledger.charged.is_empty() && (x.candidates.iter().any(might) || route()))
}

/// All but the two lists, which are written as they are made.
fn record<'x>(x: &'x Exchange, now: Instant, tokens: &Tokens, ledger: &Ledger<'x>) -> AccessRecord<'x> {
    let route = x.route();
    let policy = x.policy();
    let budget = budget_of(x);
    let last = ledger.charged.last();
    let total = Millis::from(now - x.begun);
    let first_token = x.first_token.map(|at| Millis::from(at - x.begun));
    let waited = if x.streamed { first_token } else { answered(x).then_some(total) };
    AccessRecord {
        time: x.wall,
        instance: Text::from(&*x.shared.log.identity().instance),
        run: Text::from(&*x.shared.log.identity().run),
        seq: 0,
        generation: x.snapshot.generation,
        id: Text::from(x.id.as_str()),
        client_request_id: x.client_request_id.as_ref().map(text),
        provider_request_id: x.provider_request_id.as_ref().map(text),
        route: route.map(|route| Text::from(&*route.name)),
        policy: policy.map(|policy| Text::from(&*policy.name)),
        narrowed: x.narrowed.as_ref().map(|narrowed| narrowed.used()),
        key: x.key().filter(|_| x.key_is == Proof::Shown).map(|key| Text::from(&*key.name)),
        method: Text::from(x.method.as_str()),
        path: Text::from(x.path.path()),
        status: x.has_answered().then_some(x.status.as_u16()),
        request_bytes: Some(x.bytes_taken()).filter(|bytes| x.operation.is_some() || *bytes > 0),
        response_bytes: Some(x.response_bytes),
        operation: x.operation.map(|operation| Text::from(operation.name())),
        model: x.model.as_deref().map(Text::from),
        response_model: x.response_model.as_deref().and_then(|name| std::str::from_utf8(name).ok()).map(Text::from),
        stream: x.streamed,
        backend: ledger.chosen.map(|at| Text::from(&*at.backend.name)),
        region: ledger.chosen.map(|at| Text::from(&*at.backend.region)),
        grid_zone: ledger.chosen.and_then(|at| at.grid_zone(x)),
        placement: ledger.chosen.map(|at| at.ran.map_or(at.backend.placement.kind, |ran| ran.kind)),
        placement_evidence: x.evidence.as_deref().map(Text::from),
        decision: decision_used(x),
        shadow: shadow::used(x),
        carbon: ledger.chosen.zip(ledger.baseline).map(|(chosen, baseline)| Carbon {
            chosen: chosen.carbon_used(x),
            baseline: (baseline.backend.id != chosen.backend.id).then(|| baseline.carbon_used(x)),
        }),
        input_tokens: tokens.input,
        output_tokens: tokens.output,
        cached_input_tokens: tokens.cached,
        reasoning_tokens: tokens.reasoning,
        usage_source: tokens.source,
        input_tokens_source: tokens.input_source,
        energy: last
            .and_then(|last| last.energy().zip(last.coefficients))
            .map(|(energy, table)| EnergyUsed::of(Text::from(&*table.id), table.quality, &energy)),
        emissions: ledger.account.as_ref().map(Emissions::from),
        cost: ledger.costs,
        attempts: Vec::new(),
        first_token_ms: first_token,
        total_ms: total,
        backend_time: backend_time(x, now),
        budget_ms: budget,
        within_budget: budget.zip(waited).map(|(budget, waited)| waited <= budget),
        overhead_us: Some(x.overhead_us),
        ended: x.ended,
        error: x.error.map(Text::from),
        simulated: simulated(x, ledger),
    }
}

/// The latency budget of the request, which is the same wherever it is served.
fn budget_of(x: &Exchange) -> Option<Millis> {
    let (policy, demand) = x.policy().zip(x.demand)?;
    let prompt_tokens = x.candidates.first()?.estimate.prompt_tokens;
    policy.budget?.of(demand.streamed, prompt_tokens)
}

fn attempts_used<'l>(x: &'l Exchange, ledger: &'l Ledger<'_>) -> impl Iterator<Item = AttemptUsed<'l>> {
    // The record has that of the last one.
    let before = x.attempts.len().saturating_sub(1);
    let id_of = move |nth: usize, attempt: &Attempt| {
        let mut ids = x.ids_before.iter().filter(|_| nth < before);
        ids.find(|(backend, _)| *backend == attempt.backend).map(|(_, id)| text(id))
    };
    let line_has_books = ledger.is_of_one_answer(x);
    x.attempts.iter().zip(&ledger.charged).enumerate().map(move |(nth, (attempt, charged))| {
        let charged = Some(charged).filter(|_| !line_has_books);
        let tokens = charged.and_then(Charged::tokens);
        AttemptUsed {
            backend: Text::from(&*x.snapshot.plan.backend(attempt.backend).name),
            outcome: Text::from(attempt.outcome.as_str()),
            status: attempt.status.map(|status| status.as_u16()),
            provider_request_id: id_of(nth, attempt),
            begun_ms: (before > 0).then(|| Millis::from(attempt.begun.saturating_duration_since(x.begun)).rounded()),
            ms: Millis::from(attempt.ended - attempt.begun),
            input_tokens: tokens.map(|tokens| tokens.input),
            cached_input_tokens: tokens.map(|tokens| tokens.cached).filter(|cached| *cached > 0),
            output_tokens: tokens.map(|tokens| tokens.output),
            coefficient: charged.and_then(|it| it.coefficients).map(|table| Text::from(&*table.id)),
            joules: charged.and_then(Charged::energy).map(|energy| energy.mid()),
            pue: charged.map(|it| it.at.pue()),
            intensity_g_per_kwh: charged.and_then(|it| it.at.intensity).map(|intensity| intensity.value),
            grams: charged.and_then(|it| it.booked).and_then(|booked| booked.grams()).map(|[_, mid, _]| mid),
            cost_usd: charged.and_then(|it| it.cost),
        }
    })
}

fn text(value: &http::HeaderValue) -> Text<'_> {
    Text::from(value.to_str().unwrap_or("(not text)"))
}
