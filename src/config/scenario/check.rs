//! From the scenario as written to the scenario as meant, one file on top of another.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Map;

use super::Origin;
use super::file::{
    ClassFile, EventFile, ExchangeFile, NoiseFile, RegionFile, ScenarioFile, SessionsFile, SizeFile, TenantsFile, TrafficFile,
};
use super::plan::{
    Changes, Class, Energy, Errors, Event, Exchanged, RegionPlan, Said, Scenario, Sessions, Settings, Tenants, Traffic, noise,
};
use crate::config::check::peers::{FAST, MOST_OFTEN, SLOW};
use crate::config::decode::{At, Problems, quoted};
use crate::config::node::Mark;
use crate::config::values::Span;
use crate::cost::TokenPrices;
use crate::fleet::{Day, Noise, Positive, Shape, Share, Size, Spec, Spread, TokenCurve};
use crate::grid::GridZone;
use crate::units::{GramsPerKwh, JoulesPerToken, Millis, Pue, Usd};

/// As many backends as a decision holds without allocating.
const MAX_REGIONS: usize = 16;
/// A year of hours, and a week of virtual time in one run.
const MAX_HOURS: f64 = 8760.0;
/// Runs of one command.
const MAX_SEEDS: usize = 1000;

/// What the files read so far say.
#[derive(Debug, Default)]
pub(super) struct Draft {
    data: Option<Said<PathBuf>>,
    from: Option<Timestamp>,
    hours: Option<f64>,
    carbon_hour: Option<Duration>,
    warm_up: Option<Duration>,
    seeds: Option<Vec<u64>>,
    proxies: Option<u16>,
    exchange: Option<Exchanged>,
    regions: Option<Vec<RegionPlan>>,
    noise: Option<Noise>,
    energy: Option<Energy>,
    traffic: Option<Traffic>,
    classes: Option<Vec<Class>>,
    errors: Option<Errors>,
    tenants: Option<Tenants>,
    events: Vec<(Option<About>, Event)>,
    policies: Option<Vec<Settings>>,
}

/// The region of an event, and where that stands.
#[derive(Debug)]
struct About {
    region: String,
    file: Arc<str>,
    line: u32,
}

impl Draft {
    /// What `file` says instead of what was said before.
    pub(super) fn apply(&mut self, file: ScenarioFile, origin: Origin<'_>, problems: &mut Problems) {
        if let Some(data) = &file.data {
            self.data = origin.named(data);
        }
        if let Some(written) = &file.from {
            self.from = written.value.parse().ok();
            if self.from.is_none() {
                problems.add(written.mark, "expected a moment, as in `2022-05-03T00:00:00Z`");
            }
        }
        if let Some(hours) = &file.hours {
            self.hours = Some(within(hours, 0.01, MAX_HOURS, problems));
        }
        if let Some(span) = file.carbon_hour {
            self.carbon_hour = Some(some_time(span, problems));
        }
        if let Some(At { value: Span(span), .. }) = file.warm_up {
            self.warm_up = Some(span);
        }
        if let Some(seeds) = file.seeds {
            self.seeds = Some(seeds.0.iter().map(|seed| seed.value).take(MAX_SEEDS).collect());
        }
        if let Some(proxies) = &file.proxies {
            self.proxies = Some(count(proxies, 1, 64, problems));
        }
        if let Some(written) = file.exchange {
            self.exchange = Some(exchanged(&written, problems));
        }
        if let Some(noise) = &file.noise {
            self.noise = Some(noisy(noise, self.noise.unwrap_or_else(super::plan::noise), problems));
        }
        if let Some(regions) = file.regions {
            self.regions(&regions.0, origin, problems);
        }
        if let Some(energy) = &file.energy {
            let joules =
                |written: &At<f64>, problems: &mut Problems| JoulesPerToken::saturating(within(written, 0.0, 1e6, problems));
            let input = joules(&energy.input_joules_per_token, problems);
            let cached = energy.cached_joules_per_token.as_ref().map_or(JoulesPerToken::ZERO, |cached| joules(cached, problems));
            self.energy = Some(Energy { input, cached, output: joules(&energy.output_joules_per_token, problems) });
        }
        if let Some(traffic) = &file.traffic {
            self.traffic = Some(asked(traffic, self.traffic.take().unwrap_or_else(usual_traffic), origin, problems));
        }
        if let Some(classes) = file.classes {
            self.classes = Some(kinds(classes.0, problems));
        }
        if let Some(errors) = &file.errors {
            let spread = |written: &Option<At<f64>>, problems: &mut Problems| {
                written.as_ref().map_or(Spread::default(), |written| spread(written, problems))
            };
            self.errors = Some(Errors { energy: spread(&errors.energy, problems), carbon: spread(&errors.carbon, problems) });
        }
        if let Some(TenantsFile { mean, spread, correlation }) = file.tenants {
            let (mean, spread) = (within(&mean, 0.0, 1.0, problems), within(&spread, 0.0, 1.0, problems));
            self.tenants = Some(Tenants { mean, spread, correlation: some_time(correlation, problems) });
        }
        if let Some(events) = file.events {
            self.events = events.iter().map(|event| self.event(event, origin, problems)).collect();
        }
        if let Some(policies) = file.policies {
            self.policies = Some(policies.0.iter().map(|policy| compared(policy, problems)).collect());
        }
    }

