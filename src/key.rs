//! The keys by which clients are known: what each one opens, and whose requests it marks.
//!
//! A key is random text, so one round of SHA-256 is enough to keep it: there is nothing to guess, as there would be with a password,
//! and a slow hash would be paid for by every request. The key itself is held nowhere.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::backend::{AwsKeys, BackendId};
use crate::policy::Policy;
use crate::route::FlowId;

/// SHA-256 of a key. It has no `Debug`, and no `==` that would stop at the first difference.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of the key itself.
    pub fn of(key: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key).as_ref());
        Self(bytes)
    }

    /// From 64 hexadecimal digits, as `sha256sum` prints them.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Some(Self(bytes))
    }

    /// Whether both are of one key, in a time that says nothing of where they differ.
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// The policy that a key brings along.
#[derive(Clone, Debug)]
pub struct KeyPolicy {
    /// What is wanted instead of what the route wants.
    pub policy: Arc<Policy>,
    /// Every backend of the plan that lies outside its residency, in order. A place has to be allowed by the route's residency *and*
    /// by this one: a key narrows where a request may be served, and never widens it.
    pub outside: Box<[BackendId]>,
    /// For each flow of the routes that such a key opens, in order, the flow that its own requests are counted in: what they want is
    /// another thing, and what capacity is worth depends on it.
    pub flows: Box<[(FlowId, FlowId)]>,
}

impl KeyPolicy {
    /// The flow that its requests are counted in, of those of `flow`.
    pub fn demand_of(&self, flow: FlowId) -> FlowId {
        let found = self.flows.binary_search_by_key(&flow, |(of_route, _)| *of_route).ok();
        found.and_then(|at| self.flows.get(at)).map_or(flow, |(_, own)| *own)
    }
}

/// A key of the plan.
#[derive(Clone)]
pub struct Key {
    /// Its name in the file, which records show.
    pub name: Arc<str>,
    /// By which it is known.
    pub digest: KeyDigest,
    /// What its requests may be signed with instead of showing it: AWS's SDKs do so when they are not given a token.
    pub signs: Option<AwsKeys>,
    /// The routes that it opens, by their places in the plan, in order; `None` opens all.
    pub routes: Option<Box<[usize]>>,
    /// The policy of its own; the route's without one.
    pub policy: Option<Arc<KeyPolicy>>,
}

impl Key {
    /// Whether it opens a route, by its place in the plan.
    pub fn opens(&self, route: usize) -> bool {
        self.routes.as_ref().is_none_or(|routes| routes.binary_search(&route).is_ok())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, digest: _, signs: _, routes, policy } = self;
        f.debug_struct("Key").field("name", name).field("routes", routes).field("policy", policy).finish_non_exhaustive()
    }
}

/// The keys of a plan. Without any, every request is served.
#[derive(Clone, Debug, Default)]
pub struct Keys(Box<[Key]>);

impl Keys {
    /// These ones.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys.into())
    }

    /// Whether there are none, so that nobody needs one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key at that place.
    pub fn get(&self, place: usize) -> Option<&Key> {
        self.0.get(place)
    }

    /// All of them, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The place of the key that signs by that name, which is no secret, and what it signs with.
    pub fn signing(&self, access_key_id: &str) -> Option<(usize, &AwsKeys)> {
        let own = |key: &Key| key.signs.as_ref().is_some_and(|signs| *signs.access_key_id == *access_key_id);
        let place = self.0.iter().position(own)?;
        self.0.get(place)?.signs.as_ref().map(|signs| (place, signs))
    }

    /// The place of the key that was presented. Every one is compared, whether it was found or not, so that the time tells neither
    /// how much of a digest was right nor which key it was.
    pub fn find(&self, presented: &[u8]) -> Option<usize> {
        let presented = KeyDigest::of(presented);
        let mut found = None;
        for (place, key) in self.0.iter().enumerate() {
            let is_it = key.digest.is(&presented);
            found = if is_it { Some(place) } else { found };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s sk-test | sha256sum`
    const SK_TEST: &str = "f3abf2a6cc4f00987743db5f544ba345b4899ae31f326d8ee9c4816de153c9e0";

    fn key(name: &str, text: &str) -> Key {
        Key { name: name.into(), digest: KeyDigest::of(text.as_bytes()), signs: None, routes: None, policy: None }
    }

    #[test]
    fn a_key_is_found_by_its_text_alone() {
        let keys = Keys::new(vec![key("a", "sk-a"), key("b", "sk-b"), key("c", "sk-c")]);
        for (text, place) in [("sk-a", Some(0)), ("sk-b", Some(1)), ("sk-c", Some(2)), ("sk-", None), ("sk-bb", None), ("", None)]
        {
            assert_eq!(keys.find(text.as_bytes()), place, "{text}");
        }
        assert_eq!(Keys::default().find(b"sk-a"), None);
    }

    #[test]
    fn a_digest_is_written_as_sha256sum_prints_it() {
        let read = KeyDigest::from_hex(SK_TEST).unwrap();
        assert!(read.is(&KeyDigest::of(b"sk-test")));
        assert!(KeyDigest::from_hex(&SK_TEST.to_uppercase()).unwrap().is(&read));
        let odd = format!("+{}", &SK_TEST[1..]);
        for bad in ["", "f3", &SK_TEST[1..], &format!("{SK_TEST}0"), &SK_TEST.replace('f', "g"), &odd, &"é".repeat(32)] {
            assert!(KeyDigest::from_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn one_bit_makes_another_digest_wherever_it_stands() {
        let right = KeyDigest::of(b"sk-test");
        for bit in 0..256 {
            let mut other = right;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!right.is(&other), "bit {bit}");
        }
    }

    #[test]
    fn a_key_opens_the_routes_it_names_or_all() {
        let mut key = key("a", "sk-a");
        assert!(key.opens(0) && key.opens(7));
        key.routes = Some([1, 4].into());
        assert_eq!((0..6).filter(|route| key.opens(*route)).collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let shown = format!("{:?}", Keys::new(vec![key("team", "sk-secret")]));
        assert_eq!(shown, r#"Keys([Key { name: "team", routes: None, policy: None, .. }])"#);
    }
}
