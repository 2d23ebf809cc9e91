//! Copies an archive: `cargo bench --bench archives -- REPOSITORY COUNT`.
//!
//! The repository, which has to be unencrypted, has one archive, and gets so many more of the same data: an hour apart, of a hundred disks in turns. What a mount
//! meets in a repository that has grown for years, without the years; archives that creates made, one after the other, leave the same objects.

use std::sync::Arc;

use copal::format::envelope::ObjectKind;
use copal::format::name::ArchiveName;
use copal::id::ArchiveId;
use copal::repository::archives::{record_name, refresh_catalogue};
use copal::repository::unlock::Locked;
use copal::storage::local::LocalStorage;

/// Disks of which there are archives.
const DISKS: u32 = 100;
/// From one archive to the next, in ns.
const HOUR: i64 = 3_600_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [path, count] = &words[..] else { return Err("usage: archives REPOSITORY COUNT".into()) };
    let count: u32 = count.parse()?;
    let storage = Arc::new(LocalStorage::open(path.as_ref())?);
    let repository = Locked::read(storage)?.unlock(None)?;
    let archives = repository.archives()?;
    let [first] = &archives[..] else { return Err("the repository does not have just one archive".into()) };
    let mut record = repository.record(first.id())?;
    for number in 1..=count {
        let hash = blake3::hash(format!("{} {number}", first.id()).as_bytes());
        let id = ArchiveId(*hash.as_bytes().first_chunk().ok_or("an archive's id is shorter than a hash")?);
        record.name = ArchiveName::new(&format!("machine{}", number % DISKS))?;
        record.time = first.time() + HOUR * i64::from(number);
        repository.objects().put(ObjectKind::Record, &record_name(id), &record.to_bytes()?)?;
    }
    refresh_catalogue(repository.objects())?;
    println!("{{\"archives\": {}}}", archives.len() + count as usize);
    Ok(())
}
