//! Which requests a route takes, and who may serve them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::BackendId;
use crate::cost::TokenPrices;
use crate::dialect::Dialect;
use crate::policy::Policy;

/// One model at one backend: what a candidate is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Who serves it.
    pub backend: BackendId,
    /// The client's name for the model; the key of what was learned about it in [`crate::live::Live`]. `*` when the backend lists no
    /// models and takes any name.
    pub model: Arc<str>,
    /// Its place among the models that the backend lists, in the order of their names.
    pub place: u16,
    /// Its name there, as a JSON string with quotes, when it differs.
    pub upstream_model_json: Option<bytes::Bytes>,
    /// Its name there as one segment of a path, where the dialect has the model in the path; `None` for `*`.
    pub upstream_segment: Option<Arc<str>>,
    /// Below which path it is there, where that is not the backend's own.
    pub base_path: Option<Arc<str>>,
    /// Energy coefficients, resolved from the table and the overrides in the file; `None` for `*`, looked up per request.
    pub coefficients: Option<Arc<crate::tables::Coefficients>>,
    /// What its tokens cost, where the file says so.
    pub prices: Option<TokenPrices>,
    /// Share under the objective `weighted`.
    pub weight: u32,
    /// Whether what its route's clients say has to be translated for it.
    pub translated: bool,
    /// The requests for this model on this route: the same for all of its candidates.
    pub flow: FlowId,
}

/// A flow's place in the plan: the requests for one model on one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u32);

impl FlowId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A policy that is not in force, but whose choice is written beside the one that is.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// What would be wanted.
    pub policy: Arc<Policy>,
    /// The candidates that lie outside its residency.
    pub outside: Box<[BackendId]>,
}

/// A route of the plan.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Path prefix without a slash at its end (`/v1`); the rest of the path goes behind the backend's own base path.
    pub prefix: Arc<str>,
    /// What its clients speak.
    pub dialect: Dialect,
    /// Header fields that must be there, with that value if one is given.
    pub headers: Vec<(http::HeaderName, Option<http::HeaderValue>)>,
    /// Models it takes, by the client's names, each with its candidates in the file's order. Ordered: to compare a few names is less
    /// work for each request than a keyed hash of one.
    pub models: BTreeMap<Arc<str>, Arc<[Deployment]>>,
    /// Candidates for any other model: backends that list none.
    pub any_model: Arc<[Deployment]>,
    /// Where calls go that name no model, list things, or name a thing whose backend is not known.
    pub home: BackendId,
    /// What is wanted.
    pub policy: Arc<Policy>,
    /// A policy that every request is decided by as well, for the log alone.
    pub shadow: Option<Shadow>,
    /// The candidates that lie outside the policy's residency. Neither changes while the plan is in force, so that a request only
    /// looks them up; most often there are none.
    pub outside: Box<[BackendId]>,
    /// Whether a backend of it is simulated. What is sent to none of them is then as made up as what is.
    pub simulated: bool,
}

impl Route {
    /// What is left of `path` below the prefix, if this route takes it.
    pub fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(&*self.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// Whether a backend serves anything here.
    pub fn reaches(&self, backend: BackendId) -> bool {
        let mut lists = self.models.values().chain([&self.any_model]);
        self.home == backend || lists.any(|list| list.iter().any(|deployment| deployment.backend == backend))
    }

    /// Who may serve a model.
    pub fn candidates(&self, model: &str) -> &Arc<[Deployment]> {
        self.models.get(model).unwrap_or(&self.any_model)
    }
}

/// The route that takes a request: the one with the longest prefix, and among equals the first in the file whose header fields are
/// there. `has` says whether one is, with a value if one is given.
pub fn select<'r>(
    routes: &'r [Route],
    path: &str,
    has: impl Fn(&http::HeaderName, Option<&http::HeaderValue>) -> bool,
) -> Option<&'r Route> {
    let mut best: Option<&Route> = None;
    for route in routes {
        let fits = route.below(path).is_some() && route.headers.iter().all(|(name, value)| has(name, value.as_ref()));
        if fits && best.is_none_or(|b| route.prefix.len() > b.prefix.len()) {
            best = Some(route);
        }
    }
    best
}

/// Whether the path, as a server might read it, climbs.
pub fn has_dot_segment(path: &str) -> bool {
    // Most paths have neither a dot after a slash nor an escape, and one look is enough.
    if !path.contains("/.") && !path.contains(['%', '\\']) {
        return false;
    }
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\");
    plain.split(['/', '\\']).any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_is_seen() {
        for bad in [
            "/v1/../admin",
            "/v1/%2e%2e/x",
            "/v1/.",
            "/..",
            "/v1/.%2E/x",
            "/v1\\..\\x",
            "/v1/..%2fadmin",
            "/v1/x%2F..%2Fadmin",
            "/v1/%2E%2e%5Cadmin",
        ] {
            assert!(has_dot_segment(bad), "{bad}");
        }
        for good in ["/v1/chat/completions", "/v1/files/a..b", "/v1/models/gpt-4.1", "/v1/models/a%3Ab", "/v1/.well-known"] {
            assert!(!has_dot_segment(good), "{good}");
        }
    }
}
