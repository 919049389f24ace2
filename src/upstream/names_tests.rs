use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Semaphore;
use tokio::time::advance;

use super::*;

/// Time to connect that is no matter.
const LONG: Duration = Duration::from_secs(10);

/// A resolver that answers as it is told, when it is let.
struct Resolver {
    names: Names,
    asked: Arc<AtomicUsize>,
    says: Arc<Mutex<Option<Vec<IpAddr>>>>,
    answers: Arc<Semaphore>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn resolver() -> Resolver {
    let (asked, says) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Some(vec![ip("192.0.2.1")]))));
    let answers = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let (count, says_so, waits) = (Arc::clone(&asked), Arc::clone(&says), Arc::clone(&answers));
    let names = Names::by(move |_| {
        count.fetch_add(1, SeqCst);
        let (says, waits) = (Arc::clone(&says_so), Arc::clone(&waits));
        Box::pin(async move {
            waits.acquire().await.unwrap().forget();
            let said = says.lock().unwrap().clone();
            said.ok_or_else(|| io::Error::other("no such name"))
        })
    });
    Resolver { names, asked, says, answers }
}

impl Resolver {
    async fn of(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.of_within(name, LONG, true).await
    }

    async fn of_within(&self, name: &str, within: Duration, proven: bool) -> Option<Vec<IpAddr>> {
        self.names.addresses(&Arc::from(name), within, proven).await.ok()
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn says(&self, addresses: Option<&str>) {
        *self.says.lock().unwrap() = addresses.map(|text| vec![ip(text)]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_a_name_at_once_waits_for_one_lookup_and_its_answer_counts_for_a_while() {
    let resolver = resolver();
    let first = Some(vec![ip("192.0.2.1")]);
    let all = futures_of(200, || resolver.of("a")).await;
    assert!(all.iter().all(|found| *found == first));
    assert_eq!(resolver.asked(), 1);
    resolver.says(Some("192.0.2.2"));
    advance(FRESH.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!((resolver.of("a").await, resolver.asked()), (first, 1));
    assert_eq!((resolver.of("b").await, resolver.asked()), (Some(vec![ip("192.0.2.2")]), 2), "another name is another matter");
    advance(Duration::from_millis(1)).await;
    assert_eq!((resolver.of("a").await, resolver.asked()), (Some(vec![ip("192.0.2.2")]), 3));
    resolver.names.doubt("a");
    resolver.says(Some("192.0.2.3"));
    assert_eq!((resolver.of("a").await, resolver.asked()), (Some(vec![ip("192.0.2.3")]), 4), "nobody was at the last one");
}

#[tokio::test(start_paused = true)]
async fn the_last_good_addresses_count_while_no_lookup_succeeds_and_not_for_ever() {
    let resolver = resolver();
    let good = resolver.of("a").await;
    assert!(good.is_some());
    let until = now() + KEPT;
    resolver.says(None);
    let mut lookups = 0;
    while now() < until {
        assert_eq!(resolver.of("a").await, good);
        assert_eq!(futures_of(50, || resolver.of("a")).await.len(), 50);
        lookups += 1;
        advance(FRESH).await;
    }
    assert!(resolver.asked() <= 1 + lookups, "a name that fails is not looked up for each connection");
    assert_eq!(resolver.of("a").await, None);
    resolver.says(Some("192.0.2.9"));
    assert_eq!(resolver.of("a").await, Some(vec![ip("192.0.2.9")]));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_hangs_is_waited_for_only_by_who_has_nothing_else() {
    let resolver = resolver();
    let good = resolver.of("a").await;
    advance(FRESH).await;
    resolver.answers.forget_permits(Semaphore::MAX_PERMITS);
    resolver.says(Some("192.0.2.2"));
    let begun = now();
    assert_eq!((resolver.of("a").await, begun.elapsed()), (good.clone(), PATIENCE));
    assert_eq!((resolver.of("a").await, begun.elapsed()), (good.clone(), PATIENCE), "one has waited for all");
    advance(LONG).await;
    let later = now();
    assert_eq!((resolver.of("a").await, later.elapsed()), (good.clone(), Duration::ZERO), "as long as it is under way");
    resolver.names.doubt("a");
    assert_eq!((resolver.of("a").await, later.elapsed()), (good.clone(), PATIENCE), "nobody was at the last one");
    assert_eq!(resolver.asked(), 2, "it is still under way, and no second one is begun");
    // Somebody who leaves takes nothing from those who stay.
    let waits = resolver.of("b");
    assert!(timeout(Duration::from_mins(1), waits).await.is_err());
    let stays = async {
        tokio::task::yield_now().await;
        resolver.answers.add_permits(2);
    };
    let (found, ()) = tokio::join!(resolver.of("b"), stays);
    assert_eq!((found, resolver.asked()), (Some(vec![ip("192.0.2.2")]), 3));
    assert_eq!(resolver.of("a").await, Some(vec![ip("192.0.2.2")]), "what came late counts");
    // The next one that hangs is waited for again, which leaves time to connect.
    advance(FRESH).await;
    let (short, begun) = (PATIENCE / 2, now());
    assert_eq!(resolver.of_within("a", short, true).await, Some(vec![ip("192.0.2.2")]));
    assert_eq!((begun.elapsed(), resolver.asked()), (short / 2, 4));
}

#[tokio::test(start_paused = true)]
async fn addresses_that_no_certificate_proves_are_given_up_soon() {
    let resolver = resolver();
    let good = resolver.of("a").await;
    resolver.says(None);
    advance(KEPT_UNPROVEN.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!(resolver.of_within("a", LONG, false).await, good);
    advance(Duration::from_millis(1)).await;
    assert_eq!(resolver.of_within("a", LONG, false).await, None, "by now it may be somebody else's");
    assert_eq!(resolver.of("a").await, good, "who is proven to be there is no matter of time");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_one_lookup_takes_turns_as_well() {
    let resolver = resolver();
    let both = ["192.0.2.1", "192.0.2.2"].map(ip);
    *resolver.says.lock().unwrap() = Some(both.to_vec());
    for nth in 0..2 {
        let firsts: Vec<_> = futures_of(10, || resolver.of("a")).await.into_iter().map(|found| found.unwrap()[0]).collect();
        assert_eq!(both.map(|one| firsts.iter().filter(|first| **first == one).count()), [5, 5], "{nth}");
        advance(FRESH).await;
    }
    assert_eq!(resolver.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_name_that_fails_is_true_seldom_and_holds_up_nobody() {
    let resolver = resolver();
    let log = Log { names: resolver.names.clone(), lines: Arc::default() };
    let lines = Arc::clone(&log.lines);
    let written = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
    let _guard = tracing::subscriber::set_default(written);
    let said = || std::mem::take(&mut *lines.lock().unwrap());
    resolver.of("a").await.unwrap();
    resolver.says(None);
    advance(FRESH).await;
    while resolver.asked() < 20 {
        resolver.of("a").await.unwrap();
        advance(AGAIN).await;
    }
    let first = said();
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(
        first[0].starts_with("true") && first[0].contains("age_s=5") && first[0].contains("600 s old, over plain http 30 s"),
        "{first:?}"
    );
    advance(SAID_EVERY).await;
    resolver.of("a").await.unwrap();
    assert_eq!(said().len(), 1, "it lasts");
    advance(KEPT).await;
    for _ in 0..3 {
        assert_eq!(resolver.of("a").await, None);
        advance(SAID_EVERY).await;
    }
    assert_eq!(said(), [""; 0], "no address from before is used any more");
}

/// Takes what is logged, and sees that the lock is free meanwhile.
#[derive(Clone)]
struct Log {
    names: Names,
    lines: Arc<Mutex<Vec<String>>>,
}

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let free = self.names.0.known.try_lock().is_ok();
        self.lines.lock().unwrap().push(format!("{free} {}", String::from_utf8_lossy(line)));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_no_address_is_said_to_have_none() {
    let resolver = resolver();
    resolver.says(None);
    assert!(futures_of(20, || resolver.of("a")).await.iter().all(Option::is_none));
    assert_eq!(resolver.asked(), 1, "one failure is told to all who wait for it");
    *resolver.says.lock().unwrap() = Some(Vec::new());
    let error = resolver.names.addresses(&Arc::from("a"), LONG, true).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_bounded() {
    let resolver = resolver();
    for nth in 0..3 * MOST_NAMES {
        resolver.of(&format!("name-{nth}")).await.unwrap();
        advance(FRESH / 100).await;
    }
    assert!(resolver.names.lock().len() <= MOST_NAMES);
}

#[test]
fn addresses_of_one_kind_take_turns() {
    let all = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3"].map(ip);
    let turned = |turn| in_turn(&all, turn);
    assert_eq!((turned(0), turned(2)), (all.to_vec(), all.to_vec()));
    assert_eq!(turned(1), [all[1], all[0], all[2], all[3]]);
    assert_eq!((in_turn(&[], 1), in_turn(&all[2..], usize::MAX)), (vec![], all[2..].to_vec()));
}

/// So many at once.
async fn futures_of<T: Future>(count: usize, of: impl Fn() -> T) -> Vec<T::Output> {
    let mut all: Vec<Pin<Box<T>>> = (0..count).map(|_| Box::pin(of())).collect();
    let mut done: Vec<Option<T::Output>> = (0..count).map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        for (future, done) in all.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(cx) {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            return std::task::Poll::Ready(done.iter_mut().filter_map(Option::take).collect());
        }
        std::task::Poll::Pending
    })
    .await
}
