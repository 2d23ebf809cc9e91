//! What happens to which object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fuse_tests::noise::Random;

use crate::scene::{Objects, Scene};

/// Runs every case if it is `all`, and those whose description holds a text if it is that text.
const WHICH: &str = "COPAL_MATRIX";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Copies {
    First,
    Second,
    Both,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Damage {
    /// One bit at this place.
    Flip(Place),
    /// It keeps its first half.
    Halved,
    Emptied,
    Zeroed,
    Deleted,
    /// It changes places with another of its kind.
    Swapped(String),
    /// It is there under a fresh name too.
    Doubled,
    /// It had been deleted, and is there again.
    Replayed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Start,
    /// Behind the magic: a version or a kind.
    Header,
    Middle,
    /// Before a pack's footer: its trailer.
    Trailer,
    End,
}

impl Place {
    fn of(self, len: usize) -> usize {
        match self {
            Self::Start => 0,
            Self::Header => 10.min(len - 1),
            Self::Middle => len / 2,
            Self::Trailer => len.saturating_sub(60),
            Self::End => len - 1,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its object's folder.
    pub(crate) kind: String,
    /// Its object, without `mirror/`.
    pub(crate) name: String,
    pub(crate) copies: Copies,
    pub(crate) damage: Damage,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let damage = match &self.damage {
            Damage::Swapped(with) => format!("Swapped with {with}"),
            damage => format!("{damage:?}"),
        };
        write!(f, "{} {:?} {damage}", self.name, self.copies)
    }
}

fn kind_of(name: &str) -> String {
    name.split('/').next().unwrap_or_default().to_owned()
}

/// A valid name of the same kind that nothing has: other digits in the id at its end, but for those that name its folder.
fn fresh(name: &str) -> Option<String> {
    let (rest, id) = name.split_at_checked(name.len().checked_sub(32)?)?;
    let other = |digit: char| char::from_digit(digit.to_digit(16)? ^ 5, 16);
    let changed: Option<String> = id.chars().skip(2).map(other).collect();
    Some(format!("{rest}{}{}", &id[..2], changed?))
}

impl Case {
    /// Whether an object is stored twice in this repository.
    fn is_mirrored(objects: &Objects, name: &str) -> bool {
        objects.contains_key(&format!("mirror/{name}"))
    }

    fn places(&self) -> impl Iterator<Item = &'static str> {
        let (first, second) = match self.copies {
            Copies::First => (true, false),
            Copies::Second => (false, true),
            Copies::Both => (true, true),
        };
        [(first, ""), (second, "mirror/")].into_iter().filter(|(hit, _)| *hit).map(|(_, place)| place)
    }

    /// Does it.
    pub(crate) fn apply(&self, scene: &Scene) {
        for place in self.places() {
            let name = format!("{place}{}", self.name);
            if self.damage == Damage::Replayed {
                // What was stored once has no second copy to come back.
                if let Some(bytes) = scene.past.get(&name) {
                    scene.write(&name, bytes);
                }
                continue;
            }
            let Some(bytes) = scene.objects.get(&name) else { continue };
            let mut bytes = bytes.clone();
            match &self.damage {
                Damage::Flip(at) => {
                    let at = at.of(bytes.len());
                    bytes[at] ^= 0x10;
                }
                Damage::Halved => bytes.truncate(bytes.len() / 2),
                Damage::Emptied => bytes.clear(),
                Damage::Zeroed => bytes.fill(0),
                Damage::Deleted => {
                    std::fs::remove_file(scene.sandbox.repository().join(&name)).expect("remove");
                    continue;
                }
                Damage::Swapped(with) => {
                    let with = format!("{place}{with}");
                    scene.write(&with, &bytes);
                    bytes.clone_from(&scene.objects[&with]);
                }
                Damage::Doubled => {
                    let name = fresh(&name).expect("its name ends with an id");
                    scene.write(&name, &bytes);
                    continue;
                }
                Damage::Replayed => unreachable!("handled above"),
            }
            scene.write(&name, &bytes);
        }
    }
}

/// Every case of the objects that are there, two objects of each kind.
pub(crate) fn damages(scene: &Scene) -> Vec<Case> {
    let mut kinds: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for name in scene.objects.keys().filter(|name| !name.starts_with("mirror/")) {
        kinds.entry(kind_of(name)).or_default().push(name);
    }
    let mut cases = Vec::new();
    for (kind, names) in kinds.into_iter().filter(|(kind, _)| kind != "quarantine") {
        let own = format!("keys/{}", scene.own_slot);
        let chosen: BTreeSet<&String> = match kind.as_str() {
            "keys" => {
                names.iter().copied().filter(|name| **name == own).chain(names.first().copied()).collect()
            }
            _ => names.first().copied().into_iter().chain(names.last().copied()).collect(),
        };
        for name in chosen {
            let other = names.iter().find(|other| **other != name).map(|other| (*other).clone());
            cases.extend(of_object(&scene.objects, &kind, name, other));
        }
    }
    cases
}

fn of_object(objects: &Objects, kind: &str, name: &str, other: Option<String>) -> Vec<Case> {
    use Place::{End, Header, Middle, Start, Trailer};
    let mut damages: Vec<Damage> = [Start, Header, Middle, Trailer, End].map(Damage::Flip).into();
    damages.extend([Damage::Halved, Damage::Emptied, Damage::Zeroed, Damage::Deleted]);
    damages.extend(other.map(Damage::Swapped));
    damages.extend(fresh(name).map(|_| Damage::Doubled));
    let copies: &[Copies] = if Case::is_mirrored(objects, name) {
        &[Copies::First, Copies::Second, Copies::Both]
    } else {
        &[Copies::First]
    };
    let case = |(damage, copies): (&Damage, &Copies)| Case {
        kind: kind.to_owned(),
        name: name.to_owned(),
        copies: *copies,
        damage: damage.clone(),
    };
    damages.iter().flat_map(|damage| copies.iter().map(move |copies| (damage, copies))).map(case).collect()
}

/// Every object of the past that comes back.
pub(crate) fn replays(scene: &Scene) -> Vec<Case> {
    let mut cases = Vec::new();
    for name in scene.past.keys().filter(|name| !name.starts_with("mirror/")) {
        let copies: &[Copies] = if Case::is_mirrored(&scene.past, name) {
            &[Copies::First, Copies::Second, Copies::Both]
        } else {
            &[Copies::First]
        };
        let case = |copies: &Copies| Case {
            kind: kind_of(name),
            name: name.clone(),
            copies: *copies,
            damage: Damage::Replayed,
        };
        cases.extend(copies.iter().map(case));
    }
    cases
}

/// All cases if the environment says so, else some in which every kind meets each of its copies, and each sort of damage meets each copy.
pub(crate) fn chosen(mut cases: Vec<Case>, seed: u64) -> Vec<Case> {
    match std::env::var(WHICH) {
        Ok(which) if which == "all" => return cases,
        Ok(which) => {
            cases.retain(|case| case.to_string().contains(&which));
            return cases;
        }
        Err(_) => {}
    }
    let mut random = Random::new(seed);
    for at in (1..cases.len()).rev() {
        cases.swap(at, random.below(at + 1));
    }
    let (mut kinds, mut damages) = (BTreeSet::new(), BTreeSet::new());
    let is_new = |case: &Case| {
        let damage = match &case.damage {
            Damage::Swapped(_) => Damage::Swapped(String::new()),
            damage => damage.clone(),
        };
        let by_kind = kinds.insert((case.kind.clone(), case.copies));
        damages.insert((damage, case.copies)) || by_kind
    };
    let mut is_new = is_new;
    cases.retain(|case| is_new(case));
    cases
}
