//! A world with its actors.

use super::compact::{Choice, Compact, Needs};
use super::create::Create;
use super::explore::{Choices, SplitMix, System};
use super::keys::KeyRemove;
use super::readers::{Lister, Reader, Reindex};
use super::rules::Rules;
use super::undelete::{Confirm, Delete, Undelete};
use super::world::{Intent, Kind, Set, World, members, one};

/// Anybody who works on a repository.
#[derive(Debug, Clone, Hash)]
pub(crate) enum Actor {
    Create(Create),
    Compact(Compact),
    Delete(Delete),
    Undelete(Undelete),
    Confirm(Confirm),
    Lister(Lister),
    Reader(Reader),
    Reindex(Reindex),
    KeyRemove(KeyRemove),
    Dead,
}

impl Actor {
    fn has_ended(&self, world: &World) -> bool {
        match self {
            Self::Create(create) => create.has_ended(),
            Self::Compact(compact) => compact.has_ended(),
            Self::Delete(delete) => delete.has_ended(),
            Self::Undelete(undelete) => undelete.has_ended(),
            Self::Confirm(confirm) => confirm.has_ended(world),
            Self::Lister(lister) => lister.has_ended(),
            Self::Reader(reader) => reader.has_ended(),
            Self::Reindex(reindex) => reindex.has_ended(),
            Self::KeyRemove(remove) => remove.has_ended(),
            Self::Dead => true,
        }
    }
}

/// A repository in use.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) world: World,
    pub(crate) actors: Vec<Actor>,
    pub(crate) rules: Rules,
    /// How many may die.
    pub(crate) deaths: u8,
    /// What an actor saw that it should not have.
    pub(crate) wrong: Option<String>,
}

impl std::hash::Hash for Repository {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.world, &self.actors, self.deaths).hash(state);
    }
}

impl Repository {
    pub(crate) fn new(mut world: World, actors: Vec<Actor>, rules: Rules) -> Self {
        world.settle_all();
        Self { world, actors, rules, deaths: u8::from(rules.crashes), wrong: None }
    }

    /// What two more compactions leave behind once all is quiet.
    fn rubbish(&self) -> Option<String> {
        let mut world = self.world.clone();
        let rules = Rules { broken: None, lag: false, ..self.rules };
        let mut choices = Choices::Random(SplitMix(0));
        for me in [6, 7] {
            world.settle_all();
            let mut compact = Compact::new(me, Choice::Wasteful);
            while !compact.has_ended() {
                compact.step(&mut world, &rules, &mut choices);
                if let Some(broken) = world.broken_promise(&rules) {
                    return Some(format!("a later compaction: {broken}"));
                }
            }
        }
        let live = world.live(world.all(Kind::Archive), world.all(Kind::State));
        let all_moved = world.all(Kind::Moved);
        let needs = Needs::of(live, all_moved, &world, &rules);
        let needed = members(Set::MAX).filter(|pack| needs.blobs[usize::from(*pack)] != 0);
        let needed = needed.fold(0, |all, pack| all | one(pack));
        let damaged = |pack: &u8| world.damaged[usize::from(*pack)] & needs.blobs[usize::from(*pack)] != 0;
        let damaged = members(world.all(Kind::Pack)).filter(damaged).fold(0, |all, pack| all | one(pack));
        // What its dead writer found to be needed again stays named, until it goes after all.
        let names_needed = |intent: &u8| {
            let Intent { packs, archives, moved } = world.intents[usize::from(*intent)];
            packs & damaged != 0 || archives & live != 0 || moved & needs.moved & all_moved != 0
        };
        let intents = members(world.all(Kind::Intent)).filter(|intent| !names_needed(intent));
        let intents = intents.fold(0, |all, intent| all | one(intent));
        let names_damaged = |list: &u8| world.condemned[usize::from(*list)] & damaged != 0;
        let lists = members(world.all(Kind::Condemned)).filter(|list| !names_damaged(list));
        let lists = lists.fold(0, |all, list| all | one(list));
        let left = [
            ("packs", world.all(Kind::Pack) & !needed),
            ("forwardings", all_moved & !needs.moved),
            ("records", world.all(Kind::Archive) & !live),
            ("intents", intents),
            ("condemned lists", lists),
        ];
        // What may not be moved once more stays where it is.
        let stuck = self.rules.steps < Rules::EXACT.steps;
        let left = left.iter().filter(|_| !stuck).find(|(_, left)| *left != 0);
        left.map(|(what, left)| {
            format!(
                "{what} are left: {:?} {:?} {:?} {:?}",
                members(*left).collect::<Vec<_>>(),
                world.intents,
                world.all(Kind::Pack),
                world.all(Kind::Archive)
            )
        })
    }
}

impl System for Repository {
    fn ready(&self) -> Vec<usize> {
        (0..self.actors.len()).filter(|actor| !self.actors[*actor].has_ended(&self.world)).collect()
    }

    fn step(&mut self, actor: usize, choices: &mut Choices) -> String {
        let (world, rules) = (&mut self.world, &self.rules);
        match &mut self.actors[actor] {
            Actor::Create(create) => create.step(world, rules, choices),
            Actor::Compact(compact) => compact.step(world, rules, choices),
            Actor::Delete(delete) => delete.step(world, rules, choices),
            Actor::Undelete(undelete) => undelete.step(world, rules, choices),
            Actor::Confirm(confirm) => confirm.step(world, rules, choices),
            Actor::Lister(lister) => {
                let label = lister.step(world, rules, choices);
                self.wrong = self.wrong.take().or(lister.wrong(world));
                label
            }
            Actor::Reader(reader) => {
                let (label, wrong) = reader.step(world, rules, choices);
                self.wrong = self.wrong.take().or(wrong);
                label
            }
            Actor::Reindex(reindex) => reindex.step(world, rules, choices),
            Actor::KeyRemove(remove) => remove.step(world, rules, choices),
            Actor::Dead => unreachable!("the dead take no step"),
        }
    }

    fn fault(&self) -> Option<String> {
        self.wrong.clone().or_else(|| self.world.broken_promise(&self.rules))
    }

    fn ended(&self) -> Option<String> {
        self.rubbish()
    }

    fn can_die(&self, actor: usize) -> bool {
        self.deaths > 0
            && matches!(
                self.actors[actor],
                Actor::Create(_)
                    | Actor::Compact(_)
                    | Actor::Undelete(_)
                    | Actor::Confirm(_)
                    | Actor::KeyRemove(_)
            )
    }

    fn die(&mut self, actor: usize) {
        self.actors[actor] = Actor::Dead;
        self.deaths -= 1;
        let session = u8::try_from(actor).expect("few");
        self.world.dead |= one(session);
    }
}
