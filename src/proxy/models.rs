//! What is answered of models without asking anybody.

use bytes::Bytes;
use http::{HeaderValue, Response, header};

use super::exchange::Exchange;
use super::reject::Error;
use crate::route::Route;
use crate::wire::fields::Name;

/// `GET /models`, from the plan; `None` where it knows no model, and `home` takes any and has to be asked.
pub(super) fn list(x: &Exchange) -> Result<Option<Response<Bytes>>, Error> {
    let (Some(index), Some(route)) = (x.route, x.route()) else { return Err(Error::NoRoute) };
    if route.models.is_empty() && home_may_know(x, route) {
        return Ok(None);
    }
    Ok(Some(of_plan(x, x.snapshot.plan.model_lists.get(index).cloned().unwrap_or_default())))
}

/// `GET /models/{name}`, likewise.
pub(super) fn one(x: &Exchange, name: &str) -> Result<Option<Response<Bytes>>, Error> {
    let Some(route) = x.route() else { return Err(Error::NoRoute) };
    if route.models.contains_key(name) {
        return Ok(Some(of_plan(x, crate::config::model_json(x.dialect(), name))));
    }
    if home_may_know(x, route) { Ok(None) } else { Err(Error::UnknownModel) }
}

/// Whether `home` takes models that the plan does not name, and can be asked in the client's words.
fn home_may_know(x: &Exchange, route: &Route) -> bool {
    let takes_any = route.any_model.iter().any(|deployment| deployment.backend == route.home && !deployment.translated);
    takes_any && x.may_serve(route.home)
}

fn of_plan(x: &Exchange, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let own = || HeaderValue::from_str(x.id.as_str()).ok();
    if let Some(id) = x.client_request_id.clone().or_else(own) {
        response.headers_mut().insert(Name::XRequestId.header(), id);
    }
    response
}
