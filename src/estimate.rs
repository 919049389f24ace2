//! What one candidate would take to answer one request: how long, how much energy, how many grams.
//!
//! Everything here is a prediction made before a byte was sent, from the size of the body and from what earlier exchanges taught.
//! The ledger makes its own account afterwards from counted tokens and never reads these grams; they serve the choice alone, and
//! for that only their order among the candidates matters. Asking the backends instead would cost a round trip to each.

use crate::backend::Backend;
use crate::live::{Live, ModelLive};
use crate::tables::{Coefficients, EnergyBand, TokenCounts};
use crate::units::{Grams, GramsPerKwh, Millis};

/// What a request asks of whoever serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Bytes of the request body.
    pub body_bytes: usize,
    /// The most output tokens that the client wants, where it said.
    pub max_output_tokens: Option<u32>,
    /// Whether the response is wanted as a stream, so that its first token is what the client waits for.
    pub streamed: bool,
    /// Whether vectors are asked for: then there are no output tokens, and the response is one piece.
    pub embeddings: bool,
}

/// What one candidate is expected to take for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the response; 0 for embeddings.
    pub output_tokens: u32,
    /// Until the first token, at the quantile that the policy asks for.
    pub first_token: Millis,
    /// Until the end: the first token at its quantile, every later one at its mean.
    pub total: Millis,
    /// Energy at the machine, before the building's share.
    pub energy: EnergyBand,
    /// Intensity of the grid; `None` when nobody knows where it runs or how clean that is.
    pub intensity: Option<GramsPerKwh>,
    /// Emissions at the best guess of the energy, the building's share included; `None` with the intensity.
    pub emissions: Option<Grams>,
    /// Requests that the backend has in flight now.
    pub in_flight: u32,
    /// Requests that it takes at once.
    pub limit: u32,
    /// What one more request there costs all others, because capacity on a clean grid is scarce. Zero unless somebody computes it.
    pub price: Grams,
}

