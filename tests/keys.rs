//! Key slots: what opens a repository, through crashes and through several who change it at once. There is always a secret that opens it.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use common::small_options;
use common::turns::{Act, Random, Step, Turn, every_schedule, run};
use copal::codec::keys::KeySet;
use copal::codec::slot_key::{Derivation, Secret};
use copal::format::envelope::ObjectKind;
use copal::format::limits::MAX_SLOTS;
use copal::format::recovery::RecoveryForm;
use copal::format::{msgpack, protocol::RemovalMarker};
use copal::id::{Nonce16, SlotId};
use copal::repository::objects::name;
use copal::repository::slots::{self, ListedSlot, NewSlot, OpenedSlot, Removed, SlotError};
use copal::repository::unlock::{InitOptions, Locked, init};
use copal::repository::{Error, Repository};
use copal::storage::faults::{Fault, Faults};
use copal::storage::lagging::Lagging;
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;
use copal::storage::{Listed, Name, Settle, Storage};

const FAST: Derivation = Derivation::Argon2id { memory_kib: 8, iterations: 1, lanes: 1 };
/// More puts and deletes than any change of slots takes.
const MANY: u64 = 40;

fn secret(text: &str) -> Secret {
    Secret::Passphrase(text.to_owned().into())
}

fn make(mirror: bool) -> MemoryStorage {
    let storage = MemoryStorage::new();
    let options = InitOptions { secret: Some(secret("first")), derivation: FAST, mirror, ..small_options() };
    init(Arc::new(storage.clone()), &options).expect("init");
    storage
}

fn unlock(storage: impl Storage + 'static, text: &str) -> Result<(Repository, OpenedSlot), Error> {
    Locked::read(Arc::new(storage))?.unlock_slot(&secret(text))
}

/// What a command does: opens, and knows all slots that its secret opens.
fn open(storage: impl Storage + 'static, text: &str) -> Result<(Repository, Vec<OpenedSlot>), Error> {
    let (repository, _) = unlock(storage, text)?;
    let opened = slots::open_all(&repository, &secret(text))?;
    Ok((repository, opened))
}

fn add(storage: impl Storage + 'static, text: &str, new: &str) -> Result<SlotId, Error> {
    let (repository, opened) = open(storage, text)?;
    let new = NewSlot { secret: &secret(new), derivation: FAST, label: new };
    Ok(slots::add(&repository, opened[0].keys(), &opened, &new)?.id)
}

fn remove(storage: impl Storage + 'static, text: &str, target: SlotId) -> Result<Removed, Error> {
    let (repository, opened) = open(storage, text)?;
    slots::remove(&repository, &opened, target)
}

fn change(storage: impl Storage + 'static, text: &str, new: &str) -> Result<slots::Changed, Error> {
    let (repository, opened) = open(storage, text)?;
    slots::change(&repository, &opened, &secret(new), FAST)
}

fn slot_of(storage: &MemoryStorage, text: &str) -> SlotId {
    unlock(storage.clone(), text).expect("it opens").1.id
}

fn opens(storage: &MemoryStorage, text: &str) -> bool {
    unlock(storage.clone(), text).is_ok()
}

fn list(storage: &MemoryStorage, text: &str) -> Vec<ListedSlot> {
    let (repository, opened) = open(storage.clone(), text).expect("it opens");
    slots::list(&repository, &opened).expect("list")
}

fn names(storage: &MemoryStorage, prefix: &str) -> Vec<Name> {
    storage.list(prefix).expect("list").into_iter().map(|listed| listed.name).collect()
}

fn markers(storage: &MemoryStorage) -> usize {
    names(storage, "key-removals").len() + names(storage, "mirror/key-removals").len()
}

/// A marker as a remover leaves it that died.
fn leave_marker(storage: &MemoryStorage, slot: SlotId) {
    let (repository, _) = unlock(storage.clone(), "first").expect("it opens");
    let marker = RemovalMarker { slot, time: 5, host: "elsewhere".into() };
    let object = format!("key-removals/{slot}-{}", Nonce16::random());
    repository.objects().put(ObjectKind::RemovalMarker, &object, &msgpack::to_bytes(&marker)).expect("put");
}

fn slot_error(result: Result<impl std::fmt::Debug, Error>) -> SlotError {
    match result {
        Err(Error::Slot(error)) => error,
        other => panic!("a slot's error is expected: {other:?}"),
    }
}

