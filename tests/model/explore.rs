//! Walks through the schedules of some actors: all of them, or random ones.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

/// Where the outcomes of choices come from: a script that is counted through all its values, or chance.
#[derive(Debug)]
pub(crate) enum Choices {
    Script { taken: Vec<(u8, u8)>, at: usize },
    Random(SplitMix),
}

impl Choices {
    fn script() -> Self {
        Self::Script { taken: Vec::new(), at: 0 }
    }

    /// One of `0..n`.
    pub(crate) fn pick(&mut self, n: usize) -> usize {
        assert!(n > 0, "nothing to choose from");
        if n == 1 {
            return 0;
        }
        match self {
            Self::Random(random) => random.below(n),
            Self::Script { taken, at } => {
                if *at == taken.len() {
                    taken.push((0, u8::try_from(n).expect("few")));
                }
                *at += 1;
                usize::from(taken[*at - 1].0)
            }
        }
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.pick(2) == 1
    }

    /// Turns to the next script; `false` if that was the last.
    fn next(&mut self) -> bool {
        let Self::Script { taken, at } = self else { return false };
        *at = 0;
        while let Some((value, limit)) = taken.pop() {
            if value + 1 < limit {
                taken.push((value + 1, limit));
                return true;
            }
        }
        false
    }
}

/// Steele, Lea and Flood's generator: a seed is a whole schedule.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below n")
    }
}

/// Some actors and what they share.
pub(crate) trait System: Clone + Hash {
    /// Which actors can take a step, by number.
    fn ready(&self) -> Vec<usize>;

    /// One step of an actor: at most one operation on the storage. Its name is for people.
    fn step(&mut self, actor: usize, choices: &mut Choices) -> String;

    /// What went wrong by now.
    fn fault(&self) -> Option<String>;

    /// Nobody can take a step any more: what is wrong with how it ended.
    fn ended(&self) -> Option<String>;

    /// Whether an actor may die here; it then takes no step any more.
    fn can_die(&self, actor: usize) -> bool;

    fn die(&mut self, actor: usize);
}

/// What an exploration found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) ends: usize,
    /// What went wrong, with the schedule that led there.
    pub(crate) fault: Option<String>,
}

#[derive(Debug, Default)]
struct Fast(u64);

impl Fast {
    fn mix(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(0xf135_7aea_2e62_a9c5);
    }
}

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }
}

/// Two hashes of a state stand for it: among a hundred million, two that share both are not to be expected.
fn fingerprint(system: &impl Hash) -> u128 {
    let fast = BuildHasherDefault::<Fast>::default().hash_one(system);
    let mut second = Fast(0x243f_6a88_85a3_08d3);
    system.hash(&mut second);
    u128::from(fast) << 64 | u128::from(second.finish())
}

/// All schedules. Stops at the first fault.
pub(crate) fn exhaustive(system: &impl System) -> Found {
    let mut search = Search { visited: HashSet::default(), trail: Vec::new(), found: Found::default() };
    search.visit(system);
    search.found
}

struct Search {
    visited: HashSet<u128, BuildHasherDefault<Fast>>,
    trail: Vec<String>,
    found: Found,
}

impl Search {
    fn fail(&mut self, fault: &str) {
        self.found.fault = Some(format!("{fault}\n  {}", self.trail.join("\n  ")));
    }

    fn visit<S: System>(&mut self, system: &S) {
        if !self.visited.insert(fingerprint(system)) {
            return;
        }
        self.found.states += 1;
        if let Some(fault) = system.fault() {
            return self.fail(&fault);
        }
        let ready = system.ready();
        if ready.is_empty() {
            self.found.ends += 1;
            if let Some(fault) = system.ended() {
                self.fail(&fault);
            }
            return;
        }
        for actor in ready {
            self.step(system, actor);
            if system.can_die(actor) && self.found.fault.is_none() {
                let mut next = system.clone();
                next.die(actor);
                self.trail.push(format!("{actor} dies"));
                self.visit(&next);
                self.trail.pop();
            }
            if self.found.fault.is_some() {
                return;
            }
        }
    }

    fn step<S: System>(&mut self, system: &S, actor: usize) {
        let mut choices = Choices::script();
        loop {
            let mut next = system.clone();
            let label = next.step(actor, &mut choices);
            self.trail.push(format!("{actor} {label}"));
            self.visit(&next);
            self.trail.pop();
            if self.found.fault.is_some() || !choices.next() {
                return;
            }
        }
    }
}

/// How likely a death is at each step: one in so many.
const DEATH: usize = 60;

/// One random schedule: actors run in bursts of a length typical for the schedule, so that some pause for long.
pub(crate) fn random(mut system: impl System, seed: u64, trace: bool) -> Found {
    let mut random = SplitMix(seed);
    let burst = 1 << random.below(6);
    let mut choices = Choices::Random(random.clone());
    random.next();
    let mut found = Found::default();
    let mut trail = Vec::new();
    let mut last = usize::MAX;
    loop {
        let ready = system.ready();
        if ready.is_empty() {
            found.ends = 1;
            found.fault = system.ended();
            break;
        }
        if !ready.contains(&last) || random.below(burst) == 0 {
            last = ready[random.below(ready.len())];
        }
        if random.below(DEATH) == 0 && system.can_die(last) {
            system.die(last);
            trail.push(format!("{last} dies"));
        } else {
            let label = system.step(last, &mut choices);
            if trace {
                trail.push(format!("{last} {label}"));
            }
        }
        found.states += 1;
        found.fault = system.fault();
        if found.fault.is_some() {
            break;
        }
    }
    if trace && let Some(fault) = &mut found.fault {
        *fault = format!("{fault}\n  {}", trail.join("\n  "));
    }
    found
}
