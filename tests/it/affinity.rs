//! A conversation goes on where its prompt is at hand, as long as that is worth it.

use serde_json::Value;

use super::audit::audit;
use super::support::{Client, Harness, Peer};

/// A backend that reports so many tokens of each prompt of two thousand as taken from its cache.
fn caching(usage: &'static str) -> Peer {
    Peer::answering("200 OK", usage)
}

const MOST: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":2000,"completion_tokens":250,"prompt_tokens_details":{"cached_tokens":1800}}}"#;
const NOTHING: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":2000,"completion_tokens":250,"prompt_tokens_details":{"cached_tokens":0}}}"#;

/// Two that are alike in all things, so that they take turns where nothing else speaks for one of them.
fn twins(one: &Peer, two: &Peer, policy: &str) -> Harness {
    let top = format!("  - {{ name: tested, objective: least_carbon, latency_budget: none, {policy} }}");
    Harness::with(&top, &[("one", one.address, ""), ("two", two.address, "")], "policy: tested")
}

/// A turn of a conversation: a body of about 9000 bytes that begins with `words`.
fn body(words: &str, turns: usize) -> String {
    let text = words.repeat(8000 / words.len());
    format!(r#"{{"model":"m","messages":[{{"content":"{text}"}}{}]}}"#, r#",{"content":"and then?"}"#.repeat(turns))
}

/// Sends these one after the other, and gives their lines of the log.
fn ask(proxy: &Harness, requests: &[(String, String)]) -> Vec<Value> {
    let mut client = Client::connect(proxy.address);
    for (fields, body) in requests {
        client.post("/v1/chat/completions", fields, body);
        assert_eq!(client.answer().status, 200);
    }
    let records: Vec<Value> = requests.iter().map(|_| proxy.record()).collect();
    records.iter().for_each(audit);
    records
}

fn places(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["backend"].as_str().unwrap()).collect()
}

/// Where each of so many turns of two conversations went, one turn of each after the other, and the last line of the log.
fn two_conversations(
    proxy: &Harness,
    turns: usize,
    turn: impl Fn(usize, usize) -> (String, String),
) -> ([Vec<String>; 2], Value) {
    let requests: Vec<_> = (0..2 * turns).map(|nth| turn(nth % 2, nth / 2)).collect();
    let records = ask(proxy, &requests);
    let of = |which: usize| places(&records).into_iter().skip(which).step_by(2).map(str::to_owned).collect();
    ([of(0), of(1)], records.last().unwrap().clone())
}

fn stays<T: PartialEq>(places: &[T]) -> bool {
    places.iter().all(|place| *place == places[0])
}

fn believed(record: &Value, backend: &str) -> Option<u64> {
    let candidates = record["decision"]["candidates"].as_array().unwrap();
    candidates.iter().find(|it| it["backend"] == backend).unwrap().get("cached_input_tokens").and_then(Value::as_u64)
}

#[test]
fn a_conversation_that_is_named_goes_on_where_it_was() {
    let (one, two) = (caching(MOST), caching(MOST));
    let proxy = twins(&one, &two, "affinity: { header: x-session }");
    let names = ["x-session: alpha-secret\r\n", "x-session: beta-secret\r\n"];
    let (went, last) = two_conversations(&proxy, 12, |which, nth| (names[which].to_owned(), body(&format!("{nth} "), 0)));
    assert!(went.iter().all(|places| stays(places)) && went[0][0] != went[1][0], "{went:?}");
    let (here, there) = (went[1][0].as_str(), went[0][0].as_str());
    let cached = believed(&last, here).unwrap();
    assert!((1500..=2000).contains(&cached), "{cached} of {last}");
    assert_eq!(believed(&last, there), None);
    assert!(!last.to_string().contains("secret"));
    let by_body = |key: &str| format!(r#"{{"{key}":"gamma","model":"m","messages":["{}"]}}"#, "x ".repeat(4000));
    for key in ["prompt_cache_key", "user"] {
        let records = ask(&proxy, &vec![(String::new(), by_body(key)); 6]);
        assert!(stays(&places(&records)), "{records:?}");
    }
}

#[test]
fn a_conversation_without_a_name_is_known_by_how_it_begins() {
    let (one, two) = (caching(MOST), caching(MOST));
    let proxy = twins(&one, &two, "");
    let words = ["first words ", "other words "];
    let (went, _) = two_conversations(&proxy, 12, |which, nth| (String::new(), body(words[which], nth)));
    assert!(went.iter().all(|places| stays(places)) && went[0][0] != went[1][0], "{went:?}");
}

#[test]
fn where_nothing_is_kept_or_nobody_asks_they_take_turns() {
    let (one, two) = (caching(NOTHING), caching(NOTHING));
    let proxy = twins(&one, &two, "affinity: none");
    let turn = |which: usize, nth: usize| (format!("x-session: {which}\r\n"), body(["first ", "other "][which], nth));
    let (went, last) = two_conversations(&proxy, 8, turn);
    assert!(believed(&last, "one").is_none() && believed(&last, "two").is_none());
    let all: Vec<&String> = went[0].iter().zip(&went[1]).flat_map(|(a, b)| [a, b]).collect();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    let proxy = twins(&one, &two, "affinity: { header: x-session }");
    let records = ask(&proxy, &vec![("x-session: a\r\n".to_owned(), body("words ", 0)); 100]);
    let last = &places(&records)[80..];
    assert!(last.contains(&"one") && last.contains(&"two"), "its own reports say that it keeps nothing: {last:?}");
}
