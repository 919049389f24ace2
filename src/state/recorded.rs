//! What a record says of a candidate and of a grid: the same words whoever writes it, be it the proxy, a simulation or `explain`.

use jiff::Timestamp;

use super::Snapshot;
use crate::backend::Backend;
use crate::cost::TokenPrices;
use crate::decide::{Candidate, Verdict};
use crate::grid::{self, Freshness, Intensity, Quality};
use crate::policy::{Objective, Policy};
use crate::record::{CandidateUsed, CarbonUsed, DecisionUsed, Text};
use crate::tables::Coefficients;
use crate::units::{Grams, Millis};

impl Snapshot {
    /// A candidate with the numbers that led to its verdict. `intensity` is that of its grid at the decision, which was at `wall`. What is
    /// `said` of all of them is left out, as [`DecisionUsed::said_once`] does: afterwards, each would be copied for it.
    pub fn candidate_used<'a>(
        &'a self,
        candidate: &Candidate,
        verdict: Verdict,
        (intensity, wall): (Option<Intensity<'_>>, Timestamp),
        (coefficients, prices): (Option<&'a Coefficients>, Option<TokenPrices>),
        policy: &Policy,
        said: Option<&DecisionUsed<'_>>,
    ) -> CandidateUsed<'a> {
        let (backend, estimate) = (self.plan.backend(candidate.backend), &candidate.estimate);
        let some = |grams: Grams| Some(grams).filter(|grams| *grams > Grams::ZERO);
        let paced = policy.budget.is_some_and(|budget| budget.per_output_token.is_some());
        let unsaid = |tokens: u32, said: Option<u32>| Some(tokens).filter(|tokens| said != Some(*tokens));
        let said_table = said.and_then(|said| said.coefficient.as_deref());
        let table = coefficients.map(|table| &*table.id).filter(|id| said_table != Some(*id));
        CandidateUsed {
            backend: Text::from(&*backend.name),
            region: None,
            grid_zone: self.zone_used(backend, intensity),
            verdict: Text::from(verdict.as_str()),
            by: verdict.by(),
            first_token_ms: Some(estimate.first_token),
            queue_ms: Some(estimate.queue.rounded()).filter(|queue| *queue > Millis::ZERO),
            total_ms: Some(estimate.total),
            input_tokens: unsaid(estimate.prompt_tokens, said.and_then(|said| said.input_tokens)),
            cached_input_tokens: Some(estimate.cached_tokens).filter(|cached| *cached > 0),
            output_tokens: unsaid(estimate.output_tokens, said.and_then(|said| said.output_tokens)),
            coefficient: table.map(Text::from),
            pue: Some(backend.pue),
            intensity_g_per_kwh: estimate.intensity,
            // How old the mean of a year is says nothing.
            intensity_age_s: intensity
                .filter(|intensity| intensity.quality != Quality::Yearly)
                .map(|intensity| grid::age(intensity.reading, wall).as_secs()),
            freshness: intensity.map(|intensity| intensity.freshness).filter(|freshness| *freshness != Freshness::Fresh),
            grams: estimate.emissions,
            price_usd_per_million_tokens: prices,
            cost_usd: estimate.cost,
            cost_grams: estimate.cost.map(|cost| policy.grams_for(cost)).and_then(some),
            waiting_grams: some(policy.grams_for_waiting(estimate.first_token)),
            price_grams: some(estimate.price),
            per_output_token_ms: paced.then_some(estimate.per_output_token),
            in_flight: estimate.in_flight,
            limit: Some(estimate.limit),
            weight: (policy.objective == Objective::Weighted).then_some(candidate.weight),
        }
    }

    /// What was known of a backend's grid at `wall`.
    pub fn carbon_used<'a>(&'a self, backend: &Backend, intensity: Option<Intensity<'a>>, wall: Timestamp) -> CarbonUsed<'a> {
        let reading = intensity.map(|intensity| intensity.reading);
        CarbonUsed {
            grid_zone: self.zone_used(backend, intensity),
            intensity_g_per_kwh: intensity.map(|intensity| intensity.value),
            intensity_low_g_per_kwh: intensity.and_then(|_| self.lowest_intensity(backend, wall)),
            signal: reading.map(|reading| reading.signal),
            basis: reading.map(|reading| reading.basis),
            quality: intensity.map(|intensity| intensity.quality),
            freshness: intensity.map(|intensity| intensity.freshness),
            source: reading.map(|reading| Text::from(&*reading.source)),
            measured_at: reading.map(|reading| reading.measured_at),
            age_s: reading.map(|reading| grid::age(reading, wall).as_secs()),
            pue: Some(backend.pue),
        }
    }

    /// The grid zone that a backend is judged by: of those it may run in, the one whose intensity counts.
    pub fn zone_used(&self, backend: &Backend, intensity: Option<Intensity<'_>>) -> Option<Text<'_>> {
        let id = intensity.map(|intensity| intensity.zone).or_else(|| match &backend.placement.zones[..] {
            [only] => Some(*only),
            _ => None,
        })?;
        self.plan.zones.get(usize::from(id.0)).map(|zone| Text::from(zone.as_str()))
    }
}
