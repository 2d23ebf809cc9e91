//! The repository that processes are killed on, the images that its archives are of, and what must hold of them at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use copal::codec::slot_key::Secret;
use copal::id::ArchiveId;
use copal::image::Image;
use copal::image::reader::ImageReader;
use copal::repository::Repository;
use copal::repository::archives::{Archive, Listing, list_all};
use copal::repository::guards::intents;
use copal::repository::unlock::{InitOptions, Locked, init};
use copal::storage::local::LocalStorage;
use serde_json::Value;

use super::dice::Dice;
use crate::common::{noise, small_options};
use crate::support::{Place, Run};

/// How many images there are.
pub(crate) const IMAGES: usize = 6;
/// Their length: two spans, the second one short.
const LEN: usize = 5 << 20;
/// Every so many bytes an image is its own, or shared, or a hole.
const PART: usize = 256 << 10;
const CACHE: usize = 64 << 20;

/// A place with an encrypted repository `repo`, another one `other` with three archives, and images `img0` and on. The comment of
/// every archive names its image.
pub(crate) struct Field {
    pub(crate) place: Place,
    images: Vec<Vec<u8>>,
}

/// So many compactions at most, and nothing is left to free. Two at once store the same blobs in two places, either may be rewritten by others, and sixteen forwardings
/// are followed: each compaction that comes after finds some of these copies to be needless.
const COMPACTIONS: usize = 20;