    fn regions(&mut self, written: &[RegionFile], origin: Origin<'_>, problems: &mut Problems) {
        let mut regions: Vec<RegionPlan> = Vec::new();
        for file in written {
            let region = region(file, origin, problems);
            if regions.len() == MAX_REGIONS {
                problems.add(file.name.mark, format!("more than {MAX_REGIONS} regions"));
                break;
            }
            if regions.iter().any(|other| other.spec.name == region.spec.name) {
                problems.add(file.name.mark, "a second region of that name");
            }
            regions.push(region);
        }
        // Those of this file are read after this, and stand instead.
        for (about, _) in self.events.iter().filter(|_| origin.all_regions_read && !origin.has_events) {
            let Some(About { region, file, line }) = about else { continue };
            if regions.iter().all(|known| *known.spec.name != **region) {
                let mark = written.first().map_or(Mark::default(), |first| first.name.mark);
                problems
                    .add(mark, format!("an event in line {line} of {file} is about region {}, which is not here", quoted(region)))
                    .mend = Some("add a region of that name, or say in this file what `events` there are".to_owned());
            }
        }
        self.regions = Some(regions);
    }

    fn event(&self, written: &EventFile, origin: Origin<'_>, problems: &mut Problems) -> (Option<About>, Event) {
        let Span(from) = written.at.value;
        let until = written.r#for.map_or(Duration::MAX, |written| from.saturating_add(written.value.0));
        if let Some(region) = &written.region
            && let Some(regions) = &self.regions
            && origin.all_regions_read
            && regions.iter().all(|known| *known.spec.name != *region.value)
        {
            let known: Vec<&str> = regions.iter().map(|known| &*known.spec.name).collect();
            problems.unknown(region.mark, "region", &region.value, &region.shown(), &known);
        }
        let number = |written: &Option<At<f64>>, default, least, most, problems: &mut Problems| {
            written.as_ref().map_or(default, |written| within(written, least, most, problems))
        };
        let change = Changes {
            slow: number(&written.slow, 1.0, 0.01, 1000.0, problems),
            down: written.down.unwrap_or(false),
            replicas: written
                .replicas
                .as_ref()
                .map(|replicas| NonZeroU16::new(count(replicas, 1, 1000, problems)).unwrap_or(NonZeroU16::MIN)),
            error_rate: Share::new(number(&written.error_rate, 0.0, 0.0, 1.0, problems)).unwrap_or_default(),
            tenants: number(&written.tenants, 0.0, 0.0, 1.0, problems),
            stale: written.stale.unwrap_or(false),
            crowd: number(&written.crowd, 1.0, 0.0, 100.0, problems),
        };
        let about = |region: &At<String>| About {
            region: region.value.clone(),
            file: Arc::from(origin.source.name),
            line: region.mark.line,
        };
        (written.region.as_ref().map(about), Event { from, until, region: None, change })
    }

