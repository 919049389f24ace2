//! A backend's URL.

use std::sync::Arc;

use http::{HeaderValue, Uri};

use super::Check;
use crate::backend::Origin;
use crate::config::decode::At;

impl Check<'_> {
    /// The origin of a URL, or the report why it is none. The URL is not repeated in messages: people do put passwords there.
    pub(super) fn url(&mut self, written: &At<String>) -> Option<Origin> {
        match origin(&written.value) {
            Ok(origin) => Some(origin),
            Err((message, mend)) => {
                self.problems.add(written.mark, message).mend = Some(mend.to_owned());
                None
            }
        }
    }
}

type Fault = (&'static str, &'static str);

fn origin(text: &str) -> Result<Origin, Fault> {
    const EXAMPLE: &str = "write it as `https://host/path` or `http://host:port`";
    if text.contains(['?', '#']) {
        return Err(("a backend's URL has no query and no fragment", "end it with the path below which the API lies"));
    }
    let uri: Uri = text.parse().map_err(|_| ("this is no URL", EXAMPLE))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        Some(_) => return Err(("only http and https are spoken", EXAMPLE)),
        None => return Err(("this URL has no scheme", EXAMPLE)),
    };
    let authority = uri.authority().ok_or(("this URL has no host", EXAMPLE))?;
    if authority.as_str().contains('@') {
        return Err(("a URL must not carry credentials", "use `auth`, and take the secret from a variable or a file"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(("this URL has no host", EXAMPLE));
    }
    let written_port = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(_, port)| port);
    let port = match (written_port, authority.port_u16()) {
        (None, _) => {
            if tls {
                443
            } else {
                80
            }
        }
        (Some(_), Some(port)) if port > 0 => port,
        _ => return Err(("a port is a number from 1 to 65535", EXAMPLE)),
    };
    let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| ("this is no URL", EXAMPLE))?;
    let base_path = Arc::from(uri.path().trim_end_matches('/'));
    Ok(Origin { tls, host: Arc::from(host), port, authority, base_path, ca: None, identity: None })
}

/// Whether a host, without brackets, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host.parse().map_or(host == "localhost", |ip: std::net::IpAddr| ip.is_loopback())
}

/// Whether what is sent there could be read on the way: http to another machine.
pub(super) fn sends_in_clear(url: &str) -> bool {
    origin(url).is_ok_and(|origin| {
        let local = is_loopback(&origin.host);
        !origin.tls && !local
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_urls_apart() {
        for (text, tls, host, port, authority, path) in [
            ("https://example.com", true, "example.com", 443, "example.com", ""),
            ("https://example.com/", true, "example.com", 443, "example.com", ""),
            ("http://example.com:8000/v1/", false, "example.com", 8000, "example.com:8000", "/v1"),
            ("http://[::1]:8000/a/b", false, "::1", 8000, "[::1]:8000", "/a/b"),
            ("http://[::1]", false, "::1", 80, "[::1]", ""),
        ] {
            let origin = origin(text).unwrap();
            assert_eq!(
                (origin.tls, &*origin.host, origin.port, origin.authority.to_str().unwrap(), &*origin.base_path),
                (tls, host, port, authority, path),
                "{text}"
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, what) in [
            ("example.com", "no scheme"),
            ("ftp://example.com", "only http"),
            ("https://", "no URL"),
            ("https://me:pw@example.com", "credentials"),
            ("https://example.com?x=1", "query"),
            ("https://example.com#x", "fragment"),
            ("https://example.com:0", "port"),
            ("https://example.com:99999", "port"),
            ("https://exa mple.com", "no URL"),
            ("/v1", "no scheme"),
            ("", "no URL"),
        ] {
            let (message, _) = origin(text).unwrap_err();
            assert!(message.contains(what), "{text}: {message}");
        }
    }

    #[test]
    fn knows_what_goes_in_clear() {
        assert!(sends_in_clear("http://example.com"));
        for safe in ["https://example.com", "http://localhost:1", "http://127.0.0.2", "http://[::1]:80"] {
            assert!(!sends_in_clear(safe), "{safe}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(https?://)?\\PC{0,30}") {
            let _ = origin(&text);
        }
    }
}
