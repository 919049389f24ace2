//! Routes: which requests go to which backends.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::{Check, backend, models, policy};
use crate::backend::{Backend, BackendId};
use crate::config::choices::CandidateFile;
use crate::config::decode::{At, Filled, similar};
use crate::config::file::{MatchFile, RouteFile};
use crate::config::node::Mark;
use crate::decide::resident;
use crate::dialect::Dialect;
use crate::grid::GridZone;
use crate::policy::{Policy, PolicyId};
use crate::route::{Deployment, FlowId, Route, Shadow};

/// The paths of the OpenAI API and its kin.
const PREFIX: &str = "/v1";
/// The most routes: each is looked at for every request.
const MOST_ROUTES: usize = 1024;
/// The most pairs of model and candidate over all routes; a thousand models at fifty backends are a twentieth of it.
const MOST_DEPLOYMENTS: usize = 1_000_000;
/// The most candidates of a route: all are judged for every request.
const MOST_CANDIDATES: usize = 64;

/// A route and what was written of it.
pub(super) struct Meant {
    pub(super) route: Route,
    pub(super) mark: Mark,
    /// Backends with their shares, in the file's order.
    pub(super) candidates: Vec<(BackendId, u32)>,
    /// Where the candidates stand.
    pub(super) candidates_mark: Mark,
    /// The client's names, in the file's order.
    model_names: Vec<Arc<str>>,
}

impl Meant {
    /// The answer to `GET /v1/models`.
    pub(super) fn model_list(&self) -> Bytes {
        models::list(self.route.dialect, &self.model_names)
    }

    /// Finds out which candidates lie outside the residency, now that the plan's zones have their ids.
    pub(super) fn look_outside(&mut self, backends: &[backend::Meant], zones: &[GridZone]) {
        let outside = |residency: &[Arc<str>]| -> Box<[BackendId]> {
            let is_outside =
                |id: &BackendId| backends.get(id.index()).is_some_and(|meant| !resident(residency, &meant.backend, zones));
            self.candidates.iter().map(|(id, _)| *id).filter(is_outside).collect()
        };
        self.route.outside = outside(&self.route.policy.residency);
        if let Some(shadow) = &mut self.route.shadow {
            shadow.outside = outside(&shadow.policy.residency);
        }
    }
}