impl Field {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        place.write("main.key", &noise(1000, 64));
        let images: Vec<_> = (0..IMAGES as u64).map(image).collect();
        images.iter().enumerate().for_each(|(at, bytes)| place.write(format!("img{at}"), bytes));
        let field = Self { place, images };
        for repository in ["repo", "other"] {
            let storage = LocalStorage::create(&field.place.path(repository)).expect("a new directory");
            let options = InitOptions { secret: Some(field.secret()), reserve: 64 << 10, ..small_options() };
            init(Arc::new(storage), &options).expect("init");
        }
        for at in 0..3 {
            field.copal(&format!("create other::copied img{at} --comment img{at}")).ok();
        }
        field
    }

    fn secret(&self) -> Secret {
        Secret::KeyFile(self.place.read("main.key").into())
    }

    /// The program, which can open both repositories.
    pub(crate) fn copal(&self, args: &str) -> Run {
        let key = self.place.path("main.key");
        self.place.copal(args).env("COPAL_KEY_FILE", &key).env("COPAL_TO_KEY_FILE", &key)
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.place.path("repo")
    }

    pub(crate) fn open(&self) -> Arc<Repository> {
        let storage = LocalStorage::open(&self.repository()).expect("it is there");
        let locked = Locked::read(Arc::new(storage)).expect("config");
        Arc::new(locked.unlock(Some(&self.secret())).expect("the first key opens"))
    }

    /// What an archive with this comment holds.
    pub(crate) fn image_of(&self, comment: &str) -> &[u8] {
        let number = comment.strip_prefix("img").and_then(|number| number.parse::<usize>().ok());
        &self.images[number.unwrap_or_else(|| panic!("no image is called {comment:?}"))]
    }

    /// Whether these bytes are one of the images.
    pub(crate) fn is_image(&self, bytes: &[u8]) -> bool {
        self.images.iter().any(|image| image == bytes)
    }

    /// Reads back every archive that is shown. Those in `must` are there, confirmed; all that are confirmed are whole; no byte is wrong.
    pub(crate) fn verify(&self, must: &BTreeSet<ArchiveId>, at: &str) -> Listing {
        let repository = self.open();
        let listing = list_all(repository.objects()).unwrap_or_else(|error| panic!("{at}: {error}"));
        let shown: BTreeMap<ArchiveId, &Archive> =
            listing.archives.iter().map(|archive| (archive.id(), archive)).collect();
        assert!(listing.lost.is_empty(), "{at}: {:?}", listing.lost);
        for id in must {
            let archive = shown.get(id).unwrap_or_else(|| panic!("{at}: archive {id} is gone"));
            assert!(!archive.unconfirmed && !archive.doubtful, "{at}: {archive:?}");
        }
        let reader = ImageReader::new(repository.clone(), CACHE);
        for archive in &listing.archives {
            match read(&repository, &reader, archive) {
                Ok(bytes) => {
                    let expected = self.image_of(&archive.comment);
                    assert!(bytes == expected, "{at}: wrong bytes in {archive:?}");
                }
                Err(error) => assert!(archive.unconfirmed, "{at}: {archive:?} is not whole: {error}"),
            }
        }
        listing
    }

    /// Damages what can be repaired without any loss: second copies, the index, a pack's list of its blobs.
    pub(crate) fn hurt(&self, dice: &mut Dice) {
        let file_of = |dice: &mut Dice, folders: &[&str]| {
            let folder = dice.pick(folders).expect("folders");
            let paths = self.place.tree(&format!("repo/{folder}")).into_iter().map(|(path, _)| path);
            let files: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
            dice.pick(&files).cloned()
        };
        for _ in 0..=dice.below(3) {
            let folders: &[&str] = match dice.below(3) {
                0 => &["mirror/archives", "mirror/states", "mirror/maps", "mirror/keys", "mirror/moved"],
                1 => &["index"],
                _ => &["packs"],
            };
            let Some(path) = file_of(dice, folders) else { continue };
            if folders[0] != "packs" && dice.chance(50) {
                fs::remove_file(path).expect("remove");
                continue;
            }
            // Its last byte: of a pack, what says where its list is.
            let mut bytes = fs::read(&path).expect("read");
            *bytes.last_mut().expect("not empty") ^= 1;
            fs::write(path, bytes).expect("write");
        }
    }

    /// Nothing that is stored is damaged, though of what was being written or deleted one of two copies may be missing.
    pub(crate) fn check(&self, at: &str) {
        self.check_but(&["copy"], at);
    }

    /// No archive is damaged, and nothing is wrong but what may be.
    pub(crate) fn check_but(&self, may: &[&str], at: &str) {
        let ended = self.copal("check repo --json").end();
        assert!(ended.code < 2, "{at}: {ended}");
        let found = ended.json();
        let sure = |archive: &&Value| {
            let is = |unconfirmed: &Value| *unconfirmed == archive["id"];
            !found["unconfirmed"].as_array().expect("a list").iter().any(is)
        };
        let damaged: Vec<_> = found["damaged"].as_array().expect("a list").iter().filter(sure).collect();
        assert!(damaged.is_empty(), "{at}: {found:#}");
        let may_be = |finding: &Value| may.contains(&finding["fault"].as_str().expect("a word"));
        assert!(found["findings"].as_array().expect("a list").iter().all(may_be), "{at}: {found:#}");
    }

    /// Deletes what dead creates left incomplete, as a compaction tells one to.
    pub(crate) fn delete_incomplete(&self, sure: &BTreeSet<ArchiveId>, at: &str) {
        let compacted = self.copal("compact repo --now --json").end().json();
        for id in compacted["sessions"]["incomplete"].as_array().expect("a list") {
            let id = id.as_str().expect("an id");
            assert!(!sure.contains(&id.parse().expect("an id")), "{at}: {id} is incomplete");
            self.copal("delete").arg(format!("repo::#{id}")).ok();
        }
    }

    /// Compacts until nothing is left to free.
    fn compact_all(&self, at: &str) {
        for _ in 0..COMPACTIONS {
            let ended = self.copal("compact repo --now --threshold 1").end();
            assert!(ended.code < 2, "{at}: {ended}");
            let left = self.copal("compact repo --now --threshold 1 --dry-run --json").ok().json();
            if left["dead"]["packs"] == 0 && left["half_dead"]["packs"] == 0 {
                return;
            }
        }
        panic!("{at}: {COMPACTIONS} compactions do not free all");
    }

    /// Intents of compactors that died, of which nothing is left but an archive that was restored just then: they stay as long as it does.
    fn intents_of_restored(&self, listing: &Listing) -> Vec<String> {
        let is_shown = |id: &ArchiveId| listing.archives.iter().any(|archive| archive.id() == *id);
        let left = intents(self.open().objects()).expect("intents");
        let stay = left.into_iter().filter(|(_, intent)| intent.archives.iter().any(is_shown));
        stay.map(|(id, _)| format!("intents/{id}")).collect()
    }

    /// The repository is as a quiet one should be: each archive is extracted by the program itself and compared, some compactions later
    /// nothing is left of the dead, and what a repair had to do was to write second copies.
    pub(crate) fn assert_clean(&self, must: &BTreeSet<ArchiveId>, at: &str) {
        self.verify(must, at);
        self.age_unpublished();
        self.compact_all(at);
        let listing = self.verify(must, at);
        for archive in &listing.archives {
            assert!(!archive.unconfirmed, "{at}: {archive:?}");
            let extracted = self.copal("extract --stdout").arg(format!("repo::#{}", archive.id())).ok();
            assert!(extracted.stdout == self.image_of(&archive.comment), "{at}: {archive:?}");
        }
        let restored = self.intents_of_restored(&listing);
        for folder in ["sessions", "condemned", "intents", "tmp"] {
            for place in ["repo", "repo/mirror"] {
                let left = self.place.tree(&format!("{place}/{folder}")).into_iter().map(|(path, _)| path);
                let left: Vec<_> =
                    left.filter(|path| !restored.iter().any(|name| path.ends_with(name))).collect();
                assert!(left.is_empty(), "{at}: {left:?}");
            }
        }
        self.check(at);
        let repaired = self.copal("check repo --repair --json").end();
        let json = repaired.json();
        assert_eq!(
            (repaired.code, &json["repaired"]["quarantined"]["count"]),
            (0, &0.into()),
            "{at}: {repaired}"
        );
        self.copal("check repo --verify-data").ok();
        self.verify(must, at);
    }

    /// Makes what the dead left unpublished look as old as it must be before anybody removes it.
    fn age_unpublished(&self) {
        for (path, _) in self.place.tree("repo/tmp") {
            let file = fs::File::options().write(true).open(path).expect("open");
            file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("set_modified");
        }
    }
}

/// Image number `seed`: half of it as in the one before, with holes.
fn image(seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEN);
    for part in 0..(LEN / PART) as u64 {
        match (part + seed) % 5 {
            0 => bytes.extend(noise(2000 + seed * 100 + part, PART)),
            1 => bytes.resize(bytes.len() + PART, 0),
            _ => bytes.extend(noise(3000 + (seed / 2) * 100 + part, PART)),
        }
    }
    bytes.extend(noise(seed, 1000));
    bytes
}

fn read(
    repository: &Repository,
    reader: &ImageReader,
    archive: &Archive,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let record = repository.record(archive.id())?;
    let image = Image::of(&record.members[0], repository.config().span_shift);
    let mut bytes = vec![0; usize::try_from(image.size)?];
    let mut done = 0;
    while done < bytes.len() {
        match reader.read_at(&image, done as u64, &mut bytes[done..])? {
            0 => return Err("it ends early".into()),
            len => done += len,
        }
    }
    Ok(bytes)
}
