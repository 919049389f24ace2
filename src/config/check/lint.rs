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
use crate::grid::GridZone;
use crate::key::Keys;
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
            listeners: listeners.filter_map(|at| Some((at.value.parse().ok()?, at.mark))).collect(),
            body: limits.map_or_else(Mark::default, |at| at.value.body.as_ref().map_or(at.mark, |body| body.mark)),
        }
    }
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
            if route.route.policy.objective.weighs_carbon() {
                self.one_zone(route, &candidates, zones);
                self.global(route, &candidates);
            }
            self.unpriced(route, &candidates, policies);
            self.unmet(route, &candidates, policies);
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

    /// There is nothing to choose between candidates on one grid.
    fn one_zone(&mut self, route: &route::Meant, candidates: &[&backend::Meant], zones: &Zones) {
        let [first, others @ ..] = candidates else { return };
        let place = &first.backend.placement.zones;
        if !others.is_empty() && place.len() == 1 && others.iter().all(|other| other.backend.placement.zones == *place) {
            let name = place.first().and_then(|id| zones.names().get(usize::from(id.0)).cloned());
            let name = name.map_or_else(String::new, |zone| format!(" {}", zone.as_str()));
            let message =
                format!("all backends of route `{}` are in grid zone{name}: no choice among them saves carbon", route.route.name);
            self.warnings.add(route.candidates_mark, message).mend = Some("add a backend on another grid".to_owned());
        }
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
    fn unmet(&mut self, route: &route::Meant, candidates: &[&backend::Meant], policies: &[policy::Meant]) {
        let policy = &route.route.policy;
        let Some(budget) = policy.budget else { return };
        let fastest = candidates.iter().map(|meant| meant.backend.prior.first_token).min_by(|a, b| a.get().total_cmp(&b.get()));
        if let Some(fastest) = fastest.filter(|fastest| *fastest > budget.first_token) {
            let ms = |span: Millis| format!("{} ms", span.get());
            let message = format!(
                "no backend of route `{}` is expected to meet the budget of policy `{}`: {} to the first token, and the fastest takes {}",
                route.route.name,
                policy.name,
                ms(budget.first_token),
                ms(fastest),
            );
            let own = policies.iter().find(|meant| meant.policy.name == policy.name);
            let mark = own.map_or(route.mark, |meant| meant.budget_mark.unwrap_or(meant.mark));
            self.warnings.add(mark, message).mend =
                Some("raise the budget, or say in the backend's `expect` that it is faster".to_owned());
        }
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
            let by_route = routes.iter().any(|route| route.route.policy.name == meant.policy.name);
            let by_key = keys.iter().filter_map(|key| key.policy.as_ref()).any(|own| own.policy.name == meant.policy.name);
            if !by_route && !by_key {
                self.warnings.add(meant.mark, format!("no route uses policy `{}`", meant.policy.name));
            }
        }
    }
}
