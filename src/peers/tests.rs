use std::sync::Arc;

use super::*;
use crate::backend::Origin;
use crate::clock::{Clock, SystemClock};
use crate::testing::plan;
use crate::units::Millis;

/// A replica: its snapshot, and what it has heard.
pub(super) struct Replica {
    pub(super) snapshot: Snapshot,
    pub(super) exchange: Exchange,
}

impl Replica {
    pub(super) fn new(run: u64, now: Instant) -> Self {
        Self::with(run, plan(), now)
    }

    pub(super) fn with(run: u64, plan: Plan, now: Instant) -> Self {
        let snapshot = Snapshot::first(Arc::new(plan), now);
        Self { exchange: Exchange::new(run, &snapshot), snapshot }
    }

    pub(super) fn loads(&mut self) -> Vec<Vec<u8>> {
        self.exchange.loads(&self.snapshot)
    }

    pub(super) fn take(&mut self, messages: &[Vec<u8>], now: Instant) -> Result<(), Refused> {
        messages.iter().try_for_each(|message| self.exchange.take(message, &self.snapshot, now))
    }

    pub(super) fn look(&mut self, now: Instant) {
        self.exchange.look(&self.snapshot, now, 1);
    }

    /// What is ahead of the next request at the only backend.
    pub(super) fn ahead(&self) -> u32 {
        self.snapshot.live[0].load().in_flight
    }
}

pub(super) fn now() -> Instant {
    SystemClock.monotonic()
}

/// Each hears the other.
pub(super) fn meet(a: &mut Replica, b: &mut Replica, now: Instant) {
    assert_eq!(b.take(&a.loads(), now), Err(Refused::Unmet));
    a.take(&b.loads(), now).unwrap();
    b.take(&a.loads(), now).unwrap();
}

pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn the_load_of_another_counts_and_goes_when_it_is_silent() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    let permits: Vec<_> = (0..3).map(|_| b.snapshot.live[0].admit(100)).collect();
    a.take(&b.loads(), now + seconds(0.05)).unwrap();
    a.look(now + seconds(0.1));
    assert_eq!((a.ahead(), a.snapshot.live[0].load().pending_prompt_tokens), (3, 300));
    assert_eq!(a.snapshot.live[0].in_flight(), 0, "its own are none");
    drop(permits);
    a.take(&b.loads(), now + seconds(0.1)).unwrap();
    a.look(now + seconds(0.15));
    assert_eq!(a.ahead(), 0);
}

#[test]
fn all_silent_at_once_may_still_be_sending_for_a_while_and_no_longer() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    let _theirs = b.snapshot.live[0].admit(100);
    a.take(&b.loads(), now).unwrap();
    a.look(now);
    let _own: Vec<_> = (0..2).map(|_| a.snapshot.live[0].admit(100)).collect();
    assert_eq!(a.ahead(), 3);
    a.look(now + seconds(2.1));
    assert_eq!(a.ahead(), 4, "it is taken to do the same");
    a.look(now + seconds(20.0));
    assert_eq!(a.ahead(), 4);
    a.look(now + seconds(33.0));
    assert_eq!(a.ahead(), 2, "as if it had never been there");
    assert_eq!(a.exchange.heard(), 0);
}

#[test]
fn one_that_ends_and_one_that_is_no_longer_listed_are_not_waited_for() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    let _own = a.snapshot.live[0].admit(100);
    a.look(now);
    a.take(&b.exchange.farewell(), now).unwrap();
    a.look(now + seconds(0.05));
    assert_eq!((a.ahead(), a.exchange.heard()), (1, 0));

    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    let _own = a.snapshot.live[0].admit(100);
    a.look(now);
    a.exchange.look(&a.snapshot, now + seconds(2.1), 0);
    assert_eq!(a.ahead(), 1);
}

#[test]
fn a_repeated_message_says_nothing_and_nor_does_a_recording() {
    let start = now();
    let (mut a, mut b) = (Replica::new(1, start), Replica::new(2, start));
    meet(&mut a, &mut b, start);
    let permit = b.snapshot.live[0].admit(100);
    let busy = b.loads();
    a.take(&busy, start).unwrap();
    drop(permit);
    a.take(&b.loads(), start).unwrap();
    a.look(start);
    assert_eq!(a.take(&busy, start), Err(Refused::Repeated));
    a.look(start);
    assert_eq!(a.ahead(), 0);

    // Neither when its sender has gone since ..
    let later = start + seconds(60.0);
    a.look(later);
    assert_eq!(a.exchange.heard(), 0);
    assert_eq!(a.take(&busy, later), Err(Refused::Repeated));
    // .. nor when its receiver has begun anew and was never spoken to.
    let mut again = Replica::new(3, start);
    assert_eq!(again.take(&busy, start), Err(Refused::Unmet));
    again.look(start);
    assert_eq!((again.ahead(), again.exchange.heard()), (0, 0));
}

