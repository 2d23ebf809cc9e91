//! What is run in a storm, and what it means once it has succeeded.

use std::collections::BTreeSet;

use copal::id::ArchiveId;
use copal::repository::archives::{Archive, Listing};
use serde_json::Value;

use super::dice::Dice;
use super::field::{Field, IMAGES};
use crate::support::Ended;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// More archives than these are not let come together.
const MANY: usize = 10;
/// More key slots than these are not let come together.
const SLOTS: usize = 6;

/// One command.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) kind: &'static str,
    pub(crate) args: String,
    /// Archives that it takes away, in the end.
    pub(crate) takes: BTreeSet<ArchiveId>,
    /// Words of an error that says that all was done already.
    done_before: &'static [&'static str],
    /// Words of an error that may come although nothing is wrong.
    refused: &'static [&'static str],
}

impl Order {
    fn new(kind: &'static str, args: String) -> Self {
        Self { kind, args, takes: BTreeSet::new(), done_before: &[], refused: &[] }
    }

    fn takes(mut self, archives: impl IntoIterator<Item = ArchiveId>) -> Self {
        self.takes.extend(archives);
        self
    }

    /// Draws one that makes sense now.
    pub(crate) fn draw(field: &Field, now: &Listing, number: u64, dice: &mut Dice) -> Self {
        let ids: Vec<ArchiveId> = now.archives.iter().map(Archive::id).collect();
        let archive = dice.pick(&ids).copied();
        let deleted: Vec<ArchiveId> = now.deleted.iter().map(Archive::id).collect();
        let crowded = ids.len() > MANY;
        loop {
            match (dice.below(100), archive) {
                (0..30, _) if !crowded => {
                    let (name, image) = (dice.pick(&NAMES).expect("names"), dice.below(IMAGES as u64));
                    return Self::new(
                        "create",
                        format!("create repo::{name} img{image} --comment img{image} --json"),
                    );
                }
                (30..42, Some(id)) => {
                    let order = Self::new("delete", format!("delete repo::#{id}")).takes([id]);
                    return Self { done_before: &["no archive fits"], ..order };
                }
                (42..50, _) => {
                    let Some(id) = dice.pick(&deleted) else { continue };
                    let order = Self::new("undelete", format!("undelete repo::#{id} --json"));
                    let refused = &["cannot come back: its space was already reclaimed"];
                    return Self { done_before: &["what fits is not deleted"], refused, ..order };
                }
                (50..58, _) => return Self::prune(field, 1 + dice.below(2)),
                (58..78, _) => {
                    let (now, least) = (if dice.chance(50) { "--now" } else { "" }, 1 + dice.below(60));
                    return Self::new("compact", format!("compact repo {now} --threshold {least}"));
                }
                (78..84, Some(id)) => {
                    let name = dice.pick(&NAMES).expect("names");
                    return Self::new("rename", format!("rename repo::#{id} {name} --merge"));
                }
                (84..92, _) => return Self::key(field, number, dice),
                (92..96, Some(_)) => {
                    field.hurt(dice);
                    return Self::new("repair", "check repo --repair --json".into());
                }
                (96..100, _) if !crowded => return Self::new("copy", "copy other repo --json".into()),
                _ => {}
            }
        }
    }

    fn prune(field: &Field, keep: u64) -> Self {
        let command = format!("prune repo --keep-last {keep} --utc");
        let planned = field.copal(&format!("{command} --dry-run --json")).ok().json();
        Self::new("prune", command).takes(ids(&planned["pruned"], "id"))
    }

    fn key(field: &Field, number: u64, dice: &mut Dice) -> Self {
        let listed = field.copal("key list repo --json").ok().json();
        let others = listed["slots"].as_array().expect("slots").iter().filter(|slot| slot["opened"] == false);
        let others: Vec<&str> = others.map(|slot| slot["id"].as_str().expect("an id")).collect();
        match dice.pick(&others) {
            Some(slot) if others.len() > SLOTS || dice.chance(40) => {
                let order = Self::new("key remove", format!("key remove repo {slot}"));
                Self { done_before: &["no key slot fits", "there is no key slot"], ..order }
            }
            _ => Self::new("key add", format!("key add repo --new-key-file {number}.key")),
        }
    }

    /// Judges a command that was not killed; `again` if it was before. Returns the archives that are sure to be there now.
    #[track_caller]
    pub(crate) fn judge(&self, ended: &Ended, again: bool) -> BTreeSet<ArchiveId> {
        let said = |words: &[&str]| ended.code == 2 && words.iter().any(|word| ended.stderr.contains(word));
        if said(self.refused) || (again && said(self.done_before)) {
            return BTreeSet::new();
        }
        assert_eq!(ended.code, 0, "{self:?}: {ended}");
        match self.kind {
            "create" => ids(&Value::Array(vec![ended.json()]), "id").collect(),
            // One whose create was killed stays unconfirmed until a compaction confirms it.
            "copy" => ids(&ended.json()["archives"], "copy").collect(),
            _ => BTreeSet::new(),
        }
    }
}

fn ids<'a>(archives: &'a Value, key: &'a str) -> impl Iterator<Item = ArchiveId> + 'a {
    let id = move |archive: &Value| archive[key].as_str().expect("an id").parse().expect("an id");
    archives.as_array().expect("archives").iter().map(id)
}