#[test]
fn slots_come_and_go() {
    for mirror in [false, true] {
        let storage = make(mirror);
        let first = slot_of(&storage, "first");
        let second = add(storage.clone(), "first", "second").expect("add");
        assert!(opens(&storage, "first") && opens(&storage, "second") && !opens(&storage, "third"));
        assert_eq!(names(&storage, "mirror/keys").len(), if mirror { 2 } else { 0 });

        let known = list(&storage, "second");
        let [seen, other] =
            [second, first].map(|id| known.iter().find(|slot| slot.id == id).expect("listed"));
        assert_eq!(seen.opened.as_ref().map(|(label, _)| label.as_str()), Some("second"));
        assert_eq!((&other.opened, &other.derivation), (&None, &Ok(FAST)));
        assert_eq!(seen.copies, [true, mirror]);

        assert_eq!(remove(storage.clone(), "second", first).expect("remove"), Removed::Now);
        assert!(opens(&storage, "second") && !opens(&storage, "first"));
        assert_eq!((list(&storage, "second").len(), markers(&storage)), (1, 0));
        assert_eq!(slot_error(remove(storage.clone(), "second", first)), SlotError::Unknown { slot: first });
    }
}

#[test]
fn a_new_slot_holds_every_key_and_opens_with_a_key_file_too() {
    let storage = make(true);
    let (repository, opened) = open(storage.clone(), "first").expect("open");
    let file = Secret::KeyFile(vec![7; 40].into());
    let new = NewSlot { secret: &file, derivation: FAST, label: "" };
    let made = slots::add(&repository, opened[0].keys(), &opened, &new).expect("add");
    let (_, found) =
        Locked::read(Arc::new(storage.clone())).expect("config").unlock_slot(&file).expect("unlock");
    assert_eq!(found.id, made.id);
    assert!(found.keys().iter().eq(opened[0].keys().iter()));
    let derivations: Vec<_> = list(&storage, "first").into_iter().map(|slot| slot.derivation).collect();
    assert!(derivations.contains(&Ok(Derivation::KeyFile)), "{derivations:?}");
}

#[test]
fn the_slot_that_opened_stays_unless_another_opened_too() {
    let storage = make(true);
    let first = slot_of(&storage, "first");
    add(storage.clone(), "first", "second").expect("add");
    let refused = slot_error(remove(storage.clone(), "first", first));
    assert_eq!(refused, SlotError::OpenedByThis { slot: first });
    assert_eq!(markers(&storage), 0);
    let twin = add(storage.clone(), "first", "first").expect("add");
    remove(storage.clone(), "first", first).expect("the twin stays");
    assert_eq!(slot_of(&storage, "first"), twin);
}

#[test]
fn a_slot_is_named_by_its_id_or_its_known_label() {
    let storage = make(true);
    let second = add(storage.clone(), "first", "second").expect("add");
    let slots = list(&storage, "second");
    let id = second.to_string();
    for selector in [&id, &id[..6], &format!("#{}", &id[..8]), &id[..8].to_uppercase(), "second"] {
        assert_eq!(slots::find(&slots, selector).expect(selector).id, second);
    }
    for nothing in ["", "#", "first", "xyz"] {
        assert!(matches!(slots::find(&slots, nothing), Err(SlotError::NoMatch { .. })), "{nothing:?}");
    }
    add(storage.clone(), "second", "second").expect("add");
    let found = slots::find(&list(&storage, "second"), "second").map(|slot| slot.id);
    assert!(matches!(found, Err(SlotError::Ambiguous { ref slots, .. }) if slots.len() == 2), "{found:?}");
}

#[test]
fn there_is_no_sixty_fifth_slot() {
    let storage = make(false);
    for at in 1..MAX_SLOTS {
        add(storage.clone(), "first", &format!("s{at}")).expect("add");
    }
    let before = storage.snapshot();
    let error = slot_error(add(storage.clone(), "first", "one more"));
    assert_eq!(error, SlotError::Full { slots: MAX_SLOTS + 1 });
    assert_eq!(storage.snapshot(), before);
}

#[test]
fn names_that_are_no_slots_do_not_crowd_slots_out() {
    let storage = make(true);
    for at in 0..2 * MAX_SLOTS {
        storage.put(&name(&format!("keys/.{at}").replace('.', "0-")), &[b"x"]).expect("put");
    }
    assert!(opens(&storage, "first"));
}

