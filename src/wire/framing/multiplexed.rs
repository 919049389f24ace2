//! What is left to check of a request of HTTP/2, whose frames and fields were held to RFC 9113 by whoever read them.

use http::Method;

use super::head::{same_host, valid_host};
use super::refusal::Refusal;
use crate::wire::fields::Name;
use crate::wire::message::RequestHead;

/// Whether it is clear what is asked for, and of whom (RFC 9113, 8.3.1), in at most so many fields: of those whoever read them counted
/// the bytes alone. A cookie may come in pieces, each a field, and is one (8.2.3).
///
/// # Errors
/// The first thing that is wrong.
pub fn check(request: &RequestHead, fields: u32) -> Result<(), Refusal> {
    let pieces = || request.fields.all(Name::Cookie).skip(1).count();
    if request.fields.len() > fields as usize && request.fields.len() - pieces() > fields as usize {
        return Err(Refusal::HeadTooLarge);
    }
    let uri = &request.target;
    // A request without `:path` and `:authority` arrives with an empty path, which others read as `/`.
    let is_target = uri.path().starts_with('/') || (uri.path() == "*" && request.method == Method::OPTIONS);
    if !is_target {
        return Err(Refusal::Target);
    }
    let mut hosts = request.fields.all(Name::Host);
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let default_port: &[u8] = if uri.scheme_str() == Some("https") { b"443" } else { b"80" };
    let clear = match (authority, hosts.next(), hosts.next()) {
        (_, _, Some(_)) | (None, None, _) => false,
        (Some(one), None, _) | (None, Some(one), _) => valid_host(one),
        (Some(authority), Some(host), None) => valid_host(authority) && same_host(authority, host, default_port),
    };
    if clear { Ok(()) } else { Err(Refusal::Host) }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(request: Request<()>) -> RequestHead {
        request.into_parts().0.into()
    }

    fn checked(uri: &str, hosts: &[&str]) -> Result<(), Refusal> {
        let request = hosts.iter().fold(Request::get(uri), |request, host| request.header("host", *host));
        check(&head(request.body(()).unwrap()), 2)
    }

    #[test]
    fn one_host_that_could_be_one_is_needed_and_two_have_to_be_the_same() {
        for (uri, hosts) in [
            ("http://a.test/", &[] as &[_]),
            ("/", &["a.test:8080"]),
            ("http://a.test:80/", &["A.test"]),
            ("https://a.test/", &["a.test:443"]),
            ("http://[::1]:8080/x?y", &["[::1]:8080"]),
        ] {
            assert_eq!(checked(uri, hosts), Ok(()), "{uri} {hosts:?}");
        }
        for (uri, hosts) in [
            ("/", &[] as &[_]),
            ("/", &[""]),
            ("/", &["a.test", "a.test"]),
            ("http://a.test/", &["a.test", "a.test"]),
            ("http://a.test/", &["b.test"]),
            ("http://a.test/", &[""]),
            ("http://a.test/", &["a.test:443"]),
            ("http://a.test/", &["a.test@b.test"]),
            ("http://me@a.test/", &[]),
        ] {
            assert_eq!(checked(uri, hosts), Err(Refusal::Host), "{uri} {hosts:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_an_asterisk_for_options() {
        assert_eq!(checked("*", &["a.test"]), Err(Refusal::Target));
        let options = Request::options("*").header("host", "a.test").body(()).unwrap();
        assert_eq!(check(&head(options), 1), Ok(()));
        let mut empty = Request::new(());
        *empty.uri_mut() = http::Uri::from_parts(http::uri::Parts::default()).unwrap();
        assert_eq!(check(&head(empty), 0), Err(Refusal::Target), "no `:path`");
    }
}
