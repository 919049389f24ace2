//! A backend's token, or its keys of AWS where somebody is asked for them, as they are now. A control task renews them; a request only
//! loads them.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::backend::{AwsKeys, Renewable, Secret, SigV4};
use crate::config::Plan;
use crate::wire::sigv4::{Scope, Signed, Signer, Subject};

/// Seconds between two askings for the sake of backends that refuse what they get: one that takes none must not have a program run all
/// the time. As often as a configuration may ask for at most.
const APART: i64 = 60;

/// The token with which requests to a backend are sent, or the keys by which they are signed. Nothing of it is shown.
pub struct Token {
    how: Renewable,
    current: ArcSwapOption<Held>,
    /// Boxed twice, since what is swapped is a thin pointer.
    failing: ArcSwapOption<String>,
    /// When it was first looked at: what the seconds below count from. Not the wall clock's, which may be set back, by any amount.
    origin: OnceLock<Instant>,
    /// Second from which on the next one is asked for.
    due: AtomicI64,
    busy: AtomicBool,
    /// Seconds after which a program is asked for the next one; a plan may change it and keep the token.
    every: AtomicI64,
    /// Second at which it was last asked for.
    asked: AtomicI64,
    renewed: AtomicU64,
    failed: AtomicU64,
}

struct Held {
    what: What,
    at: Timestamp,
    until: Option<Timestamp>,
}

/// What requests are sent with.
enum What {
    Token(Secret, HeaderValue),
    Keys(AwsKeys, Signer),
}

impl What {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Token(one, _), Self::Token(other, _)) => one == other,
            (Self::Keys(one, _), Self::Keys(other, _)) => one == other,
            (Self::Token(..), Self::Keys(..)) | (Self::Keys(..), Self::Token(..)) => false,
        }
    }
}

/// What `/status` and metrics show of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenState {
    /// Whether there is one that has not ended.
    pub good: bool,
    /// When the one at hand came.
    pub renewed_at: Option<Timestamp>,
    /// When it ends, where it says so.
    pub expires_at: Option<Timestamp>,
    /// Times that it was renewed.
    pub renewed: u64,
    /// Times that it could not be.
    pub failed: u64,
    /// Why it cannot be renewed at present.
    pub failing: Option<String>,
}

/// A token is no token where no field can carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it holds what no header can carry")]
pub struct Unfit;

impl Token {
    /// As the plan has it.
    pub fn new(how: Renewable) -> Self {
        let token = Self {
            current: ArcSwapOption::empty(),
            failing: ArcSwapOption::empty(),
            origin: OnceLock::new(),
            due: AtomicI64::new(i64::MIN),
            busy: AtomicBool::new(false),
            every: AtomicI64::new(how.every_s()),
            asked: AtomicI64::new(i64::MIN),
            renewed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            how,
        };
        token.begin(token.how.first());
        token
    }

    /// Takes over what the plan's file was seen to hold; the check has found it fit.
    pub fn begin(&self, first: Option<&Secret>) {
        if let Some(first) = first {
            let _ = self.renew(first.clone(), Timestamp::UNIX_EPOCH, None);
        }
    }

    /// Seconds after which a program is asked for the next one.
    pub fn every_s(&self) -> i64 {
        self.every.load(Relaxed)
    }

    /// A program is asked so often from now on.
    fn ask_every(&self, seconds: i64) {
        self.every.store(seconds, Relaxed);
        self.due.fetch_min(self.asked.load(Relaxed).saturating_add(seconds), Relaxed);
    }

    /// What it is and where it comes from. How often it is asked for is as of the first plan that had it ([`Self::every_s`]).
    pub const fn how(&self) -> &Renewable {
        &self.how
    }

    /// The field to send. `None` where there is none, or none that is still good.
    pub fn field(&self, now: Timestamp) -> Option<(&HeaderName, HeaderValue)> {
        let held = self.current.load();
        let held = held.as_ref().filter(|held| held.until.is_none_or(|until| now < until))?;
        match (&self.how, &held.what) {
            (Renewable::Token(how), What::Token(_, value)) => Some((&how.name, value.clone())),
            _ => None,
        }
    }

