//! The running sums. They only grow, so that a log of any length is read once.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sketches_ddsketch::{Config, DDSketch};

use super::completeness::Runs;
use super::figures::Cost;
use super::lines::BadLine;
use crate::grid::{Basis, Signal};
use crate::record::{AccessRecord, CandidateUsed, Emissions, Ended, ShadowUsed, UsageSource};
use crate::units::Grams;

/// Groups kept for one dimension of one section; what comes later goes to [`OTHER`]. Ten thousand models or backends are more than
/// any table shows, and a client that invents model names must not fill the memory.
const MAX_GROUPS: usize = 10_000;
/// Longest name of a group, in characters.
const MAX_NAME: usize = 120;
/// Bad lines that are named.
pub(super) const MAX_NAMED: usize = 8;
/// First tokens later than a day are counted as a day, so that one absurd value cannot spoil the sketch.
const LONGEST_MS: f64 = 86_400_000.0;
/// How far `saved_grams` may be from `baseline_grams - grams` before the line is said to contradict itself, relative to the larger
/// of the two: decimal text may cost the last bit and no more.
const ROUNDING: f64 = 1e-9;

/// Group of what is beyond the limit.
pub(super) const OTHER: &str = "(other)";
/// Group of what has no value in the dimension.
pub(super) const NONE: &str = "(none)";

/// What a report can be broken down by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Day of the request's arrival, UTC.
    Day,
    /// Model by the client's name.
    Model,
    /// Route.
    Route,
    /// Backend that answered or was tried last.
    Backend,
    /// Name of the client's key.
    Key,
}

impl Dimension {
    /// Each of them, in the report's order.
    pub const ALL: [Self; 5] = [Self::Day, Self::Model, Self::Route, Self::Backend, Self::Key];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Model => "model",
            Self::Route => "route",
            Self::Backend => "backend",
            Self::Key => "key",
        }
    }

    fn of(self, record: &AccessRecord<'_>) -> String {
        let text = match self {
            Self::Day => return record.time.to_zoned(TimeZone::UTC).date().to_string(),
            Self::Model => &record.model,
            Self::Route => &record.route,
            Self::Backend => &record.backend,
            Self::Key => &record.key,
        };
        text.as_deref().map_or_else(|| NONE.to_owned(), |text| text.chars().take(MAX_NAME).collect())
    }
}

/// What a gram of one section means: grams of two kinds are never added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Average or marginal.
    pub signal: Signal,
    /// What is counted.
    pub basis: Basis,
}

impl Kind {
    /// The kind of a record's grams; `None` when it does not say or when its two intensities differ in kind.
    fn of(record: &AccessRecord<'_>) -> Option<Self> {
        let carbon = record.carbon.as_ref()?;
        let kind = Self { signal: carbon.chosen.signal?, basis: carbon.chosen.basis? };
        let differs = carbon.at_baseline().signal.is_some_and(|signal| signal != kind.signal)
            || carbon.at_baseline().basis.is_some_and(|basis| basis != kind.basis);
        (!differs).then_some(kind)
    }

    /// The words: `average`, `lifecycle`.
    pub const fn words(self) -> (&'static str, &'static str) {
        let signal = match self.signal {
            Signal::Average => "average",
            Signal::Marginal => "marginal",
        };
        let basis = match self.basis {
            Basis::Lifecycle => "lifecycle",
            Basis::Direct => "direct",
        };
        (signal, basis)
    }
}

/// Everything that was read so far.
#[derive(Default)]
pub struct Summary {
    pub(super) logs: u64,
    pub(super) records: u64,
    pub(super) bad: u64,
    pub(super) named: Vec<BadLine>,
    pub(super) runs: Runs,
    /// What can be claimed.
    pub(super) real: Sums,
    /// What was made up.
    pub(super) simulated: Sums,
}

impl Summary {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one record, unless it has been added before.
    pub fn add(&mut self, record: &AccessRecord<'_>) {
        self.records += 1;
        if self.runs.note(&record.instance, &record.run, record.seq) {
            let sums = if record.is_simulated() { &mut self.simulated } else { &mut self.real };
            sums.add(record);
        }
    }

    pub(super) fn begin_log(&mut self) {
        self.logs += 1;
    }

    pub(super) fn add_bad(&mut self, log: &str, line: u64, why: &'static str) {
        self.bad += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(BadLine { log: log.to_owned(), line, why });
        }
    }
}

