//! What was learned outlives the process.

use super::support::peer::{Then, respond};
use super::support::{Client, Harness, Peer};

const EVENTS: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
const BODY: &str = r#"{"model":"m","stream":true}"#;

fn samples(proxy: &Harness) -> u64 {
    proxy.backend("a")["models"][0]["samples"].as_u64().unwrap()
}

fn ask(proxy: &Harness) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", BODY);
    assert_eq!(client.answer().status, 200);
    proxy.record();
}

#[test]
fn what_was_learned_is_known_after_a_restart_and_a_strange_file_is_left_as_it_is() {
    let peer = Peer::start(|_, socket| {
        respond(socket, "200 OK", "content-type: text/event-stream\r\n", EVENTS.as_bytes());
        Then::Close
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let start = || {
        let top = format!("state: {{ path: {} }}\nlimits: {{ drain_delay: 0s }}", path.display());
        Harness::with(&top, &[("a", peer.address, "")], "")
    };
    let first = start();
    (0..3).for_each(|_| ask(&first));
    assert_eq!(samples(&first), 3);
    first.stop();
    let second = start();
    // A few seconds have gone by, and what is older counts a little less.
    assert!(samples(&second) >= 2, "{}", samples(&second));
    second.stop();

    let strange = "a file of somebody else";
    std::fs::write(&path, strange).unwrap();
    let third = start();
    assert_eq!(samples(&third), 0);
    ask(&third);
    third.stop();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), strange);
}