#[test]
fn labels_are_bounded() {
    let storage = make(true);
    for bad in ["a\nb", &"x".repeat(201)] {
        assert!(matches!(add(storage.clone(), "first", bad), Err(Error::Format(_))), "{bad:?}");
    }
    assert_eq!(names(&storage, "keys").len(), 1);
}

#[test]
fn a_passphrase_changes() {
    let storage = make(true);
    let first = slot_of(&storage, "first");
    let other = add(storage.clone(), "first", "other").expect("add");
    let twin = add(storage.clone(), "first", "first").expect("add");
    assert_eq!(slot_error(change(storage.clone(), "first", "first")), SlotError::SameSecret);
    let changed = change(storage.clone(), "first", "new").expect("change");
    let mut removed = changed.removed.clone();
    removed.sort_unstable();
    let mut both = vec![first, twin];
    both.sort_unstable();
    assert_eq!(removed, both, "everything that the old secret opened");
    assert!(opens(&storage, "new") && opens(&storage, "other") && !opens(&storage, "first"));
    assert_eq!((slot_of(&storage, "other"), markers(&storage)), (other, 0));
}

#[test]
fn a_slot_that_is_stored_wrongly_does_not_count() {
    for (prefix, copies) in [("keys/", 1), ("mirror/keys/", 1)] {
        let storage = make(true);
        let before = storage.snapshot();
        let (repository, opened) = open(storage.clone(), "first").expect("open");
        drop(repository);
        let faults = Arc::new(Faults::new(storage.clone()));
        let (repository, _) = unlock(faults.clone(), "first").expect("open");
        // The first read of that place by a change is that of the new slot.
        faults.inject(Op::Read, prefix, copies, Fault::FlipBit(1000));
        let new = NewSlot { secret: &secret("new"), derivation: FAST, label: "" };
        let result = slots::add(&repository, opened[0].keys(), &opened, &new);
        assert!(matches!(slot_error(result), SlotError::NotReadBack { .. }));
        assert_eq!(storage.snapshot(), before, "it was taken back");
    }
}

#[test]
fn nothing_is_removed_where_lists_lag_unknown() {
    #[derive(Debug)]
    struct Unsettled(MemoryStorage);
    impl Storage for Unsettled {
        fn read(&self, name: &Name, limit: u64) -> std::io::Result<Vec<u8>> {
            self.0.read(name, limit)
        }
        fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            self.0.read_range(name, offset, buf)
        }
        fn len(&self, name: &Name) -> std::io::Result<u64> {
            self.0.len(name)
        }
        fn put(&self, name: &Name, parts: &[&[u8]]) -> std::io::Result<()> {
            self.0.put(name, parts)
        }
        fn list(&self, prefix: &str) -> std::io::Result<Vec<Listed>> {
            self.0.list(prefix)
        }
        fn delete(&self, name: &Name) -> std::io::Result<()> {
            self.0.delete(name)
        }
        fn settle(&self) -> Settle {
            Settle::Unknown
        }
        fn describe(&self) -> String {
            "the test".into()
        }
    }
    let storage = make(true);
    let second = add(Unsettled(storage.clone()), "first", "second").expect("adding is safe");
    let before = storage.snapshot();
    let removed = slot_error(remove(Unsettled(storage.clone()), "first", second));
    assert!(matches!(removed, SlotError::Unsettled { .. }));
    let changed = slot_error(change(Unsettled(storage.clone()), "first", "new"));
    assert!(matches!(changed, SlotError::Unsettled { .. }));
    assert_eq!(storage.snapshot(), before);
}

#[test]
fn a_repository_that_is_not_encrypted_has_no_slots() {
    let storage = MemoryStorage::new();
    common::make(storage.clone());
    let locked = Locked::read(Arc::new(storage.clone())).expect("config");
    assert_eq!(slot_error(locked.unlock_slot(&secret("x")).map(|_| ())), SlotError::NotEncrypted);
    let repository = common::open(storage);
    assert_eq!(slot_error(slots::list(&repository, &[])), SlotError::NotEncrypted);
    let new = NewSlot { secret: &secret("x"), derivation: FAST, label: "" };
    let added = slots::add(&repository, &KeySet::generate(), &[], &new);
    assert_eq!(slot_error(added), SlotError::NotEncrypted);
}

