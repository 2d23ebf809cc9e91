//! Undeleting: whatever comes between, what is reported as restored is whole, and nobody's word but its own is taken back.

use super::*;

#[test]
fn a_crash_while_undeleting_harms_nothing() {
    let scene = Scene::new();
    let before = scene.with_deleted().snapshot();
    let mut unconfirmed = 0;
    for n in 0..=MANY {
        assert!(n < MANY, "an undelete never ends");
        let faults = Arc::new(Faults::new(MemoryStorage::from_snapshot(before.clone())));
        let repository = open(faults.clone());
        faults.crash_after_puts(n);
        let restored = undelete(&repository, scene.ids[1], &Stop::default());
        let (crashed, storage) = (faults.crashed(), faults.inner());
        let at = format!("crash after {n}");
        scene.check_first(storage, &at);
        let archives = listing(storage.clone()).archives;
        let shown = find(&archives, scene.ids[1]);
        unconfirmed += usize::from(shown.is_some_and(|archive| archive.unconfirmed));
        if restored.is_ok() {
            assert!(shown.is_some(), "{at}: returned, so it is there");
        }
        match restore(storage.clone(), scene.ids[1]) {
            Ok(()) => {}
            Err(Error::NotDeleted { .. }) => assert!(shown.is_some_and(|archive| !archive.unconfirmed)),
            Err(error) => panic!("{at}, once more: {error}"),
        }
        let archives = listing(storage.clone()).archives;
        assert!(find(&archives, scene.ids[1]).is_some_and(|archive| !archive.unconfirmed), "{at}");
        assert_whole(storage.clone(), scene.ids[1], &scene.bytes[1]);
        if !crashed {
            restored.expect("nothing stopped it");
            assert!(unconfirmed > 0, "no crash fell between state and confirmation");
            return;
        }
    }
}

/// Where a compaction may fall in an undelete: before each of its calls of the storage.
fn at_every_call_of_undelete(act: impl Fn(&Scene, &Compactor) + Clone + Send + Sync + 'static) -> [usize; 2] {
    let scene = Arc::new(Scene::new());
    let before = scene.with_deleted().snapshot();
    let mut outcomes = [0, 0];
    for call in 0.. {
        let storage = MemoryStorage::from_snapshot(before.clone());
        let watched = Watched::new(storage.clone());
        let repository = open(watched.clone());
        let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (counted, act, actor, place) = (calls.clone(), act.clone(), scene.clone(), storage.clone());
        watched.watch(move |_, _| {
            if counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == call {
                act(&actor, &Compactor::new(place.clone()));
            }
            Ok(())
        });
        let restored = undelete(&repository, scene.ids[1], &Stop::default());
        let at = format!("before call {call}");
        scene.check_first(&storage, &at);
        assert_eq!(sessions(&storage), 0, "{at}");
        let Listing { archives, deleted, .. } = listing(storage.clone());
        match restored {
            Ok(()) => {
                outcomes[0] += 1;
                assert!(find(&archives, scene.ids[1]).is_some_and(|a| !a.unconfirmed), "{at}");
                assert_whole(storage.clone(), scene.ids[1], &scene.bytes[1]);
            }
            Err(Error::Reclaimed { .. }) => {
                outcomes[1] += 1;
                assert!(find(&archives, scene.ids[1]).is_none(), "{at}");
                assert!(
                    find(&deleted, scene.ids[1]).is_some() || !storage_has_record(&storage, &scene),
                    "{at}"
                );
            }
            Err(error) => panic!("{at}: {error}"),
        }
        if calls.load(std::sync::atomic::Ordering::SeqCst) <= call {
            return outcomes;
        }
    }
    unreachable!("an undelete ends")
}

fn storage_has_record(storage: &MemoryStorage, scene: &Scene) -> bool {
    let record = Name::new(&record_name(scene.ids[1])).expect("a name");
    storage.len(&record).is_ok()
}

/// What only the second archive needs.
fn own_packs(scene: &Scene, compactor: &Compactor, kind: PackKind) -> Vec<copal::id::PackId> {
    let own = packs_of(&compactor.0, scene.ids[1], kind);
    own.difference(&packs_of(&compactor.0, scene.ids[0], kind)).copied().collect()
}

