//! The fleet over real sockets, under a paused runtime: modelled seconds take no time.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::backend::Secret;
use crate::clock::RuntimeClock;
use crate::config::fleet::{ANY, RegionPlan};
use crate::fleet::{Noise, Spec};
use crate::units::Millis;

const HERE: &str = "aws/us-west-2";
const THERE: &str = "aws/eu-north-1";

fn plan() -> FleetPlan {
    let region = |name, rtt| {
        let spec = Spec::new(name, Millis::saturating(rtt), NonZeroU16::MIN);
        RegionPlan::new(Spec { noise: Noise::NONE, ..spec })
    };
    FleetPlan { models: vec![Arc::from("m")], regions: vec![region(HERE, 60.0), region(THERE, 110.0)], control: ANY }
}

async fn fleet() -> Handle {
    start(&plan(), Arc::new(RuntimeClock), 7).await.unwrap()
}

fn patch(json: Value) -> Patch {
    serde_json::from_value(json).unwrap()
}

async fn connect(fleet: &Handle, region: &str) -> SendRequest<Full<Bytes>> {
    connect_to(fleet.address(region).unwrap()).await
}

async fn connect_to(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    client
}

fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("host", "mock").body(Full::new(body.into())).unwrap()
}

fn chat(tokens: u32, streamed: bool) -> Request<Full<Bytes>> {
    let body = json!({"model": "m", "stream": streamed, "messages": [{"role": "user", "content": "x".repeat(9600)}]});
    let mut request = request(Method::POST, "/v1/chat/completions", body.to_string());
    request.headers_mut().insert("x-mock-output-tokens", tokens.into());
    request.headers_mut().insert("x-request-id", "r-1".parse().unwrap());
    request
}

async fn text(body: Incoming) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn ask(fleet: &Handle, region: &str, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
    send(fleet.address(region).unwrap(), request).await
}

async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
    let response = connect_to(address).await.send_request(request).await.unwrap();
    let status = response.status();
    (status, serde_json::from_str(&text(response.into_body()).await).unwrap())
}

