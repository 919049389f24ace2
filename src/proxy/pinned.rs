//! Requests that name something that lives in one backend go there: it outranks carbon, and nobody else is asked instead.
//!
//! A name that nobody is known to have handed out is for the route's home to judge. What is made is remembered before its client has seen
//! the end of the answer, or of a stream its first event, so that the next request can name it.

use http::{HeaderValue, Method};

use super::exchange::Exchange;
use super::intake::{self, Intake};
use super::reject::Error;
use super::{Received, RequestBody};
use crate::backend::BackendId;
use crate::pins::{Home, Maker};
use crate::wire::fields::Name;
use crate::wire::usage::Meter;
use crate::wire::{Operation, stored};

/// Bodies up to so many bytes are read for what they name. Those that name a file to work on have some hundred.
const MOST_READ: u64 = 64 << 10;

/// What is to be remembered of an exchange when its backend has done it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Nothing.
    #[default]
    Nothing,
    /// Its answer can be named.
    Answer,
    /// What it is about, and what it made.
    Things,
    /// That something is no more.
    Gone(Box<str>),
}

/// The minute that it is, which is counted from one process to the next.
fn minute(x: &Exchange) -> u64 {
    u64::try_from(x.wall.as_second() / 60).unwrap_or_default()
}

/// The backend that keeps the first of these that is known.
fn find<'a>(ids: impl IntoIterator<Item = &'a [u8]>, x: &Exchange) -> Result<Option<BackendId>, Error> {
    let pins = x.snapshot.pins();
    let Some(home) = ids.into_iter().find_map(|id| pins.find(id, minute(x))) else { return Ok(None) };
    let backend = x.snapshot.plan.backends.iter().find(|backend| Home::of(&backend.name) == home).ok_or(Error::PinGone)?;
    let reaches = x.route().is_some_and(|route| route.reaches(backend.id)) && x.may_serve(backend.id);
    if reaches { Ok(Some(backend.id)) } else { Err(Error::PinElsewhere) }
}

/// Where an inference call has to go: to the backend that keeps what it names, or home where it names what nobody is known to keep.
pub(super) fn of_intake(intake: &Intake, x: &mut Exchange) -> Result<Option<BackendId>, Error> {
    let fields = &intake.fields;
    let stores = match x.operation {
        Some(Operation::Responses) => fields.store != Some(false),
        Some(Operation::Chat) => fields.store == Some(true),
        _ => return Ok(None),
    };
    if stores {
        x.keeps = Keeps::Answer;
    }
    let named = [&fields.previous_response, &fields.conversation].into_iter().flatten();
    if let Some(known) = find(named.map(String::as_bytes), x)? {
        return Ok(Some(known));
    }
    if x.snapshot.pins().has_things()
        && let Some(known) = find(intake.chunks.iter().flat_map(|chunk| stored::in_chunk(chunk)), x)?
    {
        return Ok(Some(known));
    }
    Ok(x.route().filter(|_| fields.names_stored()).map(|route| route.home))
}

/// Where a call about things has to go; `None` where it names none that is known.
pub(super) async fn of_call(request: &mut Received, below: &str, x: &mut Exchange) -> Result<Option<BackendId>, Error> {
    x.keeps = match (&request.head.method, stored::whole(below)) {
        (&Method::DELETE, Some(id)) => Keeps::Gone(id.into()),
        (&Method::DELETE | &Method::HEAD, _) => Keeps::Nothing,
        _ => Keeps::Things,
    };
    if let Some(known) = find(stored::in_path(below).iter().map(String::as_bytes), x)? {
        return Ok(Some(known));
    }
    // What it works on may be named in its body alone, which then has to be here before it is known where to send it.
    let is_json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    let fields = &request.head.fields;
    let read = request.head.method == Method::POST
        && x.snapshot.pins().has_things()
        && fields.value(Name::ContentType).is_some_and(|value| is_json(&value))
        && !fields.has(Name::ContentEncoding)
        && fields
            .get_text(Name::ContentLength)
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: u64| length <= MOST_READ);
    if !read {
        return Ok(None);
    }
    if let Some(body @ (RequestBody::Incoming(_) | RequestBody::Fed(_))) = &mut request.body {
        let chunks = intake::collect(body, |_| {}, x).await?;
        request.body = Some(RequestBody::Whole(chunks.concat().into()));
    }
    match &request.body {
        Some(RequestBody::Whole(body)) => find(stored::in_object(body), x),
        _ => Ok(None),
    }
}

/// Remembers what the answer has handed out by now. At its end all of it is looked at; before, only what the events of a stream say.
pub(super) fn remember(x: &mut Exchange, meter: &mut Meter, at_end: bool) {
    if !x.status.is_success() {
        return;
    }
    let Some((backend, _)) = &x.serving else { return };
    let (pins, minute) = (x.snapshot.pins(), minute(x));
    let (home, maker) = (Home::of(&backend.name), Maker::of(x.key().map(|key| &*key.name)));
    match &x.keeps {
        Keeps::Answer => {
            if let Some(id) = meter.id(at_end) {
                pins.put(&id, home, maker, minute);
                x.keeps = Keeps::Nothing;
            }
        }
        Keeps::Things if at_end => meter.ids(|id| pins.put(id, home, maker, minute)),
        Keeps::Gone(id) if at_end => pins.forget(id.as_bytes()),
        Keeps::Nothing | Keeps::Things | Keeps::Gone(_) => {}
    }
}
