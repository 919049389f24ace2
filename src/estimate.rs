//! What one candidate would take to answer one request: how long, how much energy, how many grams.
//!
//! Everything here is a prediction made before a byte was sent, from the size of the body and from what earlier exchanges taught.
//! The ledger makes its own account afterwards from counted tokens and never reads these grams; they serve the choice alone, and
//! for that only their order among the candidates matters. Asking the backends instead would cost a round trip to each.

use crate::backend::Backend;
use crate::cost::TokenPrices;
pub use crate::demand::{Demand, Size};
use crate::live::{Load, ModelLive, Wanted};
use crate::tables::{Coefficients, TokenCounts};
use crate::units::{Grams, GramsPerKwh, Joules, Millis, Usd};

/// What one candidate is expected to take for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, those that it was sent before, as a part of the same conversation.
    pub known_tokens: u32,
    /// Of the prompt, those that it is believed to have at hand and not to read again.
    pub cached_tokens: u32,
    /// Tokens of the response; 0 for embeddings.
    pub output_tokens: u32,
    /// Until the first token, at the quantile that the policy asks for.
    pub first_token: Millis,
    /// Of it, until the prompts that were sent there before are read.
    pub queue: Millis,
    /// For each further token, with this request in flight.
    pub per_output_token: Millis,
    /// Until the end: the first token at its quantile, every later one at its mean.
    pub total: Millis,
    /// Energy at the machine, best guess, before the building's share.
    pub energy: Joules,
    /// Intensity of the grid; `None` when nobody knows where it runs or how clean that is.
    pub intensity: Option<GramsPerKwh>,
    /// Emissions at the best guess of the energy, the building's share included; `None` with the intensity.
    pub emissions: Option<Grams>,
    /// What it would cost; `None` when nobody said what tokens cost there.
    pub cost: Option<Usd>,
    /// Requests that the backend has in flight now.
    pub in_flight: u32,
    /// Requests that it takes at once, as learned: with more its tokens come too slowly, or it refuses.
    pub limit: u32,
    /// What one more request there costs all others, because capacity on a clean grid is scarce. It is zero up to four fifths of the
    /// limit, but for the last place of a small backend, and rises from there, so that a price that is new does not move everybody at once.
    pub price: Grams,
}

impl Estimate {
    /// Prompt tokens that it has to read.
    pub const fn tokens_to_read(&self) -> u32 {
        self.prompt_tokens.saturating_sub(self.cached_tokens)
    }

    /// What it takes of what a service allows.
    pub const fn wanted(&self) -> Wanted {
        let (prompt_tokens, output_tokens) = (self.prompt_tokens as u64, self.output_tokens as u64);
        Wanted { prompt_tokens, to_read: self.tokens_to_read() as u64, output_tokens }
    }
}

/// What is known around a candidate, beside the candidate.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Energy of tokens there.
    pub coefficients: &'a Coefficients,
    /// What tokens cost there, where that is known.
    pub prices: Option<&'a TokenPrices>,
    /// Of the dirtiest zone in which the request may run; `None` when one of them is unknown.
    pub intensity: Option<GramsPerKwh>,
    /// What predictions of the first token are multiplied by, under the request's policy.
    pub margin: f64,
    /// The share of the prompt that it was sent before, from 0 to 1.
    pub known: f64,
    /// What a full backend's capacity is worth to all, for each output token.
    pub price_per_output_token: Grams,
}

/// The price begins at this share of the limit, and is whole at the limit ..
const RAMP_FROM: f64 = 0.8;
/// .. where it is so much more than the value of the capacity: it then holds the use of a scarce region somewhere inside the ramp and
/// not at its upper end. In `simulate` 2.2 captured up to two points less of the possible saving, most where capacity is scarcest, because
/// it keeps clean regions emptier than they need be; 1.2 a point less, because they are then full when who can go nowhere else comes.
const RAMP_HEIGHT: f64 = 1.4;

/// Of a backend that takes no more than this the last place costs what capacity is worth at least. With so few places none may lie
/// inside the ramp, as up to five, and then there would be no price at all. Where only the limit is so low there is none: it should grow
/// again, and grows where it is used. In `simulate` a price there made brownouts last longer.
const FEW_PLACES: u32 = 9;

/// The part of a price that counts with `in_flight` of `limit` requests, of the `declared`.
fn ramp(in_flight: u32, limit: u32, declared: u32) -> f64 {
    let used = f64::from(in_flight) / f64::from(limit.max(1));
    let height = RAMP_HEIGHT * ((used - RAMP_FROM) / (1.0 - RAMP_FROM)).clamp(0.0, 1.0);
    let is_last = declared <= FEW_PLACES && in_flight.saturating_add(1) >= limit;
    if is_last { height.max(1.0) } else { height }
}