impl Check<'_> {
    pub(super) fn routes(
        &mut self,
        written: Option<Filled<RouteFile>>,
        backends: &[backend::Meant],
        policies: &[policy::Meant],
    ) -> Vec<Meant> {
        let Some(written) = written else {
            let mut candidates: Vec<(BackendId, u32)> = backends.iter().map(|meant| (meant.backend.id, 1)).collect();
            if candidates.len() > MOST_CANDIDATES {
                let message = format!("more than {MOST_CANDIDATES} backends need routes");
                self.problems.add(Mark::default(), message);
            }
            self.bound(&mut candidates, None, backends, Mark::default());
            let dialect = self.one_api(&candidates, None, backends, Mark::default());
            let (policy, prefix) = (standard(policies), usual_prefix(dialect));
            return vec![self.assemble(Arc::from("default"), (prefix, dialect), candidates, None, policy, backends)];
        };
        let mut routes: Vec<Meant> = Vec::with_capacity(written.0.len());
        if let Some(past) = written.0.get(MOST_ROUTES) {
            self.problems.add(past.name.mark, format!("more than {MOST_ROUTES} routes"));
        }
        for file in written.0.into_iter().take(MOST_ROUTES) {
            self.name(&file.name);
            self.once("route", &file.name, routes.iter().map(|other| (&*other.route.name, other.mark)));
            let name = file.name.clone();
            let meant = self.route(file, backends, policies);
            if let Some(before) = routes.iter().find(|before| shadows(&before.route, &meant.route)) {
                let message = format!("this route gets no request: `{}` before it takes them all", before.route.name);
                self.problems.add(name.mark, message).mend =
                    Some("routes with one path are told apart by `match.headers`, the narrower one first".to_owned());
            }
            routes.push(meant);
        }
        routes
    }

    fn route(&mut self, file: RouteFile, backends: &[backend::Meant], policies: &[policy::Meant]) -> Meant {
        let (path, headers, models) = match file.r#match {
            Some(MatchFile { path, headers, models }) => (path, headers.map(|table| table.0).unwrap_or_default(), models),
            None => (None, Vec::new(), None),
        };
        let prefix = path.map(|path| self.prefix(&path));
        let headers = headers.iter().filter_map(|(name, value)| self.header(name, value)).collect();
        let candidates_mark = file.backends.mark;
        let mut candidates = self.candidates(file.backends, backends);
        let policy = match &file.policy {
            Some(written) => self.policy_named(written, policies).unwrap_or_else(|| standard(policies)),
            None => standard(policies),
        };
        let shadow = file.shadow.as_ref().and_then(|written| self.shadow(written, &policy, policies));
        let home = file.home.and_then(|written| self.home(&written, &candidates, backends));
        let dialect = match &file.dialect {
            Some(written) => self.spoken(written, &candidates, backends),
            None => self.one_api(&candidates, home, backends, candidates_mark),
        };
        let prefix = prefix.unwrap_or_else(|| usual_prefix(dialect));
        let only: Option<Vec<Arc<str>>> = models.map(|written| self.only_models(&written, &candidates, backends));
        self.bound(&mut candidates, only.as_deref(), backends, file.name.mark);
        let name = Arc::from(file.name.value.as_str());
        let mut meant = self.assemble(name, (prefix, dialect), candidates, only.as_deref(), policy, backends);
        meant.route.headers = headers;
        meant.route.shadow = shadow.map(|policy| Shadow { policy, outside: Box::default() });
        meant.route.home = home.unwrap_or(meant.route.home);
        (meant.mark, meant.candidates_mark) = (file.name.mark, candidates_mark);
        meant
    }

    /// What the route's clients are said to speak. Whoever may get what they send has to understand it, or have it translated.
    fn spoken(&mut self, written: &At<Dialect>, candidates: &[(BackendId, u32)], backends: &[backend::Meant]) -> Dialect {
        let dialect = written.value;
        if let Some(other) = meant(candidates, backends).find(|other| !other.serves(dialect)) {
            let (clients, there) = (dialect.name(), other.dialect.name());
            let message = format!("`{}` speaks `{there}`, and this route's clients are to speak `{clients}`", other.name);
            self.problems.add(written.mark, message).mend =
                Some(format!("say `translate: [{clients}]` there, if there is such a translation"));
        }
        dialect
    }

    /// What the route's clients speak, where nobody says so: what the home speaks, or else the first who is understood by all.
    fn one_api(
        &mut self,
        candidates: &[(BackendId, u32)],
        home: Option<BackendId>,
        backends: &[backend::Meant],
        at: Mark,
    ) -> Dialect {
        let all = || meant(candidates, backends);
        let Some(first) = all().find(|backend| home.is_none_or(|home| backend.id == home)) else { return Dialect::default() };
        let mut spoken = std::iter::once(first).chain(all()).map(|backend| backend.dialect);
        if let Some(dialect) = spoken.find(|dialect| all().all(|backend| backend.serves(*dialect))) {
            return dialect;
        }
        let Some(first) = all().next() else { return Dialect::default() };
        if let Some(other) = all().find(|other| !other.dialect.is_kin_of(first.dialect)) {
            let (one, two) = (first.dialect.name(), other.dialect.name());
            let message =
                format!("`{}` speaks `{one}` and `{}` speaks `{two}`: one route has one dialect", first.name, other.name);
            let shares_paths = [first.dialect, other.dialect].contains(&Dialect::Anthropic);
            let mend = if shares_paths {
                "give each dialect a route of its own, that of Anthropic's clients first and with `headers: { anthropic-version: \"*\" }`"
            } else {
                "give each dialect a route of its own"
            };
            self.problems.add(at, message).mend = Some(mend.to_owned());
        }
        first.dialect
    }

    /// Keeps the table of who serves what within bounds.
    fn bound(
        &mut self,
        candidates: &mut Vec<(BackendId, u32)>,
        only: Option<&[Arc<str>]>,
        backends: &[backend::Meant],
        at: Mark,
    ) {
        if self.deployments > MOST_DEPLOYMENTS {
            // Reported once; the plan will not be.
            return candidates.clear();
        }
        let models = only.map_or_else(|| served(candidates, backends).len(), <[Arc<str>]>::len);
        self.deployments = self.deployments.saturating_add(models.saturating_mul(candidates.len()));
        if self.deployments > MOST_DEPLOYMENTS {
            self.problems.add(at, format!("more than {MOST_DEPLOYMENTS} pairs of model and backend over all routes"));
            candidates.clear();
        }
    }

    /// A route of its candidates: who serves each model, in the file's order.
    fn assemble(
        &mut self,
        name: Arc<str>,
        (prefix, dialect): (Arc<str>, Dialect),
        candidates: Vec<(BackendId, u32)>,
        only: Option<&[Arc<str>]>,
        policy: Arc<Policy>,
        backends: &[backend::Meant],
    ) -> Meant {
        let meant = |id: BackendId| backends.get(id.index());
        let model_names = only.map_or_else(|| served(&candidates, backends), <[Arc<str>]>::to_vec);
        let mut deployments = |model: Option<&Arc<str>>| -> Arc<[Deployment]> {
            let flow = FlowId(self.flows.len() as u32);
            self.flows.push((Arc::clone(&name), model.map_or_else(|| Arc::from("*"), Arc::clone)));
            candidates.iter().filter_map(|(id, weight)| deployment(meant(*id)?, model, dialect, *weight, flow)).collect()
        };
        let models: BTreeMap<Arc<str>, Arc<[Deployment]>> =
            model_names.iter().map(|name| (Arc::clone(name), deployments(Some(name)))).collect();
        let any_model = if only.is_some() { Arc::from([]) } else { deployments(None) };
        // Whoever needs no translation has all that this API has.
        let native = |id: &BackendId| meant(*id).is_some_and(|meant| meant.backend.dialect.is_kin_of(dialect));
        let mut ids = candidates.iter().map(|(id, _)| *id);
        let home = ids.clone().find(native).or(ids.next()).unwrap_or(BackendId(0));
        let (headers, shadow, outside) = (Vec::new(), None, Box::default());
        let simulated = candidates.iter().any(|(id, _)| meant(*id).is_some_and(|meant| meant.backend.simulated));
        let route = Route { name, prefix, dialect, headers, models, any_model, home, policy, shadow, outside, simulated };
        Meant { route, mark: Mark::default(), candidates, candidates_mark: Mark::default(), model_names }
    }

    fn prefix(&mut self, written: &At<String>) -> Arc<str> {
        let path = written.value.as_str();
        let wrong = if path.starts_with('/') {
            let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#' | '*' | '{' | '}');
            (path.contains(odd) || path.contains("//")).then_some("is a plain prefix, without patterns, query or empty segments")
        } else {
            Some("begins with `/`")
        };
        if let Some(wrong) = wrong {
            self.problems.add(written.mark, format!("a path {wrong}"));
        }
        Arc::from(path.trim_end_matches('/'))
    }

    fn header(&mut self, name: &At<String>, value: &At<String>) -> Option<(HeaderName, Option<HeaderValue>)> {
        let Ok(parsed) = HeaderName::try_from(name.value.as_str()) else {
            self.problems.add(name.mark, format!("{} is no header name", name.shown()));
            return None;
        };
        if value.value == "*" {
            return Some((parsed, None));
        }
        let Ok(wanted) = HeaderValue::from_str(&value.value) else {
            self.problems.add(value.mark, "no header can have this value");
            return None;
        };
        Some((parsed, Some(wanted)))
    }

    fn candidates(&mut self, written: At<Filled<CandidateFile>>, backends: &[backend::Meant]) -> Vec<(BackendId, u32)> {
        if written.value.0.len() > MOST_CANDIDATES {
            self.problems.add(written.mark, format!("more than {MOST_CANDIDATES} backends in one route"));
        }
        let mut candidates: Vec<(BackendId, u32)> = Vec::with_capacity(written.value.0.len());
        for CandidateFile { name, weight } in written.value.0 {
            let weight = self.count(weight.as_ref(), 1, 0..=1_000_000) as u32;
            let Some(id) = self.backend_named(&name, backends) else { continue };
            if candidates.iter().any(|(other, _)| *other == id) {
                self.problems.add(name.mark, format!("{} is in this route twice", name.shown()));
            }
            candidates.push((id, weight));
        }
        candidates
    }

    fn backend_named(&mut self, written: &At<String>, backends: &[backend::Meant]) -> Option<BackendId> {
        let found = backends.iter().find(|meant| *meant.backend.name == *written.value).map(|meant| meant.backend.id);
        if found.is_none() && !self.backend_names.contains(&written.value) {
            let known: Vec<&str> = self.backend_names.iter().map(String::as_str).collect();
            self.problems.unknown(written.mark, "backend", &written.value, &written.shown(), &known);
        }
        found
    }

    pub(super) fn policy_named(&mut self, written: &At<String>, policies: &[policy::Meant]) -> Option<Arc<Policy>> {
        let found = policies.iter().find(|meant| *meant.policy.name == *written.value).map(|meant| Arc::clone(&meant.policy));
        let fine = written.value == policy::STANDARD || self.policy_names.contains(&written.value);
        if found.is_none() && !fine {
            let known: Vec<&str> = self.policy_names.iter().map(String::as_str).chain([policy::STANDARD]).collect();
            self.problems.unknown(written.mark, "policy", &written.value, &written.shown(), &known);
        }
        found
    }

    /// A policy that decides for the log alone.
    fn shadow(&mut self, written: &At<String>, real: &Policy, policies: &[policy::Meant]) -> Option<Arc<Policy>> {
        let shadow = self.policy_named(written, policies).or_else(|| {
            let is_standard = *written.value == *policy::STANDARD;
            is_standard.then(|| standard(policies))
        })?;
        if shadow.name == real.name {
            self.warnings.add(written.mark, "this shadow is the policy in force, and will never differ from it");
        }
        Some(shadow)
    }

    fn home(&mut self, written: &At<String>, candidates: &[(BackendId, u32)], backends: &[backend::Meant]) -> Option<BackendId> {
        let id = self.backend_named(written, backends)?;
        if !candidates.iter().any(|(candidate, _)| *candidate == id) {
            self.problems.add(written.mark, format!("{} is not among this route's backends", written.shown()));
        }
        Some(id)
    }

    /// The models a route is narrowed to, each of which somebody has to serve.
    fn only_models(
        &mut self,
        written: &Filled<At<String>>,
        candidates: &[(BackendId, u32)],
        backends: &[backend::Meant],
    ) -> Vec<Arc<str>> {
        let lists: Vec<Option<&[backend::Model]>> =
            candidates.iter().filter_map(|(id, _)| backends.get(id.index())).map(|meant| meant.models.as_deref()).collect();
        let any = lists.iter().any(Option::is_none);
        let known: HashSet<&str> = lists.iter().flatten().flat_map(|models| models.iter()).map(|model| &*model.client).collect();
        for model in &written.0 {
            self.model_name(model);
            if !any && !known.contains(&*model.value) && !candidates.is_empty() && !self.problems.enough() {
                let nearest = similar(&model.value, known.iter().copied());
                let message = format!("no backend of this route serves {}", model.shown());
                self.problems.add(model.mark, message).mend = nearest.map(|nearest| format!("did you mean `{nearest}`?"));
            }
        }
        written.0.iter().map(|model| Arc::from(model.value.as_str())).collect()
    }
}