/// What `backend` would take for `demand`, given what is known of the model there, of its load and of its grid.
///
/// `model` is what `live` knows of the model that is asked for. `intensity` is that of the dirtiest zone in which the request may
/// run, and `None` when one of them is unknown. No prompt token is taken for cached: only the backend knows what it kept.
pub fn estimate(
    demand: &Demand,
    backend: &Backend,
    model: &ModelLive,
    live: &Live,
    coefficients: &Coefficients,
    intensity: Option<GramsPerKwh>,
) -> Estimate {
    let prompt_tokens = model.prompt_tokens(demand.body_bytes);
    let output_tokens = if demand.embeddings { 0 } else { model.output_tokens(demand.max_output_tokens) };
    // Rounded here and not where it is written, so that the log holds the very numbers that were decided with.
    let first_token = model.first_token(prompt_tokens, live.pending_prompt_tokens()).rounded();
    // The first token came with `first_token`, so one interval less than there are tokens remains.
    let total = (first_token + model.per_output_token() * f64::from(output_tokens.saturating_sub(1))).rounded();
    let tokens = TokenCounts { input: u64::from(prompt_tokens), cached: 0, output: u64::from(output_tokens) };
    let energy = coefficients.energy(tokens);
    Estimate {
        prompt_tokens,
        output_tokens,
        first_token,
        total,
        energy,
        intensity,
        emissions: intensity.map(|intensity| energy.mid() * backend.pue * intensity),
        in_flight: live.in_flight(),
        limit: backend.max_in_flight,
        price: Grams::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::backend::{BackendId, Credential, Origin, Placement, Protocol, Timeouts, UsageMode};
    use crate::clock::{Clock, SystemClock};
    use crate::dialect::Dialect;
    use crate::live::Prior;
    use crate::tables::{Band, EnergyQuality};
    use crate::units::{Joules, JoulesPerToken, Pue};

    fn prior() -> Prior {
        Prior { first_token: Millis::saturating(200.0), per_prompt_token: Millis::saturating(0.1), tokens_per_second: 100.0 }
    }

    fn backend(pue: f64) -> Backend {
        Backend {
            id: BackendId(0),
            name: "stockholm".into(),
            name_header: HeaderValue::from_static("stockholm"),
            origin: Origin {
                tls: false,
                host: "localhost".into(),
                port: 80,
                authority: HeaderValue::from_static("localhost"),
                base_path: "".into(),
                ca: None,
                identity: None,
            },
            protocol: Protocol::Http1,
            dialect: Dialect::Openai,
            region: "aws/eu-north-1".into(),
            region_header: HeaderValue::from_static("aws/eu-north-1"),
            placement: Placement::default(),
            pue: Pue::new(pue).unwrap(),
            credential: Credential::None,
            max_in_flight: 8,
            prior: prior(),
            timeouts: Timeouts::default(),
            usage: UsageMode::Inject,
            keep_idle: Duration::from_mins(1),
            health: None,
            forward_client: false,
            simulated: false,
        }
    }

    fn live() -> Arc<Live> {
        Arc::new(Live::new(SystemClock.monotonic(), [(Arc::from("m"), prior())]))
    }

    /// 1 J for a prompt's token and 4 J for a generated one, known to a factor of two.
    fn coefficients() -> Coefficients {
        let rate = |mid: f64| {
            let [low, mid, high] = [mid / 2.0, mid, mid * 2.0].map(JoulesPerToken::saturating);
            Band::new(low, mid, high).unwrap()
        };
        Coefficients {
            id: "test@1".into(),
            e_in: rate(1.0),
            e_cached_in: Band::exact(JoulesPerToken::ZERO),
            e_out: rate(4.0),
            fixed: Joules::saturating(10.0),
            quality: EnergyQuality::C,
            source: "made for the test".into(),
        }
    }

    fn estimated(demand: Demand, live: &Arc<Live>, pue: f64, intensity: Option<f64>) -> Estimate {
        let model = live.model("m").unwrap();
        estimate(&demand, &backend(pue), model, live, &coefficients(), intensity.map(GramsPerKwh::saturating))
    }

    #[test]
    fn agrees_with_the_sum_done_by_hand() {
        // 4500 bytes at 4.5 bytes a token are 1000 tokens; 101 tokens come out at 10 ms each after the first.
        let demand = Demand { body_bytes: 4500, max_output_tokens: Some(101), streamed: true, embeddings: false };
        let got = estimated(demand, &live(), 1.5, Some(36.0));
        assert_eq!((got.prompt_tokens, got.output_tokens), (1000, 101));
        assert!((got.first_token.get() - 300.0).abs() < 1e-9, "{:?}", got.first_token);
        assert!((got.total.get() - 1300.0).abs() < 1e-9, "{:?}", got.total);
        assert_eq!(got.energy.mid(), Joules::saturating(10.0 + 1000.0 + 404.0));
        assert_eq!(got.energy.low(), Joules::saturating(10.0 + 500.0 + 202.0));
        // 1414 J x 1.5 at 36 g/kWh.
        let grams = got.emissions.unwrap().get();
        assert!((grams - 0.02121).abs() < 1e-12, "{grams}");
        assert_eq!((got.in_flight, got.limit, got.price), (0, 8, Grams::ZERO));
    }

    #[test]
    fn an_unknown_grid_has_no_grams_but_still_energy() {
        let got = estimated(Demand { body_bytes: 450, ..Demand::default() }, &live(), 1.2, None);
        assert_eq!((got.intensity, got.emissions), (None, None));
        assert!(got.energy.mid() > Joules::ZERO);
    }

    #[test]
    fn embeddings_end_with_their_first_token() {
        let demand = Demand { body_bytes: 4500, embeddings: true, ..Demand::default() };
        let got = estimated(demand, &live(), 1.0, Some(100.0));
        assert_eq!(got.output_tokens, 0);
        assert_eq!(got.total, got.first_token);
        assert_eq!(got.energy.mid(), Joules::saturating(1010.0));
    }

    #[test]
    fn work_in_flight_is_seen_at_once() {
        let live = live();
        let demand = Demand { body_bytes: 450, streamed: true, ..Demand::default() };
        let idle = estimated(demand, &live, 1.0, None);
        let permit = live.admit(5000);
        let busy = estimated(demand, &live, 1.0, None);
        assert_eq!(busy.in_flight, 1);
        assert!((busy.first_token.get() - idle.first_token.get() - 500.0).abs() < 1e-9);
        drop(permit);
        assert_eq!(estimated(demand, &live, 1.0, None), idle);
    }

    #[test]
    fn no_size_is_too_large() {
        let got = estimated(Demand { body_bytes: usize::MAX, ..Demand::default() }, &live(), 3.0, Some(f64::MAX));
        assert_eq!(got.prompt_tokens, u32::MAX);
        assert!(got.emissions.unwrap().get().is_finite());
    }
}
