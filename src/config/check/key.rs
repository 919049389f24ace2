//! Keys: who may use which routes, and within which limits.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Check, backend, policy, route};
use crate::backend::{AwsKeys, BackendId, Secret};
use crate::config::decode::{At, Filled};
use crate::config::file::KeyFile;
use crate::config::node::Mark;
use crate::decide::resident;
use crate::grid::GridZone;
use crate::key::{Key, KeyDigest, KeyPolicy, Keys};
use crate::route::FlowId;

/// The most keys: each is compared for every request, at some ten nanoseconds.
const MOST_KEYS: usize = 1024;
/// A key shorter than this can be guessed, and found from its digest: 16 letters and digits drawn at random are 95 bits.
const SHORT_KEY: usize = 16;

/// Flows beyond which the requests of keys with a policy of their own are counted with the route's: each takes 1.1 kilobytes.
const MOST_FLOWS: usize = 8192;

/// What keys refer to.
struct Known<'k> {
    backends: &'k [backend::Meant],
    policies: &'k [policy::Meant],
    routes: &'k [route::Meant],
    zones: &'k [GridZone],
    /// Policies of keys so far, by name: those who name the same share it.
    narrowed: HashMap<Arc<str>, Arc<KeyPolicy>>,
}

impl Check<'_> {
    pub(super) fn keys(
        &mut self,
        written: Option<Filled<KeyFile>>,
        backends: &[backend::Meant],
        policies: &[policy::Meant],
        routes: &[route::Meant],
        zones: &[GridZone],
    ) -> Keys {
        let Some(written) = written else { return Keys::default() };
        self.nobody_passes_keys_on(backends, routes);
        if let Some(past) = written.0.get(MOST_KEYS) {
            self.problems.add(past.name.mark, format!("more than {MOST_KEYS} keys"));
        }
        let mut known = Known { backends, policies, routes, zones, narrowed: HashMap::new() };
        let (mut keys, mut marks) = (Vec::<Key>::new(), Vec::<Mark>::new());
        for file in written.0.into_iter().take(MOST_KEYS) {
            self.name(&file.name);
            self.once("key", &file.name, keys.iter().zip(&marks).map(|(other, mark)| (&*other.name, *mark)));
            let mark = file.name.mark;
            let Some(key) = self.key(file, &mut known) else { continue };
            let own_id = key.signs.as_ref().map(|signs| &*signs.access_key_id);
            let same_id = |other: &&Key| own_id.is_some() && other.signs.as_ref().map(|signs| &*signs.access_key_id) == own_id;
            if let Some(other) = keys.iter().find(same_id) {
                self.problems.add(mark, format!("`{}` has the access key id of `{}`", key.name, other.name));
            }
            if let Some((other, first)) = keys.iter().zip(&marks).find(|(other, _)| other.digest.is(&key.digest)) {
                let message = format!("`{}` is the same key as `{}` in line {}", key.name, other.name, first.line);
                self.problems.add(mark, message).mend = Some("a request can be only one of them".to_owned());
            }
            self.served_nowhere(&key, mark, routes);
            keys.push(key);
            marks.push(mark);
        }
        self.count_apart(&mut keys, routes);
        Keys::new(keys)
    }

    /// Gives the requests of each key's policy flows of their own, on the routes that such keys open.
    fn count_apart(&mut self, keys: &mut [Key], routes: &[route::Meant]) {
        let mut apart: Vec<(Arc<KeyPolicy>, Arc<KeyPolicy>)> = Vec::new();
        let owns = |key: &Key, policy: &Arc<KeyPolicy>| key.policy.as_ref().is_some_and(|own| Arc::ptr_eq(own, policy));
        for policy in keys.iter().filter_map(|key| key.policy.as_ref()) {
            if apart.iter().any(|(done, _)| Arc::ptr_eq(done, policy)) {
                continue;
            }
            let opened = |place: usize| keys.iter().any(|key| owns(key, policy) && key.opens(place));
            let mut flows = Vec::new();
            for (_, meant) in routes.iter().enumerate().filter(|(place, _)| opened(*place)) {
                let lists = meant.route.models.values().chain([&meant.route.any_model]);
                let mut of_route: Vec<FlowId> = lists.filter_map(|list| list.first().map(|first| first.flow)).collect();
                of_route.sort_unstable();
                let name: Arc<str> = format!("{} for {}", meant.route.name, policy.policy.name).into();
                for flow in of_route {
                    let Some((_, model)) = self.flows.get(flow.index()).filter(|_| self.flows.len() < MOST_FLOWS) else { break };
                    flows.push((flow, FlowId(self.flows.len() as u32)));
                    self.flows.push((Arc::clone(&name), Arc::clone(model)));
                }
            }
            flows.sort_unstable();
            let with_flows = Arc::new(KeyPolicy { flows: flows.into(), ..KeyPolicy::clone(policy) });
            apart.push((Arc::clone(policy), with_flows));
        }
        for policy in keys.iter_mut().filter_map(|key| key.policy.as_mut()) {
            if let Some((_, with_flows)) = apart.iter().find(|(before, _)| Arc::ptr_eq(before, policy)) {
                *policy = Arc::clone(with_flows);
            }
        }
    }

    /// With keys of its own the gateway is sent those, and no backend may see them.
    fn nobody_passes_keys_on(&mut self, backends: &[backend::Meant], routes: &[route::Meant]) {
        for meant in backends {
            let Some(mark) = meant.pass_through else { continue };
            let used = |route: &&route::Meant| route.candidates.iter().any(|(id, _)| *id == meant.backend.id);
            if let Some(route) = routes.iter().find(used) {
                let message = format!(
                    "route `{}` asks for one of `keys`, and `{}` would pass it on to the backend",
                    route.route.name, meant.backend.name
                );
                self.problems.add(mark, message).mend =
                    Some("give the backend a credential of its own, or leave `keys` out".to_owned());
            }
        }
    }

    fn key(&mut self, file: KeyFile, known: &mut Known<'_>) -> Option<Key> {
        let routes = file.routes.0.map(|written| self.opened(&written, known.routes));
        let policy = file.policy.0.and_then(|written| self.key_policy(&written, known));
        let mut signs = None;
        if let Some(id) = file.access_key_id.as_ref().filter(|_| file.secret.is_none()) {
            self.problems.add(id.mark, "to check a signature takes the key itself: give `secret`, from a variable or a file");
        }
        let digest = match (file.sha256, file.secret) {
            (Some(written), None) => {
                let digest = KeyDigest::from_hex(written.value.trim());
                if digest.is_none() {
                    // What stands there may be the key itself, so it is not repeated.
                    self.problems.add(written.mark, "this is no SHA-256, which has 64 hexadecimal digits").mend =
                        Some("`printf %s \"$KEY\" | sha256sum` prints it; `secret` takes the key itself".to_owned());
                }
                digest?
            }
            (None, Some(written)) => {
                let secret = self.secret(&written, "leave the entry out to close the gateway to it")?;
                let text = secret.expose();
                // As a field's value it would lose them, and never be found.
                if text.trim_matches([' ', '\t']) != text || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                    self.problems.add(written.mark, "a key is printable ASCII, without blanks at its ends");
                }
                if text.len() < SHORT_KEY {
                    self.warnings.add(written.mark, format!("a key of less than {SHORT_KEY} characters can be guessed")).mend =
                        Some("`openssl rand -hex 24` prints a good one".to_owned());
                }
                signs = file.access_key_id.as_ref().map(|id| self.signing(id, secret.clone()));
                KeyDigest::of(text.as_bytes())
            }
            _ => {
                self.problems.add(file.name.mark, "a key has either `sha256` or `secret`");
                return None;
            }
        };
        Some(Key { name: Arc::from(file.name.value.as_str()), digest, signs, routes, policy })
    }

    fn signing(&mut self, id: &At<String>, secret_access_key: Secret) -> AwsKeys {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=128).contains(&id.value.len()) || !id.value.chars().all(fine) {
            self.problems.add(id.mark, "an access key's id has up to 128 letters, digits, `-`, `_` and `.`");
        }
        AwsKeys { access_key_id: Arc::from(id.value.as_str()), secret_access_key, session_token: None }
    }

    /// A key whose policy leaves nobody on a route opens it to no purpose.
    fn served_nowhere(&mut self, key: &Key, mark: Mark, routes: &[route::Meant]) {
        let Some(own) = key.policy.as_ref().filter(|own| !own.outside.is_empty()) else { return };
        let barred =
            |id: &BackendId, route: &route::Meant| own.outside.binary_search(id).is_ok() || route.route.outside.contains(id);
        let nobody = |route: &route::Meant| route.candidates.iter().all(|(id, _)| barred(id, route));
        let opened = routes.iter().enumerate().find(|(place, route)| key.opens(*place) && nobody(route));
        if let Some((_, route)) = opened {
            let message = format!(
                "no backend of route `{}` lies inside the residency of policy `{}`, so nobody serves key `{}` there",
                route.route.name, own.policy.name, key.name
            );
            self.warnings.add(mark, message).mend = Some("name the key's `routes`, without this one".to_owned());
        }
    }

    /// The places of the routes that a key opens.
    fn opened(&mut self, written: &Filled<At<String>>, routes: &[route::Meant]) -> Box<[usize]> {
        let mut opened: Vec<usize> = Vec::with_capacity(written.0.len());
        for name in &written.0 {
            let place = routes.iter().position(|meant| *meant.route.name == *name.value);
            if place.is_none() && !self.route_names.contains(&name.value) {
                let names: Vec<&str> = routes.iter().map(|meant| &*meant.route.name).collect();
                self.problems.unknown(name.mark, "route", &name.value, &name.shown(), &names);
            }
            opened.extend(place);
        }
        opened.sort_unstable();
        opened.into()
    }

    fn key_policy(&mut self, written: &At<String>, known: &mut Known<'_>) -> Option<Arc<KeyPolicy>> {
        let policy = self.policy_named(written, known.policies).or_else(|| {
            let standard = *written.value == *policy::STANDARD;
            standard.then(|| route::standard(known.policies))
        })?;
        let of_policy = known.narrowed.entry(Arc::clone(&policy.name)).or_insert_with(|| {
            let outside = known.backends.iter().map(|meant| &meant.backend);
            let outside = outside.filter(|backend| !resident(&policy.residency, backend, known.zones)).map(|backend| backend.id);
            let outside: Box<[BackendId]> = outside.collect();
            Arc::new(KeyPolicy { policy, outside, flows: Box::default() })
        });
        Some(Arc::clone(of_policy))
    }
}