/// A sweep as the protocol has it: an intent, then a look at states, and nothing that a live archive needs is deleted.
#[test]
fn an_undelete_that_reports_success_has_its_archive_whole_whatever_a_sweep_does() {
    for kind in [PackKind::Data, PackKind::Maps] {
        let outcomes = at_every_call_of_undelete(move |scene, compactor| {
            let victims = own_packs(scene, compactor, kind);
            let intent = compactor.intend(&victims, &[]);
            if listing_of(compactor).archives.iter().all(|archive| archive.id() != scene.ids[1]) {
                victims.iter().for_each(|victim| compactor.delete_pack(kind, *victim));
            }
            compactor.delete(&intent);
        });
        assert!(outcomes[0] > 0 && outcomes[1] > 0, "{kind:?} {outcomes:?}");
    }
}

fn listing_of(compactor: &Compactor) -> Listing {
    list_all(compactor.0.objects()).expect("list")
}

/// The same in two parts: the intent at one call, the look and the deletions at a later one.
#[test]
fn a_sweep_that_is_slow_between_intent_and_look_loses_nothing() {
    let scene = Arc::new(Scene::new());
    let before = scene.with_deleted().snapshot();
    let (mut done, mut refused) = (0, 0);
    let total = {
        let counter = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let watched = Watched::new(MemoryStorage::from_snapshot(before.clone()));
        let counted = counter.clone();
        let repository = open(watched.clone());
        watched.watch(move |_, _| {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        });
        undelete(&repository, scene.ids[1], &Stop::default()).expect("undisturbed");
        counter.load(std::sync::atomic::Ordering::SeqCst)
    };
    // Every third call as the first point and as the second: all pairs would take long and show no more.
    for first in (0..total).step_by(3) {
        for second in (first + 1..total + 3).step_by(3) {
            let storage = MemoryStorage::from_snapshot(before.clone());
            let watched = Watched::new(storage.clone());
            let repository = open(watched.clone());
            let calls = std::sync::atomic::AtomicU64::new(0);
            let (actor, compactor) = (scene.clone(), Compactor::new(storage.clone()));
            let victims = own_packs(&actor, &compactor, PackKind::Data);
            let look = {
                let (compactor, victims, id) = (compactor.clone(), victims.clone(), scene.ids[1]);
                move || {
                    if listing_of(&compactor).archives.iter().all(|archive| archive.id() != id) {
                        victims.iter().for_each(|victim| compactor.delete_pack(PackKind::Data, *victim));
                    }
                }
            };
            let late = look.clone();
            watched.watch(move |_, _| {
                let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                if call == first {
                    compactor.intend(&victims, &[]);
                } else if call == second {
                    look();
                }
                Ok(())
            });
            let restored = undelete(&repository, scene.ids[1], &Stop::default());
            // Where the second point was never reached.
            late();
            let at = format!("intent before call {first}, look before {second}");
            let shown = listing(storage.clone()).archives.iter().any(|archive| archive.id() == scene.ids[1]);
            assert_eq!(restored.is_ok(), shown, "{at}: {restored:?}");
            if restored.is_ok() {
                done += 1;
                assert_whole(storage.clone(), scene.ids[1], &scene.bytes[1]);
            } else {
                refused += 1;
            }
            scene.check_first(&storage, &at);
        }
    }
    assert!(done > 0 && refused > 0, "{done} {refused}");
}

#[test]
fn forwarded_packs_are_no_loss() {
    for kind in [PackKind::Data, PackKind::Maps] {
        let outcomes = at_every_call_of_undelete(move |scene, compactor| {
            // Twice, as two compactions would.
            for victim in own_packs(scene, compactor, kind) {
                let first = compactor.copy(kind, victim, |_| true);
                compactor.forward(&first);
                compactor.intend(&[victim], &[]);
                compactor.delete_pack(kind, victim);
                let second = compactor.copy(kind, first.pack.id, |_| true);
                compactor.forward(&second);
                compactor.delete_pack(kind, first.pack.id);
            }
        });
        assert!(outcomes[0] > 0 && outcomes[1] == 0, "{kind:?} {outcomes:?}");
    }
}

#[test]
fn condemned_packs_are_no_obstacle() {
    let outcomes = at_every_call_of_undelete(|scene, compactor| {
        let packs = [PackKind::Data, PackKind::Maps].map(|kind| own_packs(scene, compactor, kind)).concat();
        compactor.condemn(&packs);
    });
    assert_eq!(outcomes[1], 0);
}

#[test]
fn a_record_that_goes_is_gone() {
    for finished in [false, true] {
        let outcomes = at_every_call_of_undelete(move |scene, compactor| {
            let intent = compactor.intend_archive(scene.ids[1]);
            if finished && listing_of(compactor).archives.iter().all(|archive| archive.id() != scene.ids[1]) {
                compactor.delete(&record_name(scene.ids[1]));
                compactor.delete(&intent);
            }
        });
        assert!(outcomes[0] > 0 && outcomes[1] > 0, "{finished} {outcomes:?}");
    }
}

