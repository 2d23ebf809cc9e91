//! Hostile input for every decoder of Copal: what is done with it, and what must hold.
//!
//! A target is a function that takes any bytes, decodes them, and says whether they were accepted. It fails by panicking. What was accepted is
//! encoded and decoded again and must be the same; [`run`] holds the memory that was used against the target's bound. The
//! same targets are driven by libFuzzer (`scripts/fuzz`), by the tests of this package with the committed corpus, and by hand
//! (`cargo run -p copal-fuzz -- TARGET FILE`).
//!
//! To add one: a function and its seeds in a file of `targets/`, a line in [`TARGETS`], then
//! `cargo run -p copal-fuzz -- --write-seeds TARGET`.

use std::path::PathBuf;

use peak_alloc::PeakAlloc;

pub mod mutate;
mod samples;
mod targets;

pub use targets::TARGETS;

/// Counts what is allocated.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What errors, encoding again and the target itself may allocate in bytes, whatever the input.
const FIXED: usize = 64 << 10;

/// Bytes of memory per byte of input, unless a target says otherwise: what is decoded, its copy, and the room that growing lists leave.
const PER_BYTE: usize = 32;

/// Longest input that is tried, in bytes: a node with all its children is 13 KiB long. Other bounds are broken by claims, which are short.
pub const MAX_INPUT: usize = 16 << 10;

/// One decoder, or a few that share their input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Names it, and its directory in the corpus.
    pub name: &'static str,
    decode: fn(&[u8]) -> bool,
    /// Inputs to begin with, at least one of which is accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
    fixed: usize,
    per_byte: usize,
}

impl Target {
    const fn new(name: &'static str, decode: fn(&[u8]) -> bool, seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Self { name, decode, seeds, fixed: FIXED, per_byte: PER_BYTE }
    }

    /// Allows `fixed` bytes of memory beyond the usual ones: what the decoder reserves for any input at all.
    const fn reserving(self, fixed: usize) -> Self {
        Self { fixed: FIXED + fixed, ..self }
    }

    /// Allows this many bytes of memory for each byte of input.
    const fn taking(self, per_byte: usize) -> Self {
        Self { per_byte, ..self }
    }

    /// Where its committed inputs are.
    #[must_use]
    pub fn corpus(&self) -> PathBuf {
        corpus().join(self.name)
    }

    /// The committed inputs, by file name.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn committed(&self) -> Vec<(String, Vec<u8>)> {
        let Ok(entries) = std::fs::read_dir(self.corpus()) else { return Vec::new() };
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.expect("an entry of the corpus").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a file of the corpus"))
        };
        let mut inputs: Vec<_> = entries.map(read).collect();
        inputs.sort();
        inputs
    }
}

/// The committed corpus, one directory for each target.
#[must_use]
pub fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Tries one input; says whether it was accepted. Only one thread of a process may do so at a time, since all share the heap that is measured.
///
/// # Panics
/// If the decoder panicked, decoded again to something else, or used too much memory.
pub fn run(target: &Target, input: &[u8]) -> bool {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let accepted = (target.decode)(input);
    let used = HEAP.peak_usage().saturating_sub(before);
    let bound = target.fixed + target.per_byte * input.len();
    assert!(
        used <= bound,
        "{}: {} bytes of input took {used} bytes of memory, {bound} are allowed",
        target.name,
        input.len()
    );
    accepted
}
