//! Streams: chunk by chunk, metered, with the usage event that was asked for taken out again, and cut where they break.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::support::h2::{End, H2Client};
use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks, respond, wait_for_close};
use super::support::{Client, Harness, Peer};

const FIRST: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"usage\":null}\n\n";
const SECOND: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"lo\"}}],\"usage\":null}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2,\"total_tokens\":13}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const STREAM: &str = r#"{"model":"m","stream":true}"#;

/// A backend that sends its first event, then the rest when the test says so.
fn in_two_parts() -> (Peer, std::sync::mpsc::Sender<()>) {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, FIRST.as_bytes());
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        chunk(stream, SECOND.as_bytes());
        chunk(stream, USAGE.as_bytes());
        chunk(stream, DONE.as_bytes());
        end_chunks(stream);
        Then::Next
    });
    (peer, go)
}

#[test]
fn an_event_is_passed_on_before_the_next_exists() {
    let (peer, go) = in_two_parts();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    assert!(!client.read_until("Hel").contains("lo\""));
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!(answer.text(), [FIRST, SECOND, DONE].concat(), "the usage event was not asked for");
    assert_eq!(peer.next().json()["stream_options"]["include_usage"], true);
    let record = proxy.record();
    assert_eq!(record["gen_ai.usage.input_tokens"], 11);
    assert_eq!(record["gen_ai.usage.output_tokens"], 2);
    assert_eq!((&record["usage_source"], &record["ended"]), (&"reported".into(), &"complete".into()));
    assert!(record["first_token_ms"].as_f64().unwrap() <= record["total_ms"].as_f64().unwrap());
}

#[test]
fn a_stream_that_says_its_usage_as_it_goes_has_said_it_when_it_breaks() {
    let event = |text: &str, usage: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]{usage}}}\n\n");
    let so_far = |tokens: u32| {
        format!(",\"usage\":{{\"prompt_tokens\":11,\"total_tokens\":{},\"completion_tokens\":{tokens}}}", 11 + tokens)
    };
    let events = [event("", &so_far(0)), event("Hel", &so_far(3)), event("lo", &so_far(5))];
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        for event in &events {
            chunk(stream, event.as_bytes());
        }
        Then::Close
    });
    let proxy = Harness::start(&[("vllm", peer.address, "usage: continuous")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    let last = event("lo", "");
    let seen = client.read_until(&last);
    assert!(seen.contains(&event("Hel", "")) && !seen.contains("usage"), "{seen}");
    let options = peer.next().json()["stream_options"].clone();
    assert_eq!((&options["include_usage"], &options["continuous_usage_stats"]), (&true.into(), &true.into()));
    let record = proxy.record();
    let counts = [&record["gen_ai.usage.input_tokens"], &record["gen_ai.usage.output_tokens"]];
    assert_eq!((counts, &record["usage_source"]), ([&11.into(), &5.into()], &"reported".into()), "five tokens in two events");
    assert_eq!(record["ended"], "upstream_broke");

    // A client that asks by itself is the backend's own affair, also where it asks for less.
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("vllm", peer.address, "usage: continuous")], "");
    for options in [r#"{"include_usage":true}"#, r#"{"include_usage":true,"continuous_usage_stats":false}"#] {
        let body = format!(r#"{{"model":"m","stream":true,"stream_options":{options}}}"#);
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", &body);
        client.answer();
        assert_eq!(peer.next().body, body.as_bytes());
    }
}

/// What a client says of its usage while it asks for none does nothing at vLLM, until it is asked for in its name.
#[test]
fn options_that_do_nothing_by_themselves_change_nothing_for_the_client() {
    let with = |usage: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"Hel\"}}}}]{usage}}}\n\n");
    let said = with(",\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":1}");
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        for event in [&*said, USAGE, DONE] {
            chunk(stream, event.as_bytes());
        }
        end_chunks(stream);
        Then::Next
    });
    let proxy = Harness::start(&[("vllm", peer.address, "")], "");
    for options in [r#"{"continuous_usage_stats":true}"#, r#"{"include_usage":false,"continuous_usage_stats":true}"#] {
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", &format!(r#"{{"model":"m","stream":true,"stream_options":{options}}}"#));
        assert_eq!(client.answer().text(), with("") + DONE, "{options}");
        assert_eq!(peer.next().json()["stream_options"]["include_usage"], true);
        assert_eq!(proxy.record()["gen_ai.usage.output_tokens"], 2);
    }
}