/// The backends of these candidates.
fn meant<'b>(candidates: &[(BackendId, u32)], backends: &'b [backend::Meant]) -> impl Iterator<Item = &'b Backend> {
    candidates.iter().filter_map(|(id, _)| backends.get(id.index())).map(|meant| &meant.backend)
}

/// What a route takes that says nothing. The paths of Bedrock's own API and of Gemini's begin at the root, where their SDKs put them.
fn usual_prefix(dialect: Dialect) -> Arc<str> {
    Arc::from(if matches!(dialect, Dialect::Bedrock | Dialect::Gemini) { "" } else { PREFIX })
}

/// The models that the candidates list, by the client's names, in the file's order.
fn served(candidates: &[(BackendId, u32)], backends: &[backend::Meant]) -> Vec<Arc<str>> {
    let mut seen = HashSet::new();
    let lists = candidates.iter().filter_map(|(id, _)| backends.get(id.index())?.models.as_ref());
    lists.flatten().map(|model| &model.client).filter(|name| seen.insert(Arc::clone(name))).map(Arc::clone).collect()
}

/// The policy that stands for routes which name none.
pub(super) fn standard(policies: &[policy::Meant]) -> Arc<Policy> {
    let own = policies.iter().find(|meant| &*meant.policy.name == policy::STANDARD);
    let id = PolicyId(policies.len() as u16);
    let implied = || Arc::new(Policy { id, ..Policy::standard(policy::STANDARD) });
    own.map_or_else(implied, |meant| Arc::clone(&meant.policy))
}

