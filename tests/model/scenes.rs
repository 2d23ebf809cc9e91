//! The small worlds that are explored in full.

use super::compact::{Choice, Compact};
use super::create::Create;
use super::explore::SplitMix;
use super::keys::KeyRemove;
use super::readers::{Lister, Reader, Reindex, Way};
use super::rules::Rules;
use super::system::{Actor, Repository};
use super::undelete::{Confirm, Delete, Undelete};
use super::world::{CHUNKS, Moved, NONE, World, members};

/// An actor's number is its place in the list of actors.
fn create(me: u8, wants: u32) -> Actor {
    Actor::Create(Create::new(me, wants))
}

fn compact(me: u8, choice: Choice) -> Actor {
    Actor::Compact(Compact::new(me, choice))
}

fn undelete(me: u8) -> Actor {
    Actor::Undelete(Undelete::new(me, 1))
}

fn lister(way: Way) -> Actor {
    Actor::Lister(Lister::new(way))
}

fn refs<const N: usize>(of: [u8; N]) -> [u8; CHUNKS] {
    std::array::from_fn(|chunk| of.get(chunk).copied().unwrap_or(NONE))
}

/// Archive 0 is alive and uses chunk 0 of pack 0, whose chunk 1 nobody uses; archive 1 is deleted, and pack 1 was its own.
fn common() -> World {
    let world = World::new().with_pack(0, 0b0011).with_pack(1, 0b0100);
    world.with_archive(0, refs([0])).with_archive(1, refs([0, NONE, 1])).with_deleted(1)
}

/// Two live archives and a deleted one share a pack.
fn shared() -> World {
    let world = World::new().with_pack(0, 0b0001).with_archive(0, refs([0]));
    world.with_archive(1, refs([0])).with_deleted(1)
}

/// An archive whose pack was moved on twice.
fn chain() -> World {
    let world = World::new().with_pack(2, 0b0001).with_archive(0, refs([0]));
    let world = world.with_moved(0, Moved { from: 0, to: 1, blobs: 1 });
    world.with_moved(1, Moved { from: 1, to: 2, blobs: 1 })
}

/// A compactor copied what a deleted archive used, then died; nobody needs any of it.
fn rubbish() -> World {
    let world = World::new().with_pack(0, 0b0001).with_pack(1, 0b0001).with_archive(1, refs([0]));
    world.with_deleted(1).with_moved(0, Moved { from: 0, to: 1, blobs: 1 })
}

/// A deleted archive reads through a forwarding that no other needs.
fn forwarded() -> World {
    let world = World::new().with_pack(1, 0b0001).with_archive(0, refs([1])).with_archive(1, refs([0]));
    world.with_deleted(1).with_moved(0, Moved { from: 0, to: 1, blobs: 1 })
}

/// Chunk 1 of pack 0 is damaged; two archives use the pack.
fn damaged() -> World {
    let world = World::new().with_pack(0, 0b0011).with_archive(0, refs([0])).with_archive(2, refs([0, 0]));
    world.with_damage(0, 0b0010)
}

/// Two packs hold chunk 0, and in one it is damaged.
fn twice() -> World {
    let world = World::new().with_pack(0, 0b1001).with_pack(1, 0b0011).with_archive(0, refs([0]));
    world.with_archive(2, refs([1, 1])).with_damage(1, 0b0001)
}

/// What is explored, each over exact lists and over lists that lag.
pub(crate) fn scenes() -> Vec<(&'static str, Repository)> {
    let mut scenes = Vec::new();
    for rules in [Rules::EXACT, Rules::LAGGING] {
        let mut add = |name, world, actors, rules| scenes.push((name, Repository::new(world, actors, rules)));
        of_creates(rules, &mut add);
        of_compactors(rules, &mut add);
        of_undeletes(rules, &mut add);
        of_sessions(rules, &mut add);
        of_keys(rules, &mut add);
    }
    scenes
}

/// Worlds with more to explore than all others together.
pub(crate) fn large_scenes() -> Vec<(&'static str, Repository)> {
    use Choice::{All, Dead, Wasteful};
    let mut scenes = Vec::new();
    let mut add = |name, world, actors, rules| scenes.push((name, Repository::new(world, actors, rules)));
    let wasteful = vec![create(0, 0b0111), compact(1, Wasteful), compact(2, All)];
    add("create, 2 compact all", common(), wasteful, Rules::EXACT);
    let unused = World::new().with_pack(1, 0b0001);
    let both = vec![create(0, 0b0001), compact(1, Dead), compact(2, Dead)];
    add("create, 2 compact what is unused", unused, both, Rules::LAGGING);
    let lagging = vec![create(0, 0b0100), create(1, 0b0100), compact(2, Dead)];
    add("2 creates, compact", common(), lagging, Rules::LAGGING);
    scenes
}

