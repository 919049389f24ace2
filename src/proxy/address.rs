//! Makes a request what one backend is to get: its target, its body, its credential.

use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use smallvec::SmallVec;

use super::exchange::Exchange;
use super::forward::{Outgoing, UsageEvent};
use super::intake::Intake;
use super::reject::Error;
use super::{headers, signature, translated};
use crate::backend::{Backend, Credential, UsageMode};
use crate::dialect::Dialect;
use crate::route::Deployment;
use crate::upstream::SendBody;
use crate::wire::fields::Name;
use crate::wire::splice;
use crate::wire::stream_options::StreamOptions;
use crate::wire::{Operation, azure, bedrock, gemini};

/// Makes the request what this backend is to get: only the bytes that must differ do.
pub(super) fn address(
    outgoing: &mut Outgoing<'_>,
    x: &Exchange,
    backend: &Arc<Backend>,
    deployment: &Deployment,
) -> Result<UsageEvent, Error> {
    if let Some(former) = outgoing.addressed_to.take() {
        headers::unaddressed(&mut outgoing.request.head.fields, &former);
    }
    if let Some(native) = outgoing.native.take() {
        outgoing.request.head.fields = native;
    }
    let asked_for = if deployment.translated {
        translated::speak(outgoing, x, backend, deployment)?;
        UsageEvent::Keep
    } else {
        pass(outgoing, x, (backend, deployment))?
    };
    let Outgoing { request, addressed_to, credential, provenance, .. } = outgoing;
    headers::addressed(&mut request.head.fields, backend, credential.as_ref(), provenance.as_ref());
    x.tell_id(Name::XRequestId, &mut request.head.fields);
    // Also where it cannot be signed, its fields are there to be taken out again.
    *addressed_to = Some(Arc::clone(backend));
    signature::sign(request, backend, &x.snapshot, || x.shared.clock.wall())?;
    Ok(asked_for)
}

/// Makes method, target and body those that a backend of the client's dialect is to get, and says what has to be taken out again of the
/// usage that it is asked for besides.
fn pass(outgoing: &mut Outgoing<'_>, x: &Exchange, (backend, deployment): (&Backend, &Deployment)) -> Result<UsageEvent, Error> {
    let Outgoing { request, below, bare, intake, .. } = outgoing;
    let asks = x.streamed
        && x.operation.is_some_and(Operation::usage_needs_asking)
        && matches!(intake.fields.stream_options, StreamOptions::Absent | StreamOptions::NotAsked { .. });
    let usage = if asks { backend.usage } else { UsageMode::Never };
    let edits = edits(intake, x, (backend, deployment), usage);
    request.body = SendBody::chunks(splice::apply(&intake.chunks, &edits));
    request.head.method = x.method.clone();
    let operation = x.operation;
    let named = operation.and_then(|it| path_of_named(backend, it, x, deployment, bare.as_deref().unwrap_or(below)));
    let base = deployment.base_path.as_ref().unwrap_or(&backend.origin.base_path);
    request.head.target = match (bare, x.route()) {
        _ if let Some(named) = &named => target(base, named)?,
        (Some(bare), _) if backend.credential != Credential::PassThrough => target(base, bare)?,
        // As the usual SDK and the usual backend have it: then it is the client's own target.
        (_, Some(route)) if route.prefix == *base => Uri::from(x.path.clone()),
        _ => target(base, below)?,
    };
    Ok(match (usage, &intake.fields.stream_options) {
        (UsageMode::Never, _) => UsageEvent::Keep,
        (UsageMode::Inject, StreamOptions::Absent) => UsageEvent::Strip,
        // Among options of the client's own may be `continuous_usage_stats`, which do nothing until usage is asked for at all.
        _ => UsageEvent::StripEach,
    })
}

/// What has to change in the body. A model that a client of Azure's names in its path goes into the body as well, where it may be missing.
fn edits(
    intake: &Intake,
    x: &Exchange,
    (backend, deployment): (&Backend, &Deployment),
    usage: UsageMode,
) -> SmallVec<[splice::Splice; 2]> {
    let (fields, there) = (&intake.fields, deployment.upstream_model_json.as_ref());
    let model = x.model.as_deref().unwrap_or_default();
    if backend.dialect == Dialect::Gemini && x.operation == Some(Operation::Embeddings) {
        return there.map(|there| renamed(intake, model, there)).unwrap_or_default();
    }
    let needs_none = fields.model_span.is_empty() && backend.api_version.is_some();
    if *fields.model == *model || needs_none || !matches!(backend.dialect, Dialect::Openai | Dialect::AzureOpenai) {
        return splice::edits(fields, there, usage);
    }
    let name = there.cloned().unwrap_or_else(|| Bytes::from(serde_json::Value::from(model).to_string()));
    let mut edits = splice::edits(fields, Some(&name), usage);
    if fields.model_span.is_empty() {
        // There is always a member before it: no call is without a prompt.
        let with = [b",\"model\":", &name[..]].concat();
        edits.push(splice::Splice { at: fields.object_end..fields.object_end, with: with.into() });
    }
    edits
}

/// A body for embeddings with the model's name there, where it names it besides its path.
fn renamed(intake: &Intake, model: &str, there: &Bytes) -> SmallVec<[splice::Splice; 2]> {
    let names = match &intake.chunks[..] {
        [whole] => gemini::names_in(whole, model),
        chunks => gemini::names_in(&chunks.concat(), model),
    };
    let with = Bytes::from(gemini::name_in_body(there));
    names.into_iter().map(|at| splice::Splice { at, with: with.clone() }).collect()
}

/// The path, with the query, of a call whose path names the model here or there: by its name there, and escaped as it is signed.
pub(super) fn path_of_named(
    backend: &Backend,
    operation: Operation,
    x: &Exchange,
    deployment: &Deployment,
    below: &str,
) -> Option<String> {
    let model = x.model.as_deref()?;
    let there = deployment.upstream_segment.as_deref();
    let mut path = match (backend.dialect, there) {
        (Dialect::Bedrock, Some(segment)) => bedrock::path(segment, operation, x.streamed)?,
        (Dialect::Bedrock, None) => bedrock::path(&bedrock::segment(model), operation, x.streamed)?,
        (Dialect::Gemini, Some(segment)) => gemini::path(segment, operation, x.streamed, below)?,
        (Dialect::Gemini, None) => gemini::path(&gemini::segment(model), operation, x.streamed, below)?,
        (Dialect::Openai | Dialect::AzureOpenai, _) if backend.api_version.is_some() || azure::is_path(below) => {
            let query = below.split_once('?').map(|(_, query)| query);
            return azure::path(operation, there, model, backend.api_version.as_deref(), query);
        }
        _ => return None,
    };
    if let Some((_, query)) = below.split_once('?') {
        path.extend(["?", query]);
    }
    Some(path)
}

/// The target in origin form: the backend's base path where the route's prefix was.
pub(super) fn target(base: &str, below: &str) -> Result<Uri, Error> {
    let mut path = String::with_capacity(base.len() + below.len() + 1);
    path.push_str(base);
    path.push_str(below);
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    // It is a path, and need not be looked through for what else a target can be.
    let path = PathAndQuery::from_maybe_shared(Bytes::from(path));
    path.map(Uri::from).map_err(|_| Error::BadTarget("the path cannot be forwarded"))
}
