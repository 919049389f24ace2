//! How a modelled region answers: network, queue, prefill, decode and faults, in anybody's time.
//!
//! A stub that sleeps for a fixed while teaches a router nothing, because what makes carbon routing hard is that the clean region
//! becomes slow once everybody goes there. So a region here is a small queueing model: latencies follow from its load. It is pure
//! (time and randomness are arguments), so the sockets of [`crate::mock`], the demonstration and a simulation in virtual time
//! share it. The figures of an engine are round ones from public measurements of batched serving; they are a model, not a claim.

mod arrivals;
mod day;
mod faults;
mod noise;
mod region;
mod spec;

pub use arrivals::{Arrivals, Ask, Size, TrafficShape};
pub use day::{Day, Shape};
pub use faults::{Change, Faults, Patch};
pub use noise::{Noise, Spread, standard_normal};
pub use region::{Admission, Region, Start, Step, Ticket};
pub use spec::{Positive, Share, Spec, TokenCurve};