/// Waits, in the runtime's time, until that many requests are over.
async fn rows(fleet: &Handle, count: usize) -> Vec<Row> {
    while fleet.ledger().len() < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fleet.ledger()
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_what_the_ledger_says() {
    let fleet = fleet().await;
    let (status, body) = ask(&fleet, HERE, chat(11, false)).await;
    assert_eq!((status, &body["object"]), (StatusCode::OK, &json!("chat.completion")));
    assert_eq!(body["usage"]["prompt_tokens"], 2400);
    assert_eq!(body["usage"]["completion_tokens"], 11);
    let row = rows(&fleet, 1).await.remove(0);
    assert_eq!((row.id.as_str(), row.prompt_tokens, row.output_tokens, row.status), ("r-1", 2400, 11, Some(200)));
    assert!(row.complete && !row.cancelled);
    // A round trip of 60 ms, 100 ms of reading, then ten tokens of 16.4 ms.
    let first = row.first_byte_ms.unwrap() - row.arrival_ms;
    assert!((158.0..166.0).contains(&first), "{first}");
    let rest = row.end_ms - row.first_byte_ms.unwrap();
    assert!((160.0..170.0).contains(&rest), "{rest}");
    assert_eq!(fleet.in_flight(HERE), Some(0));
    fleet.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_comes_token_by_token() {
    let fleet = fleet().await;
    let response = connect(&fleet, HERE).await.send_request(chat(5, true)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()["x-mock-region"], HERE);
    let mut body = response.into_body();
    let mut frames = 0;
    let mut all = String::new();
    while let Some(frame) = body.frame().await {
        frames += 1;
        all += std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap();
    }
    assert!(frames >= 5, "{frames}");
    assert!(all.ends_with("data: [DONE]\n\n") && !all.contains("usage"));
    assert!(rows(&fleet, 1).await[0].complete);
}

#[tokio::test(start_paused = true)]
async fn http_2_with_prior_knowledge_is_understood() {
    let fleet = fleet().await;
    let stream = TcpStream::connect(fleet.address(THERE).unwrap()).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut first = chat(3, true);
    *first.uri_mut() = "http://mock/v1/chat/completions".parse().unwrap();
    let mut second = chat(3, false);
    *second.uri_mut() = first.uri().clone();
    let (first, second) = (client.send_request(first), client.clone().send_request(second));
    let (first, second) = tokio::join!(first, second);
    assert!(text(first.unwrap().into_body()).await.ends_with("[DONE]\n\n"));
    assert!(text(second.unwrap().into_body()).await.contains("usage"));
    fleet.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_is_noticed_and_leaves_the_slot() {
    let fleet = fleet().await;
    for streamed in [true, false] {
        fleet.clear_ledger();
        let stream = TcpStream::connect(fleet.address(HERE).unwrap()).await.unwrap();
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = tokio::spawn(async move {
            let mut body = client.send_request(chat(1_000_000, streamed)).await.unwrap().into_body();
            while body.frame().await.is_some() {}
        });
        while fleet.regions[0].0.load().1 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        connection.abort();
        answer.abort();
        let row = rows(&fleet, 1).await.remove(0);
        assert!(row.cancelled && !row.complete && row.output_tokens < 1_000_000, "{row:?}");
        assert_eq!(fleet.in_flight(HERE), Some(0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_region_queues_then_refuses() {
    let fleet = fleet().await;
    let mut bodies = Vec::new();
    for _ in 0..64 {
        let response = connect(&fleet, HERE).await.send_request(chat(100_000, true)).await.unwrap();
        bodies.push(response.into_body());
    }
    let mut waiting = Vec::new();
    for _ in 0..16 {
        waiting.push(connect(&fleet, HERE).await.send_request(chat(1, true)).await.unwrap().into_body());
    }
    let refused = connect(&fleet, HERE).await.send_request(chat(1, true)).await.unwrap();
    assert_eq!((refused.status(), refused.headers()["retry-after"].to_str().unwrap()), (StatusCode::TOO_MANY_REQUESTS, "1"));
    drop(bodies);
    for body in waiting {
        assert!(text(body).await.ends_with("[DONE]\n\n"), "who waited was served once slots were left");
    }
    let rows = rows(&fleet, 81).await;
    let status = |wanted| rows.iter().filter(|row| row.status == Some(wanted)).count();
    assert_eq!((status(429), status(200)), (1, 80));
}

#[tokio::test(start_paused = true)]
async fn faults_show_on_the_wire() {
    let fleet = fleet().await;
    let (status, _) = ask(&fleet, HERE, request(Method::POST, "/_ctl", r#"{"error_rate": 1}"#)).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = ask(&fleet, HERE, chat(1, false)).await;
    assert_eq!((status, &body["error"]["type"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("server_error")));
    let (status, _) = ask(&fleet, HERE, request(Method::POST, "/_ctl", r#"{"error_rate": 2}"#)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    fleet.control(HERE, &patch(json!({"error_rate": 0, "cut_after_tokens": 3})));
    let cut = connect(&fleet, HERE).await.send_request(chat(9, true)).await.unwrap();
    let mut body = cut.into_body();
    let mut said = 0;
    let broken = loop {
        match body.frame().await {
            Some(Ok(frame)) => said += frame.into_data().unwrap().len(),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert!(broken.is_some() && said > 0, "the stream is cut visibly, after something was said");
    let row = rows(&fleet, 2).await.remove(1);
    assert_eq!((row.output_tokens, row.complete, row.cancelled), (3, false, false));
}

#[tokio::test(start_paused = true)]
async fn a_stall_holds_and_ends() {
    let fleet = fleet().await;
    fleet.control(HERE, &patch(json!({"stall": true})));
    let mut body = connect(&fleet, HERE).await.send_request(chat(2, true)).await.unwrap().into_body();
    assert!(tokio::time::timeout(Duration::from_hours(1), body.frame()).await.is_err(), "nothing comes for an hour");
    fleet.control(HERE, &patch(json!({"stall": false})));
    assert!(text(body).await.ends_with("[DONE]\n\n"));
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_down_refuses_connections_and_comes_back() {
    let fleet = fleet().await;
    let mut streaming = connect(&fleet, HERE).await.send_request(chat(1_000_000, true)).await.unwrap().into_body();
    assert!(streaming.frame().await.unwrap().is_ok());
    let (status, _) = ask(&fleet, HERE, request(Method::POST, "/_ctl", r#"{"up": false}"#)).await;
    assert_eq!(status, StatusCode::OK);
    while let Some(Ok(_)) = streaming.frame().await {}
    let address = fleet.address(HERE).unwrap();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let row = rows(&fleet, 1).await.remove(0);
    assert!(!row.complete && !row.cancelled);
    let mend = request(Method::POST, "/_ctl?region=aws/us-west-2", r#"{"up": true}"#);
    assert_eq!(ask(&fleet, THERE, mend).await.0, StatusCode::OK);
    while TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&fleet, HERE, chat(1, false)).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_with_no_region_left_is_switched_on_again() {
    let mut plan = plan();
    plan.regions.truncate(1);
    let fleet = start(&plan, Arc::new(RuntimeClock), 7).await.unwrap();
    let order = |body: &'static str| request(Method::POST, "/_ctl", body);
    let address = fleet.address(HERE).unwrap();
    // By its own port, through which it cannot be undone.
    assert_eq!(ask(&fleet, HERE, order(r#"{"up": false}"#)).await.0, StatusCode::OK);
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let (status, said) = send(fleet.control_address(), order(r#"{"up": true}"#)).await;
    assert_eq!((status, &said["faults"]["up"]), (StatusCode::OK, &json!(true)));
    while TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&fleet, HERE, chat(1, false)).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_operator_says_which_region_is_meant() {
    let fleet = fleet().await;
    let desk = fleet.control_address();
    let order = |path: &str| request(Method::POST, path, r#"{"slow": 3}"#);
    let (status, said) = send(desk, order("/_ctl")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(said.to_string().contains("?region=NAME"), "{said}");
    assert_eq!(send(desk, order("/_ctl?region=nowhere")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(send(desk, order(&format!("/_ctl?region={THERE}"))).await.0, StatusCode::OK);
    let slow = |region| fleet.control(region, &Patch::default()).unwrap().slow.get();
    assert_eq!((slow(HERE), slow(THERE)), (1.0, 3.0));
    assert_eq!(send(desk, chat(1, false)).await.0, StatusCode::NOT_FOUND, "no model is served there");
}

#[tokio::test(start_paused = true)]
async fn strangers_are_turned_away_in_the_clients_dialect() {
    let mut plan = plan();
    plan.regions[0].bearer = Some(Secret::new("hush"));
    let fleet = start(&plan, Arc::new(RuntimeClock), 7).await.unwrap();
    assert_eq!(ask(&fleet, HERE, chat(1, false)).await.0, StatusCode::UNAUTHORIZED);
    let mut known = chat(1, false);
    known.headers_mut().insert("authorization", "Bearer hush".parse().unwrap());
    assert_eq!(ask(&fleet, HERE, known).await.0, StatusCode::OK);
    let unknown = request(Method::POST, "/v1/chat/completions", r#"{"model":"other","messages":[]}"#);
    let (status, body) = ask(&fleet, THERE, unknown).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    assert_eq!(ask(&fleet, THERE, request(Method::POST, "/v1/responses", "{")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&fleet, THERE, request(Method::GET, "/v1/nothing", "")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn the_other_calls_answer_too() {
    let fleet = fleet().await;
    let (_, models) = ask(&fleet, HERE, request(Method::GET, "/v1/models", "")).await;
    assert_eq!(models["data"][0]["id"], "m");
    let (_, completion) =
        ask(&fleet, HERE, request(Method::POST, "/v1/completions", r#"{"model":"m","prompt":"hello","max_tokens":4}"#)).await;
    assert_eq!((&completion["object"], &completion["usage"]["prompt_tokens"]), (&json!("text_completion"), &json!(2)));
    let (_, response) = ask(&fleet, HERE, request(Method::POST, "/v1/responses", r#"{"model":"m","input":"hello"}"#)).await;
    assert_eq!((&response["object"], &response["status"]), (&json!("response"), &json!("completed")));
    let (_, embedding) = ask(&fleet, HERE, request(Method::POST, "/v1/embeddings", r#"{"model":"m","input":"hello"}"#)).await;
    assert_eq!(embedding["data"][0]["object"], "embedding");
    let (_, file) = ask(&fleet, HERE, request(Method::POST, "/v1/files", "content")).await;
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(ask(&fleet, HERE, request(Method::GET, &path, "")).await.1["bytes"], 7);
    assert_eq!(ask(&fleet, THERE, request(Method::GET, &path, "")).await.0, StatusCode::NOT_FOUND);
    let (_, listed) = ask(&fleet, HERE, request(Method::GET, "/v1/files", "")).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_echoes() {
    let fleet = fleet().await;
    let mut upgrade = request(Method::GET, "/v1/realtime", "");
    upgrade.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    upgrade.headers_mut().insert("connection", "upgrade".parse().unwrap());
    let response = connect(&fleet, HERE).await.send_request(upgrade).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    socket.write_all(b"wind").await.unwrap();
    let mut back = [0; 4];
    socket.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"wind");
}

#[tokio::test(start_paused = true)]
async fn the_ledger_is_read_and_cleared_over_the_wire() {
    let fleet = fleet().await;
    ask(&fleet, HERE, chat(2, false)).await;
    let response = connect(&fleet, HERE).await.send_request(request(Method::GET, "/_ledger", "")).await.unwrap();
    let lines: Vec<Row> = text(response.into_body()).await.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, fleet.ledger());
    assert_eq!(lines.len(), 1);
    ask(&fleet, HERE, request(Method::DELETE, "/_ledger", "")).await;
    assert!(fleet.ledger().is_empty());
}

#[tokio::test(start_paused = true)]
async fn shutdown_leaves_no_task_and_no_listener() {
    let fleet = fleet().await;
    let address = fleet.address(HERE).unwrap();
    let mut body = connect(&fleet, HERE).await.send_request(chat(1_000_000, true)).await.unwrap().into_body();
    fleet.shutdown().await;
    while let Some(Ok(_)) = body.frame().await {}
    assert!(TcpStream::connect(address).await.is_err());
}
