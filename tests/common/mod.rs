//! What the integration tests share: repositories in memory, images with every awkward shape, and a plain reference to compare with.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod compactor;
pub(crate) mod scene;
pub(crate) mod turns;
pub(crate) mod unsynced;
pub(crate) mod watched;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use copal::archiver::create::{CreateOptions, Created, create};
use copal::archiver::{ReadErrors, Silent, Stop};
use copal::codec::compress::Compression;
use copal::codec::keys::BlobKind;
use copal::format::config::ChunkerParams;
use copal::format::name::ArchiveName;
use copal::format::pack::PackKind;
use copal::id::{ArchiveId, PackId};
use copal::image::Image;
use copal::image::reader::ImageReader;
use copal::repository::Repository;
use copal::repository::unlock::{InitOptions, Locked, init};
use copal::source::SourceSpec;
use copal::storage::Storage;

/// Small spans and packs, so that small images cross many edges.
pub(crate) fn small_options() -> InitOptions {
    InitOptions {
        chunker: ChunkerParams::fastcdc(16 << 10),
        span_shift: 22,
        pack_size: 1 << 20,
        reserve: 0,
        ..InitOptions::default()
    }
}

/// Makes a repository that is not encrypted.
pub(crate) fn make(storage: impl Storage + 'static) -> Arc<Repository> {
    Arc::new(init(Arc::new(storage), &small_options()).expect("init"))
}

/// Opens a repository that is not encrypted, as another process would.
pub(crate) fn open(storage: impl Storage + 'static) -> Arc<Repository> {
    Arc::new(Locked::read(Arc::new(storage)).expect("config").unlock(None).expect("unlock"))
}

pub(crate) fn name(text: &str) -> ArchiveName {
    ArchiveName::new(text).expect("a good name")
}

pub(crate) fn options(archive: &str, sources: &[&Path]) -> CreateOptions {
    let member = |(i, path): (usize, &&Path)| (name(&format!("m{i}")), SourceSpec::Path(path.to_path_buf()));
    CreateOptions {
        name: name(archive),
        members: sources.iter().enumerate().map(member).collect(),
        comment: String::new(),
        tags: vec![],
        time: None,
        compression: Compression::default(),
        chunker: None,
        dry_run: false,
        read_errors: ReadErrors::Stop,
        force_read: false,
        source_token: String::new(),
        changed: None,
        skip_unused: false,
    }
}

pub(crate) fn back_up(repository: &Arc<Repository>, archive: &str, source: &Path) -> Created {
    create(repository, &options(archive, &[source]), &Stop::default(), &Silent).expect("create")
}

pub(crate) fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(bytes).expect("write");
    file
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// An image of about `len` bytes with data, text, holes, lone blocks and an odd tail.
pub(crate) fn mixed(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + (1 << 20));
    let mut step = seed;
    while bytes.len() < len {
        step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = (step >> 33) as usize % (600 << 10) + 1;
        match step >> 61 {
            0..=2 => bytes.extend(noise(step, part)),
            3 => bytes.extend(b"all work and no play makes jack a dull boy\n".iter().cycle().take(part)),
            4 => {
                for i in 0..16u64 {
                    bytes.resize(bytes.len().next_multiple_of(4096) + 4096, 0);
                    bytes.extend(noise(step + i, 4096));
                }
            }
            _ => bytes.resize(bytes.len() + part, 0),
        }
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn reader_of(repository: &Arc<Repository>) -> ImageReader {
    ImageReader::new(repository.clone(), 8 << 20)
}

pub(crate) fn image_of(repository: &Repository, created: &Created, member: usize) -> Image {
    let record = repository.record(created.id.expect("not a dry run")).expect("record");
    Image::of(&record.members[member], repository.config().span_shift)
}

/// All bytes of an image, read in pieces of `piece` bytes.
pub(crate) fn read_all(reader: &ImageReader, image: &Image, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        let len = reader.read_at(image, all.len() as u64, &mut buffer).expect("read");
        if len == 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..len]);
    }
}

/// The image of an archive's first member.
pub(crate) fn image(repository: &Repository, archive: ArchiveId) -> Image {
    Image::of(&repository.record(archive).expect("record").members[0], repository.config().span_shift)
}

/// Asserts that an archive's first member is these bytes, as somebody sees it who opens the repository now.
pub(crate) fn assert_whole(storage: impl Storage + 'static, archive: ArchiveId, bytes: &[u8]) {
    let repository = open(storage);
    let image = image(&repository, archive);
    assert!(read_all(&reader_of(&repository), &image, 1 << 20) == bytes, "archive {archive} is not whole");
}

/// The ids of all listed archives, as somebody sees them who opens the repository now.
pub(crate) fn listed(storage: impl Storage + 'static) -> BTreeSet<ArchiveId> {
    open(storage).archives().expect("list").iter().map(copal::repository::archives::Archive::id).collect()
}

/// The packs of one kind that an archive's first member reaches.
pub(crate) fn packs_of(repository: &Arc<Repository>, archive: ArchiveId, kind: PackKind) -> BTreeSet<PackId> {
    let mut packs = BTreeSet::new();
    let mut visit = |blob: BlobKind, _, at: copal::format::location::Location| {
        if PackKind::of(blob) == kind {
            packs.insert(at.pack.id);
        }
    };
    reader_of(repository).maps().walk(&image(repository, archive), &mut visit).expect("walk");
    packs
}
