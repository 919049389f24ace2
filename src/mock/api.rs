//! What is answered at which path of a simulated region.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::call::{Call, Kind};
use super::generate::{Stream, whole};
use super::listen::{Door, Tasks};
use super::openai::{Fault, Voice};
use super::site::{Cut, Exchange, Refusal, Site};
use super::{anthropic, azure, bedrock, gemini};
use crate::fleet::{Faults, Patch};
use crate::wire::sigv4::{PayloadHash, Received, Scope, verify};
use crate::wire::{self, Dialect, Named, Operation};

/// The largest body taken in: a few images in base64.
const MAX_BODY: usize = 32 << 20;
/// The longest id taken over from a client.
const MAX_ID: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const AWS_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const OUTPUT_TOKENS: HeaderName = HeaderName::from_static("x-mock-output-tokens");
/// After how many of them a stream is to end with an error, as of a region that is full.
const FULL_AFTER: HeaderName = HeaderName::from_static("x-mock-full-after-tokens");
const REGION: HeaderName = HeaderName::from_static("x-mock-region");

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Cut>>;

/// Answers one request; an error breaks the connection.
pub(super) async fn answer(door: Door, request: Request<Incoming>) -> Result<Answer, Cut> {
    let Door { site, fleet, tasks } = door;
    let path = request.uri().path().to_owned();
    if let Some(control) = path.strip_prefix("/_") {
        return Ok(answer_about(&fleet, Some(&site), control, request).await);
    }
    if !site.faults().up {
        return Err(Cut);
    }
    if let Some(asked) = Asked::of(request.method(), request.uri()) {
        return generate(site, asked, request).await;
    }
    let is_anthropic = request.headers().contains_key(anthropic::VERSION);
    let reply = serve_rest(&site, &tasks, path.strip_prefix("/openai").unwrap_or(&path), request).await;
    let mut response = reply.unwrap_or_else(refuse);
    mark(&site, &mut response);
    Ok(if is_anthropic { in_anthropics_words(response) } else { response })
}

/// Answers the fleet's operator. It never breaks the connection.
pub(super) async fn answer_operator(fleet: Arc<[Arc<Site>]>, request: Request<Incoming>) -> Result<Answer, Cut> {
    let path = request.uri().path().to_owned();
    // Of a fleet of one region there is no doubt which one is meant.
    let only = fleet.first().filter(|_| fleet.len() == 1);
    Ok(match path.strip_prefix("/_") {
        Some(control) => answer_about(&fleet, only, control, request).await,
        None => refuse(Fault::NoSuchThing),
    })
}

/// Answers about the region that is named, or else about the one that was asked.
async fn answer_about(fleet: &[Arc<Site>], asked: Option<&Arc<Site>>, control: &str, request: Request<Incoming>) -> Answer {
    let named = request.uri().query().and_then(|query| query.strip_prefix("region="));
    match (named, asked) {
        (None, None) => refuse(Fault::BadRequest("say which region by ?region=NAME")),
        (None, Some(site)) => operate(site, control, request).await,
        (Some(name), _) => match fleet.iter().find(|site| *site.name == *name) {
            Some(site) => operate(site, control, request).await,
            None => refuse(Fault::NoSuchThing),
        },
    }
}

/// A call of a model, by its path.
enum Asked {
    /// In one of OpenAI's shapes, or of Anthropic's.
    OpenAi(Kind),
    /// Of Bedrock's runtime.
    Bedrock(Named),
    /// Of Gemini or Vertex AI, and whether its stream is to be events.
    Gemini(Named, bool),
    /// Of Azure's classic API.
    Azure(azure::Called),
}

impl Asked {
    fn of(method: &Method, uri: &Uri) -> Option<Self> {
        if *method != Method::POST {
            return None;
        }
        let named = |dialect| match wire::call(dialect, method, uri.path()) {
            wire::Call::Named(named) => Some(named),
            _ => None,
        };
        let as_events = uri.query().is_some_and(|query| query.split('&').any(|one| one == "alt=sse"));
        let by_bedrock = named(Dialect::Bedrock).map(Self::Bedrock);
        let by_gemini = || named(Dialect::Gemini).map(|named| Self::Gemini(named, as_events));
        // It names its model in its body.
        let counts = wire::call(Dialect::Gemini, method, uri.path()) == wire::Call::Inference(Operation::CountTokens);
        let by_count = || counts.then_some(Self::OpenAi(Kind::CountMessages));
        let by_azure = || azure::call(method, uri).map(Self::Azure);
        by_bedrock.or_else(by_gemini).or_else(by_count).or_else(by_azure).or_else(|| Kind::of(uri.path()).map(Self::OpenAi))
    }
}

