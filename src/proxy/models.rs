//! What is answered of models without asking anybody.

use bytes::Bytes;
use http::{HeaderValue, Response, header};

use super::exchange::Exchange;
use super::reject::Error;
use crate::wire::fields::Name;

/// `GET /models` and `GET /models/{name}`, from the plan.
pub(super) fn list(x: &Exchange, only: Option<&str>) -> Result<Response<Bytes>, Error> {
    let (Some(index), Some(route)) = (x.route, x.route()) else { return Err(Error::NoRoute) };
    let body = match only {
        None => x.snapshot.plan.model_lists.get(index).cloned().unwrap_or_default(),
        Some(name) if route.models.contains_key(name) => crate::config::model_json(x.dialect(), name),
        Some(_) => return Err(Error::UnknownModel),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let own = || HeaderValue::from_str(x.id.as_str()).ok();
    if let Some(id) = x.client_request_id.clone().or_else(own) {
        response.headers_mut().insert(Name::XRequestId.header(), id);
    }
    Ok(response)
}