/// Slots that ask for what the machine cannot give, before or behind the one that opens.
#[test]
fn a_greedy_slot_does_not_end_the_search() {
    let storage = make(true);
    let whole = |greedy: &MemoryStorage| assert!(opens(greedy, "first") && !opens(greedy, "wrong"));
    whole(&storage);
    let bytes = storage.read(&names(&storage, "keys")[0], 1 << 20).expect("read");
    for id in [[0; 16], [0xff; 16]] {
        let mut greedy = bytes[..bytes.len() - 16].to_vec();
        greedy[12..16].copy_from_slice(&(4u32 << 20).to_le_bytes());
        let sum = copal::format::wire::checksum(&greedy);
        greedy.extend_from_slice(&sum);
        storage.put(&name(&format!("keys/{}", SlotId(id))), &[&greedy]).expect("put");
    }
    assert!(opens(&storage, "first"));
}

#[test]
fn every_slot_lost_the_exported_keys_make_a_new_one() {
    let storage = make(true);
    let (repository, opened) = unlock(storage.clone(), "first").expect("open");
    let form = RecoveryForm { repository: repository.id(), keys: opened.keys().clone() };
    for copy in names(&storage, "keys").into_iter().chain(names(&storage, "mirror/keys")) {
        storage.delete(&copy).expect("delete");
    }
    assert!(matches!(unlock(storage.clone(), "first"), Err(Error::NoKeySlot { .. })));
    for text in [form.to_text(), form.to_paper()] {
        let form = RecoveryForm::parse(&text).expect("it reads back");
        let locked = Locked::read(Arc::new(storage.clone())).expect("config");
        let repository = locked.unlock_keys(&form.keys).expect("the keys open the config");
        let new = NewSlot { secret: &secret("new"), derivation: FAST, label: "" };
        slots::add(&repository, &form.keys, &[], &new).expect("add");
        assert!(opens(&storage, "new"));
    }
    let locked = Locked::read(Arc::new(storage)).expect("config");
    assert!(matches!(locked.unlock_keys(&KeySet::generate()), Err(Error::ForeignConfig { .. })));
}

#[test]
fn a_dead_removal_is_completed_by_the_same_again() {
    let storage = make(true);
    let second = add(storage.clone(), "first", "second").expect("add");
    leave_marker(&storage, second);
    assert!(opens(&storage, "second"), "a marked slot opens");
    let listed = list(&storage, "first");
    let marked = listed.iter().find(|slot| slot.id == second).expect("listed");
    assert_eq!(marked.removals, [Some((5, "elsewhere".into()))]);
    remove(storage.clone(), "first", second).expect("remove");
    assert_eq!((markers(&storage), opens(&storage, "second")), (0, false));
}

#[test]
fn a_slot_that_somebody_removes_is_nothing_to_rely_on() {
    let storage = make(true);
    let (first, second) = (slot_of(&storage, "first"), add(storage.clone(), "first", "second").expect("add"));
    leave_marker(&storage, first);
    let before = storage.snapshot();
    let refused = slot_error(remove(storage.clone(), "first", second));
    assert!(matches!(refused, SlotError::NoneRemains { slot, .. } if slot == second), "{refused}");
    assert_eq!(storage.snapshot(), before, "its own marker is withdrawn, the other's stays");
    let third = add(storage.clone(), "first", "third").expect("adding helps");
    remove(storage.clone(), "third", second).expect("remove");
    remove(storage.clone(), "third", first).expect("completes the dead one");
    assert_eq!((slot_of(&storage, "third"), markers(&storage)), (third, 0));
}

#[test]
fn a_marker_without_its_slot_is_cleaned_by_any_removal() {
    let storage = make(true);
    let gone = SlotId::random();
    leave_marker(&storage, gone);
    assert!(list(&storage, "first").iter().any(|slot| slot.id == gone && slot.copies == [false; 2]));
    assert_eq!(remove(storage.clone(), "first", gone).expect("remove"), Removed::Before);
    assert_eq!((markers(&storage), list(&storage, "first").len()), (0, 1));
}

