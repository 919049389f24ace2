//! From the file as written to the file as meant: every reference resolved, every default made, every problem noted.
//!
//! A check that finds a fault notes it and goes on with a value that does for the checks after it. That is sound because a plan is
//! only given out when nothing was noted.

mod aws;
mod backend;
mod boot;
mod carbon;
mod catalogue;
mod credential;
mod energy;
mod health;
mod hosts;
mod key;
mod lint;
mod models;
pub(super) mod peers;
mod policy;
mod route;
mod url;

pub use carbon::builtin_reading;
pub use models::model_json;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::decode::{At, Problems, quoted};
use super::env::{Env, Files};
use super::file::File;
use super::node::{Mark, Node};
use super::plan::Plan;
use super::values::{Size, Span};
use crate::policy::Policy;
use crate::tables::{Catalogue, Coefficients};

/// What all checks share.
pub(super) struct Check<'a> {
    pub(super) problems: Problems,
    pub(super) warnings: Problems,
    env: &'a Env,
    files: &'a dyn Files,
    /// The directory of the file, from which relative paths go.
    base: PathBuf,
    /// Names as they stand in the file, also those of entries that could not be read: a reference to one of these is not unknown.
    backend_names: Vec<String>,
    policy_names: Vec<String>,
    route_names: Vec<String>,
    /// Which model is reached where.
    catalogue: Catalogue,
    /// Pairs of model and candidate so far.
    deployments: usize,
    /// Figures of energy by their ids so far.
    figures: HashMap<Arc<str>, Coefficients>,
    /// Names of route and model of the flows so far.
    flows: Vec<(Arc<str>, Arc<str>)>,
}

impl<'a> Check<'a> {
    pub(super) fn new(file_name: &str, root: &Node, (env, files): (&'a Env, &'a dyn Files), problems: Problems) -> Self {
        let names = |section| root.get(section).map(names).unwrap_or_default();
        let base = Path::new(file_name).parent().map(Path::to_path_buf).unwrap_or_default();
        let (backend_names, policy_names, route_names) = (names("backends"), names("policies"), names("routes"));
        let warnings = Problems::default();
        let (catalogue, deployments, figures, flows) = (Catalogue::default(), 0, HashMap::new(), Vec::new());
        Self {
            problems,
            warnings,
            env,
            files,
            base,
            backend_names,
            policy_names,
            route_names,
            catalogue,
            deployments,
            figures,
            flows,
        }
    }

    /// The plan that a file means. It may only be used when no problem was noted.
    pub(super) fn plan(&mut self, file: File, text_hash: u64) -> Plan {
        let marks = lint::Marks::of(&file);
        let (boot, limits) =
            self.boot(file.listeners, file.admin, file.workers, file.log, file.limits, (file.peers.as_ref(), file.state));
        let table = Arc::new(self.energy_table(file.energy.unwrap_or_default()));
        let (mut carbon, mut zones) = self.carbon(file.carbon);
        self.catalogue = self.catalogue(file.catalogue);
        let backends = self.backends(file.backends, &table, &mut zones);
        let policies = self.policies(file.policies.unwrap_or_default());
        let mut routes = self.routes(file.routes, &backends, &policies);
        carbon.yearly = zones.yearly();
        let names = zones.names();
        for meant in &mut routes {
            meant.look_outside(&backends, &names);
        }
        let keys = self.keys(file.keys.0, &backends, &policies, &routes, &names);
        self.lint(&backends, &policies, &routes, &keys, &zones);
        self.open_to_all(&boot.listeners, &marks, &backends, &keys);
        self.signed_bodies(&limits, &marks, &keys);
        let mut all: Vec<Arc<Policy>> = policies.iter().map(|meant| Arc::clone(&meant.policy)).collect();
        all.extend(Some(route::standard(&policies)).filter(|standard| standard.id.index() == policies.len()));
        let model_lists = routes.iter().map(route::Meant::model_list).collect();
        let models = backends.iter().map(backend::Meant::priors).collect();
        Plan {
            boot,
            carbon,
            energy: table,
            zones: names,
            credential_fields: credential::fields(backends.iter().map(|meant| &meant.backend.credential)),
            backends: backends.into_iter().map(|meant| Arc::new(meant.backend)).collect(),
            models,
            routes: routes.into_iter().map(|meant| meant.route).collect(),
            flows: std::mem::take(&mut self.flows),
            policies: all,
            keys,
            geographies: std::mem::take(&mut self.catalogue.geographies),
            limits,
            model_lists,
            text_hash,
        }
    }

    /// A path of the file, from the file's own directory.
    fn path(&self, written: &str) -> PathBuf {
        self.base.join(written)
    }

    /// The content of a file that the configuration names.
    fn read(&mut self, written: &At<String>) -> Option<Vec<u8>> {
        match self.files.read(&self.path(&written.value)) {
            Ok(content) => Some(content),
            Err(error) => {
                self.problems.add(written.mark, format!("cannot read {}: {error}", written.shown())).mend =
                    Some("paths are relative to the configuration's own directory".to_owned());
                None
            }
        }
    }

    fn span(&mut self, written: Option<At<Span>>, default: Duration) -> Duration {
        let Some(At { value: Span(span), mark, .. }) = written else { return default };
        if span.is_zero() {
            self.problems.add(mark, "this has to be longer than nothing");
        }
        span
    }

    fn size(&mut self, written: Option<At<Size>>, default: usize) -> usize {
        let Some(At { value: Size(size), mark, .. }) = written else { return default };
        if size == 0 {
            self.problems.add(mark, "this has to be larger than nothing");
        }
        size
    }

    fn count(&mut self, written: Option<&At<u64>>, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(written) = written else { return default };
        if !range.contains(&written.value) {
            let (least, most) = range.into_inner();
            self.problems.add(written.mark, format!("expected a whole number from {least} to {most}"));
            return default;
        }
        written.value
    }

    /// A number that is not negative.
    fn amount(&mut self, written: &At<f64>, what: &str) -> f64 {
        if written.value < 0.0 {
            self.problems.add(written.mark, format!("{what} cannot be negative"));
            return 0.0;
        }
        written.value
    }

    /// A name that goes into headers, metrics and records.
    fn name(&mut self, written: &At<String>) {
        let name = &written.value;
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
            self.problems.add(written.mark, format!("{} is no name", written.shown())).mend =
                Some("a name has up to 64 letters, digits, `-`, `_` and `.`".to_owned());
        }
    }

    /// Notes a name that an entry before has.
    fn once<'n>(&mut self, what: &str, written: &At<String>, before: impl IntoIterator<Item = (&'n str, Mark)>) {
        if let Some((_, first)) = before.into_iter().find(|(name, _)| *name == written.value) {
            self.problems.add(written.mark, format!("a second {what} named {}", quoted(&written.value))).mend =
                Some(format!("the first one is in line {}", first.line));
        }
    }
}

/// The names of a list's entries.
fn names(list: &Node) -> Vec<String> {
    list.items().iter().filter_map(|item| item.get("name")?.text()).map(str::to_owned).collect()
}