/// Sums of the records that may be added to one another, grams apart by kind.
pub(super) struct Sums {
    pub(super) requests: u64,
    pub(super) period: Option<(Timestamp, Timestamp)>,
    pub(super) ended: BTreeMap<Ended, u64>,
    /// Requests, input tokens and output tokens by where the counts come from.
    pub(super) tokens: BTreeMap<UsageSource, (u64, u64, u64)>,
    pub(super) first_token_ms: DDSketch,
    pub(super) within_budget: u64,
    pub(super) judged_by_budget: u64,
    pub(super) cost: Option<Cost>,
    /// Requests for which no model ran, and which so emitted nothing.
    pub(super) without_work: u64,
    /// Requests whose grams are unknown.
    pub(super) without_grams: u64,
    /// Requests that give grams and not what they mean, or two meanings at once.
    pub(super) without_kind: u64,
    /// Requests whose saving is not the difference of their own grams.
    pub(super) contradictory: u64,
    /// Of the requests that were sent nowhere, by the names of shadow policies.
    pub(super) unserved: BTreeMap<String, Unserved>,
    pub(super) sections: Vec<(Kind, Sectioned)>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            requests: 0,
            period: None,
            ended: BTreeMap::new(),
            tokens: BTreeMap::new(),
            first_token_ms: DDSketch::new(Config::defaults()),
            within_budget: 0,
            judged_by_budget: 0,
            cost: None,
            without_work: 0,
            without_grams: 0,
            without_kind: 0,
            contradictory: 0,
            unserved: BTreeMap::new(),
            sections: Vec::new(),
        }
    }
}

impl Sums {
    fn add(&mut self, record: &AccessRecord<'_>) {
        self.requests += 1;
        let (first, last) = self.period.unwrap_or((record.time, record.time));
        self.period = Some((first.min(record.time), last.max(record.time)));
        *self.ended.entry(record.ended).or_default() += 1;
        let tokens = self.tokens.entry(record.usage_source).or_default();
        tokens.0 += 1;
        tokens.1 = tokens.1.saturating_add(record.input_tokens.unwrap_or(0));
        tokens.2 = tokens.2.saturating_add(record.output_tokens.unwrap_or(0));
        // Of an answer that is not streamed the first byte is nearly the last one, and says nothing of a first token.
        if let Some(first_token) = record.first_token_ms.filter(|_| record.stream) {
            self.first_token_ms.add(first_token.get().min(LONGEST_MS));
        }
        if let Some(within) = record.within_budget {
            self.judged_by_budget += 1;
            self.within_budget += u64::from(within);
        }
        if let Some(costs) = &record.cost {
            let cost = self.cost.get_or_insert(Cost { requests: 0, usd: 0.0, baseline_usd: 0.0 });
            cost.requests += 1;
            cost.usd += costs.usd.get();
            cost.baseline_usd += costs.baseline_usd.get();
        }
        if let Some(shadow) = record.shadow.as_ref().filter(|_| chosen(record).is_none()) {
            of_policy(&mut self.unserved, shadow).add(shadow);
        }
        self.add_grams(record);
    }

    fn add_grams(&mut self, record: &AccessRecord<'_>) {
        let Some(emissions) = &record.emissions else {
            // What was sent nowhere burned nothing, and that is known.
            let counter = if record.attempts.is_empty() { &mut self.without_work } else { &mut self.without_grams };
            *counter += 1;
            return;
        };
        let Some(kind) = Kind::of(record) else {
            let [[.., high], [.., baseline_high]] = [emissions.emitted(), emissions.at_baseline()];
            let anything = high > Grams::ZERO || baseline_high > Grams::ZERO;
            let counter = if anything { &mut self.without_kind } else { &mut self.without_work };
            *counter += 1;
            return;
        };
        self.contradictory += u64::from(contradicts_itself(emissions));
        let at = self.sections.iter().position(|(other, _)| *other == kind).unwrap_or_else(|| {
            self.sections.push((kind, Sectioned::default()));
            self.sections.len() - 1
        });
        if let Some((_, section)) = self.sections.get_mut(at) {
            section.add(record, emissions);
        }
    }
}

fn contradicts_itself(emissions: &Emissions) -> bool {
    let (grams, baseline) = (emissions.grams.get(), emissions.baseline_grams.get());
    let tolerance = grams.max(baseline) * ROUNDING;
    (baseline - grams - emissions.saved_grams.get()).abs() > tolerance || emissions.waste_grams.get() > grams + tolerance
}

/// Sums of one kind of grams.
#[derive(Debug, Default)]
pub(super) struct Sectioned {
    pub(super) total: Tally,
    pub(super) groups: [HashMap<String, Tally>; Dimension::ALL.len()],
    /// Requests by freshness and quality of the intensity at the chosen place, and by quality of the energy.
    pub(super) freshness: BTreeMap<&'static str, u64>,
    pub(super) quality: BTreeMap<&'static str, u64>,
    pub(super) energy: BTreeMap<&'static str, u64>,
    /// By the names of shadow policies.
    pub(super) shadows: BTreeMap<String, Shadowed>,
}

/// What a shadow policy would have made of requests that were sent nowhere, which have no grams.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unserved {
    pub(super) requests: u64,
    /// Of these, those that it would have sent to somebody, ..
    pub(super) sent: u64,
    /// .. and those that it would have held back at first. It would have refused the others.
    pub(super) held: u64,
}

impl Unserved {
    fn add(&mut self, shadow: &ShadowUsed<'_>) {
        self.requests += 1;
        self.sent += u64::from(shadow.backend.is_some());
        self.held += u64::from(shadow.backend.is_none() && &*shadow.reason == ShadowUsed::HELD);
    }
}

