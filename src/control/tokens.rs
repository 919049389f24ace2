//! Renews the tokens that backends are sent, and the AWS keys that are asked for, beside the traffic: a request only takes what is there.
//!
//! A program (`program`, beside this) is run once for all backends that are sent its token, one run at a time. A token that was good stays
//! until its end, or, where nobody says when that is, until another comes.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, header};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;

use super::fetch::{self, Limits, Place};
use super::program::{self, MOST, bounded};
use super::regular::open_regular;
use crate::backend::{AwsChain, AwsKeys, Renewable, Secret, TokenSource};
use crate::clock::Clock;
use crate::state::{Snapshot, Token};

/// How often it is looked which token is due, and whether a file has another one.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// After a failure it is tried again so soon, in seconds.
const AGAIN: i64 = 15;
/// A token that says when it ends is renewed so long before, in seconds, or a tenth of what it has left where that is less.
const BEFORE_END: i64 = 300;

/// How long the metadata of the very machine may take, which has no network in between: until it is connected to, and in all. It may have to
/// ask for the token itself.
const METADATA_CONNECTS: Duration = Duration::from_secs(2);
const METADATA_ANSWERS: Duration = Duration::from_secs(10);

/// A token, and when it ends if that is known.
type Fetched = (Secret, Option<Timestamp>);
/// Likewise, with the keys for AWS.
type FetchedKeys = (AwsKeys, Option<Timestamp>);

/// Renews every token that is due, and waits for none.
pub(super) fn look(snapshot: &Snapshot, clock: &Arc<dyn Clock>) {
    for renewal in due(snapshot, clock) {
        tokio::spawn(renewal.run());
    }
}

/// Renews every token that the plan does not bring, and waits until each is there or has failed: what comes first would find no backend.
pub async fn first(snapshot: &Snapshot, clock: &Arc<dyn Clock>) {
    let mut all = JoinSet::new();
    for renewal in due(snapshot, clock) {
        all.spawn(renewal.run());
    }
    while all.join_next().await.is_some() {}
}

fn due(snapshot: &Snapshot, clock: &Arc<dyn Clock>) -> Vec<Renewal> {
    let tokens = snapshot.plan.backends.iter().filter_map(|backend| snapshot.token(backend.id));
    let due = tokens.filter(|token| token.begins(clock.monotonic(), clock.wall()));
    due.map(|token| Renewal { token: Arc::clone(token), clock: Arc::clone(clock), again: AGAIN }).collect()
}

/// A renewal that has begun. It ends whatever comes of it: one that broke and had not ended would be the token's last.
struct Renewal {
    token: Arc<Token>,
    clock: Arc<dyn Clock>,
    /// Seconds until the next one.
    again: i64,
}

impl Renewal {
    async fn run(mut self) {
        self.again = renew(&self.token, &*self.clock).await;
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if std::thread::panicking() && self.token.fail("what asks for it broke".to_owned()) {
            tracing::error!(source = shown(self.token.how()), "what asks for a credential broke; this is tried again and again");
        }
        self.token.ends(self.clock.monotonic(), self.again);
    }
}

/// Gives the seconds until it is asked for again.
async fn renew(token: &Token, clock: &dyn Clock) -> i64 {
    let asked = clock.wall();
    let (kept, every) = match token.how() {
        Renewable::Token(how) => {
            let (fetched, every) = match &how.source {
                TokenSource::File(path) => (read(path), EVERY.as_secs().cast_signed()),
                TokenSource::Command { words, .. } => (run(words, asked).await, token.every_s()),
                TokenSource::GoogleMetadata { authority, .. } => (of_google(authority, asked).await, token.every_s()),
            };
            (fetched.and_then(|fetched| keep(token, fetched, clock.wall())), every)
        }
        Renewable::Keys(chain) => {
            let kept = ask_for_keys(chain).await.and_then(|fetched| keep_keys(token, fetched, clock.wall()));
            // Each time that a role is taken on is a line in its owner's logs.
            let every = if matches!(kept, Ok((_, Some(_)))) { i64::MAX } else { token.every_s() };
            (kept, every)
        }
    };
    let (now, source) = (clock.wall(), shown(token.how()));
    match kept {
        Ok((is_new, until)) => {
            if is_new {
                tracing::info!(source, "a credential was renewed");
            }
            next(every, until.map(|until| until.as_second() - now.as_second()))
        }
        Err(why) => {
            if token.fail(why.clone()) {
                tracing::error!(source, why, "a credential cannot be renewed; this is tried again and again");
            }
            AGAIN.min(every)
        }
    }
}

