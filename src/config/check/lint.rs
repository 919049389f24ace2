//! What is allowed and yet probably not meant.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::carbon::Zones;
use super::{Check, backend, policy, route};
use crate::backend::{Credential, PlacementKind};
use crate::config::decode::similar;
use crate::config::file::File;
use crate::config::node::Mark;
use crate::config::plan::{Limits, Listener};
use crate::grid::{GridZone, ZoneId};
use crate::key::Keys;
use crate::route::{Deployment, Route};
use crate::tables::{Glob, Regions};
use crate::units::Millis;

/// Places that are more than one country.
const GROUPS: [&str; 2] = ["eu", "us"];
/// The most places that are looked at; a warning more is no help to anybody.
const MOST_PLACES: usize = 1000;

/// A body may be this part of all that are collected at once, where some of them only claim to be signed.
const LARGEST_SIGNED: usize = 4;

/// Where the file says what is looked at here and no longer has its place in the plan.
pub(super) struct Marks {
    /// By address.
    listeners: Vec<(SocketAddr, Mark)>,
    body: Mark,
}

impl Marks {
    pub(super) fn of(file: &File) -> Self {
        let listeners = file.listeners.iter().flat_map(|all| &all.0).map(|listener| &listener.address);
        let limits = file.limits.as_ref();
        Self {
            listeners: listeners.filter_map(|at| Some((at.value.as_ref().parse().ok()?, at.mark))).collect(),
            body: limits.map_or_else(Mark::default, |at| at.value.body.as_ref().map_or(at.mark, |body| body.mark)),
        }
    }
}

/// A model in words, and who may serve it.
type Served<'m> = (String, Vec<&'m backend::Meant>);

/// What a route serves. Most routes have the same backends for all models, but a model that is at few of them has less choice.
fn by_model<'m>(route: &route::Meant, backends: &'m [backend::Meant]) -> Vec<Served<'m>> {
    let able = |list: &[Deployment]| list.iter().filter_map(|one| backends.get(one.backend.index())).collect();
    let Route { models, any_model, .. } = &route.route;
    let named = models.iter().map(|(model, list)| (format!("model `{model}`"), able(list)));
    named.chain([("any other model".to_owned(), able(any_model))]).filter(|(_, able): &Served<'_>| !able.is_empty()).collect()
}

/// The one grid zone of several backends, if they have no other.
fn common_zone(backends: &[&backend::Meant]) -> Option<ZoneId> {
    let [first, others @ ..] = backends else { return None };
    let [zone] = first.backend.placement.zones[..] else { return None };
    let same = |other: &&backend::Meant| other.backend.placement.zones[..] == [zone];
    (!others.is_empty() && others.iter().all(same)).then_some(zone)
}

/// The least time to the first token that is predicted of any of them before anything was measured, of the shortest prompt.
fn fastest(backends: &[&backend::Meant]) -> Option<Millis> {
    backends.iter().map(|meant| meant.backend.prior.unproven()).min_by(|a, b| a.get().total_cmp(&b.get()))
}

/// Of how many models the first is named.
fn and_others(models: usize) -> String {
    if models > 1 { format!(" (and for {} more)", models - 1) } else { String::new() }
}

