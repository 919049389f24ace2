//! The choice follows the grid, and nothing that a grid's data may be can hurt a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use windward::clock::SimulatedClock;

use super::support::peer::respond;
use super::support::{Client, Harness, Peer, in_the_middle};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}"#;
const BODY: &str = r#"{"model":"m"}"#;

/// Two backends on grid zones of their own, whose intensities come from a file.
fn two_zones(rows: &str) -> (Harness, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("grid.csv");
    std::fs::write(&file, rows).unwrap();
    let carbon = format!("carbon: {{ sources: [ {{ file: {{ path: {} }} }}, builtin ] }}", file.display());
    let peers = [Peer::answering("200 OK", OK), Peer::answering("200 OK", OK)];
    let proxy =
        Harness::with(&carbon, &[("clean", peers[0].address, "grid_zone: FR"), ("dirty", peers[1].address, "grid_zone: PL")], "");
    (proxy, directory)
}

fn intensity_of(zone: &'static str, grams: f64) -> impl Fn(&serde_json::Value) -> bool {
    move |status| {
        let zones = status["grid"].as_array().unwrap();
        zones.iter().any(|z| z["grid_zone"] == zone && z["reading"]["intensity_g_per_kwh"] == grams)
    }
}

fn chosen(proxy: &Harness) -> (String, serde_json::Value) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", BODY);
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    (answer.field("x-windward-backend").unwrap().to_owned(), proxy.record())
}

#[test]
fn the_yearly_figures_decide_when_nothing_else_is_known() {
    let (proxy, _directory) = two_zones("grid_zone,datetime,carbon_intensity_g_per_kwh\n");
    let (backend, record) = chosen(&proxy);
    assert_eq!(backend, "clean");
    assert_eq!(record["carbon"]["chosen"]["freshness"], "assumed");
    assert_eq!(record["carbon"]["chosen"]["quality"], "yearly");
    let emissions = &record["emissions"];
    let grams = |name: &str| emissions[name].as_f64().unwrap();
    assert!((grams("baseline_grams") - grams("grams") - grams("saved_grams")).abs() < 1e-12);
}

#[test]
fn a_file_that_changes_turns_the_choice() {
    let now = jiff::Timestamp::now();
    let rows = |fr: u32, pl: u32| format!("grid_zone,datetime,carbon_intensity_g_per_kwh\nFR,{now},{fr}\nPL,{now},{pl}\n");
    let (proxy, directory) = two_zones(&rows(50, 700));
    proxy.wait_for_status("the first readings", intensity_of("PL", 700.0));
    let (backend, record) = chosen(&proxy);
    assert_eq!((backend.as_str(), &record["carbon"]["chosen"]["freshness"]), ("clean", &"fresh".into()));
    std::fs::write(directory.path().join("grid.csv"), rows(601, 20)).unwrap();
    proxy.wait_for_status("the new readings", intensity_of("FR", 601.0));
    assert_eq!(chosen(&proxy).0, "dirty");
}

#[test]
fn bad_rows_are_refused_and_the_rest_is_used() {
    let now = jiff::Timestamp::now();
    let rows = format!(
        "grid_zone,datetime,carbon_intensity_g_per_kwh\nFR,{now},NaN\nFR,{now},-5\nFR,{now},many\nFR,2199-01-01T00:00:00Z,1\nPL,{now},13\n"
    );
    let (proxy, _directory) = two_zones(&rows);
    proxy.wait_for_status("the good row", intensity_of("PL", 13.0));
    let status = proxy.ask_admin("/status").json();
    let refused = &status["carbon_sources"][0]["refused"];
    let lines: Vec<&str> =
        refused["rows"].as_array().unwrap().iter().map(|row| row.as_str().unwrap().get(..7).unwrap()).collect();
    assert_eq!((&*lines, &refused["more"]), (&["line 2:", "line 3:", "line 4:", "line 5:"][..], &0.into()), "{refused}");
    assert!(status["carbon_sources"][1].get("refused").is_none());
    let (backend, record) = chosen(&proxy);
    assert_eq!(backend, "dirty", "13 g are less than the yearly figure of France");
    assert_eq!(record["carbon"]["chosen"]["intensity_g_per_kwh"], 13.0);
}

/// A place at which nobody listens yet, and that nobody else can have.
fn nobody_yet() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Serves there from now on, a request for each connection.
fn listen(socket: socket2::Socket) {
    socket.listen(16).unwrap();
    let listener = std::net::TcpListener::from(socket);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut head);
            respond(&mut stream, "200 OK", "content-type: application/json\r\nconnection: close\r\n", OK.as_bytes());
        }
    });
}

#[test]
fn the_cleanest_backend_being_down_holds_nobody_up_and_it_comes_back() {
    let (socket, clean) = nobody_yet();
    let dirty = Peer::answering("200 OK", OK);
    let clock = Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let backends = [("clean", clean, "grid_zone: FR"), ("dirty", dirty.address, "grid_zone: PL")];
    let proxy = Harness::by(Arc::<SimulatedClock>::clone(&clock), &backends, "");
    clock.advance(Duration::from_secs(1));
    let mut took = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        let (backend, record) = chosen(&proxy);
        let elapsed = asked.elapsed();
        assert_eq!(backend, "dirty");
        let attempts = record["attempts"].as_array().unwrap();
        assert!(attempts.len() == 1 || attempts[0]["outcome"] == "unreachable", "{record}");
        took.extend((attempts.len() == 2).then_some(elapsed));
    }
    assert_eq!(took.len(), 3, "so many failures in a row, and it is left alone");
    assert!(in_the_middle(took) < Duration::from_secs(1));

    listen(socket);
    clock.advance(Duration::from_secs(6));
    let back = (0..100).filter(|_| chosen(&proxy).0 == "clean").count();
    assert!((1..50).contains(&back), "{back} of 100 when it has just come back");
    clock.advance(Duration::from_secs(30));
    (0..20).for_each(|_| assert_eq!(chosen(&proxy).0, "clean", "it is all the way back"));
}