/// What of a head a signature is held against.
struct Seen<'a> {
    method: &'a str,
    uri: &'a Uri,
    fields: &'a HeaderMap,
}

impl<'a> Seen<'a> {
    fn of<B>(request: &'a Request<B>) -> Self {
        Self { method: request.method().as_str(), uri: request.uri(), fields: request.headers() }
    }
}

/// A call of a model: admitted, paced, recorded.
async fn generate(site: Arc<Site>, asked: Asked, request: Request<Incoming>) -> Result<Answer, Cut> {
    let translate: fn(Answer) -> Answer = match &asked {
        Asked::Bedrock(_) => in_bedrocks_words,
        Asked::OpenAi(kind) if kind.is_anthropic() => in_anthropics_words,
        Asked::Gemini(named, _) if named.operation == Operation::Messages => in_anthropics_words,
        Asked::Gemini(..) => in_googles_words,
        Asked::OpenAi(_) | Asked::Azure(_) => |answer| answer,
    };
    Ok(translate(answer_call(site, asked, request).await?))
}

async fn answer_call(site: Arc<Site>, asked: Asked, request: Request<Incoming>) -> Result<Answer, Cut> {
    let (head, body) = request.into_parts();
    let id = head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| (1..=MAX_ID).contains(&id.len()));
    let mut exchange = Exchange::open(Arc::clone(&site), head.uri.path(), id);
    let seen = Seen { method: head.method.as_str(), uri: &head.uri, fields: &head.headers };
    let call = match understand(&site, asked, &seen, body).await {
        Ok(call) => call,
        Err(fault) => return Ok(turn_away(&site, exchange, fault)),
    };
    match exchange.admit(call.prompt_tokens) {
        Ok(answer_at) => {
            let voice = voice(&site, call, &head.headers, exchange.id());
            speak(&site, exchange, voice, answer_at).await
        }
        Err(Refusal::Down) => {
            exchange.give_up();
            Err(Cut)
        }
        Err(Refusal::Full { answer_at, retry_after }) => {
            site.sleep_until(answer_at).await;
            let mut response = turn_away(&site, exchange, Fault::Overloaded);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
            Ok(response)
        }
        Err(Refusal::Broken { answer_at }) => {
            site.sleep_until(answer_at).await;
            Ok(turn_away(&site, exchange, Fault::Broken))
        }
    }
}

async fn understand(site: &Site, asked: Asked, seen: &Seen<'_>, body: Incoming) -> Result<Call, Fault> {
    let body = collect(body).await?;
    authorized(site, seen, &body)?;
    let call = match asked {
        Asked::OpenAi(kind) => Call::parse(kind, &body)?,
        Asked::Bedrock(named) => bedrock::parse(named, &body)?,
        Asked::Gemini(named, as_events) => gemini::parse(named, as_events, &body)?,
        Asked::Azure(called) => called.parse(&body)?,
    };
    if !site.models.iter().any(|model| **model == *call.model) {
        return Err(Fault::NoSuchModel);
    }
    Ok(call)
}

