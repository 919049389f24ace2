//! The scenario as written. Every key may be left out, because a file may extend another one.

use serde_json::{Map, Value as Json};

use super::plan::Ablation;
use crate::config::choices::PricesFile;
use crate::config::decode::{At, Decode, Filled, Problems, section};
use crate::config::file::PolicyFile;
use crate::config::node::{Entry, Node, Value};
use crate::config::values::Span;

section! {
    /// A scenario.
    struct ScenarioFile {
        /// A file whose keys stand where this one has none; relative to this one.
        extends: Option<At<String>>,
        /// A directory with `carbon/ZONE.csv.gz` and the traces; without it made-up days and lengths are used.
        data: Option<At<String>>,
        /// The first hour of the grids' data.
        from: Option<At<String>>,
        /// How many hours of the grids are played.
        hours: Option<At<f64>>,
        /// How long one of them lasts.
        carbon_hour: Option<At<Span>>,
        /// So much of the beginning is not scored.
        warm_up: Option<At<Span>>,
        /// One run each.
        seeds: Option<Filled<At<u64>>>,
        /// Proxies that share the traffic.
        proxies: Option<At<u64>>,
        /// What they tell each other; nothing when left out.
        exchange: Option<ExchangeFile>,
        /// The regions, the home of the clients first.
        regions: Option<Filled<RegionFile>>,
        /// How far single draws stray.
        noise: Option<NoiseFile>,
        /// What a token costs in truth, and what the router is told.
        energy: Option<EnergyFile>,
        /// Who asks how much.
        traffic: Option<TrafficFile>,
        /// Kinds of requests.
        classes: Option<Filled<ClassFile>>,
        /// How wrong the router's figures are.
        errors: Option<ErrorsFile>,
        /// Load of other tenants, which nobody is told of.
        tenants: Option<TenantsFile>,
        /// What happens when.
        events: Option<Vec<EventFile>>,
        /// What is compared.
        policies: Option<Filled<Settings>>,
    }

    /// What proxies tell each other, as under `peers` in the configuration.
    struct ExchangeFile {
        /// Between two messages on what is in flight; 20 ms when left out.
        fast: Option<At<Span>>,
        /// Between two on what was learned; 500 ms when left out.
        slow: Option<At<Span>>,
        /// The share of messages that are lost.
        loss: Option<At<f64>>,
        /// How long one is under way in the mean.
        delay: Option<At<Span>>,
    }

    /// A region.
    struct RegionFile {
        /// Its name in the output.
        name: At<String>,
        /// Its grid zone.
        grid_zone: At<String>,
        /// A table of its hours, `datetime_utc,carbon_intensity_g_per_kwh`, gzip or plain; before `data`.
        intensity: Option<At<String>>,
        /// Its day where there is no data.
        grid: Option<DayFile>,
        /// The median round trip.
        rtt: At<Span>,
        /// Identical replicas.
        replicas: At<u64>,
        /// Power usage effectiveness.
        pue: Option<At<f64>>,
        /// Whether requests with a rule of residency may go there.
        resident: Option<bool>,
        /// What the router is told that it takes at once; all its slots when left out.
        max_in_flight: Option<At<u64>>,
        /// Requests that one replica keeps resident.
        slots_per_replica: Option<At<u64>>,
        /// Requests that may wait for each replica.
        queue_per_replica: Option<At<u64>>,
        /// How fast one idle replica reads prompts.
        prefill_tokens_per_second: Option<At<f64>>,
        /// One decoding step with nothing in the batch.
        token: Option<At<Span>>,
        /// What each request in the batch adds.
        token_per_request: Option<At<Span>>,
        /// linear, flat_then_linear or steep.
        token_curve: Option<At<String>>,
        /// Of its tokens, for policies that heed dollars; unknown when left out.
        price_usd_per_million_tokens: Option<PricesFile>,
    }

    /// A made-up day.
    struct DayFile {
        /// solar, wind, nuclear, hydro or coal.
        shape: At<String>,
        /// Its mean.
        mean_g_per_kwh: Option<At<f64>>,
        /// Hours ahead of UTC.
        utc_offset_hours: Option<At<f64>>,
    }

    /// Spreads of log-normal factors.
    struct NoiseFile {
        /// Of the round trip.
        rtt: Option<At<f64>>,
        /// Of reading a prompt.
        prefill: Option<At<f64>>,
        /// The share of draws that take two to six times as long.
        spikes: Option<At<f64>>,
    }

    /// Energy at the machine.
    #[expect(clippy::struct_field_names, reason = "they are the keys, spelled as in the configuration")]
    struct EnergyFile {
        /// Joules for a prompt token.
        input_joules_per_token: At<f64>,
        /// Joules for a prompt token out of a cache.
        cached_joules_per_token: Option<At<f64>>,
        /// Joules for a generated token.
        output_joules_per_token: At<f64>,
    }

    /// Who asks how much.
    struct TrafficFile {
        /// Requests a second, as a mean over a day.
        per_second: Option<At<f64>>,
        /// Height of the wave of one day.
        wave: Option<At<f64>>,
        /// Height of the wave of half a day.
        half_day_wave: Option<At<f64>>,
        /// Hours that the clients are ahead of UTC.
        utc_offset_hours: Option<At<f64>>,
        /// Bursts.
        bursts: Option<BurstsFile>,
        /// The share that has a rule of residency.
        resident: Option<At<f64>>,
        /// Lengths of a recording, below `data`: CSV with `timestamp_s,input_tokens,output_tokens`.
        trace: Option<At<String>>,
        /// The requests themselves, in place of rates, waves, bursts and crowds: CSV with `timestamp_s,input_tokens,output_tokens`, and
        /// `class` and `resident` where they are not to be drawn; relative to this file.
        arrivals: Option<At<String>>,
        /// Prompt tokens where there is none.
        prompt: Option<SizeFile>,
        /// Generated tokens where there is none.
        output: Option<SizeFile>,
        /// Bytes of a request for each prompt token.
        bytes_per_token: Option<At<f64>>,
        /// Spread of that.
        bytes_spread: Option<At<f64>>,
        /// Conversations.
        sessions: Option<SessionsFile>,
    }

    /// Log-normal bursts on top of the waves.
    struct BurstsFile {
        /// Spread.
        spread: At<f64>,
        /// After this long two values have 1/e in common.
        correlation: At<Span>,
    }

    /// Log-normal numbers of tokens.
    struct SizeFile {
        /// Half are below.
        median: At<f64>,
        /// Spread.
        spread: At<f64>,
        /// None is above.
        most: At<u64>,
    }

    /// Conversations: each turn sends the one before again, and a region that served it has most of the prompt at hand.
    struct SessionsFile {
        /// The share of requests that are turns of one.
        share: At<f64>,
        /// The mean number of turns.
        turns: Option<At<f64>>,
        /// The mean pause between two.
        pause: Option<At<Span>>,
        /// The share of the prompt that a warm region skips.
        skipped: At<f64>,
        /// How long a region stays warm.
        ttl: Option<At<Span>>,
    }

    /// A kind of requests.
    struct ClassFile {
        /// Its name.
        name: At<String>,
        /// Its share of the requests.
        share: At<f64>,
        /// Budget to the first token.
        first_token: At<Span>,
        /// What it has more for each prompt token.
        per_prompt_token: Option<At<Span>>,
        /// Budget for each generated token.
        per_output_token: At<Span>,
        /// Settings of its policies, in the product's own words.
        policy: Option<Settings>,
    }

    /// How wrong the router's figures are: spreads of log-normal factors.
    struct ErrorsFile {
        /// Of the energy, one for each region.
        energy: Option<At<f64>>,
        /// Of the readings, one for each hour and region.
        carbon: Option<At<f64>>,
    }

    /// Requests of others in a region's batch, as a share of its slots, wandering.
    struct TenantsFile {
        /// Their mean share.
        mean: At<f64>,
        /// The standard deviation of the share.
        spread: At<f64>,
        /// After this long two values have 1/e in common.
        correlation: At<Span>,
    }

    /// Something that happens.
    struct EventFile {
        /// When it begins.
        at: At<Span>,
        /// How long it lasts; to the end when left out.
        r#for: Option<At<Span>>,
        /// Where; everywhere when left out.
        region: Option<At<String>>,
        /// All work takes so many times as long.
        slow: Option<At<f64>>,
        /// Nobody answers.
        down: Option<bool>,
        /// So many replicas are left.
        replicas: Option<At<u64>>,
        /// The share of requests that are answered with 500.
        error_rate: Option<At<f64>>,
        /// Others take this share of the slots.
        tenants: Option<At<f64>>,
        /// No new readings come.
        stale: Option<bool>,
        /// So many times the requests.
        crowd: Option<At<f64>>,
    }
}

