//! A network that loses, delays, repeats and cuts off, replicas that die and come back, and clocks that differ.

use proptest::prelude::*;

use super::tests::{Replica, meet, now, seconds};
use super::*;
use crate::live::Permit;
use crate::route::FlowId;
use crate::units::Millis;

/// So many requests under way at the only backend, and no others.
fn have(replica: &Replica, permits: &mut Vec<Permit>, count: usize) {
    permits.truncate(count);
    while permits.len() < count {
        permits.push(replica.snapshot.live[0].admit(10));
    }
}

/// An answer that the replica learns from.
fn learn(replica: &Replica) {
    replica.snapshot.live[0].model("m").unwrap().saw_first_token(500, Millis::ZERO, Millis::saturating(200.0));
}

fn samples(replica: &Replica) -> u64 {
    replica.snapshot.live[0].model("m").unwrap().samples()
}

#[test]
fn clocks_that_differ_make_no_difference() {
    let begun = now();
    // The other one is a day ahead, and runs a tenth faster.
    let clocks = |second: f64| (begun + seconds(second), begun + seconds(86_400.0 + 1.1 * second));
    let (here, there) = clocks(0.0);
    let (mut a, mut b) = (Replica::new(1, here), Replica::new(2, there));
    assert_eq!(b.take(&a.loads(), there), Err(Refused::Unmet));
    a.take(&b.loads(), here).unwrap();
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for step in 1..=200_u32 {
        let (here, there) = clocks(0.05 * f64::from(step));
        have(&a, &mut own, step as usize % 3);
        have(&b, &mut theirs, step as usize % 5);
        b.take(&a.loads(), there).unwrap();
        a.take(&b.loads(), here).unwrap();
        a.look(here);
        b.look(there);
        let all = step % 3 + step % 5;
        assert_eq!((a.ahead(), b.ahead()), (all, all), "step {step}");
        assert_eq!((a.exchange.heard(), b.exchange.heard()), (1, 1));
    }
}

/// Both speak every tenth of a second until then, and are heard so much later by a clock that differs.
fn converse(a: &mut Replica, b: &mut Replica, late: f64, from: u32, to: u32, begun: Instant) {
    let theirs = |at: Instant| at + seconds(5000.0);
    let mut under_way = VecDeque::new();
    for step in from..to {
        let at = begun + seconds(0.1 * f64::from(step));
        a.look(at);
        b.look(theirs(at));
        let said = [a.loads(), a.exchange.lessons(&a.snapshot), b.loads(), b.exchange.lessons(&b.snapshot)];
        under_way.push_back((at + seconds(late), said));
        while under_way.front().is_some_and(|(when, _)| *when <= at) {
            let (_, [a_loads, a_lessons, b_loads, b_lessons]) = under_way.pop_front().unwrap();
            for message in [a_loads, a_lessons] {
                b.take(&message, theirs(at)).unwrap();
            }
            for message in [b_loads, b_lessons] {
                a.take(&message, at).unwrap();
            }
        }
    }
}

#[test]
fn one_whose_words_come_too_late_counts_no_more_until_they_come_in_time() {
    let begun = now();
    let [mut a, mut b] = [(1, begun), (2, begun + seconds(5000.0))].map(|(run, at)| {
        let mut plan = crate::testing::plan();
        plan.flows.push(("route".into(), "m".into()));
        Replica::with(run, plan, at)
    });
    assert_eq!(b.take(&a.loads(), begun + seconds(5000.0)), Err(Refused::Unmet));
    a.take(&b.loads(), begun).unwrap();
    b.take(&a.loads(), begun + seconds(5000.0)).unwrap();
    let _theirs = b.snapshot.live[0].admit(10);
    let way = |a: &Replica, second: f64| a.exchange.seen(begun + seconds(second))[0].way.unwrap().as_secs_f64();
    converse(&mut a, &mut b, 0.2, 0, 100, begun);
    assert!((way(&a, 10.0) - 0.4).abs() < 0.02, "{}", way(&a, 10.0));
    assert_eq!((a.exchange.heard(), b.exchange.heard(), a.ahead()), (1, 1, 1));
    converse(&mut a, &mut b, 0.8, 100, 200, begun);
    assert!((way(&a, 20.0) - 1.6).abs() < 0.02, "{}", way(&a, 20.0));
    assert_eq!((a.exchange.heard(), b.exchange.heard()), (0, 0));
    // They may be cut off and go on sending, and after half a minute it is each by itself.
    converse(&mut a, &mut b, 0.8, 200, 600, begun);
    assert_eq!(a.ahead(), 0);
    // What it was asked for meanwhile is no news when it comes back.
    let size = crate::estimate::Size { prompt_tokens: 100, output_tokens: 10 };
    (0..1000).for_each(|_| b.snapshot.flow(FlowId(0)).unwrap().asked(size, true));
    let asked = |replica: &Replica| replica.snapshot.flow(FlowId(0)).unwrap().totals()[0].requests;
    let before = asked(&a);
    converse(&mut a, &mut b, 0.1, 600, 700, begun);
    assert_eq!(asked(&a), before);
    assert_eq!((a.exchange.heard(), b.exchange.heard(), a.ahead()), (1, 1, 1));
}

