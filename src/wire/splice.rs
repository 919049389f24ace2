//! The fields of a request body that have to change, changed without touching the rest.
//!
//! Writing the body anew from a tree would reorder members, round numbers and copy every byte; a backend's prompt cache sees the
//! difference. Here an edit is a range and its replacement, and the result is slices of the chunks that came in.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::request::RequestFields;
use super::stream_options::StreamOptions;
use crate::backend::UsageMode;

/// Bytes of the body to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// What is taken out, in bytes from the start of the body; empty where something is only put in.
    pub at: Range<usize>,
    /// What is put there.
    pub with: Bytes,
}

/// The edits for one attempt, in order and apart from each other.
///
/// `upstream_model_json` is the backend's name for the model as a JSON string with its quotes, if it has one of its own;
/// it is nothing to a body that names no model.
/// `usage` asks for it on the stream where the client did not; it does nothing for a request that does not stream,
/// because backends refuse the option there. A client that has options of its own is asked no more for than its usage at the end.
pub fn edits(fields: &RequestFields, upstream_model_json: Option<&Bytes>, usage: UsageMode) -> SmallVec<[Splice; 2]> {
    let mut edits: SmallVec<[Splice; 2]> = SmallVec::new();
    if let Some(model) = upstream_model_json.filter(|_| !fields.model_span.is_empty()) {
        edits.push(Splice { at: fields.model_span.clone(), with: model.clone() });
    }
    if usage != UsageMode::Never && fields.stream {
        match &fields.stream_options {
            // There is always a member before it, as the object has a model.
            StreamOptions::Absent => edits.push(Splice {
                at: fields.object_end..fields.object_end,
                with: Bytes::from_static(match usage {
                    UsageMode::Continuous => br#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#,
                    _ => br#","stream_options":{"include_usage":true}"#,
                }),
            }),
            StreamOptions::NotAsked { at, with } => {
                edits.push(Splice { at: at.clone(), with: Bytes::from_static(with.as_bytes()) });
            }
            StreamOptions::Asked | StreamOptions::Unreadable => {}
        }
    }
    if let [first, second] = &mut edits[..]
        && second.at.start < first.at.start
    {
        std::mem::swap(first, second);
    }
    edits
}

/// The body with the edits made: slices of the chunks and the edits' own bytes, nothing copied, nothing empty.
///
/// `edits` must be in order and must not overlap, as [`edits()`] gives them.
pub fn apply(chunks: &[Bytes], edits: &[Splice]) -> SmallVec<[Bytes; 8]> {
    let mut out = SmallVec::new();
    let mut edits = edits.iter().peekable();
    let mut start = 0;
    let mut resume = 0;
    for chunk in chunks {
        let end = start + chunk.len();
        // Up to here the chunk has been given out or taken out.
        let mut done = resume.clamp(start, end);
        while let Some(edit) = edits.next_if(|edit| edit.at.start < end) {
            let until = edit.at.start.max(done);
            push(&mut out, chunk.slice(done - start..until - start));
            push(&mut out, edit.with.clone());
            resume = edit.at.end;
            done = resume.clamp(until, end);
        }
        push(&mut out, chunk.slice(done - start..));
        start = end;
    }
    for edit in edits {
        push(&mut out, edit.with.clone());
    }
    out
}

/// How much longer the edits make the body, in bytes.
pub fn length_change(edits: &[Splice]) -> i64 {
    edits.iter().map(|edit| edit.with.len().cast_signed() as i64 - edit.at.len().cast_signed() as i64).sum()
}

