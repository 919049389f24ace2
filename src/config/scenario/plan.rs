//! The scenario as meant.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::config::Problem;
use crate::config::decode::words;
use crate::cost::TokenPrices;
use crate::fleet::{Day, Noise, Share, Size, Spec, Spread};
use crate::grid::GridZone;
use crate::units::{JoulesPerToken, Millis, Pue};

/// What `windward simulate` plays.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A directory with recorded grids and traces.
    pub data: Option<Said<PathBuf>>,
    /// The first hour of the grids' data.
    pub from: Timestamp,
    /// How many hours of the grids are played.
    pub hours: f64,
    /// How long one of them lasts.
    pub carbon_hour: Duration,
    /// So much of the beginning is not scored.
    pub warm_up: Duration,
    /// One run each.
    pub seeds: Vec<u64>,
    /// Proxies that share the traffic.
    pub proxies: u16,
    /// What they tell each other.
    pub exchange: Option<Exchanged>,
    /// The regions, the home of the clients first.
    pub regions: Vec<RegionPlan>,
    /// What a token costs.
    pub energy: Energy,
    /// Who asks how much.
    pub traffic: Traffic,
    /// Kinds of requests; their shares sum to 1.
    pub classes: Vec<Class>,
    /// How wrong the router's figures are.
    pub errors: Errors,
    /// Load of other tenants.
    pub tenants: Option<Tenants>,
    /// What happens when, in the file's order.
    pub events: Vec<Event>,
    /// What is compared.
    pub policies: Vec<Settings>,
}

impl Scenario {
    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        self.carbon_hour.mul_f64(self.hours)
    }
}

/// What a file says, and where it does: what is found wrong with it later is said of that place.
#[derive(Clone, Debug)]
pub struct Said<T> {
    /// What.
    pub value: T,
    /// A problem with it, of which nothing but the place is known.
    place: Box<Problem>,
}

impl<T> Said<T> {
    pub(super) fn new(value: T, place: Problem) -> Self {
        Self { value, place: Box::new(place) }
    }

    /// That something is wrong with it, and how to mend that.
    pub fn problem(&self, message: String, mend: &str) -> Box<Problem> {
        let mut problem = self.place.clone();
        problem.message = message;
        problem.mend = Some(mend.to_owned());
        problem
    }
}

/// How proxies tell each other what they have and know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exchanged {
    /// Between two messages on what is in flight.
    pub fast: Duration,
    /// Between two on what was learned.
    pub slow: Duration,
    /// The share that is lost.
    pub loss: Share,
    /// How long one is under way in the mean.
    pub delay: Duration,
}

/// A region of the scenario.
#[derive(Clone, Debug)]
pub struct RegionPlan {
    /// How it answers; its noise is the scenario's.
    pub spec: Spec,
    /// Its grid zone.
    pub zone: GridZone,
    /// A table of its hours, before [`Scenario::data`].
    pub intensity: Option<Said<PathBuf>>,
    /// Its day where there is no data.
    pub day: Day,
    /// What its building adds.
    pub pue: Pue,
    /// Whether requests with a rule of residency may go there.
    pub resident: bool,
    /// What the router is told that it takes at once.
    pub declared: u32,
    /// What the router is told that its tokens cost.
    pub prices: Option<TokenPrices>,
}

/// What a token costs at the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Energy {
    /// A prompt token.
    pub input: JoulesPerToken,
    /// A prompt token out of a cache.
    pub cached: JoulesPerToken,
    /// A generated token.
    pub output: JoulesPerToken,
}

/// Who asks how much.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Requests a second, as a mean over a day.
    pub per_second: f64,
    /// Height of the wave of one day.
    pub wave: f64,
    /// Height of the wave of half a day.
    pub half_day_wave: f64,
    /// Hours that the clients are ahead of UTC.
    pub utc_offset_hours: f64,
    /// Spread of the bursts and their memory.
    pub bursts: Option<(f64, Duration)>,
    /// The share that has a rule of residency.
    pub resident: Share,
    /// Lengths of a recording, below [`Scenario::data`].
    pub trace: Option<Said<PathBuf>>,
    /// Requests that are not drawn at all.
    pub arrivals: Option<Said<PathBuf>>,
    /// Prompt tokens where there is none.
    pub prompt: Size,
    /// Generated tokens where there is none.
    pub output: Size,
    /// Bytes of a request for each prompt token.
    pub bytes_per_token: f64,
    /// Spread of that.
    pub bytes_spread: Spread,
    /// Conversations.
    pub sessions: Option<Sessions>,
}