type Add<'a> = &'a mut dyn FnMut(&'static str, World, Vec<Actor>, Rules);

fn of_creates(rules: Rules, add: Add<'_>) {
    use Choice::{All, Dead, Wasteful};
    add("create, compact", common(), vec![create(0, 0b0111), compact(1, Wasteful)], rules);
    add("create, compact all", common(), vec![create(0, 0b0111), compact(1, All)], rules);
    add("create, compact a chain", chain(), vec![create(0, 0b0001), compact(1, All)], rules);
    add("create, compact rubbish", rubbish(), vec![create(0, 0b0001), compact(1, Dead)], rules);
    add(
        "create, delete, compact",
        common(),
        vec![create(0, 0b0101), Actor::Delete(Delete::new(1, 0)), compact(2, Dead)],
        rules,
    );
    if !rules.lag {
        add(
            "2 creates, compact",
            common(),
            vec![create(0, 0b0110), create(1, 0b0110), compact(2, Wasteful)],
            rules,
        );
        add(
            "create, 2 compact",
            common(),
            vec![create(0, 0b0100), compact(1, Dead), compact(2, Dead)],
            rules,
        );
    }
    let dying = Rules { crashes: true, ..rules };
    add("create, compact, one dies", common(), vec![create(0, 0b0111), compact(1, Wasteful)], dying);
}

fn of_compactors(rules: Rules, add: Add<'_>) {
    use Choice::{All, Dead, Repair, Wasteful};
    add("2 compact", common(), vec![compact(0, Wasteful), compact(1, All)], rules);
    add("2 compact all", common(), vec![compact(0, All), compact(1, All)], rules);
    add("compact dead, compact all", common(), vec![compact(0, Dead), compact(1, All)], rules);
    let few = Rules { steps: 2, ..rules };
    add("compact a long chain", chain(), vec![compact(1, All)], few);
    let dying = Rules { crashes: true, ..rules };
    add("2 compact, one dies", common(), vec![compact(0, Wasteful), compact(1, All)], dying);
    add("read, compact", common(), vec![Actor::Reader(Reader::new(0, 0)), compact(1, All)], rules);
    if !rules.lag {
        let two = vec![Actor::Reader(Reader::new(0, 0)), compact(1, All), compact(2, All)];
        add("read, 2 compact", common(), two, rules);
    }
    add("create, compact damage", twice(), vec![create(0, 0b0001), compact(1, All)], rules);
    add("compact beside damage", twice(), vec![compact(1, Wasteful)], rules);
    add("repair, create", damaged(), vec![compact(0, Repair(0)), create(1, 0b0011)], rules);
    add("repair, compact", damaged(), vec![compact(0, Repair(0)), compact(1, Dead)], rules);
}

fn of_undeletes(rules: Rules, add: Add<'_>) {
    use Choice::Wasteful;
    add("undelete, compact", common(), vec![undelete(0), compact(1, Wasteful)], rules);
    add("undelete of a sharer, compact", shared(), vec![undelete(0), compact(1, Wasteful)], rules);
    add("undelete of a forwarded, compact", forwarded(), vec![undelete(0), compact(1, Wasteful)], rules);
    let delete = |me, archive| Actor::Delete(Delete::new(me, archive));
    add("undelete, delete, compact", common(), vec![undelete(0), delete(1, 0), compact(2, Wasteful)], rules);
    add(
        "undelete, delete again, compact",
        common(),
        vec![undelete(0), delete(1, 1), compact(2, Wasteful)],
        rules,
    );
    add("2 undelete, compact", common(), vec![undelete(0), undelete(1), compact(2, Wasteful)], rules);
    let dying = Rules { crashes: true, ..rules };
    add("undelete, compact, one dies", common(), vec![undelete(0), compact(1, Wasteful)], dying);
}

fn of_sessions(rules: Rules, add: Add<'_>) {
    use Choice::Wasteful;
    let rules = Rules { sessions: true, ..rules };
    let dying = Rules { crashes: true, ..rules };
    let confirm = |me, session| Actor::Confirm(Confirm::new(me, session));
    add(
        "create, compact, confirm",
        common(),
        vec![create(0, 0b0111), compact(1, Wasteful), confirm(2, 0)],
        dying,
    );
    add(
        "undelete, compact, confirm",
        common(),
        vec![undelete(0), compact(1, Wasteful), confirm(2, 0)],
        dying,
    );
    add(
        "undelete of a sharer, compact, confirm",
        shared(),
        vec![undelete(0), compact(1, Wasteful), confirm(2, 0)],
        dying,
    );
    for (way, of_create, of_undelete) in [
        (Way::Twice, "create, compact, list", "undelete, compact, list"),
        (Way::Written, "create, compact, list as written", "undelete, compact, list as written"),
    ] {
        // The lag of a whole compaction beside these would take minutes.
        let compact = if rules.lag { Actor::Dead } else { compact(1, Wasteful) };
        add(of_create, common(), vec![create(0, 0b0111), compact.clone(), lister(way)], rules);
        add(of_undelete, common(), vec![undelete(0), compact, lister(way)], rules);
    }
    add("undelete, list as written", shared(), vec![undelete(0), lister(Way::Written)], rules);
    add("undelete, list", shared(), vec![undelete(0), lister(Way::Twice)], rules);
    let full = |me| Actor::Create(Create::new(me, 0b1000).out_of_space());
    let orphans = |me| Actor::Create(Create::new(me, 0b1000).with_orphans());
    let reindexed = vec![full(0), create(1, 0b1000), Actor::Reindex(Reindex::new(2))];
    add("reindex", common(), reindexed, dying);
    add("orphans", common(), vec![full(0), orphans(1)], dying);
}

fn of_keys(rules: Rules, add: Add<'_>) {
    let rules = Rules { crashes: true, ..rules };
    let remove = |me, slot, opened| KeyRemove::new(me, slot, opened);
    let two = || World::new().with_slots(0b011);
    add(
        "2 slots, 2 removed",
        two(),
        vec![Actor::KeyRemove(remove(0, 0, 1)), Actor::KeyRemove(remove(1, 1, 0))],
        rules,
    );
    let replaced = remove(0, 0, 2).replacing();
    add(
        "1 slot replaced, 1 removed",
        two(),
        vec![Actor::KeyRemove(replaced), Actor::KeyRemove(remove(1, 1, 0))],
        rules,
    );
    let round = (0..3).map(|me| Actor::KeyRemove(remove(me, me, (me + 1) % 3))).collect();
    add("3 slots, 3 removed", World::new().with_slots(0b111), round, Rules { crashes: false, ..rules });
}

/// Everybody at once, as a seed has it: who is there, what is stored, what creates want, whether lists lag.
pub(crate) fn crowd(seed: u64) -> Repository {
    let random = &mut SplitMix(seed);
    let lag = random.below(2) == 1;
    let steps = if random.below(4) == 0 { 4 } else { 16 };
    let rules = Rules { lag, steps, sessions: true, crashes: true, ..Rules::EXACT };
    let mut world = random_world(random);
    let repairs = random.below(8) == 0;
    if repairs {
        world = world.with_damage(0, 0b00110);
    }
    let actors =
        (0..12).map(|me| if random.below(4) == 0 { Actor::Dead } else { somebody(me, random) }).collect();
    let mut crowd = Repository::new(world, actors, rules);
    crowd.deaths = u8::try_from(random.below(4)).expect("few");
    crowd
}

fn somebody(me: u8, random: &mut SplitMix) -> Actor {
    let wants = 1 + u32::try_from(random.below((1 << CHUNKS) - 1)).expect("few");
    match me {
        0 | 1 if random.below(8) == 0 => Actor::Create(Create::new(me, wants).out_of_space()),
        0 | 1 if random.below(4) == 0 => Actor::Create(Create::new(me, wants).with_orphans()),
        0 | 1 => create(me, wants),
        2 | 3 => {
            let choices = [Choice::Wasteful, Choice::Dead, Choice::All, Choice::Any];
            compact(me, choices[random.below(choices.len())])
        }
        4 => Actor::Delete(Delete::new(me, u8::try_from(random.below(3)).expect("few"))),
        5 => undelete(me),
        8 => Actor::Confirm(Confirm::new(me, [0, 1, 5][random.below(3)])),
        9 => Actor::KeyRemove(KeyRemove::new(me, 0, 1)),
        10 => Actor::KeyRemove(KeyRemove::new(me, 1, 0)),
        11 => lister(Way::Twice),
        12 => Actor::Reindex(Reindex::new(me)),
        // Those who clean up at the end.
        _ => Actor::Dead,
    }
}

/// A few packs, three archives of which the second is deleted, and perhaps packs that were moved on.
fn random_world(random: &mut SplitMix) -> World {
    let mut world = World::new().with_slots(0b11);
    let packs = 2 + random.below(3);
    for pack in 0..packs {
        let blobs = 1 + u32::try_from(random.below((1 << CHUNKS) - 1)).expect("few");
        world = world.with_pack(u8::try_from(pack).expect("few"), blobs);
    }
    // Packs 5 to 7 are gone; whatever they held went to a pack that is there.
    let mut gone = Vec::new();
    for moved in 0..u8::try_from(random.below(3)).expect("few") {
        let to = u8::try_from(random.below(packs)).expect("few");
        let blobs = world.packs[usize::from(to)];
        world = world.with_moved(moved, Moved { from: 5 + moved, to, blobs });
        gone.push((5 + moved, blobs));
    }
    for archive in 0..3 {
        let mut refs = [NONE; CHUNKS];
        let there = (0..u8::try_from(packs).expect("few")).map(|pack| (pack, world.packs[usize::from(pack)]));
        let places: Vec<_> = there.chain(gone.iter().copied()).collect();
        for _ in 0..3 {
            let (pack, blobs) = places[random.below(places.len())];
            let chunks: Vec<u8> = members(blobs).collect();
            refs[usize::from(chunks[random.below(chunks.len())])] = pack;
        }
        world = world.with_archive(archive, refs);
    }
    world.with_deleted(1)
}