#[test]
fn a_lost_copy_is_stored_again_unless_the_slot_is_being_removed() {
    for lost in ["keys/", "mirror/keys/"] {
        let storage = make(true);
        let [second, third] =
            ["second", "third"].map(|text| add(storage.clone(), "first", text).expect("add"));
        for id in [second, third] {
            storage.delete(&name(&format!("{lost}{id}"))).expect("delete");
        }
        leave_marker(&storage, third);
        add(storage.clone(), "first", "fourth").expect("add");
        let copies =
            |id| list(&storage, "first").into_iter().find(|slot| slot.id == id).expect("listed").copies;
        assert_eq!(copies(second), [true; 2]);
        assert_ne!(copies(third), [true; 2]);
        remove(storage.clone(), "first", third).expect("remove");
        assert!(list(&storage, "first").iter().all(|slot| slot.copies == [true; 2]));
    }
}

/// One way to change slots; `again` is what a user does after it failed.
struct Command {
    name: &'static str,
    run: fn(&Arc<Faults<MemoryStorage>>, SlotId) -> Result<(), Error>,
    /// Whether it did what it should.
    done: fn(&MemoryStorage) -> bool,
}

const COMMANDS: [Command; 3] = [
    Command {
        name: "add",
        run: |storage, _| add(storage.clone(), "first", "new").map(drop),
        done: |storage| opens(storage, "first") && opens(storage, "second") && opens(storage, "new"),
    },
    Command {
        name: "remove",
        run: |storage, second| remove(storage.clone(), "first", second).map(drop),
        done: |storage| opens(storage, "first") && !opens(storage, "second"),
    },
    Command {
        name: "change",
        run: |storage, _| change(storage.clone(), "first", "new").map(drop),
        done: |storage| !opens(storage, "first") && opens(storage, "second") && opens(storage, "new"),
    },
];

/// Stops each command in every place, as `stop` does in the n-th, until none is `struck`; returns how many failed.
fn at_every_step(
    stop: impl Fn(&Faults<MemoryStorage>, u64),
    struck: impl Fn(&Faults<MemoryStorage>, u64) -> bool,
) -> u64 {
    let mut failures = 0;
    for command in &COMMANDS {
        let ended = (0..MANY).any(|n| {
            let at = format!("{} stopped at {n}", command.name);
            let storage = make(true);
            let second = add(storage.clone(), "first", "second").expect("add");
            let faults = Arc::new(Faults::new(storage.clone()));
            stop(&faults, n);
            let result = (command.run)(&faults, second);
            failures += u64::from(result.is_err());
            let ended = !struck(&faults, n);
            assert!(result.is_err() || (command.done)(&storage), "{at}");
            faults.heal();
            assert!(opens(&storage, "first") || opens(&storage, "new"), "{at}");
            let again = (command.run)(&faults, second);
            match again {
                Ok(()) => {}
                // It was done but for its end.
                Err(Error::Slot(SlotError::Unknown { .. }) | Error::WrongPassphrase { .. }) => {}
                Err(error) => panic!("{at}, again: {error}"),
            }
            assert!((command.done)(&storage), "{at}");
            let secret = if opens(&storage, "first") { "first" } else { "new" };
            assert!(list(&storage, secret).iter().all(|slot| slot.copies != [true, false]), "{at}");
            ended
        });
        assert!(ended, "{} never ends", command.name);
    }
    failures
}

#[test]
fn a_crash_anywhere_locks_nobody_out_and_the_same_again_succeeds() {
    let failures = at_every_step(Faults::crash_after_puts, |faults, _| faults.crashed());
    assert!(failures > 12, "{failures}");
}

#[test]
fn a_failed_put_or_delete_anywhere_locks_nobody_out() {
    for fault in [Fault::Fail(ErrorKind::StorageFull), Fault::LostReply(ErrorKind::TimedOut)] {
        for op in [Op::Put, Op::Delete] {
            // None makes more than four puts, or four deletes.
            let failures = at_every_step(|faults, n| faults.inject(op, "", n + 1, fault), |_, n| n < 5);
            let least = if op == Op::Put { 8 } else { 4 };
            assert!(failures >= least, "{fault:?} {op:?}: {failures}");
        }
    }
}

/// Removers, each of which relies on its own slot and removes the next one's.
fn removers(
    texts: &'static [&'static str],
    ids: &[SlotId],
) -> Vec<Act<'static, Arc<Lagging<MemoryStorage>>>> {
    let count = texts.len();
    (0..count)
        .map(|at| -> Act<'static, Arc<Lagging<MemoryStorage>>> {
            let target = ids[(at + 1) % count];
            Box::new(move |turn: Arc<Turn<_>>| {
                let Ok((repository, slot)) = unlock(turn.clone(), texts[at]) else { return false };
                turn.begin();
                slots::remove(&repository, &[slot], target).is_ok()
            })
        })
        .collect()
}

