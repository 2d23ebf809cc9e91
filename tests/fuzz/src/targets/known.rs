//! What this machine remembers of repositories: JSON in files that others may have written.

use std::path::PathBuf;

use copal::format::config::{ConfigHeader, EncryptionMode};
use copal::repository::archives::Listing;
use copal::repository::known::Memory;

use crate::samples::REPOSITORY;

const PLACE: &str = "/repo";

thread_local! {
    /// In memory where there is such a place: each input is written twice.
    static STATE: tempfile::TempDir = {
        let memory = PathBuf::from("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        made.expect("a directory for temporary files")
    };
}

fn header() -> ConfigHeader {
    ConfigHeader { encryption: EncryptionMode::None, epoch: 1, writer_features: 0, repository: REPOSITORY }
}

/// A file about a repository, or about a place, as the input's first byte says.
pub(super) fn memory(input: &[u8]) -> bool {
    let Some((which, json)) = input.split_first() else { return false };
    let place = format!("place-{}.json", &blake3::hash(PLACE.as_bytes()).to_hex()[..32]);
    let files = [place, format!("{REPOSITORY}.json")];
    STATE.with(|state| {
        let file = state.path().join(&files[usize::from(which & 1)]);
        std::fs::write(&file, json).expect("the file can be written");
        let memory = Memory::new(state.path().to_owned());
        let mut recalled = memory.recall(PLACE);
        let judged = recalled.check_header(&header(), false);
        let listed = recalled.check_archives(REPOSITORY, 0, &Listing::default(), &|_| false);
        std::fs::remove_file(&file).expect("the file can be removed");
        judged.is_err() || listed.is_err()
    })
}

pub(super) fn memory_seeds() -> Vec<Vec<u8>> {
    let id = REPOSITORY.to_string().replace('9', "8");
    [
        format!("0{{\"place\":\"{PLACE}\",\"repository\":\"{id}\"}}"),
        format!(
            "1{{\"encryption\":\"none\",\"generation\":1,\"newest\":{{\"web01\":[\"{id}\",1800000001000000000]}}}}"
        ),
        "1{\"encryption\":\"slots\",\"generation\":0,\"newest\":{}}".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}