    /// The scenario, if everything was said that has to be.
    pub(super) fn finish(self, problems: &mut Problems) -> Option<Scenario> {
        let mut missing = |key: &str| {
            problems.add(Mark::default(), format!("the key `{key}` is missing, here and in what this extends"));
        };
        if self.regions.is_none() {
            missing("regions");
        }
        if self.classes.is_none() {
            missing("classes");
        }
        if self.policies.is_none() {
            missing("policies");
        }
        let noise = self.noise.unwrap_or_else(noise);
        let mut regions = self.regions?;
        for region in &mut regions {
            region.spec.noise = noise;
        }
        let mut events = Vec::new();
        for (name, event) in self.events {
            let region = name.and_then(|about| regions.iter().position(|known| *known.spec.name == *about.region));
            events.push(Event { region, ..event });
        }
        Some(Scenario {
            data: self.data,
            from: self.from.unwrap_or_default(),
            hours: self.hours.unwrap_or(48.0),
            carbon_hour: self.carbon_hour.unwrap_or(Duration::from_secs(150)),
            warm_up: self.warm_up.unwrap_or(Duration::from_mins(5)),
            seeds: self.seeds.unwrap_or_else(|| vec![1]),
            proxies: self.proxies.unwrap_or(1),
            exchange: self.exchange,
            regions,
            energy: self.energy.unwrap_or(Energy {
                input: JoulesPerToken::saturating(0.396),
                cached: JoulesPerToken::ZERO,
                output: JoulesPerToken::saturating(1.28),
            }),
            traffic: self.traffic.unwrap_or_else(usual_traffic),
            classes: self.classes?,
            errors: self.errors.unwrap_or_default(),
            tenants: self.tenants,
            events,
            policies: self.policies?,
        })
    }
}

fn exchanged(written: &ExchangeFile, problems: &mut Problems) -> Exchanged {
    let span = |written: &Option<At<Span>>, default| written.as_ref().map_or(default, |written| written.value.0.max(MOST_OFTEN));
    Exchanged {
        fast: span(&written.fast, FAST),
        slow: span(&written.slow, SLOW),
        loss: written.loss.as_ref().map_or(Share::ZERO, |loss| share(loss, problems)),
        delay: written.delay.as_ref().map_or(Duration::ZERO, |delay| delay.value.0),
    }
}

fn region(file: &RegionFile, origin: Origin<'_>, problems: &mut Problems) -> RegionPlan {
    plain_name(&file.name, problems);
    let replicas = NonZeroU16::new(count(&file.replicas, 1, 1000, problems)).unwrap_or(NonZeroU16::MIN);
    let mut spec = Spec::new(&file.name.value, Millis::from(file.rtt.value.0), replicas);
    if let Some(slots) = &file.slots_per_replica {
        spec.slots_per_replica = NonZeroU16::new(count(slots, 1, 10_000, problems)).unwrap_or(NonZeroU16::MIN);
    }
    if let Some(queue) = &file.queue_per_replica {
        spec.queue_per_replica = count(queue, 0, 10_000, problems);
    }
    if let Some(rate) = &file.prefill_tokens_per_second {
        spec.prefill_rate = Positive::new(within(rate, 1.0, 1e9, problems)).unwrap_or(Positive::ONE);
    }
    if let Some(token) = file.token {
        spec.token_base = Millis::from(some_time(token, problems));
    }
    if let Some(token) = file.token_per_request {
        spec.token_per_request = Millis::from(token.value.0);
    }
    if let Some(curve) = &file.token_curve {
        spec.token_curve = match &*curve.value {
            "linear" => TokenCurve::Linear,
            "flat_then_linear" => TokenCurve::FlatThenLinear,
            "steep" => TokenCurve::Steep,
            other => {
                let known = ["linear", "flat_then_linear", "steep"];
                problems.unknown(curve.mark, "curve", other, &curve.shown(), &known);
                TokenCurve::Linear
            }
        };
    }
    let pue = file.pue.as_ref().map_or(Pue::ONE, |pue| Pue::new(within(pue, 1.0, 3.0, problems)).unwrap_or(Pue::ONE));
    let slots = u32::from(replicas.get()) * u32::from(spec.slots_per_replica.get());
    let declared = file.max_in_flight.as_ref().map_or(slots, |most| u32::from(count(most, 1, u64::from(u16::MAX), problems)));
    let zone = GridZone::new(file.grid_zone.value.trim());
    let intensity = file.intensity.as_ref().and_then(|written| origin.named(written));
    let prices = file.price_usd_per_million_tokens.as_ref().map(|written| {
        let mut usd = |price: &At<f64>| Usd::saturating(within(price, 0.0, 1e6, problems));
        let input = usd(&written.input);
        let cached_input = written.cached_input.as_ref().map_or(input, &mut usd);
        TokenPrices { input, cached_input, output: usd(&written.output) }
    });
    let resident = file.resident.unwrap_or(false);
    RegionPlan { spec, zone, intensity, day: day(file, problems), pue, resident, declared, prices }
}