#[test]
fn a_client_that_asked_for_usage_gets_the_bytes_as_they_came() {
    let (peer, go) = in_two_parts();
    go.send(()).unwrap();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    let body = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
    client.post("/v1/chat/completions", "", body);
    assert_eq!(client.answer().text(), [FIRST, SECOND, USAGE, DONE].concat());
    assert_eq!(peer.next().body, body.as_bytes());
}

#[test]
fn usage_is_left_alone_where_the_file_says_so() {
    let (peer, go) = in_two_parts();
    go.send(()).unwrap();
    let proxy = Harness::start(&[("a", peer.address, "usage: never")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    assert_eq!(client.answer().text(), [FIRST, SECOND, USAGE, DONE].concat());
    assert_eq!(peer.next().body, STREAM.as_bytes());
}

#[test]
fn a_stream_that_breaks_is_cut_and_booked() {
    let peer = Peer::start(|_, stream| {
        begin_events(stream);
        chunk(stream, FIRST.as_bytes());
        chunk(stream, SECOND.as_bytes());
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    let all = client.read_to_end();
    assert!(all.contains("Hel") && !all.ends_with("0\r\n\r\n"), "no last chunk: {all}");
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["attempts"][0]["outcome"]), (&"upstream_broke".into(), &"broken".into()));
    assert_eq!((&record["usage_source"], &record["gen_ai.usage.output_tokens"]), (&"counted".into(), &2.into()));
    let emissions = &record["emissions"];
    assert_eq!(emissions["waste_grams"], emissions["grams"]);
    assert_eq!(emissions["baseline_grams"], 0.0);
}

/// A client of HTTP/1.0 takes the end of the connection for the end of the body.
#[test]
fn a_stream_that_breaks_is_a_reset_to_who_would_take_an_end_for_the_end() {
    let (peer, go) = in_two_parts();
    let (breaks, at_once) = channel();
    let at_once = Mutex::new(at_once);
    let breaking = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, FIRST.as_bytes());
        let _ = at_once.lock().unwrap().recv_timeout(PATIENCE);
        Then::Close
    });
    for (backend, goes_on, ends) in [(&peer, go, Ok(())), (&breaking, breaks, Err(ErrorKind::ConnectionReset))] {
        let proxy = Harness::start(&[("a", backend.address, "")], "");
        let mut client = Client::connect(proxy.address);
        let length = STREAM.len();
        client.send(format!("POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{STREAM}").as_bytes());
        client.read_until("Hel");
        goes_on.send(()).unwrap();
        let mut rest = String::new();
        let ended = client.stream.read_to_string(&mut rest).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(ended, ends, "{rest}");
        assert_eq!(rest.ends_with(DONE), ends.is_ok());
    }
    // What has a length ends as ever, and so does what has no body.
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for request in ["GET /v1/files HTTP/1.0\r\n\r\n", "HEAD /v1/files HTTP/1.0\r\n\r\n", "GET /v1/../x HTTP/1.0\r\n\r\n"] {
        let mut client = Client::connect(proxy.address);
        client.send(request.as_bytes());
        assert!(client.stream.read_to_string(&mut String::new()).is_ok(), "{request}");
    }
}

