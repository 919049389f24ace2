//! Candidates that speak another dialect than the client, and are served by translation ([`crate::wire::translate`]).
//!
//! A request is translated once, before anybody is chosen, and only where a candidate needs that: who cannot be asked in its own words is
//! no candidate, and when nobody else is left the client is told which field stood in the way. What the others are sent is the client's
//! own bytes, as ever.

use bytes::Bytes;
use http::{HeaderName, Method};
use smallvec::{SmallVec, smallvec};

use super::address;
use super::exchange::Exchange;
use super::forward::Outgoing;
use super::intake::Intake;
use super::reject::Error;
use crate::backend::Backend;
use crate::decide::{Candidate, Standing};
use crate::dialect::Dialect;
use crate::route::Deployment;
use crate::upstream::SendBody;
use crate::wire::Operation;
use crate::wire::bedrock::ERROR_TYPE;
use crate::wire::fields::{Fields, Name};
use crate::wire::message::ResponseHead;
use crate::wire::query::without_credentials;
use crate::wire::stream_options::StreamOptions;
use crate::wire::translate::{Answer, Broken, Head, LONGEST_NAME, Occasion, Refusal, Spoken, Translation};

/// Where a client of Anthropic's says for whom it asks.
const USER_PROFILE_ID: HeaderName = HeaderName::from_static("anthropic-user-profile-id");

/// Of an exchange for which somebody would need a translation: which, and whether there is one.
#[derive(Debug)]
pub(super) struct Translated {
    /// `None` where there is none for this kind of call.
    translation: Option<Translation>,
    /// Why the request cannot be translated.
    refusal: Option<Refusal>,
    include_usage: bool,
}

/// Translates a request, if one of its candidates needs that.
pub(super) fn prepare(intake: &mut Intake, fields: &Fields, x: &mut Exchange) -> Result<(), Error> {
    let snapshot = std::sync::Arc::clone(&x.snapshot);
    let (Some(route), Some(operation)) = (x.route(), x.operation) else { return Ok(()) };
    let candidates = route.candidates(x.model.as_deref().unwrap_or_default());
    let Some(needs) = candidates.iter().find(|deployment| deployment.translated) else { return Ok(()) };
    let translation = Translation::of(operation, snapshot.plan.backend(needs.backend).dialect);
    let translated = match translation {
        None => Err(no_such_call(x)),
        Some(translation) => match odd_parameter(translation, x) {
            Some(refusal) => Err(refusal),
            None => body(intake, translation, fields, x)?,
        },
    };
    let include_usage = intake.fields.stream_options == StreamOptions::Asked;
    let refusal = match translated {
        Ok(body) => {
            intake.translated = Some(body);
            None
        }
        Err(refusal) => Some(refusal),
    };
    x.translated = Some(Box::new(Translated { translation, refusal, include_usage }));
    Ok(())
}

/// The body in the other dialect, counted among those that are held.
fn body(intake: &Intake, translation: Translation, fields: &Fields, x: &mut Exchange) -> Result<Result<Bytes, Refusal>, Error> {
    let betas: SmallVec<[&str; 2]> = fields.texts(Name::AnthropicBeta).collect();
    let spoken =
        Spoken { version: fields.get_text(Name::AnthropicVersion), betas: &betas, profile: fields.get_text(&USER_PROFILE_ID) };
    let (limits, proof) = (x.snapshot.plan.limits, x.key_is);
    let Some(buffered) = x.buffered.as_mut() else { return Ok(translate_chunks(intake, translation, spoken)) };
    // Before it is taken: what it becomes is about as long, and of a body in pieces there is a copy in between.
    let ahead = intake.fields.length * if intake.chunks.len() == 1 { 1 } else { 2 };
    if !buffered.grow(ahead, proof, &limits) {
        return Err(Error::Busy);
    }
    let translated = translate_chunks(intake, translation, spoken);
    let kept = translated.as_ref().map_or(0, Bytes::len);
    buffered.shrink(ahead.saturating_sub(kept));
    if buffered.grow(kept.saturating_sub(ahead), proof, &limits) { Ok(translated) } else { Err(Error::Busy) }
}

fn translate_chunks(intake: &Intake, translation: Translation, spoken: Spoken<'_>) -> Result<Bytes, Refusal> {
    match &intake.chunks[..] {
        [whole] => translation.request(whole, spoken),
        chunks => translation.request(&chunks.concat(), spoken),
    }
}

/// A parameter of the client's target that has no place at the other's.
fn odd_parameter(translation: Translation, x: &Exchange) -> Option<Refusal> {
    let bare = without_credentials(x.path.as_str());
    let (_, query) = bare.as_deref().unwrap_or(x.path.as_str()).split_once('?')?;
    let known = |name: &str| name.is_empty() || translation.knows_parameter(name);
    let odd = query.split('&').filter_map(|part| part.split('=').next()).find(|name| !known(name))?;
    // As much of it as is repeated of any name.
    let odd: String = odd.chars().take(LONGEST_NAME).collect();
    Some(Refusal { field: format!("?{odd}"), why: "has no counterpart in the API of the backend that would serve it".into() })
}

