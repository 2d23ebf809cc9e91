//! What the actors find: images that share blocks, and repositories in which archives were made, deleted and compacted, and commands died.

use std::path::PathBuf;

use copal::archiver::create::create;
use copal::format::config::ChunkerParams;
use copal::format::envelope::ObjectKind;
use copal::format::msgpack;
use copal::format::protocol;
use copal::id::ArchiveId;
use copal::image::Image;
use copal::image::reader::ImageReader;
use copal::maintenance::compact::{CompactOptions, compact};
use copal::repository::liveness::list_sessions;
use copal::repository::states::{Change, apply};
use copal::repository::unlock::{InitOptions, init};
use copal::storage::Storage;
use copal::storage::faults::Faults;
use copal::storage::memory::{MemoryStorage, Objects};
use copal::task::{Silent, Stop};

use super::common::{noise, open, options, small_options};
use super::turns::Random;

/// A chunk: the smallest there is, so that a schedule costs little.
const BLOCK: usize = 4096;
/// Images, each a file.
pub(crate) const IMAGES: u64 = 12;
/// Where the second span of an image begins.
const SPAN: u64 = 4 << 20;

/// An image: bytes at offsets, and zeros between them.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) path: PathBuf,
    size: u64,
    data: Vec<(u64, Vec<u8>)>,
}

impl Content {
    fn new(number: u64, folder: &std::path::Path) -> Self {
        let mut random = Random(number * 77 + 5);
        // Every sixth has two spans; most of its time is spent on the zeros in the first.
        let spans = if number % 6 == 5 { 2 } else { 1 };
        let part = |at: u64| {
            let mut bytes = Vec::new();
            for _ in 0..3 {
                let first = random.below(6) * 3;
                (first..first + 3).for_each(|block| bytes.extend(noise(block + 1, BLOCK)));
            }
            (at, bytes)
        };
        let data: Vec<_> = (0..spans).map(|span| span * SPAN).map(part).collect();
        let (path, size) = (folder.join(format!("i{number}")), (spans - 1) * SPAN + 9 * BLOCK as u64);
        let file = std::fs::File::create(&path).expect("create");
        file.set_len(size).expect("set the length");
        for (at, bytes) in &data {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, *at).expect("write");
        }
        Self { path, size, data }
    }

    /// Whether an image is this one; an error if it cannot be read.
    pub(crate) fn is(&self, reader: &ImageReader, image: &Image) -> Result<bool, String> {
        if image.size != self.size {
            return Ok(false);
        }
        for (at, bytes) in &self.data {
            let mut read = vec![0; bytes.len()];
            let len = reader.read_at(image, *at, &mut read).map_err(|error| error.to_string())?;
            if len != bytes.len() || read != *bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A repository in which something has happened.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) objects: Objects,
    pub(crate) kept: Vec<ArchiveId>,
    pub(crate) deleted: Vec<ArchiveId>,
}

/// All images and scenes.
#[derive(Debug)]
pub(crate) struct World {
    _folder: tempfile::TempDir,
    pub(crate) images: Vec<Content>,
    pub(crate) scenes: Vec<Scene>,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let images: Vec<_> = (0..IMAGES).map(|number| Content::new(number, folder.path())).collect();
        let scenes = (0..24).map(|number| scene(number, &images)).collect();
        Self { _folder: folder, images, scenes }
    }

    /// The image that an archive of this name was made from.
    pub(crate) fn content(&self, name: &str) -> &Content {
        let number = name.strip_prefix('i').and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
        &self.images[number.expect("archives are named after their images")]
    }
}

/// What an archive of an image is called.
pub(crate) fn archive_name(image: u64, maker: &str) -> String {
    format!("i{image}-{maker}")
}

pub(crate) fn compact_options(now: bool) -> CompactOptions {
    CompactOptions { threshold: 1, now, dry_run: false }
}

/// Makes it so that all processes that left a session are known to be dead.
pub(crate) fn bury(storage: &MemoryStorage) {
    let repository = open(storage.clone());
    for listed in list_sessions(repository.objects()).expect("list") {
        let Some(session) = listed.session else { continue };
        // No process has such a number.
        let dead = protocol::Session { pid: u32::MAX, ..session };
        let name = format!("sessions/{}", listed.id);
        repository.objects().put(ObjectKind::Session, &name, &msgpack::to_bytes(&dead)).expect("put");
    }
}

fn scene(number: u64, images: &[Content]) -> Scene {
    let mut random = Random(number * 1001 + 7);
    let storage = MemoryStorage::new();
    let (mirror, chunker) = (number.is_multiple_of(3), ChunkerParams::fixed(BLOCK as u32));
    let made = InitOptions { chunker, mirror, ..small_options() };
    init(std::sync::Arc::new(storage.clone()), &made).expect("init");
    let (mut kept, mut deleted) = (Vec::new(), Vec::new());
    let small = |random: &mut Random| loop {
        let image = random.below(IMAGES);
        // Images of two spans cost much more.
        if image % 6 != 5 || random.below(4) == 0 {
            return image;
        }
    };
    let back_up = |storage: &dyn Fn() -> std::sync::Arc<dyn Storage>, image: u64, maker: String| {
        let options = options(&archive_name(image, &maker), &[images[image as usize].path.as_path()]);
        create(&open(storage()), &options, &Stop::default(), &Silent)
    };
    let whole = || -> std::sync::Arc<dyn Storage> { std::sync::Arc::new(storage.clone()) };
    let mut delete = |random: &mut Random, kept: &mut Vec<ArchiveId>| {
        let gone = kept.remove(random.below(kept.len() as u64) as usize);
        apply(&open(storage.clone()), "delete", &[(gone, Change::Delete)]).expect("delete");
        deleted.push(gone);
    };
    for round in 0..3 + random.below(3) {
        let image = small(&mut random);
        kept.push(back_up(&whole, image, format!("s{round}")).expect("create").id.expect("an id"));
        match random.below(6) {
            0 if kept.len() > 1 => delete(&mut random, &mut kept),
            1 if kept.len() > 1 => {
                delete(&mut random, &mut kept);
                compact(&open(storage.clone()), &compact_options(true), &Stop::default(), &Silent)
                    .expect("compact");
            }
            2 => {
                let puts = 2 + random.below(8);
                let dies = || -> std::sync::Arc<dyn Storage> {
                    let faults = Faults::new(storage.clone());
                    faults.crash_after_puts(puts);
                    std::sync::Arc::new(faults)
                };
                let _ = back_up(&dies, small(&mut random), format!("d{round}"));
                bury(&storage);
            }
            3 if kept.len() > 1 => {
                delete(&mut random, &mut kept);
                let faults = Faults::new(storage.clone());
                faults.crash_after_puts(1 + random.below(20));
                let _ = compact(&open(faults), &compact_options(true), &Stop::default(), &Silent);
                bury(&storage);
            }
            _ => {}
        }
    }
    delete(&mut random, &mut kept);
    Scene { objects: storage.snapshot(), kept, deleted }
}
