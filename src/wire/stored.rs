//! Names of things that live in one backend: those that an answer hands out, and those that a request is about.
//!
//! Providers call them by a word and a random text (`file-..`, `resp_..`, `vs_..`). Which words there are changes, so only the shape is
//! looked at; a text of the shape that was never handed out is nobody's name and changes nothing.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::decoded;
use super::events::members;

/// The longest id, in bytes; those in use have 20 to 60.
const LONGEST: usize = 128;
/// Ids that one request is looked at for.
const MOST: usize = 16;

/// Whether a text may be an id that a backend handed out.
pub fn is_id(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (4..=LONGEST).contains(&text.len())
        && text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().any(|byte| matches!(byte, b'-' | b'_'))
        && text.iter().all(plain)
}

fn text(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"").filter(|text| is_id(text))
}

/// What the path of a call names, in its order, without the first segment, which says what kind of thing it is.
pub fn in_path(path_below_prefix: &str) -> Vec<String> {
    let path = decoded(path_below_prefix);
    let segments = path.split('/').filter(|segment| !segment.is_empty()).skip(1);
    segments.filter(|segment| is_id(segment.as_bytes())).take(MOST).map(str::to_owned).collect()
}

/// The one thing that a path names as a whole (`/files/{id}`): what a `DELETE` ends.
pub fn whole(path_below_prefix: &str) -> Option<String> {
    let path = decoded(path_below_prefix);
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    match (segments.next(), segments.next(), segments.next()) {
        (Some(_), Some(id), None) => Some(id.to_owned()).filter(|id| is_id(id.as_bytes())),
        _ => None,
    }
}

/// Whether a member may hold the name of something, or a list of them.
fn names_things(member: &[u8]) -> bool {
    let ends = [&b"_id"[..], b"_ids", b"_file", b"_files", b"conversation"];
    ends.iter().any(|end| member.ends_with(end))
}

/// What a small JSON object names with its own members.
pub fn in_object(object: &[u8]) -> Vec<&[u8]> {
    let values = members(object).filter(|(name, _)| names_things(name)).map(|(_, value)| value);
    let each = values.flat_map(|value| {
        let list = value.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")).unwrap_or(value);
        list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
    });
    each.filter_map(text).take(MOST).collect()
}

/// What the body of an inference call names deeper inside: the vector stores of a search, and files. A name that is divided between two
/// chunks is not seen.
pub fn in_chunk(chunk: &[u8]) -> impl Iterator<Item = &[u8]> {
    static STORES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"vector_store_ids\""));
    static FILE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"file_id\""));
    let found = [(&*STORES, 18), (&*FILE, 9)]
        .into_iter()
        .flat_map(move |(finder, length)| finder.find_iter(chunk).take(MOST).filter_map(move |at| chunk.get(at + length..)));
    found.filter_map(|rest| {
        let rest = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let rest = rest.strip_prefix(b"[").unwrap_or(rest).trim_ascii_start().strip_prefix(b"\"")?;
        let end = rest.iter().take(LONGEST + 1).position(|byte| *byte == b'"')?;
        rest.get(..end).filter(|id| is_id(id))
    })
}

/// The id of an object, as far as the text goes.
pub(super) fn own_id(object: &[u8]) -> Option<&[u8]> {
    members(object).find(|(name, _)| *name == b"id").and_then(|(_, value)| text(value))
}

/// The id of the response that an event is about.
pub(super) fn id_of_response(event: &[u8]) -> Option<&[u8]> {
    members(event).find(|(name, _)| *name == b"response").and_then(|(_, response)| own_id(response))
}

/// Every id that an object tells with members of its own: its own, and those of what it has made (`output_file_id`).
pub(super) fn all_ids(object: &[u8]) -> impl Iterator<Item = &[u8]> {
    let named = members(object).filter(|(name, _)| *name == b"id" || name.ends_with(b"_id"));
    named.filter_map(|(_, value)| text(value)).take(MOST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts<'a>(found: impl IntoIterator<Item = &'a [u8]>) -> Vec<&'a str> {
        found.into_iter().map(|id| std::str::from_utf8(id).unwrap()).collect()
    }

    #[test]
    fn ids_are_told_by_their_shape() {
        for id in ["file-abc123", "resp_0a", "vs_1", "batch_68f", "conv_x", "ftjob-1", "chatcmpl-9", "file-aws.eu-1"] {
            assert!(is_id(id.as_bytes()), "{id}");
        }
        for other in ["files", "content", "input items", "_id", "x-", "-file", "file-\u{e9}", &"a-".repeat(80)] {
            assert!(!is_id(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_path_names_what_it_is_about() {
        for (path, ids, whole_id) in [
            ("/files", &[][..], None),
            ("/files/file-1", &["file-1"], Some("file-1")),
            ("/files/file%2D1/content", &["file-1"], None),
            ("/vector_stores/vs_1/files/file-2", &["vs_1", "file-2"], None),
            ("/fine_tuning/jobs/ftjob-1/cancel", &["ftjob-1"], None),
            ("/responses/resp_1/input_items", &["resp_1", "input_items"], None),
            ("/chat/completions/chatcmpl-1", &["chatcmpl-1"], None),
        ] {
            assert_eq!(in_path(path), ids, "{path}");
            assert_eq!(whole(path).as_deref(), whole_id, "{path}");
        }
    }

    #[test]
    fn a_body_names_things_in_its_own_members_and_in_known_ones_inside() {
        let batch = br#"{"input_file_id": "file-1","endpoint":"/v1/responses","metadata":{"file_id":"file-x"},"user":"file-y"}"#;
        assert_eq!(texts(in_object(batch)), ["file-1"]);
        assert_eq!(texts(in_object(br#"{"file_ids" : [ "file-1", "file-2" ],"name":"a"}"#)), ["file-1", "file-2"]);
        assert_eq!(texts(in_object(br#"{"training_file":"file-3","model":"gpt-4"}"#)), ["file-3"]);
        let search = br#"{"tools":[{"type":"file_search","vector_store_ids": [ "vs_1","vs_2"]}],"input":[{"file_id":"file-1"}]}"#;
        assert_eq!(texts(in_chunk(search)), ["vs_1", "file-1"]);
        assert_eq!(texts(in_chunk(br#"{"input":"say \"file_id\": \"file-1\""}"#)), [""; 0], "what is said is escaped");
    }

    #[test]
    fn an_answer_tells_what_it_made() {
        let batch =
            br#"{"id":"batch_1","object":"batch","input_file_id":"file-1","output_file_id":"file-2","error_file_id":null}"#;
        assert_eq!(texts(all_ids(batch)), ["batch_1", "file-1", "file-2"]);
        assert_eq!(own_id(br#"{"object":"response","id":"resp_1","x":{"id":"resp_2"}}"#), Some(&b"resp_1"[..]));
        assert_eq!(own_id(br#"{"id":"resp_1"#), None, "half of an id is none");
        let event = br#"{"type":"response.created","response":{"id":"resp_3","model":"m"}}"#;
        assert_eq!(id_of_response(event), Some(&b"resp_3"[..]));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_survived(text in r#"("file_id"|"vector_store_ids"|"id"|:|\[|\]|\{|\}|,|"file-1"|"|\\| |/|%2){0,20}"#) {
            let bytes = text.as_bytes();
            let _ = (in_object(bytes), in_chunk(bytes).count(), own_id(bytes), id_of_response(bytes), all_ids(bytes).count());
            let _ = (in_path(&text), whole(&text));
        }
    }
}