/// Who was chosen.
fn chosen<'r>(record: &'r AccessRecord<'_>) -> Option<&'r CandidateUsed<'r>> {
    record.decision.as_ref()?.candidates.iter().find(|it| &*it.verdict == "chosen")
}

/// The sums of a shadow's policy: of so many names, and of all others together.
fn of_policy<'s, T: Default>(sums: &'s mut BTreeMap<String, T>, shadow: &ShadowUsed<'_>) -> &'s mut T {
    let name: String = shadow.policy.chars().take(MAX_NAME).collect();
    let name = if sums.len() < MAX_GROUPS || sums.contains_key(&name) { name } else { OTHER.to_owned() };
    sums.entry(name).or_default()
}

/// What a shadow policy would have chosen, added up over the requests that it was asked about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shadowed {
    /// Requests for which what was chosen and what it would have chosen both have predicted grams.
    pub(super) requests: u64,
    /// Of these, those that it would have sent elsewhere.
    pub(super) elsewhere: u64,
    /// Requests that it would have refused, which are not among them.
    pub(super) refused: u64,
    /// And those that it would have held back at first.
    pub(super) held: u64,
    /// Grams as predicted of what was chosen, and of what it would have chosen.
    pub(super) grams: [f64; 2],
}

impl Shadowed {
    fn add(&mut self, shadow: &ShadowUsed<'_>, chosen: &CandidateUsed<'_>) {
        let Some(backend) = &shadow.backend else {
            let counted = if &*shadow.reason == ShadowUsed::HELD { &mut self.held } else { &mut self.refused };
            *counted += 1;
            return;
        };
        if let (Some(own), Some(other)) = (chosen.grams, shadow.grams) {
            self.requests += 1;
            self.elsewhere += u64::from(*backend != chosen.backend);
            for (sum, grams) in self.grams.iter_mut().zip([own, other]) {
                *sum += grams.get();
            }
        }
    }
}

impl Sectioned {
    fn add(&mut self, record: &AccessRecord<'_>, emissions: &Emissions) {
        self.total.add(record, emissions);
        for (dimension, groups) in Dimension::ALL.into_iter().zip(&mut self.groups) {
            let name = dimension.of(record);
            let name = if groups.len() < MAX_GROUPS || groups.contains_key(&name) { name } else { OTHER.to_owned() };
            groups.entry(name).or_default().add(record, emissions);
        }
        if let Some((shadow, chosen)) = record.shadow.as_ref().zip(chosen(record)) {
            of_policy(&mut self.shadows, shadow).add(shadow, chosen);
        }
        let chosen = record.carbon.as_ref().map(|carbon| &carbon.chosen);
        *self.freshness.entry(words::freshness(chosen.and_then(|used| used.freshness))).or_default() += 1;
        *self.quality.entry(words::quality(chosen.and_then(|used| used.quality))).or_default() += 1;
        *self.energy.entry(words::energy(record.energy.as_ref().map(|energy| energy.quality))).or_default() += 1;
    }
}

/// Sums of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) complete: u64,
    /// Low, mid and high end of the energy band, in grams.
    pub(super) grams: [f64; 3],
    pub(super) baseline: [f64; 3],
    pub(super) waste: f64,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
}

impl Tally {
    fn add(&mut self, record: &AccessRecord<'_>, emissions: &Emissions) {
        self.requests += 1;
        self.complete += u64::from(record.ended == Ended::Complete);
        let grams = emissions.emitted();
        let baseline = emissions.at_baseline();
        for (sum, more) in self.grams.iter_mut().zip(grams).chain(self.baseline.iter_mut().zip(baseline)) {
            *sum += more.get();
        }
        self.waste += emissions.waste_grams.get();
        self.input_tokens = self.input_tokens.saturating_add(record.input_tokens.unwrap_or(0));
        self.output_tokens = self.output_tokens.saturating_add(record.output_tokens.unwrap_or(0));
    }
}

/// The log's words for how much a figure is worth.
mod words {
    use crate::grid::{Freshness, Quality};
    use crate::tables::EnergyQuality;

    const UNSTATED: &str = "unstated";

    pub(super) const fn freshness(freshness: Option<Freshness>) -> &'static str {
        match freshness {
            Some(Freshness::Fresh) => "fresh",
            Some(Freshness::Stale) => "stale",
            Some(Freshness::Assumed) => "assumed",
            None => UNSTATED,
        }
    }

    pub(super) const fn quality(quality: Option<Quality>) -> &'static str {
        match quality {
            Some(Quality::Measured) => "measured",
            Some(Quality::Estimated) => "estimated",
            Some(Quality::Forecast) => "forecast",
            Some(Quality::Blended) => "blended",
            Some(Quality::Climatology) => "climatology",
            Some(Quality::Yearly) => "yearly",
            Some(Quality::Simulated) => "simulated",
            None => UNSTATED,
        }
    }

    pub(super) const fn energy(quality: Option<EnergyQuality>) -> &'static str {
        match quality {
            Some(EnergyQuality::Metered) => "metered",
            Some(EnergyQuality::A) => "A",
            Some(EnergyQuality::B) => "B",
            Some(EnergyQuality::C) => "C",
            None => UNSTATED,
        }
    }
}