    /// Signs a request to the backend with the keys that there are. `None` where there are none that are still good, or no field can
    /// carry what would have to be said.
    pub fn sign(&self, how: &SigV4, subject: &Subject<'_>, at: Timestamp) -> Option<Signed> {
        let held = self.current.load();
        let held = held.as_ref().filter(|held| held.until.is_none_or(|until| at < until))?;
        match &held.what {
            What::Keys(_, signer) => signer.sign(Scope { service: &how.service, region: &how.region }, subject, at),
            What::Token(..) => None,
        }
    }

    /// Whether a request can be sent with it.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.current.load().as_ref().is_some_and(|held| held.until.is_none_or(|until| now < until))
    }

    /// Takes a newer one, which came at that time; whether it is another one than before.
    pub fn renew(&self, secret: Secret, at: Timestamp, until: Option<Timestamp>) -> Result<bool, Unfit> {
        let Renewable::Token(how) = &self.how else { return Err(Unfit) };
        let mut value = HeaderValue::from_str(&format!("{}{}", how.prefix, secret.expose())).map_err(|_| Unfit)?;
        value.set_sensitive(true);
        Ok(self.take(What::Token(secret, value), at, until))
    }

    /// Takes newer keys, likewise. Of a token it would be none.
    pub fn renew_keys(&self, keys: AwsKeys, at: Timestamp, until: Option<Timestamp>) -> bool {
        let signer = Signer::new(&keys);
        self.take(What::Keys(keys, signer), at, until)
    }

    fn take(&self, what: What, at: Timestamp, until: Option<Timestamp>) -> bool {
        self.failing.store(None);
        let is_new = self.current.load().as_ref().is_none_or(|held| !held.what.is(&what));
        self.current.store(Some(Arc::new(Held { what, at, until })));
        self.renewed.fetch_add(1, Relaxed);
        is_new
    }

    /// It could not be renewed; whether that is news.
    pub fn fail(&self, why: String) -> bool {
        self.failed.fetch_add(1, Relaxed);
        let before = self.failing.swap(Some(Arc::new(why)));
        before.is_none()
    }

    fn second(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(*self.origin.get_or_init(|| now));
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// Begins to renew it, if it is time and nobody does. It is also time when by the wall clock it has ended: a machine that slept has
    /// not counted the seconds.
    pub fn begins(&self, now: Instant, wall: Timestamp) -> bool {
        let has_ended = self.current.load().as_ref().is_some_and(|held| held.until.is_some_and(|until| until <= wall));
        if has_ended {
            self.refused(now);
        }
        self.second(now) >= self.due.load(Relaxed) && !self.busy.swap(true, Relaxed)
    }

    /// Ends that, until so many seconds have gone by.
    pub fn ends(&self, now: Instant, seconds: i64) {
        let now = self.second(now);
        self.asked.store(now, Relaxed);
        self.due.store(now.saturating_add(seconds), Relaxed);
        self.busy.store(false, Relaxed);
    }

    /// A backend does not take it: the next one is asked for now, or as soon as may be after the last.
    pub fn refused(&self, now: Instant) {
        let soonest = self.asked.load(Relaxed).saturating_add(APART).max(self.second(now));
        self.due.fetch_min(soonest, Relaxed);
    }

    /// What is to be shown of it.
    pub fn state(&self, now: Timestamp) -> TokenState {
        let held = self.current.load();
        TokenState {
            good: self.is_good(now),
            renewed_at: held.as_ref().map(|held| held.at).filter(|at| *at != Timestamp::UNIX_EPOCH),
            expires_at: held.as_ref().and_then(|held| held.until),
            renewed: self.renewed.load(Relaxed),
            failed: self.failed.load(Relaxed),
            failing: self.failing.load().as_ref().map(ToString::to_string),
        }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("how", &self.how).finish_non_exhaustive()
    }
}

