//! What a word in the file stands for, where it may be one of a few.

use super::decode::words;
use super::plan::Balance;
use crate::backend::{PlacementKind, Protocol, UsageMode};
use crate::dialect::Dialect;
use crate::grid::{Basis, Signal};
use crate::policy::{Objective, OnNoCandidate, Overload};
use crate::tables::EnergyQuality;

words! {
    Signal: "signal" { "average" => Self::Average, "marginal" => Self::Marginal, }
    Basis: "basis" { "lifecycle" => Self::Lifecycle, "direct" => Self::Direct, }
    EnergyQuality: "quality" { "metered" => Self::Metered, "A" => Self::A, "B" => Self::B, "C" => Self::C, }
    Dialect: "dialect" {
        "openai" => Self::Openai,
        "azure-openai" => Self::AzureOpenai,
        "anthropic" => Self::Anthropic,
        "bedrock" => Self::Bedrock,
        "gemini" => Self::Gemini,
    }
    PlacementKind: "placement" {
        "pinned" => Self::Pinned,
        "geo" => Self::Geo,
        "global" => Self::Global,
        "unknown" => Self::Unknown,
    }
    Balance: "balance" { "kernel" => Self::Kernel, "round_robin" => Self::RoundRobin, }
    Protocol: "protocol" { "http1" => Self::Http1, "http2" => Self::Http2, }
    UsageMode: "usage mode" { "inject" => Self::Inject, "continuous" => Self::Continuous, "never" => Self::Never, }
    Objective: "objective" {
        "least_carbon" => Self::LeastCarbon,
        "least_cost" => Self::LeastCost,
        "least_latency" => Self::LeastLatency,
        "listed_order" => Self::ListedOrder,
        "round_robin" => Self::RoundRobin,
        "weighted" => Self::Weighted,
    }
    OnNoCandidate: "choice" { "fastest" => Self::Fastest, "reject" => Self::Reject, }
    Overload: "choice" { "spill" => Self::Spill, "hold_then_shed" => Self::HoldThenShed, }
}
