//! Backends: where each one is, what it serves, what it is sent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::carbon::{Zones, is_zone};
use super::hosts::{everywhere, zones_of};
use super::{Check, catalogue, url};
use crate::backend::{Backend, BackendId, Credential, Origin, Placement, PlacementKind, Timeouts};
use crate::config::choices::{Auth, Models, NameThere, OneOrMany, PricesFile};
use crate::config::decode::{At, Filled, quoted};
use crate::config::file::{BackendFile, ExpectFile, ModelFile, TimeoutsFile};
use crate::config::node::Mark;
use crate::cost::TokenPrices;
use crate::dialect::Dialect;
use crate::live::Prior;
use crate::tables::{Coefficients, EnergyTable, Profile, Reach, Regions};
use crate::units::{Millis, Pue, Usd};
use crate::wire::{bedrock, gemini};

/// The most backends: each route looks at all of its own for every request.
const MOST_BACKENDS: usize = 1024;
/// The most grid zones of one backend.
const MOST_ZONES: usize = 32;
/// What a backend takes at once unless the file says otherwise: hosted services stop sooner by themselves, with 429.
const MAX_IN_FLIGHT: u64 = 1024;
/// The longest name of a model, in bytes; it stands in log lines and metrics. The longest of the hosted ones have a hundred.
const MAX_MODEL_NAME: usize = 256;
/// Under uvicorn's and Node's 5 s, which stand behind most own servers.
const KEEP_IDLE_HTTP: Duration = Duration::from_secs(4);
/// Under the 60 s of the load balancers before hosted services.
const KEEP_IDLE_HTTPS: Duration = Duration::from_secs(55);
/// Dialects that this version speaks.
const SPOKEN: [Dialect; 5] = [Dialect::Openai, Dialect::AzureOpenai, Dialect::Anthropic, Dialect::Bedrock, Dialect::Gemini];

/// From which dialects there is a translation, and to which.
const TRANSLATED: [(Dialect, Dialect); 2] = [(Dialect::Openai, Dialect::Bedrock), (Dialect::Anthropic, Dialect::Bedrock)];

/// A backend with what its routes need to know.
pub(super) struct Meant {
    pub(super) backend: Backend,
    pub(super) mark: Mark,
    /// Where it says that the client's own credential is passed through, if it does.
    pub(super) pass_through: Option<Mark>,
    /// `None` when it takes any model.
    pub(super) models: Option<Vec<Model>>,
    /// Where each of them is in that list, and in the order of their names.
    pub(super) by_name: HashMap<Arc<str>, (usize, u16)>,
    /// Set for all its models.
    pub(super) energy: Option<Arc<Coefficients>>,
    /// What tokens cost where a model says nothing of its own.
    pub(super) prices: Option<TokenPrices>,
}

/// A model that a backend serves.
pub(super) struct Model {
    pub(super) client: Arc<str>,
    pub(super) upstream_json: Option<Bytes>,
    /// Where the dialect has the model in the path.
    pub(super) upstream_segment: Option<Arc<str>>,
    /// Below which path it is there, where that is not the backend's own.
    pub(super) base_path: Option<Arc<str>>,
    pub(super) weight: Option<u32>,
    pub(super) coefficients: Arc<Coefficients>,
    pub(super) prices: Option<TokenPrices>,
}

/// What stands for all models of a backend: energy and prices.
type Figures<'a> = (Option<&'a Arc<Coefficients>>, Option<TokenPrices>);

impl Model {
    /// Its name there goes into a path.
    fn name_in_path(&mut self, segment: fn(&str) -> String) {
        self.upstream_segment = Some(segment(&self.upstream()).into());
    }

    /// Its name there.
    pub(super) fn upstream(&self) -> String {
        let there = self.upstream_json.as_ref().and_then(|json| serde_json::from_slice(json).ok());
        there.unwrap_or_else(|| self.client.to_string())
    }
}

impl Meant {
    /// What is believed of each model, by the client's names.
    pub(super) fn priors(&self) -> Vec<(Arc<str>, Prior)> {
        match &self.models {
            Some(models) => models.iter().map(|model| (Arc::clone(&model.client), self.backend.prior)).collect(),
            None => vec![(Arc::from("*"), self.backend.prior)],
        }
    }
}