/// Settings of a policy in the words of the configuration, kept as they were written: the configuration's own reader looks at them
/// here, for the sake of its messages, and again when a plan is made of them.
pub(super) struct Settings {
    pub(super) name: Option<At<String>>,
    /// Parts of the decision that it does without; no key of the configuration.
    pub(super) ablate: Option<At<Vec<Ablation>>>,
    pub(super) node: Node,
}

impl Settings {
    /// Its entries as JSON, which is YAML too, but for `name`.
    pub(super) fn entries(&self) -> Map<String, Json> {
        match json(&self.node) {
            Json::Object(mut map) => {
                map.remove("name");
                map
            }
            _ => Map::new(),
        }
    }
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null | Value::Broken => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => i64::try_from(*value).map_or(Json::Null, Json::from),
        Value::Float(value) => Json::from(*value),
        Value::Text(text) | Value::Expanded(text) => Json::from(&**text),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), json(&entry.node))).collect(),
    }
}

impl Decode for Settings {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let ablate = node.get("ablate").and_then(|those| At::decode(those, problems));
        let mut node = node.clone();
        if let Value::Map(entries) = &mut node.value {
            entries.retain(|entry| entry.key != "ablate");
        }
        let mut complete = node.clone();
        let own = node.get("name").and_then(|name| At::decode(name, problems));
        if let (Value::Map(entries), None) = (&mut complete.value, &own) {
            let name = Node { mark: node.mark, value: Value::Text("class".to_owned()) };
            entries.push(Entry { key: "name".to_owned(), mark: node.mark, node: name });
        }
        PolicyFile::decode(&complete, problems)?;
        Some(Self { name: own, ablate, node })
    }
}

impl schemars::JsonSchema for Settings {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Settings".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<PolicyFile>()
    }
}
