//! What the proxies of a run say to each other, on its way.
//!
//! What is said and what comes of it is the product's own ([`crate::peers`]); here messages are late or lost. They are not sealed:
//! nobody forges them, and sealing millions of them would be most of a run.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;

use super::router::{Moment, Router};
use crate::config::scenario::Exchanged;

/// Something of the post that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// A proxy says what it has in flight.
    Loads {
        /// Which.
        proxy: u16,
    },
    /// A proxy says what it has learned.
    Lessons {
        /// Which.
        proxy: u16,
    },
    /// What was said arrives.
    Arrives {
        /// The number that it was sent under.
        nth: u64,
    },
}

/// The messages under way.
#[derive(Debug)]
pub struct Post {
    means: Exchanged,
    rng: Rng,
    /// By number: who said it, and what.
    under_way: HashMap<u64, (usize, Vec<Vec<u8>>)>,
    sent: u64,
}

impl Post {
    /// For proxies that speak by these means. Losses and delays are drawn from `seed`.
    pub fn new(means: Exchanged, seed: u64) -> Self {
        Self { means, rng: Rng::with_seed(seed ^ 0x706f_7374_0000_0000), under_way: HashMap::new(), sent: 0 }
    }

    /// What happens first: proxies begin at any moment, and not all at once.
    pub fn begin(&mut self, proxies: u16) -> Vec<(Duration, Mail)> {
        let mut first = Vec::new();
        for proxy in 0..proxies {
            first.push((self.means.fast.mul_f64(self.rng.f64()), Mail::Loads { proxy }));
            first.push((self.means.slow.mul_f64(self.rng.f64()), Mail::Lessons { proxy }));
        }
        first
    }

    /// Lets something happen, and says what will happen because of it, how much later.
    pub fn happen(&mut self, mail: Mail, routers: &mut [Router], at: Moment) -> Vec<(Duration, Mail)> {
        let (proxy, said, pause) = match mail {
            Mail::Arrives { nth } => {
                self.arrive(nth, routers, at);
                return Vec::new();
            }
            Mail::Loads { proxy } => {
                let others = routers.len().saturating_sub(1);
                let Some(router) = routers.get_mut(usize::from(proxy)) else { return Vec::new() };
                (proxy, router.loads(at, others), self.means.fast)
            }
            Mail::Lessons { proxy } => {
                let Some(router) = routers.get_mut(usize::from(proxy)) else { return Vec::new() };
                (proxy, router.lessons(at), self.means.slow)
            }
        };
        self.sent += 1;
        self.under_way.insert(self.sent, (proxy.into(), said));
        // Half of the delay is the way, the rest is chance.
        let late = self.means.delay.mul_f64(0.5 + self.rng.f64());
        vec![(pause, mail), (late, Mail::Arrives { nth: self.sent })]
    }

    fn arrive(&mut self, nth: u64, routers: &mut [Router], at: Moment) {
        let Some((sender, messages)) = self.under_way.remove(&nth) else { return };
        for (_, router) in routers.iter_mut().enumerate().filter(|(proxy, _)| *proxy != sender) {
            for message in &messages {
                if self.rng.f64() >= self.means.loss.get() {
                    router.hear(message, at);
                }
            }
        }
    }
}