/// The tokens of a plan, with those of before where they are kept as they were.
pub(super) fn of(plan: &Plan, before: &[Option<Arc<Token>>]) -> Vec<Option<Arc<Token>>> {
    let mut tokens: Vec<Option<Arc<Token>>> = Vec::with_capacity(plan.backends.len());
    for backend in &plan.backends {
        let Some(how) = Renewable::of(&backend.credential) else {
            tokens.push(None);
            continue;
        };
        let kept = |among: &[Option<Arc<Token>>]| among.iter().flatten().find(|token| token.how().is_kept_as(&how)).cloned();
        let here = kept(&tokens);
        let known = here.clone().or_else(|| kept(before));
        if let Some(known) = &known {
            known.begin(how.first());
            // Of several backends that are sent the same one, the one that wants it most often has its way.
            let every = how.every_s();
            known.ask_every(if here.is_some() { every.min(known.every_s()) } else { every });
        }
        tokens.push(Some(known.unwrap_or_else(|| Arc::new(Token::new(how)))));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::AUTHORIZATION;

    use super::*;
    use crate::backend::{AwsChain, Backend, Credential, KeySource, Renewed, TokenSource};
    use crate::clock::{Clock as _, SystemClock};
    use crate::state::{Snapshot, Unsigned};
    use crate::testing::plan;
    use crate::wire::sigv4::PayloadHash;

    fn token_of(how: Renewed) -> Token {
        Token::new(Renewable::Token(Arc::new(how)))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// So many seconds later.
    fn clock() -> impl Fn(u64) -> Instant {
        let begun = SystemClock.monotonic();
        move |seconds| begun + Duration::from_secs(seconds)
    }

    #[test]
    fn the_last_good_one_is_kept_until_its_end() {
        let source = TokenSource::File("x".into());
        let token = token_of(Renewed { name: AUTHORIZATION, prefix: "Bearer ", source, first: None });
        assert!(token.field(at(0)).is_none() && !token.is_good(at(0)));
        assert_eq!(token.renew(Secret::new("one"), at(1), Some(at(100))), Ok(true));
        assert!(token.fail("broken".into()) && !token.fail("broken".into()), "said once");
        let (name, value) = token.field(at(99)).unwrap();
        assert_eq!((name, value.to_str().unwrap(), value.is_sensitive()), (&AUTHORIZATION, "Bearer one", true));
        assert_eq!(token.state(at(99)).failing.as_deref(), Some("broken"));
        assert!(token.field(at(100)).is_none() && !token.state(at(100)).good);
        assert_eq!(token.renew(Secret::new("bad\n"), at(100), None), Err(Unfit));
        assert_eq!(token.renew(Secret::new("two"), at(101), None), Ok(true));
        assert_eq!(token.renew(Secret::new("two"), at(102), None), Ok(false));
        let state = token.state(at(1 << 30));
        assert_eq!((state.good, state.failing, state.renewed, state.failed), (true, None, 3, 2), "an end that nobody says");
        assert!(!format!("{token:?}").contains("two"));
    }

    #[test]
    fn keys_sign_until_their_end() {
        let chain = Arc::new(AwsChain { profile: None, program: None, roles: Vec::new(), region: "us-west-2".into() });
        let how = SigV4 { service: "bedrock".into(), region: "us-west-2".into(), source: KeySource::Chain(Arc::clone(&chain)) };
        let mut plan = plan();
        let credential = Credential::SigV4(Arc::new(how.clone()));
        plan.backends[0] = Arc::new(Backend { credential, ..(*plan.backends[0]).clone() });
        let id = plan.backends[0].id;
        let snapshot = Snapshot::first(Arc::new(plan), SystemClock.monotonic());
        let payload = PayloadHash::of([]);
        let subject = Subject { method: "GET", target: "/", host: "h", content_type: None, payload: &payload };
        let sign = |second| snapshot.sign(id, &how, &subject, at(second));
        assert_eq!(sign(0).err(), Some(Unsigned::NoKeys));
        let token = snapshot.token(id).unwrap();
        let keys = |id: &str| AwsKeys { access_key_id: id.into(), secret_access_key: Secret::new("s"), session_token: None };
        assert!(token.renew_keys(keys("ONE"), at(1), Some(at(100))) && !token.renew_keys(keys("ONE"), at(2), Some(at(100))));
        assert!(sign(99).is_ok_and(|signed| signed.authorization.to_str().unwrap().contains("Credential=ONE/")));
        assert_eq!(sign(100).err(), Some(Unsigned::NoKeys), "what has ended signs nothing");
        assert!(token.renew_keys(keys("TWO"), at(101), None));
        assert!(sign(1 << 20).is_ok_and(|signed| signed.authorization.to_str().unwrap().contains("Credential=TWO/")));
        assert!(token.field(at(101)).is_none() && token.renew(Secret::new("t"), at(102), None).is_err(), "they are no field");
        assert!(!format!("{token:?}").contains("TWO"));
    }

    #[test]
    fn one_at_a_time_renews_it_and_only_when_it_is_due() {
        let source = TokenSource::File("x".into());
        let token = token_of(Renewed { name: AUTHORIZATION, prefix: "", source, first: Some(Secret::new("a")) });
        let after = clock();
        let begins = |seconds| token.begins(after(seconds), at(0));
        assert!(token.is_good(at(0)) && begins(0) && !begins(0));
        token.ends(after(0), 30);
        assert!(!begins(29) && begins(30));
    }

    #[test]
    fn a_wall_clock_that_is_set_does_not_hold_up_the_next_one() {
        let source = TokenSource::File("x".into());
        let token = token_of(Renewed { name: AUTHORIZATION, prefix: "", source, first: None });
        let after = clock();
        token.renew(Secret::new("a"), at(100_000), Some(at(103_600))).unwrap();
        token.ends(after(0), 3300);
        assert!(!token.begins(after(3299), at(0)) && token.begins(after(3300), at(1)), "set back, it is due as before");
        token.ends(after(3300), 3300);
        assert!(!token.begins(after(3360), at(103_599)));
        assert!(!token.begins(after(3359), at(103_600)), "one that ends all the time is not asked for all the time");
        assert!(token.begins(after(3360), at(103_600)), "what has ended is due");
    }

    #[test]
    fn a_plan_that_asks_at_other_times_keeps_the_token() {
        let with = |minutes: &[u64]| {
            let backend = |minutes: &u64| {
                let source = TokenSource::Command { words: ["x".into()].into(), every: Duration::from_mins(*minutes) };
                let mut backend = (*plan().backends[0]).clone();
                backend.credential =
                    Credential::Renewed(Arc::new(Renewed { name: AUTHORIZATION, prefix: "", source, first: None }));
                Arc::new(backend)
            };
            Plan { backends: minutes.iter().map(backend).collect(), ..plan() }
        };
        let before = of(&with(&[45]), &[]);
        let token = before[0].as_ref().unwrap();
        token.renew(Secret::new("good"), at(0), None).unwrap();
        let clock = clock();
        token.ends(clock(0), token.every_s());
        let after = of(&with(&[30, 20, 25]), &before);
        assert!(after.iter().all(|it| Arc::ptr_eq(it.as_ref().unwrap(), token)) && token.is_good(at(0)));
        assert_eq!(token.every_s(), 20 * 60);
        assert!(!token.begins(clock(1199), at(0)) && token.begins(clock(1200), at(0)));
        token.ends(clock(1200), token.every_s());
        of(&with(&[60]), &after);
        assert_eq!(token.every_s(), 60 * 60);
    }

    #[test]
    fn one_that_is_refused_is_asked_for_anew_but_not_all_the_time() {
        let source = TokenSource::File("x".into());
        let token = token_of(Renewed { name: AUTHORIZATION, prefix: "", source, first: None });
        let (mut runs, after) = (Vec::new(), clock());
        for now in 0..1000 {
            // It was revoked long after it came, and the next one is taken by nobody either.
            if now >= 500 {
                token.refused(after(now));
            }
            if token.begins(after(now), at(0)) {
                runs.push(now);
                token.ends(after(now), 2700);
            }
        }
        assert_eq!(runs, [0, 500, 560, 620, 680, 740, 800, 860, 920, 980]);
        token.ends(after(1000), 15);
        token.refused(after(1001));
        assert!(token.begins(after(1015), at(0)), "one that failed is tried again as soon as before");
    }
}