/// Conversations: a region that served the turn before skips most of the prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sessions {
    /// The share of requests that are turns of one.
    pub share: Share,
    /// The mean number of turns.
    pub turns: f64,
    /// The mean pause between two.
    pub pause: Duration,
    /// The share of the prompt that a warm region skips.
    pub skipped: Share,
    /// How long a region stays warm.
    pub ttl: Duration,
}

/// A kind of requests.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: Arc<str>,
    /// Its share of the requests.
    pub share: f64,
    /// Budget to the first token.
    pub first_token: Millis,
    /// What it has more for each prompt token.
    pub per_prompt_token: Millis,
    /// Budget for each generated token.
    pub per_output_token: Millis,
    /// Settings of its policies.
    pub policy: Map<String, Value>,
}

/// How wrong the router's figures are: spreads of log-normal factors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Errors {
    /// Of the energy, one for each region.
    pub energy: Spread,
    /// Of the readings, one for each hour and region.
    pub carbon: Spread,
}

/// Requests of others in a region's batch, as a share of its slots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tenants {
    /// Their mean share.
    pub mean: f64,
    /// The standard deviation of the share.
    pub spread: f64,
    /// After this long two values have 1/e in common.
    pub correlation: Duration,
}

/// Something that happens for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub until: Duration,
    /// Where, as an index; everywhere when `None`.
    pub region: Option<usize>,
    /// What.
    pub change: Changes,
}

/// What is different while an event lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Changes {
    /// All work takes so many times as long.
    pub slow: f64,
    /// Nobody answers.
    pub down: bool,
    /// So many replicas are left.
    pub replicas: Option<std::num::NonZeroU16>,
    /// The share of requests that are answered with 500.
    pub error_rate: Share,
    /// Others take this share of the slots.
    pub tenants: f64,
    /// No new readings come.
    pub stale: bool,
    /// So many times the requests.
    pub crowd: f64,
}

/// A part of the decision that a policy under comparison does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ablation {
    /// Scarce capacity has no price.
    NoPrice,
    /// A price counts however empty the backend is, and never for more than it is.
    FlatPrice,
    /// Predictions are believed whatever share of answers was late.
    NoErrorBudget,
    /// Limits are a share of what was declared, whatever is learned.
    FixedLimits,
    /// No limit is learned or kept to but that of the first token's budget.
    NoLimits,
    /// The queue is guessed from the number of requests in flight, not from prompt tokens that wait.
    QueueByCount,
    /// No conversation is known again.
    NoAffinity,
    /// All answers of a route are expected to be as long.
    OneAnswerLength,
    /// No belief fades that nothing confirms.
    NoDoubt,
    /// Nobody is held back: who would be is refused at once.
    NoHold,
    /// Nobody is held back or refused: the least late backend gets it.
    NoShed,
    /// No place in time is kept free of anybody.
    NoReserve,
    /// Nobody is sent beyond a limit that was learned.
    NoStrain,
    /// Limits and prices are made every 5 seconds.
    Tick5s,
    /// They are made every 15.
    Tick15s,
}

words! {
    Ablation: "ablation" {
        "no_price" => Self::NoPrice,
        "flat_price" => Self::FlatPrice,
        "no_error_budget" => Self::NoErrorBudget,
        "fixed_limits" => Self::FixedLimits,
        "no_limits" => Self::NoLimits,
        "queue_by_count" => Self::QueueByCount,
        "no_affinity" => Self::NoAffinity,
        "one_answer_length" => Self::OneAnswerLength,
        "no_doubt" => Self::NoDoubt,
        "no_hold" => Self::NoHold,
        "no_shed" => Self::NoShed,
        "no_reserve" => Self::NoReserve,
        "no_strain" => Self::NoStrain,
        "tick_5s" => Self::Tick5s,
        "tick_15s" => Self::Tick15s,
    }
}

/// A policy under comparison, in the configuration's own words.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its name in the output.
    pub name: Arc<str>,
    /// What it does without.
    pub ablate: Vec<Ablation>,
    /// Everything else.
    pub settings: Map<String, Value>,
}

/// What stands where a scenario says nothing.
pub(super) fn noise() -> Noise {
    Noise { token: Spread::default(), ..Noise::default() }
}