#[test]
fn recordings_do_not_crowd_out_who_is_really_there() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    for run in 100..500 {
        assert_eq!(a.take(&Replica::new(run, now).loads(), now), Err(Refused::Unmet));
    }
    b.take(&a.loads(), now).unwrap();
    a.take(&b.loads(), now).unwrap();
    let mut c = Replica::new(3, now);
    assert_eq!(a.take(&c.loads(), now), Err(Refused::Unmet));
    c.take(&a.loads(), now).unwrap();
    a.take(&c.loads(), now).unwrap();
    assert_eq!(a.exchange.heard(), 2);
}

#[test]
fn ones_own_message_is_known() {
    let now = now();
    let mut a = Replica::new(1, now);
    let own = a.loads();
    assert_eq!(a.take(&own, now), Err(Refused::Own));
}

#[test]
fn who_is_heard_seldom_is_taken_to_do_as_oneself_in_between() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    let _theirs: Vec<_> = (0..2).map(|_| b.snapshot.live[0].admit(1)).collect();
    let mut at = now;
    for _ in 0..20 {
        at += seconds(1.0);
        a.take(&b.loads(), at).unwrap();
        a.look(at);
    }
    assert_eq!(a.ahead(), 2);
    let _own = a.snapshot.live[0].admit(1);
    assert_eq!(a.ahead(), 4, "two that it said, one of its own, and one as the other may have got since");
}

#[test]
fn what_one_learns_all_know() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    a.take(&b.exchange.lessons(&b.snapshot), now).unwrap();
    let teach = |replica: &Replica, times: usize| {
        let model = replica.snapshot.live[0].model("m").unwrap();
        for step in 0..times {
            model.saw_first_token(500 + 20 * (step as u32 % 40), Millis::ZERO, Millis::saturating(1500.0));
            model.saw_output(101, Millis::saturating(100.0 * 40.0), 4.0, 8);
        }
    };
    // The first word is what later ones are told apart from.
    teach(&b, 1);
    a.take(&b.exchange.lessons(&b.snapshot), now).unwrap();
    for _ in 0..20 {
        teach(&b, 20);
        a.take(&b.exchange.lessons(&b.snapshot), now).unwrap();
    }
    let known = |replica: &Replica| {
        let model = replica.snapshot.live[0].model("m").unwrap();
        (model.first_token(700, 0).late.get(), model.per_output_token(4, 8).get(), model.samples())
    };
    let ((a_first, a_token, a_samples), (b_first, b_token, b_samples)) = (known(&a), known(&b));
    assert!((a_first / b_first - 1.0).abs() < 0.1, "{a_first} beside {b_first}");
    assert!((a_token / b_token - 1.0).abs() < 0.1, "{a_token} beside {b_token}");
    assert_eq!((a_samples, b_samples), (400, 401));
    let again = a.exchange.lessons(&a.snapshot);
    assert!(again.iter().all(|message| message.len() < 100), "what was heard is not said again");
}

/// From another site the way to the backend is another, and the backend is the same.
#[test]
fn of_another_site_only_what_is_the_same_from_there_is_learned() {
    let now = now();
    let known = |replica: &Replica| {
        let model = replica.snapshot.live[0].model("m").unwrap();
        (model.first_token(700, 0).late, model.per_output_token(4, 8).get())
    };
    for (here, there, near) in
        [("", "", true), ("paris", "paris", true), ("paris", "oslo", false), ("paris", "", false), ("", "oslo", false)]
    {
        let [mut a, mut b] = [(1, here), (2, there)].map(|(run, site)| {
            let Replica { snapshot, exchange } = Replica::new(run, now);
            Replica { exchange: exchange.at(site), snapshot }
        });
        meet(&mut a, &mut b, now);
        assert_eq!(a.exchange.seen(now)[0].same_site, None, "it has not said");
        let before = known(&a);
        for _ in 0..5 {
            let model = b.snapshot.live[0].model("m").unwrap();
            for _ in 0..100 {
                model.saw_first_token(500, Millis::ZERO, Millis::saturating(1500.0));
                model.saw_output(101, Millis::saturating(100.0 * 90.0), 4.0, 8);
            }
            a.take(&b.exchange.lessons(&b.snapshot), now).unwrap();
        }
        let after = known(&a);
        assert_eq!(a.exchange.seen(now)[0].same_site, Some(near), "{here:?} and {there:?}");
        assert_eq!(after.0 != before.0, near, "{here:?} and {there:?}: {after:?}");
        assert!(after.1 > 2.0 * before.1, "{here:?} and {there:?}: {after:?}");
    }
}

#[test]
fn the_same_name_at_another_place_is_another_backend() {
    let now = now();
    let places: [fn(&mut Origin); 4] = [
        |origin| origin.port += 1,
        |origin| origin.host = "elsewhere.test".into(),
        |origin| origin.base_path = "/elsewhere".into(),
        |origin| origin.tls = !origin.tls,
    ];
    for elsewhere in places {
        let (mut a, mut plan) = (Replica::new(1, now), plan());
        let mut moved = (*plan.backends[0]).clone();
        elsewhere(&mut moved.origin);
        plan.backends[0] = Arc::new(moved);
        let mut b = Replica::with(2, plan, now);
        meet(&mut a, &mut b, now);
        let _there = b.snapshot.live[0].admit(10);
        a.take(&b.loads(), now).unwrap();
        a.look(now);
        assert_eq!(a.ahead(), 0);
    }
}

