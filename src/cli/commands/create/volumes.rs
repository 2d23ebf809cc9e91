//! The report of `--skip-unused`.

use crate::archiver::unused::VolumeReport;
use crate::cli::output::{self, escaped, size};

/// Columns with numbers.
const RIGHT: [usize; 3] = [3, 4, 5];

/// Prints what became of each volume.
pub(super) fn print(volumes: &[VolumeReport]) -> anyhow::Result<()> {
    if volumes.is_empty() { Ok(()) } else { output::table(&rows(volumes), &RIGHT) }
}

fn rows(volumes: &[VolumeReport]) -> Vec<Vec<String>> {
    let head = ["VOLUME", "FILESYSTEM", "LABEL", "SIZE", "USED", "LEFT OUT", ""].map(String::from).to_vec();
    let row = |volume: &VolumeReport| {
        let part = volume.partition.map(|number| format!(" {number}")).unwrap_or_default();
        vec![
            format!("{}{part}", volume.member),
            volume.filesystem.clone().unwrap_or_else(|| "-".into()),
            escaped(volume.label.as_bytes()),
            size(volume.size),
            volume.used.map_or_else(|| "-".into(), size),
            size(volume.left_out),
            volume
                .whole
                .as_ref()
                .map(|why| format!("taken whole: {}", escaped(why.as_bytes())))
                .unwrap_or_default(),
        ]
    };
    std::iter::once(head).chain(volumes.iter().map(row)).collect()
}