/// Whether every request that `later` takes is taken by `before`, which stands first.
fn shadows(before: &Route, later: &Route) -> bool {
    let asked = |(name, value): &(HeaderName, Option<HeaderValue>)| {
        later.headers.iter().any(|(other, wanted)| other == name && (value.is_none() || value == wanted))
    };
    before.prefix == later.prefix && before.headers.iter().all(asked)
}

/// A backend as candidate for a model (`None`: for one that no backend lists), if it serves it.
fn deployment(
    meant: &backend::Meant,
    model: Option<&Arc<str>>,
    clients: Dialect,
    weight: u32,
    flow: FlowId,
) -> Option<Deployment> {
    let backend = meant.backend.id;
    let translated = !meant.backend.dialect.is_kin_of(clients);
    let Some(models) = &meant.models else {
        let (coefficients, prices) = (meant.energy.clone(), meant.prices);
        return Some(Deployment {
            backend,
            model: Arc::from("*"),
            place: 0,
            upstream_model_json: None,
            upstream_segment: None,
            base_path: None,
            coefficients,
            prices,
            weight,
            translated,
            flow,
        });
    };
    let (index, place) = *meant.by_name.get(model?)?;
    let served = models.get(index)?;
    Some(Deployment {
        backend,
        model: Arc::clone(&served.client),
        place,
        upstream_model_json: served.upstream_json.clone(),
        upstream_segment: served.upstream_segment.clone(),
        base_path: served.base_path.clone(),
        coefficients: Some(Arc::clone(&served.coefficients)),
        prices: served.prices,
        weight: served.weight.unwrap_or(weight),
        translated,
        flow,
    })
}