#[test]
fn one_that_dies_takes_along_what_it_had_and_no_more() {
    let begun = now();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|run| Replica::new(run, begun));
    meet(&mut a, &mut b, begun);
    meet(&mut a, &mut c, begun);
    let _dead: Vec<Permit> = (0..3).map(|_| b.snapshot.live[0].admit(10)).collect();
    let _alive: Vec<Permit> = (0..2).map(|_| c.snapshot.live[0].admit(10)).collect();
    let _own = a.snapshot.live[0].admit(10);
    a.take(&b.loads(), begun).unwrap();
    for step in 0..60 {
        let at = begun + seconds(0.05 * f64::from(step));
        a.take(&c.loads(), at).unwrap();
        a.look(at);
        // Silent for a quarter of a second it is taken to do as this one does, which has begun nothing since.
        assert_eq!(a.ahead(), if step < 40 { 6 } else { 3 }, "step {step}");
    }
    assert_eq!(a.exchange.heard(), 1, "who is left is counted as it says, and not guessed at");
}

/// A cable was out: both are the same processes as before, and what was said meanwhile was lost.
#[test]
fn one_that_was_cut_off_is_heard_again_and_nothing_counts_twice() {
    let begun = now();
    let (mut a, mut b) = (Replica::new(1, begun), Replica::new(2, begun));
    meet(&mut a, &mut b, begun);
    learn(&b);
    a.take(&b.exchange.lessons(&b.snapshot), begun).unwrap();
    (0..5).for_each(|_| learn(&b));
    a.take(&b.exchange.lessons(&b.snapshot), begun).unwrap();
    assert_eq!(samples(&a), 5);
    let kept = b.loads();

    let later = begun + seconds(60.0);
    (0..7).for_each(|_| learn(&b));
    for replica in [&mut a, &mut b] {
        replica.look(later);
        assert_eq!(replica.exchange.heard(), 0);
    }
    let _theirs = b.snapshot.live[0].admit(10);
    assert_eq!(b.take(&a.loads(), later), Err(Refused::Unmet), "it has been forgotten there as well");
    for heard in 0..9 {
        a.look(later);
        assert_eq!((a.ahead(), a.exchange.heard()), (0, 0), "after {heard} messages it could be gone again at once");
        a.take(&b.loads(), later).unwrap();
        b.take(&a.loads(), later).unwrap();
    }
    a.look(later);
    assert_eq!((a.ahead(), a.exchange.heard()), (1, 1));
    assert_eq!(a.take(&kept, later), Err(Refused::Repeated), "of before");

    a.take(&b.exchange.lessons(&b.snapshot), later).unwrap();
    assert_eq!(samples(&a), 5, "what it had said before is not learned again");
    (0..3).for_each(|_| learn(&b));
    a.take(&b.exchange.lessons(&b.snapshot), later).unwrap();
    assert_eq!(samples(&a), 8);
}

/// Nearly all that it says is lost, and two seconds without a word are nothing new.
#[test]
fn one_that_is_heard_now_and_then_is_not_forgotten_in_between() {
    let begun = now();
    let (mut a, mut b) = (Replica::new(1, begun), Replica::new(2, begun));
    meet(&mut a, &mut b, begun);
    let _theirs = b.snapshot.live[0].admit(10);
    let mut at = begun;
    for _ in 0..30 {
        at += seconds(1.0);
        a.take(&b.loads(), at).unwrap();
        a.look(at);
    }
    let seen = |a: &mut Replica, at| {
        a.look(at);
        (a.exchange.heard(), a.ahead())
    };
    assert_eq!(seen(&mut a, at + seconds(15.0)), (1, 1));
    // Then it is taken for cut off, and half a minute later for gone.
    assert_eq!(seen(&mut a, at + seconds(25.0)), (0, 0));
    // However seldom it was heard, there is an end to it.
    let (mut a, mut b, mut at) = (Replica::new(1, begun), Replica::new(2, begun), begun);
    meet(&mut a, &mut b, begun);
    for _ in 0..30 {
        at += seconds(20.0);
        a.take(&b.loads(), at).unwrap();
        a.look(at);
    }
    assert_eq!(seen(&mut a, at + seconds(59.0)).0, 1);
    assert_eq!(seen(&mut a, at + seconds(61.0)).0, 0);
}