impl Check<'_> {
    pub(super) fn backends(&mut self, written: At<Filled<BackendFile>>, table: &EnergyTable, zones: &mut Zones) -> Vec<Meant> {
        if written.value.0.len() > MOST_BACKENDS {
            self.problems.add(written.mark, format!("more than {MOST_BACKENDS} backends"));
        }
        let mut backends: Vec<Meant> = Vec::new();
        for file in written.value.0.into_iter().take(MOST_BACKENDS) {
            let before = backends.iter().map(|other| (&*other.backend.name, other.mark));
            self.once("backend", &file.name, before);
            let id = BackendId(backends.len() as u16);
            backends.push(self.backend(id, file, table, zones));
        }
        backends
    }

    fn backend(&mut self, id: BackendId, mut file: BackendFile, table: &EnergyTable, zones: &mut Zones) -> Meant {
        self.name(&file.name);
        let mut origin = self.url(&file.url).unwrap_or_else(nowhere);
        origin.ca = file.ca_file.as_ref().and_then(|path| self.certificates(path));
        if let (Some(path), false) = (&file.ca_file, origin.tls) {
            self.warnings.add(path.mark, "this backend is reached over http, so `ca_file` has no effect");
        }
        origin.identity = file.tls.as_ref().and_then(|tls| self.identity(tls)).map(|(identity, _)| identity);
        if let (Some(tls), false) = (&file.tls, origin.tls) {
            self.warnings.add(tls.certificate.mark, "this backend is reached over http, so `tls` has no effect");
        }
        let energy = file.energy.take().map(|written| Arc::new(self.coefficients(&written)));
        let prices = file.price_usd_per_million_tokens.as_ref().map(|written| self.prices(written));
        let dialect = self.dialect(file.dialect.as_ref());
        let written_models = file.models.take();
        let mut models = written_models.map(|written| self.models(written, (energy.as_ref(), prices), table));
        self.name_as_offered(models.as_deref_mut().unwrap_or_default(), &mut origin, dialect, file.url.mark);
        let at_aws = self.catalogue.endpoint(&origin.host).is_some()
            || file.region.as_ref().is_some_and(|it| it.value.starts_with("aws/"));
        let profile = models.as_deref().filter(|_| at_aws).and_then(|models| catalogue::widest(&self.catalogue, models));
        self.location(&file, &origin);
        let (region, placement, pue) = self.located(&file, profile.as_ref(), &origin.host, zones);
        let api_version = file.api_version.as_ref().map(|written| self.api_version(written, dialect));
        let in_path: Option<fn(&str) -> String> = match dialect {
            Dialect::Bedrock => Some(bedrock::segment),
            Dialect::AzureOpenai if api_version.is_some() => Some(bedrock::segment),
            Dialect::Gemini => Some(gemini::segment),
            _ => None,
        };
        if let Some(segment) = in_path {
            models.iter_mut().flatten().for_each(|model| model.name_in_path(segment));
        }
        let pass_through = file.auth.as_ref().filter(|auth| matches!(auth.value, Auth::PassThrough)).map(|auth| auth.mark);
        let credential =
            file.auth.as_ref().map_or(Credential::None, |auth| self.auth(auth, &file.url, &origin.host, file.region.as_ref()));
        let translates =
            file.translate.take().map(|written| self.translates(&written, dialect, pass_through)).unwrap_or_default();
        let expected = file.expect.as_ref().is_some_and(|expect| expect.first_token.is_some());
        let probe = file.probe.unwrap_or(!expected && !url::is_loopback(&origin.host));
        let keep_idle = if origin.tls { KEEP_IDLE_HTTPS } else { KEEP_IDLE_HTTP };
        let backend = Backend {
            id,
            name_header: header(&file.name.value),
            name: Arc::from(file.name.value.as_str()),
            protocol: file.protocol.unwrap_or_default(),
            api_version,
            dialect,
            translates,
            region_header: header(&region),
            region,
            placement,
            pue,
            credential,
            max_in_flight: self.count(file.max_in_flight.as_ref(), MAX_IN_FLIGHT, 1..=u64::from(u32::MAX)) as u32,
            probe,
            prior: self.prior(file.expect),
            timeouts: self.timeouts(file.timeouts),
            usage: file.usage.unwrap_or_default(),
            keep_idle: self.span(file.keep_idle, keep_idle),
            health: file.health.and_then(|written| self.health(written)),
            forward_client: file.forward_client.unwrap_or(false),
            simulated: file.simulated.unwrap_or(false),
            origin,
        };
        let mut listed: Vec<_> = models.iter().flatten().map(|model| Arc::clone(&model.client)).enumerate().collect();
        listed.sort_by(|(_, one), (_, other)| one.cmp(other));
        let places = (0..u16::MAX).chain(std::iter::repeat(u16::MAX));
        let by_name = listed.into_iter().zip(places).map(|((index, name), place)| (name, (index, place))).collect();
        Meant { backend, mark: file.name.mark, pass_through, models, by_name, energy, prices }
    }

    fn auth(&mut self, auth: &At<Auth>, to: &At<String>, host: &str, region: Option<&At<String>>) -> Credential {
        // A signature is good for one request, once.
        if url::sends_in_clear(&to.value) && !matches!(auth.value, Auth::SigV4(_)) {
            self.warnings.add(auth.mark, "this credential is sent over http, in clear").mend =
                Some("use https, or keep the secret on this machine".to_owned());
        }
        self.credential(auth, host, region.map(|region| &*region.value))
    }

    fn api_version(&mut self, written: &At<String>, dialect: Dialect) -> Arc<str> {
        if dialect != Dialect::AzureOpenai {
            self.problems.add(written.mark, "only `dialect: azure-openai` has an `api_version`");
        }
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if written.value.is_empty() || !written.value.bytes().all(fine) {
            self.problems.add(written.mark, format!("{} is no version", written.shown())).mend =
                Some("it looks like `2024-10-21`; left out, the v1 API is called".to_owned());
        }
        Arc::from(written.value.as_str())
    }

    fn dialect(&mut self, written: Option<&At<Dialect>>) -> Dialect {
        let Some(written) = written else { return Dialect::default() };
        if !SPOKEN.contains(&written.value) {
            self.problems.add(written.mark, "this dialect is not supported yet in this version").mend =
                Some("many services also have endpoints that speak `openai`".to_owned());
        }
        written.value
    }

    fn translates(&mut self, written: &Filled<At<Dialect>>, dialect: Dialect, pass_through: Option<Mark>) -> Box<[Dialect]> {
        for from in &written.0 {
            let (one, other) = (from.value.name(), dialect.name());
            if !TRANSLATED.contains(&(from.value, dialect)) {
                let fault = self.problems.add(from.mark, format!("there is no translation from `{one}` to `{other}`"));
                let known = TRANSLATED.map(|(from, to)| format!("from `{}` to `{}`", from.name(), to.name()));
                fault.mend = Some(format!("there is one {}", known.join(", and one ")));
            } else if let Some(mark) = pass_through {
                let message = format!("a client of `{one}` has no credential that this backend would take");
                self.problems.add(mark, message).mend = Some("give the backend a credential of its own".to_owned());
            }
        }
        written.0.iter().map(|from| from.value).collect()
    }

    /// Region, placement and PUE: what the file says, else what the shipped tables say of the region and of the models' ids.
    fn located(
        &mut self,
        file: &BackendFile,
        profile: Option<&Profile>,
        host: &str,
        zones: &mut Zones,
    ) -> (Arc<str>, Placement, Pue) {
        let known = file.region.as_ref().and_then(|region| Regions::shipped().lookup(&region.value));
        let asked = file.placement.as_ref().map(|placement| placement.value);
        let nowhere = matches!(asked, Some(PlacementKind::Global | PlacementKind::Unknown));
        if let Some(region) = &file.region {
            if known.is_none() && file.grid_zone.is_none() && !nowhere {
                let nearest = if self.problems.enough() { None } else { Regions::shipped().suggest(&region.value) };
                let fault = self.problems.add(region.mark, format!("unknown region {}", region.shown()));
                fault.mend = Some(match nearest {
                    Some(nearest) => format!("did you mean `{nearest}`?"),
                    None => "`windward zones` lists those known; a region of your own needs `grid_zone`".to_owned(),
                });
            }
            if HeaderValue::from_str(&region.value).is_err() || !(1..=64).contains(&region.value.len()) {
                self.problems.add(region.mark, "a region's name has up to 64 printable ASCII characters");
            }
        }
        let names: Vec<String> = match (&file.grid_zone, profile.filter(|_| file.placement.is_none())) {
            (Some(written), _) => self.grid_zones(written, zones),
            (None, Some(profile)) => catalogue::zones_of(profile),
            (None, None) if known.is_none() && !nowhere => zones_of(&self.catalogue, host),
            (None, None) => known.iter().map(|region| region.grid_zone.as_str().to_owned()).collect(),
        };
        let placement = self.placement(file, profile, (host, &names), zones);
        let of_profile = profile.filter(|_| file.placement.is_none()).and_then(catalogue::pue_of);
        let of_region = of_profile.or(known.map(|region| region.pue)).unwrap_or(Pue::UNPUBLISHED);
        let pue = file.pue.as_ref().map_or(of_region, |written| {
            Pue::new(written.value).unwrap_or_else(|| {
                self.problems.add(written.mark, "a PUE lies between 1 and 3");
                Pue::UNPUBLISHED
            })
        });
        let region = match (&file.region, names.as_slice()) {
            (Some(region), _) => &region.value,
            (None, [only]) => only,
            (None, _) => placement.kind.as_str(),
        };
        (Arc::from(region), placement, pue)
    }

    fn grid_zones(&mut self, written: &OneOrMany, zones: &Zones) -> Vec<String> {
        if let Some(past) = written.0.get(MOST_ZONES) {
            self.problems.add(past.mark, format!("more than {MOST_ZONES} grid zones"));
        }
        for zone in written.0.iter().take(MOST_ZONES) {
            if !is_zone(&zone.value) {
                self.problems.add(zone.mark, format!("{} is no grid zone", zone.shown()));
            } else if !zones.known(&zone.value) && !self.warnings.enough() {
                let message = format!("nothing is known of grid zone {} until a source reports it", zone.shown());
                self.warnings.add(zone.mark, message).mend = Some(match Regions::shipped().suggest_zone(&zone.value) {
                    Some(near) if near != zone.value => {
                        format!("did you mean `{near}`? Until then this backend never wins as green")
                    }
                    _ => "give it a figure in `carbon.zones`; until then this backend never wins as green".to_owned(),
                });
            }
        }
        written.0.iter().take(MOST_ZONES).map(|zone| zone.value.clone()).collect()
    }

    fn placement(
        &mut self,
        file: &BackendFile,
        profile: Option<&Profile>,
        (host, names): (&str, &[String]),
        zones: &mut Zones,
    ) -> Placement {
        let by_zones = match (names, profile.map(Profile::reach)) {
            (_, Some(Reach::Global)) => PlacementKind::Global,
            // Unless somebody says in which zones it may be at all.
            _ if everywhere(&self.catalogue, host) && file.grid_zone.is_none() => PlacementKind::Global,
            _ if file.region.is_none() && file.grid_zone.is_none() && !names.is_empty() => PlacementKind::Geo,
            ([], None) => PlacementKind::Unknown,
            ([_], None) => PlacementKind::Pinned,
            _ => PlacementKind::Geo,
        };
        let kind = file.placement.as_ref().map_or(by_zones, |written| written.value);
        if let (Some(written), Some(profile)) = (&file.placement, profile.filter(|it| catalogue::goes_beyond(it, kind))) {
            let message =
                format!("a model here has an id that begins with `{}.`, and such a request may run elsewhere", profile.prefix);
            self.warnings.add(written.mark, message).mend = Some("leave `placement` out, and it follows from the ids".to_owned());
        }
        if let Some(written) = &file.placement {
            let wrong = match kind {
                PlacementKind::Pinned if names.is_empty() => Some("`pinned` needs a region or a grid zone"),
                PlacementKind::Pinned if names.len() > 1 => Some("`pinned` means one grid zone, and here are several"),
                PlacementKind::Geo if file.grid_zone.is_none() && names.len() < 2 => {
                    Some("`geo` needs the list of grid zones it may be")
                }
                _ => None,
            };
            if let Some(wrong) = wrong {
                self.problems.add(written.mark, wrong).mend = Some("write `grid_zone: [SE-SE3, DE, ..]`".to_owned());
            }
        } else if names.is_empty() && file.region.is_none() {
            self.warnings.add(file.name.mark, "nobody says where this backend runs, so it never wins as green").mend =
                Some("give it a `region` or a `grid_zone`".to_owned());
        }
        let nowhere = matches!(kind, PlacementKind::Global | PlacementKind::Unknown);
        let ids = names.iter().filter(|_| !nowhere).map(|name| zones.id(name)).collect();
        Placement { kind, zones: ids }
    }

    fn models(&mut self, written: Models, figures: Figures<'_>, table: &EnergyTable) -> Vec<Model> {
        let written_models: Vec<(At<String>, NameThere)> = match written {
            Models::Listed(names) => names.0.into_iter().map(|name| (name, NameThere::Same)).collect(),
            Models::Named(table) => table.0,
        };
        let mut seen = HashSet::new();
        let mut models = Vec::with_capacity(written_models.len());
        for (client, there) in written_models {
            self.model_name(&client);
            if !seen.insert(client.value.clone()) {
                self.problems.add(client.mark, format!("the model {} is here twice", client.shown()));
            }
            models.push(self.model(&client, there, figures, table));
        }
        models
    }

    fn model(&mut self, client: &At<String>, there: NameThere, (energy, prices): Figures<'_>, table: &EnergyTable) -> Model {
        let (name, weight, own, own_prices) = match there {
            NameThere::Same => (None, None, None, None),
            NameThere::Name(name) => (Some(name), None, None, None),
            NameThere::Whole(model) => {
                let ModelFile { name, weight, energy, price_usd_per_million_tokens } = *model;
                (name, weight, energy, price_usd_per_million_tokens)
            }
        };
        if let Some(name) = &name {
            self.model_name(name);
        }
        let upstream = name.as_ref().map_or(&client.value, |name| &name.value);
        let coefficients = match (own, energy) {
            (Some(own), _) => Arc::new(self.coefficients(&own)),
            (None, Some(energy)) => Arc::clone(energy),
            (None, None) => Arc::new(of_either(table, &client.value, upstream).clone()),
        };
        Model {
            client: Arc::from(client.value.as_str()),
            upstream_json: (*upstream != client.value)
                .then(|| Bytes::from(serde_json::Value::from(upstream.as_str()).to_string())),
            base_path: None,
            upstream_segment: None,
            weight: weight.map(|written| self.count(Some(&written), 1, 0..=1_000_000) as u32),
            coefficients,
            prices: own_prices.as_ref().map(|written| self.prices(written)).or(prices),
        }
    }

    fn prices(&mut self, written: &PricesFile) -> TokenPrices {
        let mut usd = |amount: &At<f64>| Usd::saturating(self.amount(amount, "a price"));
        let input = usd(&written.input);
        let cached_input = written.cached_input.as_ref().map_or(input, &mut usd);
        TokenPrices { input, cached_input, output: usd(&written.output) }
    }

    pub(super) fn model_name(&mut self, written: &At<String>) {
        let name = &written.value;
        if name.trim().is_empty() || name.len() > MAX_MODEL_NAME || name.chars().any(char::is_control) {
            self.problems.add(written.mark, format!("{} is no model's name", written.shown())).mend =
                Some(format!("it has 1 to {MAX_MODEL_NAME} bytes and no line breaks"));
        } else if name == "*" {
            self.problems.add(written.mark, format!("{} is no model's name", quoted(name))).mend =
                Some("leave `models` out to take any model".to_owned());
        }
    }

    fn prior(&mut self, written: Option<ExpectFile>) -> Prior {
        let default = Prior::default();
        let Some(file) = written else { return default };
        let speed = file.tokens_per_second.map_or(default.tokens_per_second, |written| {
            if written.value <= 0.0 {
                self.problems.add(written.mark, "a speed is above 0");
            }
            written.value
        });
        Prior {
            first_token: Millis::from(self.span(file.first_token, default.first_token.to_duration())),
            per_prompt_token: file.per_prompt_token.map_or(default.per_prompt_token, |written| Millis::from(written.value.0)),
            tokens_per_second: speed,
        }
    }

    fn timeouts(&mut self, written: Option<TimeoutsFile>) -> Timeouts {
        let default = Timeouts::default();
        let Some(file) = written else { return default };
        Timeouts {
            connect: self.span(file.connect, default.connect),
            first_byte: self.span(file.first_byte, default.first_byte),
            idle: self.span(file.idle, default.idle),
            total: self.span(file.total, default.total),
        }
    }
}

/// The coefficients of a model by the client's name, or by its name there when the client's says nothing.
fn of_either<'t>(table: &'t EnergyTable, client: &str, upstream: &str) -> &'t Coefficients {
    let found = table.find(client);
    let unknown = table.iter().last();
    if unknown == Some(found) { table.find(upstream) } else { found }
}

/// A value that was found fit for a header, or nothing when a problem was noted of it.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What stands for a URL that is none, until the plan is thrown away.
fn nowhere() -> Origin {
    let authority = HeaderValue::from_static("invalid");
    Origin { tls: true, host: Arc::from("invalid"), port: 443, authority, base_path: Arc::from(""), ca: None, identity: None }
}