/// Whether it is another one than before, and when it ends.
type Kept = (bool, Option<Timestamp>);

fn keep(token: &Token, (secret, until): Fetched, now: Timestamp) -> Result<Kept, String> {
    if until.is_some_and(|until| until <= now) {
        return Err("what it wrote has ended already".to_owned());
    }
    Ok((token.renew(secret, now, until).map_err(|unfit| unfit.to_string())?, until))
}

fn keep_keys(token: &Token, (keys, until): FetchedKeys, now: Timestamp) -> Result<Kept, String> {
    if until.is_some_and(|until| until <= now) {
        return Err("the keys have ended already".to_owned());
    }
    Ok((token.renew_keys(keys, now, until), until))
}

#[cfg(feature = "aws")]
async fn ask_for_keys(chain: &AwsChain) -> Result<FetchedKeys, String> {
    super::aws::keys(chain).await
}

/// The configuration asks for none without the feature.
#[cfg(not(feature = "aws"))]
async fn ask_for_keys(_: &AwsChain) -> Result<FetchedKeys, String> {
    Err("this program was built without the feature `aws`".to_owned())
}

/// Seconds until a token is asked for again, of which so many are left.
fn next(every: i64, left: Option<i64>) -> i64 {
    let before_end = left.map(|left| left - BEFORE_END.min(left / 10));
    before_end.unwrap_or(i64::MAX).min(every).max(1)
}

/// The program's name alone: what it is told may be a secret.
fn shown(how: &Renewable) -> &str {
    match how {
        Renewable::Token(how) => match &how.source {
            TokenSource::File(path) => path.to_str().unwrap_or("a file"),
            TokenSource::Command { words, .. } => words.first().map_or("", |program| program),
            TokenSource::GoogleMetadata { .. } => "Google's metadata",
        },
        Renewable::Keys(chain) => match (chain.roles.last(), &chain.profile) {
            (Some(role), _) => &role.arn,
            (None, Some(profile)) => profile,
            (None, None) => "AWS",
        },
    }
}

fn read(path: &Path) -> Result<Fetched, String> {
    let mut text = Vec::new();
    let read = open_regular(path).and_then(|(file, _)| file.take(MOST + 1).read_to_end(&mut text));
    read.map_err(|error| error.to_string())?;
    let text = bounded(text)?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.trim().is_empty() {
        return Err("the file is empty".to_owned());
    }
    // Somebody else sees to it that it is renewed, and may know better than it says.
    Ok((Secret::new(token), None))
}

/// A token of the account that a machine of Google's runs as, by its metadata. The field keeps a browser, or whoever can make a program
/// fetch a URL, from asking.
async fn of_google(authority: &str, asked: Timestamp) -> Result<Fetched, String> {
    const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
    let (host, port) = match authority.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host, port),
        _ => (authority, 80),
    };
    let request = Request::get(PATH).header(header::HOST, authority).header("metadata-flavor", "Google");
    let request = request.body(Full::default()).map_err(|_| "the metadata's host is none".to_owned())?;
    let limits = Limits { connect: METADATA_CONNECTS, total: METADATA_ANSWERS, body: MOST as usize };
    let place = Place { tls: false, host: host.to_owned(), port };
    let answer = fetch::ask(&place, request, limits).await.map_err(|why| format!("the machine's metadata: {why}"))?;
    if !answer.status().is_success() {
        return Err(format!("the machine's metadata answers {}", answer.status()));
    }
    understood(&bounded(answer.into_body().into())?, asked)
}

async fn run(words: &[Box<str>], asked: Timestamp) -> Result<Fetched, String> {
    let Some((program, told)) = words.split_first() else { return Err("there is no program".to_owned()) };
    understood(&program::output(program, told.iter().map(|word| &**word)).await?, asked)
}

/// What programs that write tokens in JSON call them, and their ends: Azure's (`accessToken`, `expires_on`), OAuth's (`access_token`,
/// `expires_in`) and Google's (`token`, `token_expiry`).
#[derive(Deserialize)]
struct Written {
    #[serde(alias = "accessToken", alias = "access_token")]
    token: String,
    expires_on: Option<Value>,
    #[serde(alias = "expiry", alias = "expiration")]
    token_expiry: Option<Value>,
    expires_in: Option<Value>,
}

/// The claims of a JSON web token (RFC 7519), as far as they matter here.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
}