/// With one message in a thousand, whoever comes back is gone again before it was of use.
#[test]
fn one_that_comes_back_and_is_hardly_heard_does_not_count() {
    let begun = now();
    let (mut a, mut b) = (Replica::new(1, begun), Replica::new(2, begun));
    meet(&mut a, &mut b, begun);
    a.look(begun);
    a.look(begun + seconds(2.1));
    let _theirs = b.snapshot.live[0].admit(10);
    let mut at = begun + seconds(60.0);
    for (step, pause) in [0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0].into_iter().enumerate()
    {
        at += seconds(pause);
        a.look(at);
        assert_eq!((a.exchange.heard(), a.ahead()), (0, 0), "step {step}");
        a.take(&b.loads(), at).unwrap();
    }
    a.look(at);
    assert_eq!((a.exchange.heard(), a.ahead()), (1, 1));
}

/// What waited a second ago has been read since.
#[test]
fn of_one_that_is_heard_seldom_it_counts_what_usually_waits() {
    let begun = now();
    let (mut a, mut b) = (Replica::new(1, begun), Replica::new(2, begun));
    meet(&mut a, &mut b, begun);
    let mut at = begun;
    for step in 0..100 {
        at += seconds(1.0);
        let _now_and_then = (step % 4 == 3).then(|| b.snapshot.live[0].admit(4000));
        a.take(&b.loads(), at).unwrap();
    }
    a.look(at);
    let waits = a.snapshot.live[0].load().pending_prompt_tokens;
    assert!((500..1500).contains(&waits), "{waits}");
}

/// Demand of which nobody has said anything yet is as large as here; without it there is room for a price of nothing.
#[test]
fn between_two_words_the_others_are_asked_as_this_one_is() {
    let begun = now();
    let [mut a, mut b] = [1, 2].map(|run| {
        let mut plan = crate::testing::plan();
        plan.flows.push(("route".into(), "m".into()));
        Replica::with(run, plan, begun)
    });
    meet(&mut a, &mut b, begun);
    let ask = |replica: &Replica, times: usize| {
        let size = crate::estimate::Size { prompt_tokens: 100, output_tokens: 10 };
        (0..times).for_each(|_| replica.snapshot.flow(FlowId(0)).unwrap().asked(size, true));
    };
    let all = |replica: &Replica| replica.snapshot.flow(FlowId(0)).unwrap().totals()[0].requests;
    ask(&b, 100);
    a.take(&b.exchange.lessons(&b.snapshot), begun).unwrap();
    a.exchange.lessons(&a.snapshot);
    ask(&a, 30);
    a.exchange.lessons(&a.snapshot);
    assert_eq!(all(&a), 60);
    ask(&b, 50);
    a.take(&b.exchange.lessons(&b.snapshot), begun).unwrap();
    assert_eq!(all(&a), 80, "and what it then says counts, no more and no less");

    // All fell silent at once: so they may still be asked.
    a.look(begun);
    a.look(begun + seconds(2.1));
    a.exchange.lessons(&a.snapshot);
    ask(&a, 10);
    a.exchange.lessons(&a.snapshot);
    assert_eq!(all(&a), 100);
    a.look(begun + seconds(40.0));
    ask(&a, 10);
    a.exchange.lessons(&a.snapshot);
    assert_eq!(all(&a), 110);
}

proptest! {
    /// Of what arrives, in whatever order and however often, each word counts once and the last one stands.
    #[test]
    fn whatever_is_lost_late_or_repeated_the_last_word_stands(
        steps in prop::collection::vec((0_usize..4, 0_usize..3), 1..40), seed in any::<u64>(),
    ) {
        let (now, mut random) = (now(), fastrand::Rng::with_seed(seed));
        let (mut a, mut b) = (Replica::new(1, now), Replica::new(2, now));
        meet(&mut a, &mut b, now);
        // Each message with its number, what is in flight by it, and how many answers there had been.
        let (mut said, mut permits, mut taught) = (Vec::new(), Vec::new(), 0_u64);
        let (mut last, mut in_flight, mut first_word, mut last_word) = (0, 0, None, 0);
        for (count, arrive) in steps {
            have(&b, &mut permits, count);
            said.push((said.len() + 1, b.loads(), Some(count as u32), taught));
            learn(&b);
            taught += 1;
            said.push((said.len() + 1, b.exchange.lessons(&b.snapshot), None, taught));
            for _ in 0..arrive {
                let (nth, messages, count, answers) = random.choice(&said).unwrap();
                prop_assert_eq!(a.take(messages, now).is_ok(), *nth > last);
                if *nth > last {
                    last = *nth;
                    in_flight = count.unwrap_or(in_flight);
                    if count.is_none() {
                        first_word.get_or_insert(*answers);
                        last_word = *answers;
                    }
                }
            }
            a.look(now);
            prop_assert_eq!(a.ahead(), in_flight);
            prop_assert_eq!(samples(&a), first_word.map_or(0, |first| last_word - first));
        }
    }
}
