//! Who asks what when: seeded arrivals for the demonstration and for load.
//!
//! Arrivals are a Poisson process whose rate follows a daily wave; sizes are log-normal, as prompts and answers are: many short
//! ones and a long tail. The wave is made by thinning (draw at the highest rate, keep a share), which stays exact for any wave.

use std::f64::consts::TAU;
use std::time::Duration;

use fastrand::Rng;

use super::{Positive, Share, Spread};

/// The hour at which the wave is highest: early afternoon, when offices and evenings overlap least badly.
const BUSIEST_HOUR: f64 = 14.0;

/// Numbers of tokens, log-normal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Half of all draws are below it.
    pub median: Positive,
    /// How long the tail is.
    pub spread: Spread,
    /// No draw is above it; none is below 1.
    pub most: u32,
}

impl Size {
    /// One draw.
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        let tokens = (self.median.get() * self.spread.factor(rng)).round();
        (tokens.clamp(1.0, f64::from(self.most.max(1)))) as u32
    }
}

/// What traffic looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrafficShape {
    /// Requests a second, as the mean over a day.
    pub per_second: Positive,
    /// How far the wave goes above and below that mean.
    pub wave: Share,
    /// How long a day lasts here; short for a grid in fast motion.
    pub day_length: Duration,
    /// The hour of the day at the start, in UTC.
    pub first_hour: f64,
    /// Prompt tokens.
    pub prompt: Size,
    /// Answer tokens.
    pub output: Size,
    /// The share of requests that ask for a stream.
    pub streamed: Share,
}

/// One request to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// When, since the start.
    pub at: Duration,
    /// How long its prompt is.
    pub prompt_tokens: u32,
    /// How long its answer is to be.
    pub output_tokens: u32,
    /// Whether it asks for a stream.
    pub streamed: bool,
}

/// An endless series of requests; the same seed gives the same series.
#[derive(Clone, Debug)]
pub struct Arrivals {
    shape: TrafficShape,
    rng: Rng,
    at: f64,
}

impl Arrivals {
    /// The series of that shape and seed.
    pub fn new(shape: TrafficShape, seed: u64) -> Self {
        Self { shape, rng: Rng::with_seed(seed), at: 0.0 }
    }

    /// The rate at `seconds` after the start as a share of the highest, 0 to 1.
    fn height(&self, seconds: f64) -> f64 {
        let day = self.shape.day_length.as_secs_f64().max(1e-3);
        let hour = self.shape.first_hour + seconds / day * 24.0;
        let wave = self.shape.wave.get();
        (1.0 + wave * (TAU * (hour - BUSIEST_HOUR) / 24.0).cos()) / (1.0 + wave)
    }
}

impl Iterator for Arrivals {
    type Item = Ask;

    fn next(&mut self) -> Option<Ask> {
        let highest = self.shape.per_second.get() * (1.0 + self.shape.wave.get());
        loop {
            self.at += -(1.0 - self.rng.f64()).ln() / highest;
            if self.rng.f64() < self.height(self.at) {
                break;
            }
        }
        Some(Ask {
            at: Duration::try_from_secs_f64(self.at).ok()?,
            prompt_tokens: self.shape.prompt.draw(&mut self.rng),
            output_tokens: self.shape.output.draw(&mut self.rng),
            streamed: self.rng.f64() < self.shape.streamed.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> TrafficShape {
        let size = |median, most| Size { median: Positive::new(median).unwrap(), spread: Spread::new(0.8).unwrap(), most };
        TrafficShape {
            per_second: Positive::new(50.0).unwrap(),
            wave: Share::new(0.6).unwrap(),
            day_length: Duration::from_mins(4),
            first_hour: 2.0,
            prompt: size(400.0, 4000),
            output: size(120.0, 500),
            streamed: Share::new(0.75).unwrap(),
        }
    }

    #[test]
    fn a_day_has_its_mean_and_its_wave() {
        let asks: Vec<Ask> = Arrivals::new(shape(), 3).take_while(|ask| ask.at < Duration::from_mins(4)).collect();
        assert!((11_000..13_000).contains(&asks.len()), "{}", asks.len());
        let within = |from: u64, to: u64| {
            asks.iter().filter(|ask| ask.at >= Duration::from_secs(from) && ask.at < Duration::from_secs(to)).count()
        };
        // Hours 2-4 are the first 20 seconds; 13-15 follow 110 seconds later.
        assert!(within(110, 130) > 3 * within(0, 20));
        let streamed = asks.iter().filter(|ask| ask.streamed).count() as f64 / asks.len() as f64;
        assert!((streamed - 0.75).abs() < 0.03);
    }

    #[test]
    fn sizes_have_their_median_and_their_bounds() {
        let mut prompts: Vec<u32> = Arrivals::new(shape(), 4).take(5001).map(|ask| ask.prompt_tokens).collect();
        prompts.sort_unstable();
        assert!((360..440).contains(&prompts[2500]), "{}", prompts[2500]);
        assert!(prompts[0] >= 1 && prompts[5000] <= 4000);
    }

    #[test]
    fn one_seed_is_one_series() {
        let series = |seed| Arrivals::new(shape(), seed).take(50).collect::<Vec<_>>();
        assert_eq!(series(1), series(1));
        assert_ne!(series(1), series(2));
    }
}
