//! Against `http::HeaderMap`, which is the same thing made in another way.

use proptest::prelude::*;

use super::*;
use crate::wire::framing::{Look, Reader, Whole};

const UNKNOWN: HeaderName = HeaderName::from_static("x-unknown");

/// The fields of a request as it is read.
fn received(lines: &str) -> Fields {
    let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    let mut room = Whole::default();
    let Look::Whole(whole) = Reader::new(1 << 16, 0).look(text.as_bytes(), &mut room) else { panic!("{text}") };
    whole.request(&text.into(), |body| body).unwrap().request.head.fields
}

fn written(fields: &Fields, but: &[Name]) -> String {
    let mut bytes = Vec::new();
    fields.write(&mut bytes, Names::of(but));
    String::from_utf8(bytes).unwrap()
}

#[test]
fn what_came_is_found_however_its_name_was_written() {
    let fields = received("Content-TYPE:  a b\t\r\nX-Unknown: 1\r\nx-unKNOWN: 2\r\nempty:\r\n");
    assert_eq!(fields.get_text(Name::ContentType), Some("a b"));
    assert_eq!(fields.texts(&UNKNOWN).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(fields.get(&HeaderName::from_static("empty")), Some(&b""[..]));
    assert!(
        fields.has(Name::Host)
            && fields.has(&http::header::CONTENT_TYPE)
            && !fields.has(Name::Te)
            && !fields.has(&http::header::TE)
    );
    assert_eq!((fields.len(), fields.value(Name::Te)), (5, None));
}

#[test]
fn what_was_sent_plainly_leaves_as_it_was_sent_and_all_else_plainly() {
    let mut fields = received("X-A: 1\r\nX-B:2\r\nX-C:  3 \r\nContent-Length: 0\r\nX-D: 4\r\n");
    let whole = "Host: h\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nContent-Length: 0\r\nX-D: 4\r\n";
    assert_eq!(written(&fields, &[]), whole);
    assert_eq!(written(&fields, &[Name::ContentLength]), whole.replace("Content-Length: 0\r\n", ""));
    fields.set(Name::Host, &HeaderValue::from_static("other"));
    fields.set_number(Name::XWindwardOverheadUs, 7);
    fields.append(&UNKNOWN, &HeaderValue::from_static("u"));
    fields.sift(Names::default(), |name| name != b"X-B");
    let wanted =
        "host: other\r\nX-A: 1\r\nX-C: 3\r\nContent-Length: 0\r\nX-D: 4\r\nx-windward-overhead-us: 7\r\nx-unknown: u\r\n";
    assert_eq!(written(&fields, &[]), wanted);
}

#[test]
fn a_value_that_is_no_text_is_none_and_passes() {
    let map = HeaderMap::from_iter([(UNKNOWN, HeaderValue::from_bytes(b"\xff").unwrap())]);
    let fields = Fields::of_map(&map);
    assert_eq!((fields.get_text(&UNKNOWN), fields.get(&UNKNOWN)), (None, Some(&b"\xff"[..])));
    assert_eq!(fields.to_map(), map);
}

#[test]
fn a_secret_stays_one_and_is_not_shown() {
    let mut secret = HeaderValue::from_static("sk-1");
    secret.set_sensitive(true);
    let mut fields = Fields::default();
    fields.set(Name::Authorization, &secret);
    fields.set(Name::Host, &HeaderValue::from_static("h"));
    assert_eq!(format!("{fields:?}"), r#"["authorization", "host"]"#);
    let map = fields.to_map();
    assert!(map["authorization"].is_sensitive() && !map["host"].is_sensitive());
    assert!(Fields::of_map(&map).value(Name::Authorization).unwrap().is_sensitive());
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, u8),
    Append(usize, u8),
    Remove(usize),
    Sift(u8),
}

fn names() -> Vec<HeaderName> {
    ["host", "te", "x-request-id", "x-a", "x-b"].map(HeaderName::from_static).into()
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..names().len();
    prop_oneof![
        (name.clone(), any::<u8>()).prop_map(|(name, value)| Step::Set(name, value)),
        (name.clone(), any::<u8>()).prop_map(|(name, value)| Step::Append(name, value)),
        name.prop_map(Step::Remove),
        any::<u8>().prop_map(Step::Sift),
    ]
}

/// In an order that does not depend on how they are kept: values of one name in theirs.
fn sorted(map: &HeaderMap) -> Vec<(String, Vec<HeaderValue>)> {
    let mut all: Vec<_> = map.keys().map(|name| (name.to_string(), map.get_all(name).iter().cloned().collect())).collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

proptest! {
    #[test]
    fn whatever_is_done_it_has_what_a_map_has(steps in prop::collection::vec(step(), 0..20)) {
        let mut fields = received("X-A: 1\r\nTE: x\r\nX-A: 2\r\n");
        let mut map = fields.to_map();
        for step in steps {
            match step {
                Step::Set(name, value) => {
                    fields.set(&names()[name], &HeaderValue::from(u16::from(value)));
                    map.insert(names()[name].clone(), HeaderValue::from(u16::from(value)));
                }
                Step::Append(name, value) => {
                    fields.append(&names()[name], &HeaderValue::from(u16::from(value)));
                    map.append(names()[name].clone(), HeaderValue::from(u16::from(value)));
                }
                Step::Remove(name) => {
                    fields.remove(&names()[name]);
                    map.remove(&names()[name]);
                }
                Step::Sift(which) => {
                    let (ending, odd) = (if which & 2 == 0 { Names::of(&[Name::Te, Name::XRequestId]) } else { Names::default() }, which & 1 == 0);
                    fields.sift(ending, |name| odd || !name.eq_ignore_ascii_case(b"x-a"));
                    let ends = |name: &HeaderName| Name::of(name.as_str().as_bytes()).map_or(!odd && name == "x-a", |name| ending.has(name));
                    map = map.iter().filter(|(name, _)| !ends(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
                }
            }
            prop_assert_eq!(sorted(&fields.to_map()), sorted(&map));
            prop_assert_eq!(fields.len(), map.len());
            for name in names() {
                prop_assert_eq!(fields.has(&name), map.contains_key(&name));
                prop_assert_eq!(fields.value(&name), map.get(&name).cloned());
            }
            // Written and read again they are the same.
            let lines = written(&fields, &[Name::Host]);
            let mut without = fields.to_map();
            without.remove("host");
            let mut again = received(&lines);
            again.remove(Name::Host);
            prop_assert_eq!(sorted(&again.to_map()), sorted(&without));
        }
    }
}