/// What has to hold when all removers have ended.
fn check_somebody_remains(storage: &MemoryStorage, texts: &[&str], ids: &[SlotId], done: &[bool], at: &str) {
    let count = texts.len();
    assert!(texts.iter().any(|text| opens(storage, text)), "{at}: nothing opens it any more, {done:?}");
    for (remover, done) in done.iter().enumerate() {
        let target = (remover + 1) % count;
        assert!(!*done || !opens(storage, texts[target]), "{at}: {} should be gone", ids[target]);
    }
}

fn scene(texts: &[&str], mirror: bool) -> (MemoryStorage, Vec<SlotId>) {
    let storage = make(mirror);
    for text in &texts[1..] {
        add(storage.clone(), "first", text).expect("add");
    }
    let ids = texts.iter().map(|text| slot_of(&storage, text)).collect();
    (storage, ids)
}

fn lagging(objects: &MemoryStorage, lag: u64) -> (MemoryStorage, Arc<Lagging<MemoryStorage>>) {
    let inner = MemoryStorage::from_snapshot(objects.snapshot());
    let storage = Lagging::new(inner.clone(), lag).with_settle(Duration::ZERO).on_settle(Lagging::settle_now);
    (inner, Arc::new(storage))
}

/// The steps of a removal that another removal can see, or be seen by, where nothing is stored twice: the marker, settling behind it,
/// looking for markers, reading the slot relied on, deleting slot and marker.
fn shared_steps(step: Step<'_>, before: Option<Op>) -> bool {
    match step {
        Step::Call(Op::Put | Op::Delete | Op::Read, name) => name.starts_with("key"),
        // The two lists that follow a settle; the last one only looks for what to tidy up.
        Step::Call(Op::List, prefix) => prefix == "mirror/key-removals" && before.is_none(),
        Step::Call(..) => false,
        Step::Settle => before == Some(Op::Put),
    }
}

#[test]
fn two_removals_in_every_order_leave_a_slot() {
    const TEXTS: [&str; 2] = ["first", "second"];
    let (scene, ids) = scene(&TEXTS, false);
    for lag in [0, 1000] {
        let mut outcomes = [0; 3];
        let schedules = every_schedule(|choose| {
            let (inner, storage) = lagging(&scene, lag);
            let done = run(&storage, shared_steps, removers(&TEXTS, &ids), vec![None; 2], choose);
            check_somebody_remains(&inner, &TEXTS, &ids, &done, &format!("lag {lag}"));
            assert_eq!(markers(&inner), 0);
            outcomes[done.iter().filter(|done| **done).count()] += 1;
        });
        println!("lag {lag}: {schedules} schedules, {outcomes:?} with none, one, both done");
        assert!(schedules > 400 && outcomes[0] > 0 && outcomes[1] > 0 && outcomes[2] == 0, "{outcomes:?}");
    }
}

#[test]
fn removals_in_random_orders_with_crashes_leave_a_slot() {
    const TEXTS: [&str; 3] = ["first", "second", "third"];
    let scenes = [2, 3].map(|count| (count, scene(&TEXTS[..count], true)));
    for seed in 0..600 {
        for (count, (scene, ids)) in &scenes {
            let texts = &TEXTS[..*count];
            let mut random = Random(seed);
            let lives = texts.iter().map(|_| (random.below(4) == 0).then(|| 1 + random.below(60))).collect();
            let (inner, storage) = lagging(scene, if random.below(2) == 0 { 0 } else { 1000 });
            let mut run_length = 0;
            let mut current = 0;
            let done = run(
                &storage,
                |_, _| true,
                removers(&TEXTS[..*count], ids),
                lives,
                move |ready| {
                    // Runs of steps of one actor, so that one may pause while another gets far.
                    if run_length == 0 || current >= ready.len() {
                        (run_length, current) = (random.below(20), random.below(ready.len() as u64) as usize);
                    }
                    run_length = run_length.saturating_sub(1);
                    current
                },
            );
            check_somebody_remains(&inner, texts, ids, &done, &format!("seed {seed}, {count} removers"));
        }
    }
}
