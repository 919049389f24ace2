//! The query of a request's target, without what is nobody's business but the gateway's.

use smallvec::SmallVec;

use crate::tables::withholds_parameter;

/// The target without the parameters that hold a credential, every other one byte for byte as it was; `None` when there are none
/// of them, which is nearly always. Parameters are what `&` divides; a name is read as a server reads it, so that `%6Bey` is `key`.
/// Some servers divide at `;` as well, and take `key[]` for a list: what would be a credential to them goes, too.
pub fn without_credentials(target: &str) -> Option<String> {
    let (path, query) = target.split_once('?')?;
    if !query.split('&').any(holds_credential) {
        return None;
    }
    let mut kept = String::with_capacity(target.len());
    kept.push_str(path);
    for (nth, parameter) in query.split('&').filter(|parameter| !holds_credential(parameter)).enumerate() {
        kept.push(if nth == 0 { '?' } else { '&' });
        kept.push_str(parameter);
    }
    Some(kept)
}

fn holds_credential(parameter: &str) -> bool {
    parameter.split(';').any(names_credential)
}

fn names_credential(parameter: &str) -> bool {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name).as_bytes();
    if !name.contains(&b'%') {
        return withholds_parameter(before_bracket(name));
    }
    let mut plain: SmallVec<[u8; 32]> = SmallVec::new();
    let mut rest = name;
    while let [byte, more @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, more @ ..] => digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, more)),
            _ => None,
        };
        let (byte, more) = escaped.unwrap_or((*byte, more));
        plain.push(byte);
        rest = more;
    }
    withholds_parameter(before_bracket(&plain))
}

fn before_bracket(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == b'[').next().unwrap_or(name)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_go_and_the_rest_stays_as_it_was() {
        for (target, left) in [
            ("/v1/files", None),
            ("/v1/files?after=%66ile-1&&limit=&x", None),
            ("/v1/files?", None),
            ("/v1/files?api_key=sk-1", Some("/v1/files")),
            ("/v1/files?b&a=1;api_key=sk-1&c", Some("/v1/files?b&c")),
            ("/v1/files?api_key[]=sk-1&key%5B0%5D=sk-2&a[]=1", Some("/v1/files?a[]=1")),
            ("/v1/files?a=%41&key=sk-1&b=+%2b", Some("/v1/files?a=%41&b=+%2b")),
            ("/v1/files?%6Bey=sk-1&api-version=2", Some("/v1/files?api-version=2")),
            ("/v1/files?Access_Token=a=b&a?key=1", Some("/v1/files?a?key=1")),
            ("/b?X-Amz-Algorithm=A&X-Amz-Credential=C&prefix=p&X-Amz-Signature=S", Some("/b?prefix=p")),
            ("/b?key", Some("/b")),
            ("/b?k%ey=1&%=2&%6=3", None),
            ("/b?&key=1&", Some("/b?&")),
        ] {
            assert_eq!(without_credentials(target).as_deref(), left, "{target}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_kept_stood_there_in_that_order(target in "[/a?&=k%e6Bytoxn_-]{0,40}") {
            if let Some(kept) = without_credentials(&target) {
                prop_assert!(kept.len() < target.len());
                prop_assert_eq!(without_credentials(&kept), None);
                let query = |text: &str| text.split_once('?').map(|(_, query)| query.to_owned());
                let all: Vec<String> = query(&target).unwrap().split('&').map(str::to_owned).collect();
                let mut rest = all.iter();
                for one in query(&kept).iter().flat_map(|query| query.split('&')) {
                    prop_assert!(rest.any(|other| other == one), "{} of {}", one, target);
                }
            } else {
                prop_assert!(!target.contains("?key="));
            }
        }
    }
}