/// A day for a region that has no data: its own, or the shape that suits nobody badly.
fn day(file: &RegionFile, problems: &mut Problems) -> Day {
    let Some(grid) = &file.grid else {
        return Day { shape: Shape::Wind, mean: Shape::Wind.usual_mean(), utc_offset_hours: 0.0 };
    };
    let shape = match &*grid.shape.value {
        "solar" => Shape::Solar,
        "wind" => Shape::Wind,
        "nuclear" => Shape::Nuclear,
        "hydro" => Shape::Hydro,
        "coal" => Shape::Coal,
        other => {
            let known = ["solar", "wind", "nuclear", "hydro", "coal"];
            problems.unknown(grid.shape.mark, "shape", other, &grid.shape.shown(), &known);
            Shape::Wind
        }
    };
    let mean = grid.mean_g_per_kwh.as_ref().map(|mean| GramsPerKwh::saturating(within(mean, 0.0, 5000.0, problems)));
    Day {
        shape,
        mean: mean.unwrap_or_else(|| shape.usual_mean()),
        utc_offset_hours: grid.utc_offset_hours.as_ref().map_or(0.0, |hours| within(hours, -12.0, 14.0, problems)),
    }
}

fn noisy(file: &NoiseFile, before: Noise, problems: &mut Problems) -> Noise {
    Noise {
        rtt: file.rtt.as_ref().map_or(before.rtt, |written| spread(written, problems)),
        prefill: file.prefill.as_ref().map_or(before.prefill, |written| spread(written, problems)),
        spikes: file.spikes.as_ref().map_or(before.spikes, |written| share(written, problems)),
        ..before
    }
}

fn usual_traffic() -> Traffic {
    let size = |median, spread, most| Size {
        median: Positive::new(median).unwrap_or(Positive::ONE),
        spread: Spread::new(spread).unwrap_or_default(),
        most,
    };
    Traffic {
        per_second: 36.0,
        wave: 0.45,
        half_day_wave: 0.12,
        utc_offset_hours: 0.0,
        bursts: Some((0.2, Duration::from_secs(20))),
        resident: Share::new(0.3).unwrap_or_default(),
        trace: None,
        arrivals: None,
        // Close to the median and mean of public traces of conversations.
        prompt: size(800.0, 0.9, 8000),
        output: size(150.0, 0.8, 1000),
        bytes_per_token: 4.5,
        bytes_spread: Spread::new(0.1).unwrap_or_default(),
        sessions: None,
    }
}

fn asked(file: &TrafficFile, mut traffic: Traffic, origin: Origin<'_>, problems: &mut Problems) -> Traffic {
    let set = |into: &mut f64, written: &Option<At<f64>>, least, most, problems: &mut Problems| {
        if let Some(written) = written {
            *into = within(written, least, most, problems);
        }
    };
    set(&mut traffic.per_second, &file.per_second, 0.001, 100_000.0, problems);
    set(&mut traffic.wave, &file.wave, 0.0, 1.0, problems);
    set(&mut traffic.half_day_wave, &file.half_day_wave, 0.0, 1.0, problems);
    set(&mut traffic.utc_offset_hours, &file.utc_offset_hours, -12.0, 14.0, problems);
    set(&mut traffic.bytes_per_token, &file.bytes_per_token, 0.5, 1000.0, problems);
    if let Some(bursts) = &file.bursts {
        traffic.bursts = Some((spread(&bursts.spread, problems).get(), some_time(bursts.correlation, problems)));
    }
    if let Some(resident) = &file.resident {
        traffic.resident = share(resident, problems);
    }
    if let Some(trace) = &file.trace {
        traffic.trace = origin.said(trace, |text| PathBuf::from(text));
    }
    if let Some(arrivals) = &file.arrivals {
        traffic.arrivals = origin.named(arrivals);
    }
    if let Some(bytes) = &file.bytes_spread {
        traffic.bytes_spread = spread(bytes, problems);
    }
    if let Some(prompt) = &file.prompt {
        traffic.prompt = size(prompt, problems);
    }
    if let Some(output) = &file.output {
        traffic.output = size(output, problems);
    }
    if let Some(sessions) = &file.sessions {
        traffic.sessions = Some(conversations(sessions, problems));
    }
    traffic
}

