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

const SHORT: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":2000,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":1800}}}"#;

/// A conversation of which the dirtier of two backends was sent all turns so far, and where its next one goes; with its line of the log.
/// A prompt of two thousand tokens is read there for a fifth of the energy of all of it.
fn next_turn(dirtier: u32, budget: &str, expect: &str) -> (String, Value) {
    let (clean, dirty) = (caching(SHORT), caching(SHORT));
    let directory = tempfile::tempdir().unwrap();
    let grid = directory.path().join("grid.csv");
    let now = jiff::Timestamp::now();
    let rows = format!("grid_zone,datetime,carbon_intensity_g_per_kwh\nFR,{now},100\nDE,{now},{}\n", 100 * dirtier);
    std::fs::write(&grid, rows).unwrap();
    let top = format!(
        "  - {{ name: tested, latency_budget: {budget}, affinity: {{ header: x-session }} }}\ncarbon: {{ sources: [ {{ file: {{ path: {} }} }} ] }}",
        grid.display()
    );
    let [here, there] = ["FR", "DE"].map(|zone| format!("grid_zone: {zone}\n    expect: {{ {expect} }}"));
    let proxy = Harness::with(&top, &[("clean", clean.address, &here), ("dirty", dirty.address, &there)], "policy: tested");
    let read = |status: &Value| status["grid"].as_array().unwrap().iter().all(|zone| zone["reading"].is_object());
    proxy.wait_for_status("the grid", read);
    let body = format!(r#"{{"model":"m","max_tokens":1,"messages":[{{"content":"{}"}}]}}"#, "word ".repeat(1800));
    let there = ("x-session: a\r\nx-windward-residency: DE\r\n".to_owned(), body.clone());
    let before = ask(&proxy, &vec![there; 12]);
    assert!(places(&before).iter().all(|place| *place == "dirty"));
    let next = ask(&proxy, &[("x-session: a\r\n".to_owned(), body)]).swap_remove(0);
    (next["backend"].as_str().unwrap().to_owned(), next)
}

fn number(record: &Value, backend: &str, name: &str) -> f64 {
    let candidates = record["decision"]["candidates"].as_array().unwrap();
    candidates.iter().find(|it| it["backend"] == backend).unwrap()[name].as_f64().unwrap()
}

#[test]
fn a_conversation_moves_when_that_is_worth_more_than_reading_all_of_it_again() {
    let free = "first_token: 10ms, per_prompt_token: 1us";
    for (dirtier, goes) in [(3, "dirty"), (15, "clean")] {
        let (went, record) = next_turn(dirtier, "none", free);
        assert_eq!(went, goes, "{record}");
        let grams = ["dirty", "clean"].map(|backend| number(&record, backend, "grams"));
        assert_eq!(grams[0] < grams[1], goes == "dirty", "it goes where it emits less, with what is at hand: {grams:?}");
        let whole = f64::from(dirtier) * grams[1];
        assert!(grams[0] < 0.35 * whole && grams[0] > 0.1 * whole, "{grams:?}: a cached token is a tenth of another");
    }
}

/// Two seconds to read all of it, and a budget of one.
#[test]
fn a_conversation_stays_where_reading_all_of_it_again_would_be_too_late() {
    let (went, record) = next_turn(15, "{ total: 1s }", "first_token: 10ms, per_prompt_token: 1ms, tokens_per_second: 1000");
    assert_eq!(went, "dirty", "{record}");
    let verdict = &record["decision"]["candidates"][0]["verdict"];
    assert_eq!((verdict, &record["decision"]["candidates"][0]["backend"]), (&"over_budget".into(), &"clean".into()));
    let [warm, cold] = ["dirty", "clean"].map(|backend| number(&record, backend, "first_token_ms"));
    assert!(warm < 1000.0 && cold > 2000.0, "{warm} ms where it is, {cold} ms elsewhere");
}