impl Check<'_> {
    /// Whoever reaches a gateway without keys is served at its operator's expense.
    pub(super) fn open_to_all(&mut self, listeners: &[Listener], marks: &Marks, backends: &[backend::Meant], keys: &Keys) {
        let own = |meant: &&backend::Meant| !matches!(meant.backend.credential, Credential::None | Credential::PassThrough);
        let Some(own) = backends.iter().find(own).filter(|_| keys.is_empty()) else { return };
        let open = listeners.iter().find(|listener| !listener.address.ip().to_canonical().is_loopback());
        let open = open.and_then(|open| marks.listeners.iter().find(|(address, _)| *address == open.address));
        if let Some((_, mark)) = open {
            let name = &own.backend.name;
            let message =
                format!("whoever reaches this address is served with the credential of `{name}`, since there are no `keys`");
            self.warnings.add(*mark, message).mend =
                Some("say under `keys` who may use it, or listen on 127.0.0.1 for this machine only".to_owned());
        }
    }

    /// A body that has to be collected to be held to its signature takes as much memory as any, whoever sent it.
    pub(super) fn signed_bodies(&mut self, limits: &Limits, marks: &Marks, keys: &Keys) {
        if keys.iter().any(|key| key.signs.is_some()) && limits.body > limits.buffered / LARGEST_SIGNED {
            let message = "one body of a request that only claims to be signed may take more than a quarter of `buffered`";
            self.warnings.add(marks.body, message).mend =
                Some("raise `buffered` to four times `body`, or lower `body`".to_owned());
        }
    }

    pub(super) fn lint(
        &mut self,
        backends: &[backend::Meant],
        policies: &[policy::Meant],
        routes: &[route::Meant],
        keys: &Keys,
        zones: &Zones,
    ) {
        for route in routes {
            let candidates: Vec<&backend::Meant> =
                route.candidates.iter().filter_map(|(id, _)| backends.get(id.index())).collect();
            let by_model = by_model(route, backends);
            if route.route.policy.objective.weighs_carbon() {
                self.one_zone(route, &candidates, &by_model, zones);
                self.global(route, &candidates);
            }
            self.unpriced(route, &candidates, policies);
            self.unmet(route, &candidates, &by_model, policies);
        }
        self.places(backends, policies, zones);
        self.unused(backends, policies, routes, keys);
    }

    /// A place that nobody knows lets nobody in.
    fn places(&mut self, backends: &[backend::Meant], policies: &[policy::Meant], zones: &Zones) {
        let own_zones = zones.names();
        let shipped = || Regions::shipped().iter();
        let names: Vec<&str> =
            shipped().map(|region| &*region.name).chain(backends.iter().map(|meant| &*meant.backend.region)).collect();
        let grids: Vec<&str> =
            shipped().map(|region| region.grid_zone.as_str()).chain(own_zones.iter().map(GridZone::as_str)).collect();
        for place in policies.iter().flat_map(|meant| &meant.residency).take(MOST_PLACES) {
            let text = place.value.trim();
            let pattern = text.contains(['*', '?']).then(|| Glob::new(text).ok()).flatten();
            let known = if let Some(pattern) = pattern {
                names.iter().any(|name| pattern.matches(name))
            } else {
                let of_zone = |zone: &&str| zone.split('-').next().is_some_and(|country| text.eq_ignore_ascii_case(country));
                let same = |name: &&str| name.eq_ignore_ascii_case(text);
                GROUPS.iter().chain(&names).chain(&grids).any(same) || grids.iter().any(of_zone)
            };
            if !known {
                let nearest = similar(text, GROUPS.iter().chain(&names).chain(&grids).copied());
                let message = format!("{} is no place that is known, so it lets no backend in", place.shown());
                self.warnings.add(place.mark, message).mend = Some(match nearest {
                    Some(nearest) => format!("did you mean `{nearest}`?"),
                    None => "a place is `eu`, a region such as `aws/eu-*`, a country such as `SE`, or a grid zone".to_owned(),
                });
            }
        }
    }

    /// There is nothing to choose between candidates on one grid. A route with several may still have models that are on one.
    fn one_zone(&mut self, route: &route::Meant, candidates: &[&backend::Meant], by_model: &[Served<'_>], zones: &Zones) {
        let stuck = || by_model.iter().filter_map(|(model, able)| Some((model, common_zone(able)?)));
        let name = &route.route.name;
        let (who, zone) = match (common_zone(candidates), stuck().next()) {
            (Some(zone), _) => (format!("all backends of route `{name}`"), zone),
            (None, Some((model, zone))) => {
                (format!("all backends of route `{name}` for {model}{}", and_others(stuck().count())), zone)
            }
            (None, None) => return,
        };
        let zone = zones.names().get(usize::from(zone.0)).map_or_else(String::new, |zone| format!(" {}", zone.as_str()));
        let message = format!("{who} are in grid zone{zone}: no choice among them saves carbon");
        self.warnings.add(route.candidates_mark, message).mend = Some("add a backend on another grid".to_owned());
    }

    /// Who may run anywhere cannot be steered.
    fn global(&mut self, route: &route::Meant, candidates: &[&backend::Meant]) {
        for meant in candidates.iter().filter(|meant| meant.backend.placement.kind == PlacementKind::Global) {
            let message = format!(
                "`{}` may run anywhere, so route `{}` cannot choose its grid and it never wins as green",
                meant.backend.name, route.route.name
            );
            self.warnings.add(meant.mark, message).mend =
                Some("use the provider's regional endpoint or profile instead of the global one".to_owned());
        }
    }

    /// Where dollars count, whoever has no price comes last.
    fn unpriced(&mut self, route: &route::Meant, candidates: &[&backend::Meant], policies: &[policy::Meant]) {
        let policy = &route.route.policy;
        let is_priced = |meant: &&&backend::Meant| match &meant.models {
            Some(models) => models.iter().all(|model| model.prices.is_some()),
            None => meant.prices.is_some(),
        };
        let Some(first) = candidates.iter().find(|meant| policy.counts_money() && !is_priced(meant)) else { return };
        let message = format!(
            "policy `{}` heeds what a request costs, and nobody said what tokens cost at `{}` of route `{}`: it comes after those of which that is known",
            policy.name, first.backend.name, route.route.name
        );
        let own = policies.iter().find(|meant| meant.policy.name == policy.name);
        self.warnings.add(own.map_or(route.mark, |meant| meant.mark), message).mend =
            Some("give the backend or the model its `price_usd_per_million_tokens`".to_owned());
    }

    /// A budget that nobody is expected to meet makes every choice the fastest one.
    fn unmet(
        &mut self,
        route: &route::Meant,
        candidates: &[&backend::Meant],
        by_model: &[Served<'_>],
        policies: &[policy::Meant],
    ) {
        let policy = &route.route.policy;
        let Some(budget) = policy.budget else { return };
        let too_slow = |able: &[&backend::Meant]| fastest(able).filter(|fastest| *fastest > budget.first_token);
        let late = || by_model.iter().filter_map(|(model, able)| Some((model, too_slow(able)?)));
        let name = &route.route.name;
        let (who, fastest) = match (too_slow(candidates), late().next()) {
            (Some(fastest), _) => (format!("no backend of route `{name}`"), fastest),
            (None, Some((model, fastest))) => {
                (format!("no backend of route `{name}` for {model}{}", and_others(late().count())), fastest)
            }
            (None, None) => return,
        };
        let ms = |span: Millis| format!("{} ms", span.get());
        let message = format!(
            "{who} is expected to meet the budget of policy `{}`: {} to the first token, and of the fastest {} are predicted at first",
            policy.name,
            ms(budget.first_token),
            ms(fastest),
        );
        let own = policies.iter().find(|meant| meant.policy.name == policy.name);
        let mark = own.map_or(route.mark, |meant| meant.budget_mark.unwrap_or(meant.mark));
        self.warnings.add(mark, message).mend =
            Some("raise the budget, or say in the backend's `expect` that it is faster".to_owned());
    }

    fn unused(&mut self, backends: &[backend::Meant], policies: &[policy::Meant], routes: &[route::Meant], keys: &Keys) {
        let used: HashSet<_> = routes.iter().flat_map(|route| &route.candidates).map(|(id, _)| *id).collect();
        for meant in backends.iter().filter(|meant| !used.contains(&meant.backend.id)) {
            self.warnings.add(meant.mark, format!("no route uses backend `{}`", meant.backend.name));
        }
        for meant in backends.iter().filter(|meant| used.contains(&meant.backend.id)) {
            let on = |route: &&route::Meant| route.candidates.iter().any(|(id, _)| *id == meant.backend.id);
            let spoken: Vec<_> = routes.iter().filter(on).map(|route| route.route.dialect).collect();
            let idle = meant.backend.translates.iter().find(|dialect| !spoken.iter().any(|route| route.is_kin_of(**dialect)));
            if let Some(dialect) = idle.map(|dialect| dialect.name()) {
                let message = format!(
                    "no route of `{}` is for clients that speak `{dialect}`, so there is nothing to translate",
                    meant.backend.name
                );
                self.warnings.add(meant.mark, message).mend = Some(format!("say `dialect: {dialect}` at a route"));
            }
        }
        for meant in policies {
            let by_route = routes.iter().any(|route| {
                let shadow = route.route.shadow.as_ref().map(|shadow| &shadow.policy);
                shadow.into_iter().chain([&route.route.policy]).any(|policy| policy.name == meant.policy.name)
            });
            let by_key = keys.iter().filter_map(|key| key.policy.as_ref()).any(|own| own.policy.name == meant.policy.name);
            if !by_route && !by_key {
                self.warnings.add(meant.mark, format!("no route uses policy `{}`", meant.policy.name));
            }
        }
    }
}