fn push(out: &mut SmallVec<[Bytes; 8]>, bytes: Bytes) {
    if !bytes.is_empty() {
        out.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::request::RequestScan;
    use super::*;

    fn read(body: &str) -> RequestFields {
        let mut scan = RequestScan::new();
        scan.feed(body.as_bytes());
        scan.finish().expect("well made")
    }

    fn edited(body: &str, chunks: &[Bytes], model: Option<&str>, usage: UsageMode) -> String {
        let model = model.map(|model| Bytes::from(Value::from(model).to_string()));
        let edits = edits(&read(body), model.as_ref(), usage);
        let out = apply(chunks, &edits).concat();
        let expected = i64::try_from(body.len()).expect("short") + length_change(&edits);
        assert_eq!(i64::try_from(out.len()), Ok(expected));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn each_event_is_asked_for_usage_unless_the_client_has_options_of_its_own() {
        for (body, expected) in [
            (
                r#"{"model":"m","stream":true}"#,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#,
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"x":1}}"#,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1}}"#,
            ),
            (r#"{"model":"m"}"#, r#"{"model":"m"}"#),
        ] {
            assert_eq!(edited(body, &[Bytes::copy_from_slice(body.as_bytes())], None, UsageMode::Continuous), expected);
        }
    }

    #[test]
    fn only_what_must_change_changes() {
        let table = [
            (r#"{"model":"m","stream":true}"#, r#"{"model":"a/b","stream":true,"stream_options":{"include_usage":true}}"#),
            (
                r#"{"stream":true, "model" : "m" }"#,
                r#"{"stream":true, "model" : "a/b" ,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{}}"#,
                r#"{"model":"a/b","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream_options":{"x":1},"model":"m","stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"x":1},"model":"a/b","stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage": false },"model":"m","stream":true}"#,
                r#"{"stream_options":{"include_usage": true },"model":"a/b","stream":true}"#,
            ),
            (
                r#"{"stream_options":null,"model":"m","stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"model":"a/b","stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"model":"a/b","stream":true}"#,
            ),
            (r#"{"stream_options":7,"model":"m","stream":true}"#, r#"{"stream_options":7,"model":"a/b","stream":true}"#),
            (r#"{"model":"m","stream":false}"#, r#"{"model":"a/b","stream":false}"#),
        ];
        for (body, expected) in table {
            assert_eq!(edited(body, &[Bytes::copy_from_slice(body.as_bytes())], Some("a/b"), UsageMode::Inject), expected);
            assert_eq!(edited(body, &[Bytes::copy_from_slice(body.as_bytes())], None, UsageMode::Never), body);
        }
    }

    #[test]
    fn chunks_are_sliced_and_not_copied() {
        let body = Bytes::from_static(br#"{"model":"m","stream":true}"#);
        let fields = read(r#"{"model":"m","stream":true}"#);
        let out = apply(std::slice::from_ref(&body), &edits(&fields, Some(&Bytes::from_static(b"\"x\"")), UsageMode::Inject));
        assert_eq!(out[0].as_ptr(), body.as_ptr());
        assert_eq!(out[2].as_ptr(), body[12..].as_ptr());
        assert_eq!(out.len(), 5);
    }

    proptest! {
        #[test]
        fn the_rest_stays_as_it_was(
            options in prop::sample::select(&["", "null", "{}", r#"{"a":[1,{"include_usage":false}]}"#, r#"{"include_usage":false}"#,
                r#"{ "b" : "," , "include_usage" : null , "c":1}"#, r#"{"include_usage":true}"#][..]),
            text in any::<String>(), model in any::<String>(), upstream in prop::option::of(any::<String>()),
            order in Just([0_usize, 1, 2, 3]).prop_shuffle(), inject in any::<bool>(), size in 1_usize..40,
        ) {
            let members = [
                format!(r#""model":{}"#, Value::from(model)),
                format!(r#""messages":[{}]"#, Value::from(text)),
                r#""stream": true"#.to_owned(),
                if options.is_empty() { r#""x":1e3"#.to_owned() } else { format!(r#""stream_options":{options}"#) },
            ];
            let body = format!("{{{}}} ", order.map(|place| members[place].clone()).join(" , "));
            let chunks: Vec<Bytes> = body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
            let usage = if inject { UsageMode::Inject } else { UsageMode::Never };
            let out = edited(&body, &chunks, upstream.as_deref(), usage);
            prop_assert_eq!(&out, &edited(&body, &[Bytes::from(body.clone())], upstream.as_deref(), usage));

            let mut expected: Value = serde_json::from_str(&body).expect("json");
            if let Some(upstream) = &upstream { expected["model"] = upstream.as_str().into(); }
            if inject { expected["stream_options"]["include_usage"] = true.into(); }
            prop_assert_eq!(serde_json::from_str::<Value>(&out).expect("json"), expected);
            let edits = edits(&read(&body), None, usage);
            prop_assert!(edits.windows(2).all(|pair| pair[0].at.end <= pair[1].at.start));
        }

        #[test]
        fn any_edits_are_made_as_on_a_string(body in "[a-z]{0,60}", size in 1_usize..9, places in prop::collection::btree_set(0_usize..60, 0..6)) {
            let places: Vec<usize> = places.into_iter().filter(|place| *place <= body.len()).collect();
            let edits: Vec<Splice> = places.chunks_exact(2)
                .map(|pair| Splice { at: pair[0]..pair[1], with: Bytes::from_static(b"<>") }).collect();
            let mut expected = body.clone();
            for edit in edits.iter().rev() { expected.replace_range(edit.at.clone(), "<>"); }
            let chunks: Vec<Bytes> = body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
            let out = apply(&chunks, &edits);
            prop_assert!(out.iter().all(|bytes| !bytes.is_empty()));
            prop_assert_eq!(out.concat(), expected.into_bytes());
        }
    }
}
