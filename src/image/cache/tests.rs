use std::sync::Barrier;

use super::*;

impl Failure for () {
    fn is_of_the_value(&self) -> bool {
        true
    }
}

impl Failure for String {
    fn is_of_the_value(&self) -> bool {
        self != "late"
    }
}

#[test]
fn who_had_no_time_fails_alone() {
    let cache: Cache<u32, u32, String> = Cache::new(1 << 20);
    let Asked::Mine(claim) = cache.ask(1) else { panic!("nobody has it") };
    let Asked::Loading(flight) = cache.ask(1) else { panic!("it is loading") };
    assert_eq!(*claim.land(Err("late".into())).unwrap_err(), "late");
    assert_eq!(cache.wait(&flight, None), Waited::GivenUp);
    assert_eq!(cache.get_or_load(1, None, || Ok((7, 1))), Ok(7));
}

#[test]
fn bounded_in_bytes_and_least_recently_used_goes_first() {
    let cache: Cache<u32, u32, ()> = Cache::new(3 * (1000 + ENTRY_OVERHEAD));
    let get = |key| cache.get_or_load(key, None, || Ok((key, 1000))).unwrap();
    (0..3).for_each(|key| assert_eq!(get(key), key));
    get(0);
    get(3);
    assert_eq!(cache.bytes(), 3 * (1000 + ENTRY_OVERHEAD));
    get(0);
    assert_eq!(cache.counts().loads, 4);
    get(1);
    assert_eq!(cache.counts().loads, 5);
    cache.get_or_load(9, None, || Ok((9, 1 << 20))).unwrap();
    assert!(cache.bytes() <= 3 * (1000 + ENTRY_OVERHEAD));
}

/// As large as chunks are.
const LEN: usize = 64 << 10;
const COST: usize = LEN + ENTRY_OVERHEAD;

fn load(cache: &Cache<u32, u32, ()>, key: u32) {
    assert_eq!(cache.get_or_load(key, None, || Ok((key, LEN))), Ok(key));
}

#[test]
fn a_scan_does_not_flush_what_was_asked_for_again() {
    let cache: Cache<u32, u32, ()> = Cache::new(100 * COST);
    let scan = |from: u32| (from..from + 150).for_each(|key| load(&cache, key));
    let hot = || (0..20).for_each(|key| load(&cache, key));
    hot();
    scan(1000);
    let before = cache.counts().loads;
    hot();
    assert_eq!(cache.counts().loads - before, 20, "the first scan has displaced them");
    (2..9).for_each(|round| scan(1000 * round));
    let before = cache.counts();
    hot();
    assert_eq!(cache.counts(), CacheCounts { hits: before.hits + 20, ..before });
    assert!(cache.bytes() <= 100 * COST);
}

#[test]
fn what_is_asked_for_all_the_time_outlasts_scans_of_any_length() {
    let cache: Cache<u32, u32, ()> = Cache::new(1000 * COST);
    let hot = || (0..20).for_each(|key| load(&cache, key));
    // A filesystem reads these now and then, long before they would have to leave.
    hot();
    (1000..1300).for_each(|key| load(&cache, key));
    hot();
    assert_eq!(cache.counts().loads, 320);
    // More than is remembered of what has left.
    (10_000..30_000).for_each(|key| load(&cache, key));
    assert!(cache.state.lock().left.len() < 15_000);
    let before = cache.counts();
    hot();
    assert_eq!(cache.counts(), CacheCounts { hits: before.hits + 20, ..before });
}

#[test]
fn who_reads_a_chunk_in_small_steps_does_not_ask_for_it_again() {
    let cache: Cache<u32, u32, ()> = Cache::new(1000 * COST);
    let steps = |key: u32| (0..16).for_each(|_| load(&cache, key));
    (0..1500).for_each(steps);
    assert_eq!(cache.state.lock().kept.bytes, 0);
    // Nor who comes to what was loaded ahead for it, however late.
    for claim in cache.claim_ahead([5000].into_iter()).into_iter().flatten() {
        claim.land(Ok((5000, LEN))).unwrap();
    }
    cache.state.lock().give_up_ahead(Instant::now());
    (2000..2400).for_each(steps);
    steps(5000);
    assert_eq!(cache.state.lock().kept.bytes, 0);
}

#[test]
fn what_is_kept_leaves_when_other_things_are_asked_for_again() {
    let cache: Cache<u32, u32, ()> = Cache::new(100 * COST);
    let set = |first: u32| first..first + 120;
    for first in [0, 1000, 2000] {
        (0..3).for_each(|_| set(first).for_each(|key| load(&cache, key)));
        assert!(cache.bytes() <= 100 * COST);
    }
    let before = cache.counts().loads;
    set(0).for_each(|key| load(&cache, key));
    assert_eq!(cache.counts().loads - before, 120);
}

