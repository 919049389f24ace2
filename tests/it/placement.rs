//! Where a request ran, by what its answer says: held against what its backend is declared to be, and what its grams are made with.

use serde_json::Value;

use super::support::peer::{Then, respond};
use super::support::{Client, Harness, Peer, text};

const CHAT: &str = r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}"#;
const AZURE: &str = "dialect: azure-openai\n    models: [m]\n    region: azure/";
const FIELDS: &str = "content-type: application/json\r\n";

fn recorded(backend: &str, path: &str, fields: &str, answer: String) -> Value {
    recorded_by("", backend, path, fields, answer)
}

/// The same by a configuration with that at its top.
fn recorded_by(top: &str, backend: &str, path: &str, fields: &str, answer: String) -> Value {
    let fields = format!("{FIELDS}{fields}");
    let peer = Peer::start(move |_, stream| {
        respond(stream, "200 OK", &fields, answer.as_bytes());
        Then::Next
    });
    let proxy = Harness::with(top, &[("one", peer.address, backend)], "");
    let mut client = Client::connect(proxy.address);
    client.post(path, "anthropic-version: 2023-06-01\r\n", r#"{"model":"m","max_tokens":9,"messages":[]}"#);
    assert_eq!(client.answer().status, 200);
    proxy.record()
}

fn place(record: &Value) -> (Option<&str>, Option<&str>, Option<&str>) {
    assert_eq!(record["grid_zone"], record["carbon"]["chosen"]["grid_zone"], "{record}");
    let text = |name: &str| record[name].as_str();
    (text("placement"), text("placement_evidence"), text("grid_zone"))
}

/// The interval in which the intensity lies.
fn ends(record: &Value) -> Option<(f64, f64)> {
    let of = |name: &str| record["carbon"]["chosen"][name].as_f64();
    Some((of("intensity_low_g_per_kwh")?, of("intensity_g_per_kwh")?))
}

#[test]
fn azures_word_on_the_region_counts_for_the_grams() {
    let ask = |region: &str, said: &str| {
        recorded(&format!("{AZURE}{region}"), "/v1/chat/completions", &format!("x-ms-region: {said}\r\n"), CHAT.to_owned())
    };
    let (declared, elsewhere) = (ask("polandcentral", "Poland Central"), ask("polandcentral", "Sweden Central"));
    assert_eq!(place(&declared), (Some("pinned"), Some("x-ms-region=Poland Central"), Some("PL")));
    assert_eq!(place(&elsewhere), (Some("pinned"), Some("x-ms-region=Sweden Central"), Some("SE-SE3")));
    for record in [&declared, &elsewhere] {
        let (attempt, chosen) = (&record["attempts"][0], &record["carbon"]["chosen"]);
        assert_eq!(attempt.get("pue"), None, "its books are the line's: {record}");
        let of = |value: &Value, name: &str| value[name].as_f64().unwrap();
        let grams = of(&record["energy"], "joules") / 3.6e6 * of(chosen, "pue") * of(chosen, "intensity_g_per_kwh");
        assert!((of(&record["emissions"], "grams") / grams - 1.0).abs() < 1e-9, "{record}");
        assert!(of(&record["emissions"], "saved_grams").abs() < 1e-12, "the same backend would have run it there too: {record}");
        assert_eq!(record["decision"]["candidates"][0]["grid_zone"], "PL", "the decision was made by the declaration");
    }
    assert!(elsewhere["emissions"]["grams"].as_f64() < declared["emissions"]["grams"].as_f64());
    // Of many places it may be in, it names the one; and of one that nobody knows nothing follows.
    let zone = "swedencentral\n    placement: geo\n    grid_zone: [SE-SE3, PL]";
    let named = ask(zone, "Sweden Central");
    assert_eq!((place(&named).0, ends(&named)), (Some("pinned"), None));
    assert_eq!(place(&ask("polandcentral", "Atlantis")), (Some("pinned"), Some("x-ms-region=Atlantis"), Some("PL")));
    let other = recorded("models: [m]", "/v1/chat/completions", "x-ms-region: Poland Central\r\n", CHAT.to_owned());
    assert_eq!(place(&other).1, None, "it is no field of others");
}

#[test]
fn anthropics_word_on_the_geography_counts_for_the_grams() {
    let ask_by = |top: &str, backend: &str, geo: &str| {
        let usage = format!(
            r#"{{"type":"message","content":[],"usage":{{"input_tokens":9,"output_tokens":9,"inference_geo":"{geo}"}}}}"#
        );
        recorded_by(top, &format!("dialect: anthropic\n    models: [m]\n    {backend}"), "/v1/messages", "", usage)
    };
    let ask = |backend: &str, geo: &str| ask_by("", backend, geo);
    let (anywhere, inside) =
        ("placement: global\n    region: anywhere", "placement: geo\n    grid_zone: [US-NW-PACW, US-MIDA-PJM]");
    let stayed = ask(anywhere, "us");
    let (kind, said, zone) = place(&stayed);
    assert_eq!((kind, said), (Some("geo"), Some("inference_geo=us")));
    assert!(ends(&stayed).is_some_and(|(low, high)| low < high), "{stayed}");
    assert!(zone.is_some_and(|zone| zone.starts_with("US-")) && stayed["emissions"]["grams"].as_f64() > Some(0.0), "{stayed}");
    let left = ask(inside, "global");
    assert_eq!(
        (place(&left), &left["emissions"]),
        ((Some("global"), Some("inference_geo=global"), None), &Value::Null),
        "{left}"
    );
    let within = ask(inside, "us");
    assert_eq!(place(&within), (Some("geo"), Some("inference_geo=us"), Some("US-MIDA-PJM")));
    assert_eq!(ends(&within), Some((204.0, 418.0)), "Oregon and Virginia, of which the dirtier counts");
    assert_eq!(ends(&ask("region: aws/eu-north-1", "global")), None, "of one place there are no two ends");
    assert_eq!(place(&ask(anywhere, "global")).0, Some("global"));
    assert_eq!(place(&ask("region: aws/eu-north-1", "global")).0, Some("pinned"), "an endpoint in a region says more");
    // Which words there are and what they mean is data: a row of one's own is a new one, or comes before the shipped one.
    let (anew, other) = ("catalogue: [{ geography: nordic, countries: [SE, NO] }]", "catalogue: [{ geography: us }]");
    assert_eq!(place(&ask(anywhere, "nordic")), (Some("global"), Some("inference_geo=nordic"), None));
    let nordic = ask_by(anew, anywhere, "nordic");
    let (kind, _, zone) = place(&nordic);
    assert!(kind == Some("geo") && zone.is_some_and(|zone| zone.starts_with("SE-") || zone.starts_with("NO-")), "{zone:?}");
    assert_eq!(place(&ask_by(other, inside, "us")).0, Some("global"));
}

/// An endpoint whose models lie below different paths, as those of Bedrock's `bedrock-mantle` do.
#[test]
fn a_model_is_asked_for_below_the_path_that_the_catalogue_has_for_it() {
    let peer = Peer::start(|_, stream| {
        respond(stream, "200 OK", FIELDS, CHAT.as_bytes());
        Then::Next
    });
    let proxy = Harness::of(|log| {
        format!(
            r#"
listeners: [{{ address: 127.0.0.1:0 }}]
log: {{ access: {log} }}
admin: {{ address: 127.0.0.1:0 }}
catalogue:
  - {{ endpoint: here, host: "127.{{region}}.0.1", service: here }}
  - {{ model: a, endpoint: here, path: /openai/v1, id: a-there, regions: ["0"] }}
  - {{ model: b, endpoint: here, path: /v1, id: b-there, regions: ["*"] }}
  - {{ model: c, endpoint: here, path: /v3, id: c-there, regions: ["1"] }}
backends:
  - {{ name: one, url: "http://{}", region: aws/eu-north-1, models: [a, b, c] }}
routes: [{{ name: chat, match: {{ path: /v1 }}, backends: [one] }}]
"#,
            peer.address
        )
    });
    let mut client = Client::connect(proxy.address);
    for (model, path, id) in [("a", "/openai/v1", "a-there"), ("b", "/v1", "b-there"), ("c", "/openai/v1", "c")] {
        client.post("/v1/chat/completions?x=1", "", &format!(r#"{{"model":"{model}","messages":[]}}"#));
        assert_eq!(client.answer().status, 200);
        let seen = peer.next();
        assert_eq!((seen.target(), &seen.json()["model"]), (&*format!("{path}/chat/completions?x=1"), &id.into()));
    }
    // What names no model goes below the first one's.
    client.get("/v1/files", "");
    assert_eq!(client.answer().status, 200);
    assert_eq!(peer.next().target(), "/openai/v1/files");
}

/// What may run in several places is judged by the dirtiest of them, and who may run anywhere never wins as green, wherever it listens
/// and however it is declared.
#[test]
fn several_places_are_judged_by_the_dirtiest_and_anywhere_never_wins() {
    let peer = Peer::answering("200 OK", CHAT);
    // Between the ends of the set.
    let middle = "grid_zone: DE\n    models: [m]";
    let set = |zones: &str| format!("placement: geo\n    grid_zone: {zones}\n    models: [m]");
    let by_id = "region: aws/eu-north-1\n    models: { m: global.amazon.nova-lite-v1:0 }";
    let declared = "region: aws/eu-north-1\n    placement: global\n    models: [m]";
    let unknown = "region: aws/eu-north-1\n    placement: unknown\n    models: [m]";
    for (first, wins) in [
        (&*set("[SE-SE3, PL]"), false),
        (&*set("[PL, SE-SE3]"), false),
        (&*set("[SE-SE3, FR]"), true),
        (by_id, false),
        (declared, false),
        (unknown, false),
        ("region: aws/eu-north-1\n    models: [m]", true),
    ] {
        let backends = [("first", peer.address, first), ("middle", peer.address, middle)];
        let proxy = Harness::of(|log| {
            let green = "policies:\n  - { name: green, latency_budget: none }\n";
            text(log, "", &backends, "policy: green").replace("policies:\n", green)
        });
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", r#"{"model":"m","messages":[]}"#);
        let backend = client.answer().field("x-windward-backend").unwrap().to_owned();
        assert_eq!(backend == "first", wins, "{first}");
        let record = proxy.record();
        let of_first = &record["decision"]["candidates"][0];
        assert_eq!(of_first["intensity_g_per_kwh"].is_null(), [by_id, declared, unknown].contains(&first), "{record}");
    }
}