/// The token of a program's output, and its end where that says so. How long it is good counts from when it was asked for: that is
/// too soon by what the program took, and never too late.
fn understood(text: &str, asked: Timestamp) -> Result<Fetched, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it wrote nothing".to_owned());
    }
    if !text.starts_with('{') {
        return match text.lines().count() {
            1 => Ok((Secret::new(text), end_of(text))),
            _ => Err("it wrote several lines, and a token is one".to_owned()),
        };
    }
    // What is wrong with it is not repeated, since that would be some of it.
    let written: Written = serde_json::from_str(text).map_err(|_| "it wrote JSON without a token".to_owned())?;
    if written.token.trim().is_empty() {
        return Err("it wrote an empty token".to_owned());
    }
    let said = [&written.expires_on, &written.token_expiry].into_iter().flatten().find_map(moment);
    let good_for = || asked.checked_add(SignedDuration::from_secs(seconds(written.expires_in.as_ref()?)?)).ok();
    Ok((Secret::new(written.token.trim()), said.or_else(good_for).or_else(|| end_of(&written.token))))
}

/// As a number, or as text.
fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Seconds since 1970, as a number or as text, or a time with its offset. Azure's `expiresOn` has none, and says nothing.
fn moment(value: &Value) -> Option<Timestamp> {
    match seconds(value) {
        Some(seconds) => Timestamp::from_second(seconds).ok(),
        None => value.as_str()?.parse().ok(),
    }
}