async fn speak(site: &Arc<Site>, mut exchange: Exchange, voice: Voice, answer_at: std::time::Duration) -> Result<Answer, Cut> {
    let id = exchange.id().to_owned();
    let kind = voice.call.kind;
    let mut response = if voice.call.streamed {
        site.sleep_until(answer_at).await;
        exchange.answered(StatusCode::OK);
        let stream = Stream::new(exchange, voice, site.tokens_per_chunk);
        let mut response = Response::new(UnsyncBoxBody::new(stream));
        let content_type = match kind {
            Kind::GenerateArray => "application/json; charset=UTF-8",
            _ if kind.is_bedrock() => bedrock::STREAM_TYPE,
            _ => "text/event-stream; charset=utf-8",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    } else {
        if let Err(cut) = whole(&mut exchange, &voice, site.tokens_per_chunk).await {
            exchange.give_up();
            return Err(cut);
        }
        exchange.answered(StatusCode::OK);
        exchange.finish();
        let mut response = json_answer(StatusCode::OK, &voice.whole());
        bedrock::count_in_head(&voice, response.headers_mut());
        response
    };
    mark(site, &mut response);
    name(&mut response, &id);
    Ok(response)
}

fn voice(site: &Site, call: Call, headers: &HeaderMap, id: &str) -> Voice {
    let number = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    let (ordered, full_after) = (number(&OUTPUT_TOKENS), number(&FULL_AFTER));
    let (output_tokens, seed) = site.with_rng(|rng| (call.output_tokens(ordered, rng), rng.u64(..)));
    let id = id.chars().filter(char::is_ascii_alphanumeric).collect();
    Voice {
        call,
        id,
        created: site.clock.wall().as_second(),
        seed,
        output_tokens,
        full_after,
        filtered: azure::is_region(&site.name),
    }
}

fn turn_away(site: &Site, mut exchange: Exchange, fault: Fault) -> Answer {
    exchange.answered(fault.status());
    exchange.give_up();
    let mut response = refuse(fault);
    mark(site, &mut response);
    name(&mut response, exchange.id());
    response
}

/// Everything that needs no slot.
async fn serve_rest(site: &Arc<Site>, tasks: &Tasks, path: &str, request: Request<Incoming>) -> Result<Answer, Fault> {
    if request.method() == Method::POST {
        return take(site, path, request).await;
    }
    authorized(site, &Seen::of(&request), b"")?;
    let created = site.clock.wall().as_second();
    let file = path
        .strip_prefix("/v1/files/")
        .and_then(|rest| rest.strip_suffix("/content").map(|id| (id, true)).or(Some((rest, false))));
    let found = match (request.method(), path, file) {
        (&Method::GET, "/v1/models", _) if request.headers().contains_key(anthropic::VERSION) => {
            anthropic::models(site.models.iter().map(|model| &**model))
        }
        (&Method::GET, "/v1/models", _) => models(site, created),
        (&Method::GET, "/v1/realtime", _) => return echo(site, tasks, request),
        (&Method::GET, "/v1/files", _) => site.with_files(|files| files.list()),
        (&Method::GET, _, Some((id, true))) => {
            let content = site.with_files(|files| files.content(id)).ok_or(Fault::NoSuchThing)?;
            return Ok(Response::new(full(content)));
        }
        (&Method::GET, _, Some((id, false))) => site.with_files(|files| files.describe(id)).ok_or(Fault::NoSuchThing)?,
        (&Method::DELETE, _, Some((id, false))) => site.with_files(|files| files.remove(id)).ok_or(Fault::NoSuchThing)?,
        _ => return Err(Fault::NoSuchThing),
    };
    Ok(json_answer(StatusCode::OK, &found))
}

/// What comes with a body.
async fn take(site: &Site, path: &str, request: Request<Incoming>) -> Result<Answer, Fault> {
    let (head, body) = request.into_parts();
    let content = collect(body).await?;
    authorized(site, &Seen { method: head.method.as_str(), uri: &head.uri, fields: &head.headers }, &content)?;
    let created = site.clock.wall().as_second();
    match path {
        "/v1/files" => Ok(json_answer(StatusCode::OK, &site.with_files(|files| files.put(content, created)))),
        _ => Err(Fault::NoSuchThing),
    }
}

/// The operator's side: faults and the ledger.
async fn operate(site: &Site, path: &str, request: Request<Incoming>) -> Answer {
    match (request.method(), path) {
        (&Method::GET, "ctl") => {
            let (resident, decoding, waiting) = site.load();
            let load = json!({"resident": resident, "decoding": decoding, "waiting": waiting});
            json_answer(StatusCode::OK, &json!({"region": *site.name, "faults": site.faults(), "load": load}))
        }
        (&Method::POST, "ctl") => match collect(request.into_body()).await.map(|body| serde_json::from_slice::<Patch>(&body)) {
            Ok(Ok(patch)) => json_answer(StatusCode::OK, &json!({"faults": site.control(&patch)})),
            // The text names the field and its range, and the body is the operator's own.
            Ok(Err(error)) => json_answer(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
            Err(fault) => refuse(fault),
        },
        (&Method::DELETE, "ctl") => {
            site.set_faults(Faults::default());
            json_answer(StatusCode::OK, &json!({"faults": site.faults()}))
        }
        (&Method::GET, "ledger") => {
            let lines: String =
                site.rows().iter().filter_map(|row| serde_json::to_string(row).ok()).map(|line| line + "\n").collect();
            let mut response = Response::new(full(Bytes::from(lines)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
            response
        }
        (&Method::DELETE, "ledger") => {
            site.clear_rows();
            json_answer(StatusCode::OK, &json!({}))
        }
        _ => refuse(Fault::NoSuchThing),
    }
}

/// Switches to whatever protocol was asked for, and gives back every byte: enough to see whether an upgrade passes a proxy.
fn echo(site: &Arc<Site>, tasks: &Tasks, request: Request<Incoming>) -> Result<Answer, Fault> {
    let protocol = request.headers().get(UPGRADE).cloned().ok_or(Fault::BadRequest("this path wants an upgrade"))?;
    let upgrade = hyper::upgrade::on(request);
    let site = Arc::clone(site);
    tasks.spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            // It ends when the client closes; an error only means that it did so abruptly.
            tokio::select! {
                _ = tokio::io::copy(&mut from, &mut to) => {}
                () = site.until_up(false) => {}
            }
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, protocol);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(response)
}

fn models(site: &Site, created: i64) -> Value {
    let models: Vec<Value> = site
        .models
        .iter()
        .map(|model| json!({"id": **model, "object": "model", "created": created, "owned_by": "windward-mock"}))
        .collect();
    json!({"object": "list", "data": models})
}

/// Whether a request is from somebody who may come in: by the token or by a signature, where the region wants one of them.
fn authorized(site: &Site, seen: &Seen<'_>, body: &[u8]) -> Result<(), Fault> {
    let given = seen.fields.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = given.and_then(|value| value.strip_prefix("Bearer "));
    let key = || [anthropic::KEY, azure::KEY, gemini::KEY].iter().find_map(|name| seen.fields.get(name));
    let bearer = bearer.or_else(|| key()?.to_str().ok());
    match (&site.bearer, &site.signed) {
        (None, None) => Ok(()),
        (Some(wanted), _) if bearer == Some(wanted.expose()) => Ok(()),
        (_, Some(how)) => {
            let payload = PayloadHash::of([body]);
            let received = Received {
                method: seen.method,
                target: seen.uri.path_and_query().map_or("/", |target| target.as_str()),
                authority: seen.uri.authority().map(http::uri::Authority::as_str),
                fields: seen.fields,
                payload: &payload,
            };
            let scope = Scope { service: &how.service, region: &how.region };
            verify(&received, &how.keys, Some(scope), site.clock.wall()).map_err(Fault::Mistrusted)
        }
        (Some(_), None) => Err(Fault::Unauthorized),
    }
}

/// The same answer with AWS's id for the request, and an error with AWS's words.
fn in_bedrocks_words(mut answer: Answer) -> Answer {
    if let Some(id) = answer.headers().get(REQUEST_ID).cloned() {
        answer.headers_mut().insert(AWS_REQUEST_ID, id);
    }
    let Some(fault) = answer.extensions_mut().remove::<Fault>() else { return answer };
    let body = bedrock::fault(fault, answer.headers_mut());
    answer.map(|_| full(Bytes::from(body.to_string())))
}

/// The same in Anthropic's.
fn in_anthropics_words(mut answer: Answer) -> Answer {
    if let Some(id) = answer.headers_mut().remove(REQUEST_ID) {
        answer.headers_mut().insert(anthropic::REQUEST_ID, id);
    }
    let (left, count) = anthropic::LEFT;
    answer.headers_mut().insert(left, count);
    let Some(fault) = answer.extensions_mut().remove::<Fault>() else { return answer };
    let body = anthropic::fault(fault);
    answer.map(|_| full(body))
}

/// The same in Google's.
fn in_googles_words(mut answer: Answer) -> Answer {
    let Some(fault) = answer.extensions_mut().remove::<Fault>() else { return answer };
    answer.map(|_| full(gemini::fault(fault)))
}

async fn collect(body: Incoming) -> Result<Bytes, Fault> {
    let collected = Limited::new(body, MAX_BODY).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|_| Fault::TooLarge)
}

fn refuse(fault: Fault) -> Answer {
    let mut answer = json_answer(fault.status(), &fault.json());
    answer.extensions_mut().insert(fault);
    answer
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(full(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, Cut> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn mark(site: &Site, response: &mut Answer) {
    if let Ok(region) = HeaderValue::from_str(&site.name) {
        response.headers_mut().insert(REGION, region);
    }
    if let Some((name, region)) = azure::says_region(&site.name) {
        response.headers_mut().insert(name, region);
    }
}

fn name(response: &mut Answer, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}