#[test]
fn names_of_another_plan_are_passed_over_and_a_reload_keeps_what_is_known() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    let mut stranger = plan();
    let mut other = (*stranger.backends[0]).clone();
    other.name = "elsewhere".into();
    stranger.backends[0] = Arc::new(other);
    let mut c = Replica::with(3, stranger, now);
    meet(&mut a, &mut c, now);
    let _there = c.snapshot.live[0].admit(10);
    let _here = b.snapshot.live[0].admit(10);
    a.take(&c.loads(), now).unwrap();
    a.take(&b.loads(), now).unwrap();
    a.look(now);
    assert_eq!(a.ahead(), 1);
    a.snapshot = a.snapshot.with_plan(Arc::new(plan()), now);
    a.look(now);
    assert_eq!((a.ahead(), a.exchange.heard()), (1, 2));
}

#[test]
fn absurd_numbers_end_at_what_can_be() {
    let now = now();
    let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
    meet(&mut a, &mut b, now);
    let say = |seq: u64, entries: &[Entry]| {
        let mut message = Head { run: 2, seq, heard: [1].into_iter().collect() }.write();
        for entry in entries {
            assert!(entry.write(&mut message));
        }
        message
    };
    let names = Names::of(&a.snapshot.plan);
    let (backend, model) = (names.backends[0], names.models[0].0);
    let before = a.snapshot.live[0].model("m").unwrap().first_token(100, 0);
    let load = Load { in_flight: u32::MAX, pending_prompt_tokens: u64::MAX };
    a.take(&[say(1000, &[Entry::Load(backend, load), Entry::Model(model, Box::default())])], now).unwrap();
    let taught = crate::live::Taught { begun: [u32::MAX; 24], line: [u64::MAX; 4], paced: [9; 24], ..Default::default() };
    a.take(&[say(1001, &[Entry::Model(model, Box::new(taught))])], now).unwrap();
    a.look(now);
    assert_eq!(a.ahead(), 8, "no more than it takes at once");
    assert_eq!(a.snapshot.live[0].model("m").unwrap().first_token(100, 0), before);
    a.look(now + seconds(40.0));
    a.look(now + seconds(80.0));
    assert_eq!(a.snapshot.live[0].load(), Load::default(), "and nothing of it lasts");
}

#[test]
fn a_plan_of_any_size_is_said_in_turns() {
    let now = now();
    let mut many = plan();
    let one = many.backends[0].clone();
    many.backends = (0..2000)
        .map(|index| {
            let mut backend = (*one).clone();
            (backend.id, backend.name) = (crate::backend::BackendId(index), format!("b{index}").into());
            Arc::new(backend)
        })
        .collect();
    many.models = vec![many.models[0].clone(); 2000];
    let (mut a, mut b) = (Replica::with(1, many.clone(), now), Replica::with(2, many, now));
    meet(&mut a, &mut b, now);
    let _permits: Vec<_> = b.snapshot.live.iter().map(|live| live.admit(5)).collect();
    for _ in 0..4 {
        let messages = b.loads();
        assert!(messages.len() <= MOST_MESSAGES && messages.iter().all(|message| message.len() <= MOST_BYTES));
        a.take(&messages, now).unwrap();
    }
    a.look(now);
    assert!(a.snapshot.live.iter().all(|live| live.load().in_flight == 1));
}

proptest::proptest! {
    #[test]
    fn whatever_comes_nothing_breaks_and_nothing_lasts(
        heard: bool,
        said in proptest::collection::vec(
            (1_u64..6, 0_u64..9, proptest::num::u32::ANY, proptest::num::u64::ANY, proptest::collection::vec(0_u8..=255, 0..40)), 0..40,
        ),
    ) {
        let now = now();
        let mut a = Replica::new(1, now);
        let names = Names::of(&a.snapshot.plan);
        for (step, (run, seq, count, sum, tail)) in said.into_iter().enumerate() {
            let at = now + seconds(0.05 * step as f64);
            let heard = if heard { [1].into_iter().collect() } else { smallvec::SmallVec::new() };
            let mut message = Head { run, seq, heard }.write();
            let load = Load { in_flight: count, pending_prompt_tokens: sum };
            let taught = crate::live::Taught {
                begun: [count; 24], line: [sum, sum / 2, sum, sum], paced: [count % 7; 24], micros: [sum % 99; 24], ..Default::default()
            };
            proptest::prop_assert!(Entry::Load(names.backends[0], load).write(&mut message));
            proptest::prop_assert!(Entry::Model(names.models[0].0, Box::new(taught)).write(&mut message));
            message.extend(tail);
            let _ = a.take(&[message], at);
            a.look(at);
        }
        let model = a.snapshot.live[0].model("m").unwrap();
        proptest::prop_assert!(model.first_token(1000, 1000).late.get().is_finite());
        proptest::prop_assert!(model.per_output_token(5, 8).get().is_finite());
        a.look(now + seconds(10.0));
        a.look(now + seconds(50.0));
        proptest::prop_assert_eq!(a.snapshot.live[0].load(), Load::default());
    }
}