/// When a JSON web token says that it ends. It is not verified: who would forge it only ends it.
fn end_of(token: &str) -> Option<Timestamp> {
    let claims = token.split('.').nth(1).filter(|_| token.split('.').count() == 3)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Timestamp::from_second(claims.exp? as i64).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::backend::Renewed;
    use crate::clock::{SimulatedClock, SystemClock};

    fn read_as(text: &str) -> Option<(String, Option<i64>)> {
        let (secret, until) = understood(text, Timestamp::from_second(1000).unwrap()).ok()?;
        Some((secret.expose().to_owned(), until.map(Timestamp::as_second)))
    }

    #[test]
    fn tokens_are_understood_as_programs_write_them() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let entra = jwt(r#"{"aud":"https://cognitiveservices.azure.com","exp":1800000000}"#);
        for (text, expected) in [
            ("ya29.a0\n".to_owned(), Some(("ya29.a0".to_owned(), None))),
            (format!("{entra}\n"), Some((entra.clone(), Some(1_800_000_000)))),
            (
                r#"{"accessToken":"a","expiresOn":"2026-11-27 10:00:00.000000","expires_on":5}"#.to_owned(),
                Some(("a".to_owned(), Some(5))),
            ),
            (r#"{"accessToken":"a","expires_on":5}"#.to_owned(), Some(("a".to_owned(), Some(5)))),
            (r#"{"access_token":"a","expires_on":"7"}"#.to_owned(), Some(("a".to_owned(), Some(7)))),
            // What Google's metadata server answers.
            (r#"{"access_token":"a","expires_in":300,"token_type":"Bearer"}"#.to_owned(), Some(("a".to_owned(), Some(1300)))),
            (r#"{"access_token":"a","expires_in":"300"}"#.to_owned(), Some(("a".to_owned(), Some(1300)))),
            (r#"{"access_token":"a","expires_in":300,"expires_on":"7"}"#.to_owned(), Some(("a".to_owned(), Some(7)))),
            (format!(r#"{{"access_token":"a","expires_in":{}}}"#, i64::MAX), Some(("a".to_owned(), None))),
            (r#"{"token":"a","token_expiry":"2026-11-27T10:00:00Z"}"#.to_owned(), Some(("a".to_owned(), Some(1_795_773_600)))),
            (format!(r#"{{"token":"{entra}"}}"#), Some((entra.clone(), Some(1_800_000_000)))),
            (jwt("{}"), Some((jwt("{}"), None))),
            (jwt("none"), Some((jwt("none"), None))),
            ("  \n".to_owned(), None),
            ("two\nlines".to_owned(), None),
            ("{\"other\":1}".to_owned(), None),
            ("{\"token\":\"\"}".to_owned(), None),
            ("{".to_owned(), None),
        ] {
            assert_eq!(read_as(&text), expected, "{text}");
        }
    }

    #[test]
    fn one_is_asked_for_before_the_other_ends() {
        assert_eq!(next(2700, None), 2700);
        assert_eq!(next(2700, Some(3600)), 2700);
        assert_eq!(next(2700, Some(1800)), 1620, "a tenth before");
        assert_eq!(next(86_400, Some(36_000)), 35_700, "five minutes before");
        assert_eq!(next(2700, Some(1)), 1);
    }

    fn token(source: TokenSource) -> Token {
        Token::new(Renewable::Token(Arc::new(Renewed { name: header::AUTHORIZATION, prefix: "Bearer ", source, first: None })))
    }

    async fn renewed(words: &[&str]) -> (bool, Option<String>) {
        let words = words.iter().map(|word| Box::from(*word)).collect();
        let token = token(TokenSource::Command { words, every: Duration::from_mins(45) });
        renew(&token, &SystemClock).await;
        let state = token.state(SystemClock.wall());
        (state.good, state.failing)
    }

    #[tokio::test]
    async fn a_program_has_to_end_well_and_say_little() {
        assert_eq!(renewed(&["sh", "-c", "echo one; echo secret >&2"]).await, (true, None));
        for (words, why) in [
            (&["sh", "-c", "echo one; exit 3"][..], "it ended with exit status: 3"),
            (&["sh", "-c", "true"], "it wrote nothing"),
            (&["cat", "/dev/zero"], "it is longer than 65536 bytes"),
            (&["printf", "\\377"], "it is no text"),
            (&["printf", "a\\007b"], "it holds what no header can carry"),
            (&["echo", r#"{"token":"a","expires_on":1}"#], "what it wrote has ended already"),
        ] {
            assert_eq!(renewed(words).await, (false, Some(why.to_owned())), "{words:?}");
        }
        let (good, why) = renewed(&["/nowhere/at/all"]).await;
        assert!(!good && why.as_ref().unwrap().starts_with("it cannot be started"), "{why:?}");
    }

    #[tokio::test]
    async fn a_renewal_that_breaks_is_not_the_last() {
        let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
        let token = Arc::new(token(TokenSource::File("x".into())));
        let begins = || token.begins(clock.monotonic(), clock.wall());
        assert!(begins());
        let renewal = Renewal { token: Arc::clone(&token), clock: Arc::clone(&clock) as _, again: AGAIN };
        let broken = tokio::spawn(async move {
            let _renewal = renewal;
            assert_eq!(1, 2, "as if it came from elsewhere");
        });
        assert!(broken.await.unwrap_err().is_panic());
        assert!(!begins(), "not at once");
        assert_eq!(token.state(clock.wall()).failing.as_deref(), Some("what asks for it broke"));
        clock.advance(Duration::from_secs(AGAIN.cast_unsigned()));
        assert!(begins());
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_has_its_time() {
        // It would sleep for an hour; the clock of the runtime, which is all that is waited by, has nothing else to wait for.
        let (good, why) = renewed(&["sleep", "3600"]).await;
        assert_eq!((good, why.as_deref()), (false, Some("it took longer than 30 s")));
    }

    /// A place where programs of a test meet it: who opens it to write waits until it is read.
    fn fifo(directory: &Path) -> PathBuf {
        let path = directory.join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    #[tokio::test]
    async fn who_is_left_behind_with_the_output_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = fifo(directory.path());
        // It holds the output until somebody writes, which is after the assertion.
        let script = format!("cat {} & echo one", fifo.display());
        assert_eq!(renewed(&["sh", "-c", &script]).await, (true, None));
        let write = tokio::task::spawn_blocking(move || std::fs::write(fifo, "").unwrap());
        write.await.unwrap();
    }

    #[tokio::test]
    async fn whom_a_program_has_started_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = fifo(directory.path());
        let script = format!("sleep 60 > {}; true", fifo.display());
        let words: Vec<Box<str>> = ["sh", "-c", &script].map(Box::from).to_vec();
        let running = tokio::spawn(async move { run(&words, Timestamp::UNIX_EPOCH).await.is_ok() });
        let (opened, is_open) = tokio::sync::oneshot::channel();
        let reading = tokio::task::spawn_blocking(move || {
            // Once this is open, so is the other end.
            let mut file = std::fs::File::open(fifo).unwrap();
            opened.send(()).unwrap();
            file.read_to_end(&mut Vec::new()).unwrap()
        });
        is_open.await.unwrap();
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        let ended = tokio::time::timeout(Duration::from_secs(30), reading).await;
        assert!(ended.is_ok(), "the other end is still held");
    }

    #[tokio::test]
    async fn a_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = token(TokenSource::File(file.path().to_owned()));
        let sent = || Some(token.field(SystemClock.wall())?.1.to_str().unwrap().to_owned());
        for (text, expected) in [
            ("one\n", Some("Bearer one")),
            ("two", Some("Bearer two")),
            ("\n", Some("Bearer two")),
            ("three", Some("Bearer three")),
        ] {
            std::fs::write(file.path(), text).unwrap();
            renew(&token, &SystemClock).await;
            assert_eq!(sent().as_deref(), expected);
        }
    }
}
