//! Windward: a carbon-aware reverse proxy in front of AI model endpoints.
//!
//! A client sends a request for a model; several *backends* in several regions serve that model, on electricity grids that differ
//! tenfold in carbon. For every request Windward chooses the backend that emits least among those that meet the latency budget,
//! forwards the bytes, and writes one log line from which anybody can recompute what was emitted and what was saved.
//!
//! This page is the map. The modules are listed in reading order, from the pure core outwards.
//!
//! # The life of a request
//!
//! [`proxy::Proxy`] tells it in one function: *route* finds who may serve it, *admit* looks at the client's [`key`], *intake* reads
//! just enough of the request to decide, [`estimate`] predicts latency and grams for each candidate, [`decide`](mod@decide) picks one
//! and says why not the others (beside it, once a second, [`price`] finds what scarce clean capacity is worth), *forward* sends the
//! bytes and fails over, or hedges, before the first byte of the response, *relay* passes the response on and measures it, [`ledger`]
//! turns what happened into grams, and [`telemetry`] writes the line.
//!
//! # Layers
//!
//! Imports go only from a higher layer to a lower one, and within layer 1 only to a module further up in the list. The test in
//! `tests/it/layering.rs` reads this table and the sources and fails on anything else.
//!
//! | layer | modules | may import |
//! |---|---|---|
//! | 0 | units, clock | - |
//! | 1 | grid, tables, cost, dialect, demand, affinity, pins, live, backend, policy, route, key, estimate, decide, price, record, ledger, fleet | 0, 1 |
//! | 2 | wire, carbon, config | 0, 1, 2 |
//! | 3 | state, peers, telemetry, upstream | 0, 1, 2, 3 |
//! | 4 | control, proxy | 0, 1, 2, 3 |
//! | 5 | server, mock, report, simulate | 0, 1, 2, 3, 4 |
//! | 6 | explain | 0, 1, 2, 3, 4, 5 |
//! | 7 | cli, promises | 0, 1, 2, 3, 4, 5, 6 |
//!
//! # Invariants
//!
//! [`promises`] says for each thing that is promised to an operator which test shows it.
//!
//! * **The core is pure.** Layers 0 to 2 do no I/O, take no lock and spawn nothing; only [`clock`] reads a clock. Time, randomness
//!   and environment are arguments.
//! * **One request sees one snapshot.** Plan, grid and generation are loaded once and stay for the whole exchange.
//! * **A reload cannot hurt a request in flight**, and a bad file changes nothing but a metric and a log line.
//! * **Carbon data cannot fail a request.** Unknown or stale readings only change the choice, and the record says so.
//! * **Bytes pass unchanged** but for the fields that have to change, and a chunk is forwarded before it is looked at.
//! * **Every exchange that was decided leaves exactly one record**, also when the client hangs up: it is written when the body ends.
//! * **Logging never blocks a request**, and a lost line is visible as a gap in `seq`.
//! * **Everything is bounded**: queues, bodies, heads, retries, waits.
//! * **A secret has no `Debug`**, and no prompt or completion is ever logged.

pub mod clock;
pub mod units;

pub mod affinity;
pub mod backend;
pub mod cost;
pub mod decide;
pub mod demand;
pub mod dialect;
pub mod estimate;
pub mod fleet;
pub mod grid;
pub mod key;
pub mod ledger;
pub mod live;
pub mod pins;
pub mod policy;
pub mod price;
pub mod record;
pub mod route;
pub mod tables;

pub mod carbon;
pub mod config;
pub mod wire;

pub mod peers;
pub mod state;
pub mod telemetry;
pub mod upstream;

pub mod control;
pub mod proxy;

pub mod mock;
pub mod report;
pub mod server;
pub mod simulate;

pub mod explain;

pub mod cli;

pub mod promises;

#[cfg(test)]
mod testing;