#[test]
fn what_is_loaded_ahead_is_used_or_wasted() {
    let cache: Cache<u32, u32, ()> = Cache::new(4 * COST);
    let ahead = |keys: &[u32]| -> Vec<u32> {
        let claims = cache.claim_ahead(keys.iter().copied());
        claims.into_iter().flatten().map(|claim| claim.key()).collect()
    };
    load(&cache, 1);
    assert_eq!(ahead(&[1, 2, 3, 2]), [2, 3], "what is there, and what is loading, is not loaded again");
    assert_eq!(ahead(&[2]), [2], "claims that were given up are free");
    for claim in cache.claim_ahead([2, 3].into_iter()).into_iter().flatten() {
        let key = claim.key();
        claim.land(Ok((key, LEN))).unwrap();
    }
    assert_eq!(cache.ahead_bytes(), 2 * COST);
    load(&cache, 2);
    load(&cache, 2);
    let mut claims = cache.claim_ahead([4].into_iter());
    assert!(matches!(cache.ask(4), Asked::Loading(_)), "a reader waits for what is loaded ahead");
    claims.pop().flatten().unwrap().land(Ok((4, LEN))).unwrap();
    assert_eq!(cache.ahead_bytes(), COST);
    (5..20).for_each(|key| load(&cache, key));
    let counts = cache.counts();
    assert_eq!((counts.ahead, counts.ahead_used, counts.ahead_wasted), (3, 2, 1));
    assert_eq!((counts.loads, cache.ahead_bytes()), (16, 0));
}

#[test]
fn what_was_loaded_ahead_for_nobody_makes_room_for_more() {
    let cache: Cache<u32, u32, ()> = Cache::new(8 * COST);
    let ahead = |key: u32| {
        let claim = cache.claim_ahead([key].into_iter()).pop().flatten().unwrap();
        claim.land(Ok((key, LEN))).unwrap();
    };
    [1, 2, 3].into_iter().for_each(ahead);
    load(&cache, 1);
    let moment = Instant::now();
    ahead(4);
    cache.state.lock().give_up_ahead(moment);
    assert_eq!(cache.ahead_bytes(), COST, "what came later counts");
    let counts = cache.counts();
    assert_eq!((counts.ahead, counts.ahead_used, counts.ahead_wasted), (4, 1, 2));
    // It is still there.
    let loads = counts.loads;
    [2, 3, 4].into_iter().for_each(|key| load(&cache, key));
    assert_eq!((cache.counts().loads, cache.counts().ahead_used, cache.ahead_bytes()), (loads, 2, 0));
    assert!(cache.state.lock().ahead.len() <= 1);
}

#[test]
fn a_load_ahead_that_is_given_up_leaves_the_reader_to_load() {
    let cache: Cache<u32, u32, ()> = Cache::new(1 << 20);
    let claims = cache.claim_ahead([1].into_iter());
    let Asked::Loading(flight) = cache.ask(1) else { panic!("it is loading") };
    drop(claims);
    assert_eq!(cache.wait(&flight, None), Waited::GivenUp);
    load(&cache, 1);
}

#[test]
fn a_key_that_is_asked_for_twice_at_once_is_loaded_once() {
    let cache: Cache<u32, u32, ()> = Cache::new(1 << 20);
    let mut asked = cache.ask_all([1, 1].into_iter());
    let (second, first) = (asked.pop().unwrap(), asked.pop().unwrap());
    let Asked::Mine(claim) = first else { panic!("nobody has it") };
    claim.land(Ok((7, 1))).unwrap();
    let Asked::Loading(flight) = second else { panic!("it was loading") };
    assert_eq!(cache.wait(&flight, None), Waited::Landed(Ok(7)));
}

#[test]
fn who_has_no_more_time_does_not_wait_for_another() {
    let cache: Cache<u32, u32, ()> = Cache::new(1 << 20);
    let claims = cache.claim_ahead([1].into_iter());
    let ends = Instant::now() + Duration::from_millis(20);
    assert_eq!(cache.get_or_load(1, Some(ends), || Ok((7, 1))), Ok(7));
    assert!(Instant::now() >= ends);
    assert_eq!(cache.get_or_load(1, Some(ends), || Err(())), Err(Arc::new(())), "nobody kept it");
    for claim in claims.into_iter().flatten() {
        claim.land(Ok((5, 1))).unwrap();
    }
    assert_eq!(cache.get_or_load(1, Some(ends), || Err(())), Ok(5));
}

#[test]
fn many_readers_one_load_and_one_failure() {
    let cache: Cache<u32, u32, String> = Cache::new(1 << 20);
    let together = Barrier::new(8);
    let load = || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        Err("broken".to_owned())
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                together.wait();
                assert_eq!(*cache.get_or_load(1, None, load).unwrap_err(), "broken");
            });
        }
    });
    let counts = cache.counts();
    assert_eq!(counts.loads, counts.failures);
    assert_eq!(counts.loads + counts.shared, 8);
    assert_eq!(cache.get_or_load(1, None, || Ok((5, 1))).unwrap(), 5);
}

#[test]
fn a_panicking_load_leaves_no_waiter_behind() {
    let cache: Cache<u32, u32, ()> = Cache::new(1 << 20);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = cache.get_or_load(1, None, || panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    assert_eq!(cache.get_or_load(1, None, || Ok((5, 1))).unwrap(), 5);
}