fn conversations(file: &SessionsFile, problems: &mut Problems) -> Sessions {
    Sessions {
        share: share(&file.share, problems),
        turns: file.turns.as_ref().map_or(6.0, |turns| within(turns, 1.0, 1000.0, problems)),
        pause: file.pause.map_or(Duration::from_secs(20), |pause| some_time(pause, problems)),
        skipped: share(&file.skipped, problems),
        ttl: file.ttl.map_or(Duration::from_mins(5), |ttl| some_time(ttl, problems)),
    }
}

fn size(file: &SizeFile, problems: &mut Problems) -> Size {
    Size {
        median: Positive::new(within(&file.median, 1.0, 1e6, problems)).unwrap_or(Positive::ONE),
        spread: spread(&file.spread, problems),
        most: u32::from(count(&file.most, 1, u64::from(u16::MAX), problems)),
    }
}

fn kinds(written: Vec<ClassFile>, problems: &mut Problems) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for file in written {
        plain_name(&file.name, problems);
        if classes.iter().any(|other| *other.name == *file.name.value) {
            problems.add(file.name.mark, "a second class of that name");
        }
        classes.push(Class {
            name: Arc::from(&*file.name.value),
            share: within(&file.share, 0.0, 1e6, problems),
            first_token: Millis::from(some_time(file.first_token, problems)),
            per_prompt_token: file.per_prompt_token.map_or(Millis::ZERO, |span| Millis::from(span.value.0)),
            per_output_token: Millis::from(some_time(file.per_output_token, problems)),
            policy: file.policy.map_or_else(Map::new, |settings| {
                if let Some(ablate) = &settings.ablate {
                    problems.add(ablate.mark, "only a policy that is compared does without something");
                }
                settings.entries()
            }),
        });
    }
    let sum: f64 = classes.iter().map(|class| class.share).sum();
    if sum > 0.0 {
        for class in &mut classes {
            class.share /= sum;
        }
    } else {
        problems.add(Mark::default(), "the classes have no share of anything");
    }
    classes
}

fn compared(written: &super::file::Settings, problems: &mut Problems) -> Settings {
    let name = written.name.as_ref().map_or("", |name| &*name.value);
    if let Some(name) = &written.name {
        plain_name(name, problems);
    } else {
        problems.add(written.node.mark, "the key `name` is missing here");
    }
    let ablate = written.ablate.as_ref().map_or_else(Vec::new, |those| those.value.clone());
    Settings { name: Arc::from(name), ablate, settings: written.entries() }
}

fn plain_name(written: &At<String>, problems: &mut Problems) {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if written.value.is_empty() || written.value.len() > 48 || !written.value.chars().all(fine) {
        problems.add(written.mark, "a name has up to 48 letters, digits, `-`, `_` and `.`");
    }
}

fn within(written: &At<f64>, least: f64, most: f64, problems: &mut Problems) -> f64 {
    if !(least..=most).contains(&written.value) {
        problems.add(written.mark, format!("expected a number from {least} to {most}"));
    }
    written.value.clamp(least, most)
}

fn count(written: &At<u64>, least: u64, most: u64, problems: &mut Problems) -> u16 {
    if !(least..=most).contains(&written.value) {
        problems.add(written.mark, format!("expected a whole number from {least} to {most}"));
    }
    u16::try_from(written.value.clamp(least, most)).unwrap_or(u16::MAX)
}

fn share(written: &At<f64>, problems: &mut Problems) -> Share {
    Share::new(within(written, 0.0, 1.0, problems)).unwrap_or_default()
}

fn spread(written: &At<f64>, problems: &mut Problems) -> Spread {
    Spread::new(within(written, 0.0, 2.0, problems)).unwrap_or_default()
}

fn some_time(written: At<Span>, problems: &mut Problems) -> Duration {
    let At { value: Span(span), mark, .. } = written;
    if span.is_zero() {
        problems.add(mark, "this has to be longer than nothing");
    }
    span.max(Duration::from_nanos(1))
}
