use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::event_stream::tests::frames;
use super::*;

const FRAMES: &[u8] = b"application/vnd.amazon.eventstream";
const JSON: &[u8] = b"application/json";

fn occasion(include_usage: bool) -> Occasion {
    let (id, model) = ("chatcmpl-1".into(), "gpt \"1\"".into());
    Occasion { dialect: Dialect::Openai, id, created: 1_700_000_000, model, include_usage }
}

fn answer(content_type: &[u8], include_usage: bool) -> Answer {
    let head = Head { status: StatusCode::OK, streamed: content_type == FRAMES, content_type, encoded: false, exception: None };
    Answer::new(Translation::ChatToConverse, head, occasion(include_usage))
}

/// What comes out, and why it broke, if it did.
fn said(mut answer: Answer, chunks: &[&[u8]]) -> (String, Option<Broken>) {
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&answer.feed(chunk));
    }
    out.extend_from_slice(&answer.finish());
    (String::from_utf8(out).unwrap(), answer.broken())
}

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/translate").join(name)
}

/// Compares with the file, or writes it when `WINDWARD_BLESS` is set: then read the difference before you commit it.
fn golden(name: &str, text: &str) {
    let path = case(name);
    if std::env::var_os("WINDWARD_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap_or_default(), "{name}: look at it, then WINDWARD_BLESS=1");
}

fn read(name: &str) -> Vec<u8> {
    fs::read(case(name)).expect(name)
}

#[test]
fn requests_become_what_the_files_say() {
    for name in ["chat-everything", "chat-least", "chat-tools"] {
        let there = Translation::ChatToConverse.request(&read(&format!("{name}.asked.json")), Spoken::default()).expect(name);
        golden(&format!("{name}.there.json"), &format!("{}\n", std::str::from_utf8(&there).unwrap()));
    }
}

#[test]
fn answers_become_what_the_files_say() {
    for name in ["text", "calls", "withheld"] {
        let (text, broken) = said(answer(JSON, false), &[&read(&format!("{name}.answer.json"))]);
        assert_eq!(broken, None, "{name}");
        golden(&format!("{name}.said.json"), &format!("{text}\n"));
    }
}

fn stream(name: &str) -> Vec<u8> {
    frames(&String::from_utf8(read(&format!("{name}.events"))).unwrap())
}

const STREAMS: [&str; 3] = ["text", "calls", "failed"];

#[test]
fn streams_become_what_the_files_say() {
    for name in STREAMS {
        let (text, broken) = said(answer(FRAMES, name == "calls"), &[&stream(name)]);
        assert_eq!(broken, None, "{name}");
        golden(&format!("{name}.sse"), &text);
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_never_a_whole_one() {
    for name in STREAMS {
        let whole = stream(name);
        let (all, _) = said(answer(FRAMES, true), &[&whole]);
        for cut in 0..whole.len() {
            let (text, broken) = said(answer(FRAMES, true), &[&whole[..cut]]);
            assert!(all.starts_with(&text), "{name} cut at {cut}");
            assert!(broken.is_some() && !text.contains("[DONE]"), "{name} cut at {cut}");
        }
    }
}

#[test]
fn a_stream_without_its_count_is_whole_for_who_did_not_ask_for_it() {
    let lines = String::from_utf8(read("text.events")).unwrap();
    let cut: Vec<&str> = lines.lines().filter(|line| !line.contains("metadata")).collect();
    let cut = cut.join("\n");
    let (text, broken) = said(answer(FRAMES, false), &[&frames(&cut)]);
    assert_eq!((text.as_str(), broken), (fs::read_to_string(case("text.sse")).unwrap().as_str(), None));
    let (text, broken) = said(answer(FRAMES, true), &[&frames(&cut)]);
    assert!(broken.is_some() && !text.contains("[DONE]"));
}

#[test]
fn what_a_chat_cannot_say_breaks_the_answer() {
    let begun = r#"{"event":"messageStart","payload":{"role":"assistant"}}"#;
    for bad in [
        r#"{"event":"contentBlockDelta","payload":{"contentBlockIndex":0,"delta":{"citation":{}}}}"#,
        r#"{"event":"contentBlockDelta","payload":{"contentBlockIndex":0,"delta":{"text":7}}}"#,
        r#"{"event":"contentBlockDelta","payload":{"contentBlockIndex":0,"delta":{"toolUse":{"input":"{}"}}}}"#,
        r#"{"event":"contentBlockStart","payload":{"contentBlockIndex":0,"start":{"image":{"format":"png"}}}}"#,
        r#"{"event":"messageStop","payload":{"stopReason":"malformed_tool_use"}}"#,
        r#"{"event":"metadata","payload":{"usage":{"inputTokens":3,"outputTokens":9},"metrics":{}}}"#,
        begun,
    ] {
        let (text, broken) = said(answer(FRAMES, false), &[&frames(&format!("{begun}\n{bad}"))]);
        assert!(broken.is_some(), "{bad}");
        assert_eq!(text.matches("data:").count(), 1, "{bad}");
    }
    for bad in [
        r#"{"output":{"message":{"content":[{"image":{}}]}},"stopReason":"end_turn","usage":{"inputTokens":1,"outputTokens":1}}"#,
        r#"{"output":{"message":{"content":[]}},"stopReason":"end_turn"}"#,
        r#"{"output":{"message":{"content":[]}},"stopReason":"malformed_model_output","usage":{"inputTokens":1,"outputTokens":1}}"#,
        "{}",
        "",
    ] {
        let (text, broken) = said(answer(JSON, false), &[bad.as_bytes()]);
        assert!(broken.is_some() && text.is_empty(), "{bad}");
    }
    assert!(answer(b"text/html", false).broken().is_some());
}

#[test]
fn what_is_too_long_is_not_kept() {
    let mut whole = answer(JSON, false);
    let chunk = vec![b' '; 1 << 20];
    (0..8).for_each(|_| assert!(whole.feed(&chunk).is_empty()));
    assert_eq!(whole.broken(), None);
    assert!(whole.feed(b" ").is_empty() && whole.broken().is_some());
    let mut stream = answer(FRAMES, false);
    let length = u32::try_from(LONGEST_FRAME + 1).unwrap().to_be_bytes();
    assert!(stream.feed(&length).is_empty() && stream.broken().is_some());
}

#[test]
fn an_error_keeps_its_meaning() {
    let head = |status| Head {
        status: StatusCode::from_u16(status).unwrap(),
        streamed: false,
        content_type: JSON,
        encoded: false,
        exception: Some("ModelErrorException"),
    };
    let answer = Answer::new(Translation::ChatToConverse, head(424), occasion(false));
    let expected = r#"{"error":{"message":"odd","type":"server_error","param":null,"code":"ModelErrorException"}}"#;
    assert_eq!(said(answer, &[br#"{"mess"#, br#"age":"odd"}"#]), (expected.to_owned(), None));
    assert_eq!(status_of(StatusCode::REQUEST_TIMEOUT), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(status_of(StatusCode::TOO_MANY_REQUESTS), StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn an_error_that_cannot_be_read_is_told_by_its_status() {
    let head = Head { status: StatusCode::BAD_REQUEST, streamed: true, content_type: b"", encoded: true, exception: None };
    assert_eq!(head.unreadable(), None);
    let expected = r#"{"error":{"message":"the backend answered 400 and said nothing of why","type":"invalid_request_error","param":null,"code":null}}"#;
    let long = [b"{\"message\":\"", &vec![b'a'; LONGEST_FAULT][..], b"\"}"].concat();
    for chunks in [&[&b"\x1f\x8b"[..]][..], &[&long], &[&long[..9], &long[9..], &long]] {
        let answer = Answer::new(Translation::ChatToConverse, head, occasion(false));
        assert_eq!(said(answer, chunks), (expected.to_owned(), None));
    }
}

#[test]
fn an_error_without_a_shape_has_its_message_in_its_head() {
    use aws_smithy_types::event_stream::{Header, HeaderValue};
    let text = |text: &'static str| HeaderValue::String(text.into());
    let message = Message::new(Bytes::new())
        .add_header(Header::new(":message-type", text("error")))
        .add_header(Header::new(":error-code", text("InternalFailure")))
        .add_header(Header::new(":error-message", text("it broke")));
    let mut frame = Vec::new();
    aws_smithy_eventstream::frame::write_message_to(&message, &mut frame).unwrap();
    let expected =
        "data: {\"error\":{\"message\":\"it broke\",\"type\":\"server_error\",\"param\":null,\"code\":\"InternalFailure\"}}\n\n";
    assert_eq!(said(answer(FRAMES, false), &[&frame]), (expected.to_owned(), None));
}

/// A stream of InvokeModel's in Claude's words.
fn claude() -> (Answer, Vec<u8>) {
    let head = Head { status: StatusCode::OK, streamed: true, content_type: FRAMES, encoded: false, exception: None };
    let of = Occasion { dialect: Dialect::Anthropic, ..occasion(false) };
    let lines = fs::read_to_string(case("../wire/invoke-claude.events")).unwrap();
    (Answer::new(Translation::MessagesToInvoke, head, of), frames(&lines))
}

#[test]
fn a_stream_of_messages_is_taken_out_of_its_frames() {
    let (answer, stream) = claude();
    let (all, broken) = said(answer, &[&stream]);
    assert_eq!(broken, None);
    golden("claude.sse", &all);
    for cut in 0..stream.len() {
        let (text, broken) = said(claude().0, &[&stream[..cut]]);
        assert!(all.starts_with(&text) && broken.is_some() && !text.contains("event: message_stop"), "cut at {cut}");
        assert_eq!(said(claude().0, &[&stream[..cut], &stream[cut..]]), (all.clone(), None), "in two at {cut}");
    }
    for (bad, expected) in [
        (r#"{"event":"chunk","payload":{"bytes":"e30="}}"#, "a chunk is no event"),
        (r#"{"event":"chunk","payload":{"bytes":"eyJ0eXBlIjoiYVxuYiJ9"}}"#, "a chunk is no event"),
        (r#"{"event":"chunk","payload":{"bytes":"?"}}"#, "a chunk is not in base64"),
        (r#"{"event":"chunk","payload":{}}"#, "a chunk is none of InvokeModel's"),
    ] {
        let (text, broken) = said(claude().0, &[&frames(bad)]);
        assert_eq!((text.as_str(), broken), ("", Some(Broken(expected))), "{bad}");
    }
    let failed = r#"{"exception":"modelTimeoutException","payload":{"message":"late"}}"#;
    let (text, broken) = said(claude().0, &[&frames(failed), &stream]);
    let expected = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",\"message\":\"late\"}}\n\n";
    assert_eq!((text.as_str(), broken), (expected, None), "nothing follows");
}

#[test]
fn what_is_answered_in_one_piece_to_messages_passes() {
    let head = |status, streamed| Head { status, streamed, content_type: JSON, encoded: false, exception: None };
    assert!(Translation::MessagesToInvoke.passes(&head(StatusCode::OK, false)));
    assert!(!Translation::MessagesToInvoke.passes(&head(StatusCode::OK, true)));
    assert!(!Translation::MessagesToInvoke.passes(&head(StatusCode::BAD_REQUEST, false)));
    assert!(!Translation::ChatToConverse.passes(&head(StatusCode::OK, false)));
    let of = Occasion { dialect: Dialect::Anthropic, ..occasion(false) };
    let answer = Answer::new(Translation::MessagesToInvoke, head(StatusCode::TOO_MANY_REQUESTS, true), of);
    let expected = r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#;
    assert_eq!(said(answer, &[br#"{"message":"slow"}"#]), (expected.to_owned(), None));
}

fn chunks<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect()
}

proptest! {
    #[test]
    fn where_it_is_cut_makes_no_difference(
        name in prop::sample::select(&STREAMS[..]), end in any::<prop::sample::Index>(), whole in any::<bool>(),
        damaged in prop::option::of((any::<prop::sample::Index>(), any::<u8>())), usage in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut stream = stream(name);
        if !whole { stream.truncate(end.index(stream.len())); }
        if let Some((at, byte)) = damaged.filter(|_| !stream.is_empty()) {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let expected = said(answer(FRAMES, usage), &[&stream]);
        prop_assert_eq!(said(answer(FRAMES, usage), &chunks(&stream, &cuts)), expected);
    }

    #[test]
    fn events_in_any_order_are_an_answer_or_none(
        lines in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6), usage in any::<bool>(),
    ) {
        let all: Vec<String> = STREAMS.iter().map(|name| String::from_utf8(read(&format!("{name}.events"))).unwrap()).collect();
        let all: Vec<&str> = all.iter().flat_map(|text| text.lines()).collect();
        let lines: Vec<&str> = lines.iter().map(|line| all[line.index(all.len())]).collect();
        let stream = frames(&lines.join("\n"));
        let (text, broken) = said(answer(FRAMES, usage), &[&stream]);
        prop_assert_eq!(said(answer(FRAMES, usage), &chunks(&stream, &cuts)), (text.clone(), broken));
        let whole = text.contains("[DONE]");
        prop_assert!(!whole || broken.is_none() && text.contains("finish_reason\":\""));
        prop_assert!(whole || broken.is_some() || text.contains("\"error\""));
    }

    #[test]
    fn a_request_is_translated_or_refused_and_says_what_it_said(
        text in any::<String>(), id in "[a-z]{1,5}", n in prop::option::of(1_u32..3), unknown in any::<bool>(),
    ) {
        let mut body = serde_json::json!({"model": "m", "messages": [
            {"role": "user", "content": text},
            {"role": "assistant", "tool_calls": [{"id": id, "type": "function",
                "function": {"name": "f", "arguments": serde_json::json!({"x": text}).to_string()}}]},
        ], "n": n, "tools": [{"type": "function", "function": {"name": "f"}}]});
        if unknown { body[format!("x{id}")] = 1.into(); }
        match Translation::ChatToConverse.request(body.to_string().as_bytes(), Spoken::default()) {
            Err(refusal) => {
                let expected = if text.trim().is_empty() { "messages[0].content".to_owned() } else if n == Some(2) { "n".to_owned() } else { format!("x{id}") };
                prop_assert_eq!(refusal.field, expected);
            }
            Ok(there) => {
                prop_assert!(n != Some(2) && !unknown && !text.trim().is_empty());
                let there: serde_json::Value = serde_json::from_slice(&there).unwrap();
                prop_assert_eq!(&there["messages"][0]["content"][0]["text"], &serde_json::Value::from(text.as_str()));
                prop_assert_eq!(&there["messages"][1]["content"][0]["toolUse"]["input"]["x"], &serde_json::Value::from(text));
            }
        }
    }
}