/// What `backend` would take for a request of `size`, given what is known of the model there, of its load and of its grid.
///
/// `model` is what is known of the model that is asked for there. Of what it was sent before, so much is taken for cached as its own
/// reports say of the prompts before; it counts with what a cached token takes, in grams, and is not waited for.
pub fn estimate(size: Size, backend: &Backend, model: &ModelLive, load: Load, terms: &Terms<'_>) -> Estimate {
    let Size { prompt_tokens, output_tokens } = size;
    let (in_flight, declared) = (load.in_flight, backend.max_in_flight);
    let known_tokens = (f64::from(prompt_tokens) * terms.known) as u32;
    let cached = || ((f64::from(known_tokens) * model.cached_share()) as u32).min(prompt_tokens);
    let cached_tokens = if known_tokens > 0 { cached() } else { 0 };
    let believed = model.first_token(prompt_tokens - cached_tokens, load.pending_prompt_tokens);
    // Rounded here and not where it is written, so that the log holds the very numbers that were decided with.
    let first_token = (believed.late * terms.margin).rounded();
    let per_output_token = model.per_output_token(in_flight.saturating_add(1), declared).rounded();
    // The first token came with `first_token`, so one interval less than there are tokens remains.
    let total = (first_token + per_output_token * f64::from(output_tokens.saturating_sub(1))).rounded();
    let tokens = TokenCounts { input: prompt_tokens.into(), cached: cached_tokens.into(), output: output_tokens.into() };
    let energy = terms.coefficients.best_guess(tokens);
    let limit = model.limit(declared);
    // Where capacity is not scarce nothing is multiplied.
    let scarce = terms.price_per_output_token;
    let price =
        if scarce > Grams::ZERO { scarce * (f64::from(output_tokens) * ramp(in_flight, limit, declared)) } else { Grams::ZERO };
    Estimate {
        prompt_tokens,
        known_tokens,
        cached_tokens,
        output_tokens,
        first_token,
        queue: believed.queue,
        per_output_token,
        total,
        energy,
        intensity: terms.intensity,
        emissions: terms.intensity.map(|intensity| energy * backend.pue * intensity),
        cost: terms.prices.map(|prices| prices.of(tokens)),
        in_flight,
        limit,
        price,
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
    use crate::live::{Flow, Live, Prior};
    use crate::tables::{Band, EnergyQuality};
    use crate::units::{JoulesPerToken, Pue};

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
            translates: Box::default(),
            region: "aws/eu-north-1".into(),
            region_header: HeaderValue::from_static("aws/eu-north-1"),
            placement: Placement::default(),
            pue: Pue::new(pue).unwrap(),
            credential: Credential::None,
            api_version: None,
            max_in_flight: 8,
            prior: prior(),
            probe: false,
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
        priced(demand, live, pue, intensity, 0.0)
    }

    fn priced(demand: Demand, live: &Arc<Live>, pue: f64, intensity: Option<f64>, price: f64) -> Estimate {
        let terms = Terms {
            coefficients: &coefficients(),
            prices: None,
            intensity: intensity.map(GramsPerKwh::saturating),
            margin: 1.0,
            known: 0.0,
            price_per_output_token: Grams::saturating(price),
        };
        let size = Flow::default().size(&demand);
        estimate(size, &backend(pue), live.model("m").unwrap(), live.load(), &terms)
    }

    #[test]
    fn agrees_with_the_sum_done_by_hand() {
        // 4500 bytes at 4.5 bytes a token are 1000 tokens; 250 tokens come out at 10 ms each after the first, and a little more with
        // one of eight places taken. Of what was never seen the first token is taken for 1.2 times as declared.
        let demand = Demand { body_bytes: 4500, streamed: true, ..Demand::default() };
        let got = estimated(demand, &live(), 1.5, Some(36.0));
        assert_eq!((got.prompt_tokens, got.output_tokens), (1000, 250));
        assert!((got.first_token.get() - 360.0).abs() < 1e-9, "{:?}", got.first_token);
        assert!((got.per_output_token.get() - 10.4).abs() < 0.01, "{:?}", got.per_output_token);
        assert!((got.total.get() - 360.0 - 249.0 * got.per_output_token.get()).abs() < 1e-3, "{:?}", got.total);
        assert_eq!(got.energy, Joules::saturating(10.0 + 1000.0 + 1000.0));
        // 2010 J x 1.5 at 36 g/kWh.
        let grams = got.emissions.unwrap().get();
        assert!((grams - 0.03015).abs() < 1e-12, "{grams}");
        assert_eq!((got.in_flight, got.limit, got.price), (0, 8, Grams::ZERO));
    }

    #[test]
    fn an_unknown_grid_has_no_grams_but_still_energy() {
        let got = estimated(Demand { body_bytes: 450, ..Demand::default() }, &live(), 1.2, None);
        assert_eq!((got.intensity, got.emissions), (None, None));
        assert!(got.energy > Joules::ZERO);
    }

    #[test]
    fn embeddings_end_with_their_first_token() {
        let demand = Demand { body_bytes: 4500, embeddings: true, ..Demand::default() };
        let got = estimated(demand, &live(), 1.0, Some(100.0));
        assert_eq!(got.output_tokens, 0);
        assert_eq!(got.total, got.first_token);
        assert_eq!(got.energy, Joules::saturating(1010.0));
    }

    #[test]
    fn work_in_flight_is_seen_at_once() {
        let live = live();
        let demand = Demand { body_bytes: 450, streamed: true, ..Demand::default() };
        let idle = estimated(demand, &live, 1.0, None);
        let permit = live.admit(5000);
        let busy = estimated(demand, &live, 1.0, None);
        assert_eq!(busy.in_flight, 1);
        assert!((busy.queue.get() - 500.0).abs() < 1e-9);
        assert!(busy.first_token.get() >= idle.first_token.get() + 500.0);
        drop(permit);
        assert_eq!(estimated(demand, &live, 1.0, None), idle);
    }

    #[test]
    fn what_it_was_sent_before_is_neither_waited_for_nor_burned_again() {
        let live = live();
        let demand = Demand { body_bytes: 4500, streamed: true, ..Demand::default() };
        let model = live.model("m").unwrap();
        (0..1000).for_each(|_| model.saw_cached(1000.0, 900));
        let at = |known: f64| {
            let terms = Terms {
                coefficients: &coefficients(),
                prices: None,
                intensity: Some(GramsPerKwh::saturating(36.0)),
                margin: 1.0,
                known,
                price_per_output_token: Grams::ZERO,
            };
            estimate(Flow::default().size(&demand), &backend(1.5), model, live.load(), &terms)
        };
        let (cold, warm) = (at(0.0), at(1.0));
        assert_eq!((cold.cached_tokens, cold.tokens_to_read()), (0, 1000));
        assert_eq!((warm.known_tokens, warm.prompt_tokens), (1000, 1000));
        assert!((899..=900).contains(&warm.cached_tokens), "{warm:?}");
        // A tenth of a millisecond and 1 J for each of them, neither of which is due again.
        let cached = f64::from(warm.cached_tokens);
        let sooner = (cold.first_token.get() - warm.first_token.get()) / 1.2;
        assert!((sooner - cached / 10.0).abs() < 0.01, "{sooner}");
        assert!((cold.energy.get() - warm.energy.get() - cached).abs() < 1e-9);
        assert!(warm.emissions.unwrap() < cold.emissions.unwrap());
        assert_eq!(at(0.5).cached_tokens, warm.cached_tokens / 2);
    }

    #[test]
    fn a_price_rises_from_four_fifths_of_the_limit() {
        let (live, demand) = (live(), Demand { body_bytes: 450, streamed: true, ..Demand::default() });
        let mut permits = Vec::new();
        let mut prices = Vec::new();
        for _ in 0..=8 {
            prices.push(priced(demand, &live, 1.0, None, 0.001).price.get());
            permits.push(live.admit(0));
        }
        assert!(prices[..7].iter().all(|price| *price == 0.0), "{prices:?}");
        assert!((prices[7] - 250.0 * 0.001).abs() < 1e-9 && (prices[8] - 0.25 * RAMP_HEIGHT).abs() < 1e-9, "{prices:?}");
    }

    #[test]
    fn the_last_place_of_a_small_backend_has_a_price_too() {
        for limit in 1..=5 {
            assert!((0..limit - 1).all(|in_flight| ramp(in_flight, limit, limit) == 0.0), "{limit}");
            assert!((ramp(limit - 1, limit, limit) - 1.0).abs() < 1e-9);
            assert!(ramp(limit - 1, limit, 100) == 0.0, "a large one is to come back from there");
        }
        let large = |in_flight| ramp(in_flight, 100, 100);
        assert!((large(85) - RAMP_HEIGHT * 0.25).abs() < 1e-9 && (large(99) - RAMP_HEIGHT * 0.95).abs() < 1e-9);
        assert!((1..100).all(|in_flight| large(in_flight) >= large(in_flight - 1)));
    }

    #[test]
    fn no_size_is_too_large() {
        let got = estimated(Demand { body_bytes: usize::MAX, ..Demand::default() }, &live(), 3.0, Some(f64::MAX));
        assert_eq!(got.prompt_tokens, u32::MAX);
        assert!(got.emissions.unwrap().get().is_finite());
    }
}