#[test]
fn a_stream_that_ends_with_an_error_is_passed_on_whole_and_is_no_answer() {
    const FAILED: &str = "data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\n";
    const REFUSED: &str = "data: {\"error\":{\"message\":\"too long\",\"code\":400}}\n\n";
    for (event, hangs_up, code) in
        [(FAILED, false, "backend_error_event"), (FAILED, true, "backend_error_event"), (REFUSED, false, "request_error_event")]
    {
        let peer = Peer::start(move |_, stream| {
            begin_events(stream);
            chunk(stream, [FIRST, SECOND, event].concat().as_bytes());
            if hangs_up {
                wait_for_close(stream);
                return Then::Close;
            }
            chunk(stream, DONE.as_bytes());
            end_chunks(stream);
            Then::Next
        });
        let proxy = Harness::start(&[("a", peer.address, "")], "");
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", STREAM);
        if hangs_up {
            client.read_until("error");
            drop(client);
        } else {
            assert_eq!(client.answer().text(), [FIRST, SECOND, event, DONE].concat());
        }
        let record = proxy.record();
        assert_eq!((&record["ended"], &record["error"]), (&"upstream_broke".into(), &code.into()));
        assert_eq!((&record["attempts"][0]["outcome"], &record["http.response.status_code"]), (&"broken".into(), &200.into()));
        assert_eq!((&record["usage_source"], &record["gen_ai.usage.output_tokens"]), (&"counted".into(), &2.into()));
        let emissions = &record["emissions"];
        assert_eq!((&emissions["waste_grams"], &emissions["baseline_grams"]), (&emissions["grams"], &0.0.into()));
        assert!(emissions["grams"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_backend_whose_streams_end_with_errors_is_shut_and_one_that_refuses_requests_is_not() {
    for (code, shut) in [(500, true), (400, false)] {
        let peer = Peer::start(move |_, stream| {
            begin_events(stream);
            chunk(stream, format!("data: {{\"error\":{{\"code\":{code}}}}}\n\n{DONE}").as_bytes());
            end_chunks(stream);
            Then::Next
        });
        let other = Peer::answering("200 OK", "{}");
        let proxy = Harness::start(&[("a", peer.address, ""), ("b", other.address, "")], "policy: in_order");
        for _ in 0..20 {
            let mut client = Client::connect(proxy.address);
            client.post("/v1/chat/completions", "", STREAM);
            client.answer();
        }
        assert_eq!(other.saw_more(), shut, "{code}");
    }
}

#[test]
fn a_client_that_leaves_cancels_the_backend_at_once() {
    let (closed, was_closed) = channel();
    let closed = Mutex::new(closed);
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, FIRST.as_bytes());
        wait_for_close(stream);
        let _ = closed.lock().unwrap().send(());
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    client.read_until("Hel");
    drop(client);
    was_closed.recv_timeout(PATIENCE).expect("the backend's connection is closed");
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["attempts"][0]["outcome"]), (&"client_gone".into(), &"abandoned".into()));
    assert!(record["emissions"]["waste_grams"].as_f64().unwrap() > 0.0);
    assert_eq!(proxy.in_flight("a"), 0);
}

#[test]
fn what_the_drain_cuts_is_not_the_clients_doing() {
    let peer = Peer::start(|seen, stream| {
        if seen.json()["stream"] == true {
            begin_events(stream);
            chunk(stream, FIRST.as_bytes());
        }
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::with("limits: { drain_delay: 0s, drain_deadline: 1ms }", &[("a", peer.address, "")], "");
    let ask = |body: &str| {
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", body);
        client
    };
    let mut stream = ask(STREAM);
    stream.read_until("Hel");
    let _whole = ask(r#"{"model":"m"}"#);
    let _ = (peer.next(), peer.next());
    let (records, ended) = proxy.stop_and_read();
    assert!(!ended.drained && ended.log_complete && records.len() == 2, "{records:?}");
    for record in &records {
        assert_eq!((&record["ended"], record.get("error")), (&"drained".into(), None), "{record}");
        assert_eq!(record["attempts"][0]["outcome"], "abandoned");
        assert!(record["emissions"]["waste_grams"].as_f64().unwrap() > 0.0, "{record}");
    }
}

#[test]
fn a_stream_that_falls_silent_says_so_in_its_line() {
    let peer = Peer::start(|_, stream| {
        // At once, so that nothing but the silence lasts.
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{:x}\r\n{FIRST}\r\n", FIRST.len()).as_bytes()).unwrap();
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "timeouts: { idle: 50ms }")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    client.read_until("Hel");
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["error"]), (&"timed_out".into(), &"idle_timeout".into()), "{record}");
}

#[test]
fn a_client_that_leaves_when_the_stream_says_it_is_over_had_its_answer() {
    let peer = Peer::start(|_, stream| {
        begin_events(stream);
        chunk(stream, [FIRST, USAGE, DONE].concat().as_bytes());
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    client.read_until("[DONE]");
    drop(client);
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["attempts"][0]["outcome"]), (&"complete".into(), &"answered".into()));
}

#[test]
fn a_client_that_leaves_before_the_answer_cancels_too() {
    let (closed, was_closed) = channel();
    let closed = Mutex::new(closed);
    let peer = Peer::start(move |_, stream| {
        wait_for_close(stream);
        let _ = closed.lock().unwrap().send(());
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    peer.next();
    drop(client);
    was_closed.recv_timeout(PATIENCE).expect("the backend's connection is closed");
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["usage_source"]), (&"client_gone".into(), &"estimated".into()));
}

#[test]
fn trailers_pass() {
    let peer = Peer::start(|_, stream| {
        use std::io::Write;
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-other: 7\r\nset-cookie: a=b\r\nx-sum: 42\r\n\r\n",
        );
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/files/f/content", "te: trailers\r\nconnection: te\r\n");
    let seen = client.read_until("x-sum: 42\r\n\r\n");
    assert!(seen.contains("ok") && seen.contains("trailer: x-sum\r\n"), "{seen}");
    assert!(
        seen.contains("0\r\nx-other: 7\r\nx-sum") && !seen.contains("set-cookie"),
        "those that nobody announced, too: {seen}"
    );
    assert_eq!(peer.next().field("te"), Some("trailers"));
    assert_eq!(proxy.record()["ended"], "complete");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/files/f/content", "");
    let seen = client.read_until("0\r\n\r\n");
    assert!(!seen.to_ascii_lowercase().contains("trailer:") && !seen.contains("x-sum"), "{seen}");
}

/// Over HTTP/2 hyper sends whatever trailers it is given, asked for or not.
#[test]
fn trailers_pass_over_http2_where_they_are_asked_for_and_only_what_may_come_late() {
    let peer = Peer::start(|_, stream| {
        use std::io::Write;
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\nset-cookie: a=b\r\n\r\n",
        );
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        for (te, wanted) in [(Some("trailers"), Some("42")), (None, None)] {
            let mut request = http::Request::get("http://w/v1/files/f/content").body(()).unwrap();
            if let Some(te) = te {
                request.headers_mut().insert("te", http::HeaderValue::from_static(te));
            }
            sender = sender.ready().await.unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "ok");
            while let Some(end) = body.data().await {
                assert_eq!(end.unwrap(), "");
            }
            let trailers = body.trailers().await.unwrap();
            let sum = trailers.as_ref().and_then(|fields| fields.get("x-sum")?.to_str().ok());
            assert_eq!(sum, wanted, "{trailers:?}");
            assert!(trailers.is_none_or(|fields| fields.len() == 1));
            assert_eq!(peer.next().field("te"), te);
        }
    });
    for _ in 0..2 {
        assert_eq!(proxy.record()["ended"], "complete");
    }
}

#[test]
fn the_total_is_over_when_it_is_although_a_gap_may_last_longer() {
    let peer = Peer::start(|_, stream| {
        begin_events(stream);
        chunk(stream, FIRST.as_bytes());
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "timeouts: { total: 1s, idle: 10m }")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    assert!(client.read_to_end().contains("Hel"));
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["error"]), (&"timed_out".into(), &"total_timeout".into()), "{record}");
}

#[test]
fn the_total_is_over_also_before_the_first_byte() {
    let peer = Peer::start(|_, stream| {
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "timeouts: { total: 200ms, first_byte: 10m }")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    assert_eq!(client.answer().status, 504);
}

#[test]
fn a_stream_that_breaks_is_a_reset_over_http2_and_the_connection_goes_on() {
    for begun in [
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\nx\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
    ] {
        let peer = Peer::start(move |seen, stream| {
            if seen.json()["user"] == "next" {
                respond(stream, "200 OK", "content-type: application/json\r\n", b"{}");
                return Then::Next;
            }
            stream.write_all(begun.as_bytes()).unwrap();
            Then::Close
        });
        let proxy = Harness::start(&[("a", peer.address, "")], "");
        let mut client = H2Client::connect(proxy.address);
        assert!(client.call(1, r#"{"model":"m","stream":true}"#));
        assert!(matches!(client.end(1), End::Reset(code) if code != 0), "a reset with a code of an error, and no end: {begun}");
        let record = proxy.record();
        assert_eq!(
            (&record["ended"], &record["attempts"][0]["outcome"]),
            (&"upstream_broke".into(), &"broken".into()),
            "{record}"
        );
        assert!(client.call(3, r#"{"model":"m","user":"next"}"#));
        assert_eq!(client.end(3), End::Answered(200), "{begun}");
    }
}
