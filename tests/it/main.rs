//! All integration tests in one binary: one link instead of a dozen.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test stops where it fails, and waits by the machine's clock"
)]

mod admin;
mod affinity;
mod allocations;
mod anthropic;
mod audit;
mod aws_keys;
mod azure;
mod back_pressure;
mod bad_input;
mod bedrock;
mod budget;
mod cancel;
mod cancel_crowd;
mod cancel_http2;
mod carbon;
mod carbon_feed;
mod clients;
mod closed_loop;
mod config;
mod config_limits;
mod cost;
mod credentials;
mod demo;
mod descriptors;
mod direct;
mod drain;
mod explain;
mod failover;
mod fast_motion;
mod framing;
mod fuzz_bodies;
mod gemini;
mod health;
mod hedge;
mod hop_by_hop;
mod http2;
mod kept;
mod keys;
mod layering;
mod log;
mod model_server;
mod narrow;
mod objectives;
mod open_streams;
mod overload;
mod pins;
mod placement;
mod price;
mod probe;
mod process;
mod progress;
mod provenance;
mod quota;
mod reconcile;
mod recorded;
mod reload;
mod reload_load;
mod replicas;
mod request;
mod retries;
mod sdk;
mod sdk_errors;
mod secrecy;
mod sim;
mod simulate;
mod simulated_choice;
mod slow_clients;
mod stream;
mod supply;
mod support;
mod translate;
mod tunnel;
mod upstream;
mod upstream_tls;