/// The call is of a kind that is not translated.
pub(super) fn no_such_call(x: &Exchange) -> Refusal {
    Refusal {
        field: x.path.path().to_owned(),
        why: "is a call that is not translated for the backend that would serve it".into(),
    }
}

impl Exchange {
    /// Rules out a candidate that cannot be asked in its own words.
    pub(super) fn judge_translation(&self, deployment: &Deployment, candidate: &mut Candidate) {
        let refused = || self.translated.as_ref().is_some_and(|translated| translated.refusal.is_some());
        if deployment.translated && candidate.standing != Standing::OutsideResidency && refused() {
            candidate.standing = Standing::Untranslatable;
        }
    }

    /// What the client is told when nobody else is left.
    pub(super) fn untranslatable(&self) -> Option<Error> {
        let refusal = self.translated.as_ref()?.refusal.clone()?;
        Some(Error::Untranslatable(Box::new(refusal)))
    }

    /// The translation behind which the answer comes, if it does.
    fn behind(&self) -> Option<(&Translated, Translation)> {
        let translated = self.translated.as_deref()?;
        let (_, index) = self.serving.as_ref()?;
        let deployment = self.deployments.as_ref()?.get((*index)?)?;
        translated.translation.filter(|_| deployment.translated).map(|translation| (translated, translation))
    }

    /// What the backend was asked for.
    pub(super) fn operation_there(&self) -> Option<Operation> {
        self.behind().map(|(_, translation)| translation.operation_there()).or(self.operation)
    }
}

/// Makes the request what a backend of another dialect is to get, but for its credential.
pub(super) fn speak(outgoing: &mut Outgoing<'_>, x: &Exchange, backend: &Backend, deployment: &Deployment) -> Result<(), Error> {
    let translation = x.translated.as_ref().and_then(|translated| translated.translation);
    let (Some(translation), Some(body)) = (translation, &outgoing.intake.translated) else {
        return Err(x.untranslatable().unwrap_or(Error::UnknownModel));
    };
    let Outgoing { request, native, .. } = outgoing;
    let path = address::path_of_named(backend, translation.operation_there(), x, deployment, "").ok_or(Error::UnknownModel)?;
    request.head.method = Method::POST;
    request.head.target = address::target(&backend.origin.base_path, &path)?;
    request.body = SendBody::chunks(smallvec![body.clone()]);
    // For whoever is asked next.
    *native = Some(request.head.fields.clone());
    let fields = &mut request.head.fields;
    // They are in the body there.
    fields.remove(Name::AnthropicVersion);
    fields.remove(Name::AnthropicBeta);
    fields.remove(&USER_PROFILE_ID);
    fields.set_text(Name::ContentType, "application/json");
    fields.set_text(Name::Accept, if x.streamed { "application/vnd.amazon.eventstream" } else { "application/json" });
    Ok(())
}

/// Why an answer that begins so can be none for the client: of one that has to be translated its type is known before it is passed on.
pub(super) fn unreadable(head: &ResponseHead, x: &Exchange, index: usize) -> Option<Broken> {
    let translation = x.translated.as_ref()?.translation?;
    let deployment = x.deployments.as_ref()?.get(index).filter(|deployment| deployment.translated);
    let said = said(head, x);
    deployment.filter(|_| !translation.passes(&said)).and_then(|_| said.unreadable())
}

/// What a head says of its body.
fn said<'a>(head: &'a ResponseHead, x: &Exchange) -> Head<'a> {
    Head {
        status: head.status,
        streamed: x.streamed,
        content_type: head.fields.get(Name::ContentType).unwrap_or_default(),
        encoded: head.fields.has(Name::ContentEncoding),
        exception: head.fields.get_text(&ERROR_TYPE),
    }
}

/// The answer's way back into the client's dialect, where it needs one. The head is made the client's.
pub(super) fn answer(head: &mut ResponseHead, x: &Exchange) -> Option<Box<Answer>> {
    let (translated, translation) = x.behind()?;
    let dialect = x.dialect();
    let of = Occasion {
        dialect,
        // The events of messages bring their own.
        id: ["chatcmpl-", x.id.as_str()].concat().into(),
        created: x.wall.as_second(),
        model: x.model.clone().unwrap_or_default(),
        include_usage: translated.include_usage,
    };
    let said = said(head, x);
    let answer = (!translation.passes(&said)).then(|| Box::new(Answer::new(translation, said, of)));
    if answer.is_some() {
        // What it becomes is not compressed.
        head.fields.remove(Name::ContentEncoding);
    }
    let status = crate::wire::translate::status_of(head.status);
    if status != head.status {
        (head.status, head.reason) = (status, None);
    }
    if dialect == Dialect::Anthropic {
        // Where its SDKs read it.
        x.tell_id(Name::RequestId, &mut head.fields);
    }
    answer
}