#[test]
fn a_deletion_at_the_same_time_is_never_hidden() {
    let scene = Scene::new();
    for prefix in ["states/", "mirror/states/", "sessions/"] {
        let storage = scene.with_deleted();
        let watched = Watched::new(storage.clone());
        let (other, id) = (storage.clone(), scene.ids[1]);
        let op = if prefix == "sessions/" { Op::Delete } else { Op::Put };
        watched.once(op, prefix, move || change(other, id, Change::Delete).expect("delete"));
        let restored = restore(watched, id);
        let shown = find(&listing(storage.clone()).archives, id).is_some();
        match restored {
            // Deleted after it was back; or before, and outdone.
            Ok(()) => assert!(shown || prefix == "sessions/", "{prefix}"),
            Err(error) => assert!(matches!(error, Error::DeletedAgain { .. }) && !shown, "{prefix}: {error}"),
        }
        assert_eq!(sessions(&storage), 0);
    }
}

/// A second undelete fails because of an intent that the first one did not have to see: it must not take the first one's word back.
#[test]
fn an_undelete_that_fails_takes_back_only_what_it_said_itself() {
    let points = [(Op::Put, "states/"), (Op::Put, "mirror/states/"), (Op::List, "mirror/intents")];
    for (op, prefix) in points {
        for _ in 0..8 {
            let scene = Scene::new();
            let storage = scene.with_deleted();
            let watched = Watched::new(storage.clone());
            let (other, id) = (storage.clone(), scene.ids[1]);
            let victims = own_packs(&scene, &Compactor::new(storage.clone()), PackKind::Data);
            watched.once(op, prefix, move || {
                restore(other.clone(), id).expect("undisturbed");
                // The compactor looks after its intent, sees the archive, and spares it.
                Compactor::new(other).intend(&victims, &[]);
            });
            let second = restore(watched, id);
            assert!(matches!(second, Err(Error::Reclaimed { .. })), "{second:?}");
            let archives = listing(storage.clone()).archives;
            assert!(find(&archives, id).is_some_and(|a| !a.unconfirmed), "{prefix}: it was reported as back");
            assert_whole(storage, id, &scene.bytes[1]);
        }
    }
}

/// A deletion that takes back what was never there could undo what another client has reported as done meanwhile.
#[test]
fn a_restoration_that_was_never_published_is_not_retracted() {
    let scene = Scene::new();
    let storage = scene.with_deleted();
    let before = states(&storage, scene.ids[1]);
    let faults = Faults::new(storage.clone());
    faults.fail_nth(Op::Put, "states/", 1, std::io::ErrorKind::TimedOut);
    restore(faults, scene.ids[1]).expect_err("its put fails");
    assert_eq!(states(&storage, scene.ids[1]), before);
}

#[test]
fn two_undeletes_at_once_both_succeed() {
    let scene = Scene::new();
    for _ in 0..8 {
        let storage = scene.with_deleted();
        let watched = Watched::new(storage.clone());
        let (other, id) = (storage.clone(), scene.ids[1]);
        watched.once(Op::Put, "states/", move || restore(other, id).expect("the one between"));
        restore(watched, id).expect("the one around it");
        assert!(find(&listing(storage.clone()).archives, id).is_some_and(|archive| !archive.unconfirmed));
        assert_eq!(sessions(&storage), 0);
    }
}

#[test]
fn an_undelete_that_cannot_be_retracted_stays_unconfirmed() {
    let scene = Scene::new();
    let storage = scene.with_deleted();
    let watched = Watched::new(storage.clone());
    let compactor = Compactor::new(storage.clone());
    let victims = own_packs(&scene, &compactor, PackKind::Data);
    watched.once(Op::Put, "mirror/states/", move || drop(compactor.intend(&victims, &[])));
    let puts = std::sync::atomic::AtomicU64::new(0);
    watched.watch(move |op, object| {
        let state = op == Op::Put && object.starts_with("states/");
        let later = state && puts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0;
        if later { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    restore(watched, scene.ids[1]).expect_err("an intent names its packs");
    let archives = listing(storage.clone()).archives;
    assert!(find(&archives, scene.ids[1]).is_some_and(|archive| archive.unconfirmed));
    // Deleting it settles the matter.
    change(storage.clone(), scene.ids[1], Change::Delete).expect("delete");
    assert!(find(&listing(storage).deleted, scene.ids[1]).is_some());
}
