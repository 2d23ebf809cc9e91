//! The parts of a disk that can be opened by themselves, and their names: `1-efi`, `2-root`.
//!
//! A name is the part's number and a word that tells people what it is. It is unique on its disk (numbers are), fit for a file name
//! anywhere, and at most [`MAX_WORD`] bytes, a number and `mbr-` long, whatever labels the disk carries.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::{Partition, Table, TableKind};

/// The longest word in a name, in bytes.
const MAX_WORD: usize = 64;

/// The most pairs of parts that share bytes of which it is told.
const MAX_OVERLAPS: usize = 32;

/// Words for types of partitions that say more than any label does.
const ROLES: [(&str, &str); 9] = [
    ("EFI System", "efi"),
    ("EFI (FAT-12/16/32)", "efi"),
    ("BIOS boot", "bios"),
    ("Linux swap", "swap"),
    ("Microsoft reserved", "msr"),
    ("Linux root (x86-64)", "root"),
    ("Linux root (x86)", "root"),
    ("Linux root (ARM-64)", "root"),
    ("Linux home", "home"),
];

/// What tools write where nobody chose a label; it says nothing.
const GENERIC: [&str; 4] = ["primary", "logical", "basic data partition", "linux filesystem"];

/// A partition that holds no others, or all of a disk that a single filesystem fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number as Linux counts; 1 for a disk without a table.
    pub number: u32,
    /// The number and a word, without an ending: `2-root`.
    pub name: String,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes, at least 1. `start + len` is within the disk.
    pub len: u64,
    /// What it holds, by the names of `blkid`.
    pub filesystem: Option<String>,
    /// The label of what it holds, or what the table calls it; empty if neither is there.
    pub label: String,
    /// The UUID or serial number of what it holds.
    pub uuid: Option<String>,
    /// Whether it is the disk itself, which has no table.
    pub whole: bool,
}

/// The parts of a disk of `len` bytes, in the order of its table. A disk without a table is one part if a filesystem is on it, none otherwise.
#[must_use]
pub fn parts(table: &Table, len: u64) -> Vec<Part> {
    if table.kind == TableKind::None {
        return whole(table, len).into_iter().collect();
    }
    table.partitions.iter().filter(|partition| !partition.container).map(Part::of).collect()
}

/// What is odd about a disk: what was noticed when its table was read, and parts that share bytes.
#[must_use]
pub fn remarks(table: &Table, parts: &[Part]) -> Vec<String> {
    let mut remarks = table.notes.clone();
    let mut sorted: Vec<&Part> = parts.iter().collect();
    sorted.sort_by_key(|part| (part.start, part.number));
    let overlaps = sorted.iter().enumerate().flat_map(|(at, one)| {
        let behind = sorted.iter().skip(at + 1).take_while(|other| other.start < one.start + one.len);
        behind.map(|other| (one.number, other.number))
    });
    let told = overlaps.take(MAX_OVERLAPS);
    remarks.extend(
        told.map(|(one, other)| format!("partitions {one} and {other} overlap: one of them is wrong")),
    );
    remarks
}

fn whole(table: &Table, len: u64) -> Option<Part> {
    let filesystem = table.filesystem.clone()?;
    let label = table.filesystem_label.clone().unwrap_or_default();
    let word = first_word(&[&label, &filesystem]);
    Some(Part {
        number: 1,
        name: format!("1-{word}"),
        start: 0,
        len,
        filesystem: Some(filesystem),
        label,
        uuid: table.uuid.clone(),
        whole: true,
    })
}

impl Part {
    fn of(partition: &Partition) -> Self {
        let Partition { number, start, len, .. } = *partition;
        let filesystem = partition.filesystem.as_deref().unwrap_or_default();
        let own = partition.filesystem_label.as_deref().unwrap_or_default();
        let given = &partition.label;
        let role = ROLES.iter().find(|(type_name, _)| *type_name == partition.type_name);
        let role = role.map_or("", |(_, word)| word);
        let given_word = if GENERIC.contains(&given.to_lowercase().as_str()) { "" } else { given };
        let word = first_word(&[role, own, given_word, filesystem, &partition.type_name]);
        let origin = if partition.only_in_mbr { "mbr-" } else { "" };
        Self {
            number,
            name: format!("{number}-{origin}{word}"),
            start,
            len,
            filesystem: partition.filesystem.clone(),
            label: if own.is_empty() { given.clone() } else { own.to_owned() },
            uuid: partition.uuid.clone(),
            whole: false,
        }
    }
}

/// The first of these texts of which a word is left.
fn first_word(texts: &[&str]) -> String {
    texts.iter().map(|text| word(text)).find(|word| !word.is_empty()).unwrap_or_else(|| "data".to_owned())
}

/// A text as a word: letters and digits of any script in lower case, hyphens between them.
fn word(text: &str) -> String {
    let mut word = String::new();
    for c in text.nfc().flat_map(char::to_lowercase) {
        let is_kept = c.is_alphanumeric() || is_combining_mark(c) || matches!(c, '_' | '.');
        let c = if is_kept { c } else { '-' };
        if matches!(c, '-' | '.') && (word.is_empty() || word.ends_with(['-', '.'])) {
            continue;
        }
        if word.len() + c.len_utf8() > MAX_WORD {
            break;
        }
        word.push(c);
    }
    word.truncate(word.trim_end_matches(['-', '.']).len());
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32, type_name: &str, label: &str, filesystem: &str, own: &str) -> Partition {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Partition {
            number,
            start: 1 << 20,
            len: 4096,
            type_code: String::new(),
            type_name: type_name.into(),
            label: label.into(),
            partition_uuid: None,
            filesystem: some(filesystem),
            filesystem_label: some(own),
            uuid: None,
            container: type_name == "Extended",
            only_in_mbr: false,
        }
    }

    fn table(kind: TableKind, partitions: Vec<Partition>) -> Table {
        Table {
            kind,
            sector: 512,
            disk_id: String::new(),
            partitions,
            filesystem: None,
            filesystem_label: None,
            uuid: None,
            notes: Vec::new(),
            own: Vec::new(),
            doubt: None,
        }
    }

    #[test]
    fn names_say_what_a_part_is() {
        let names = |partitions| {
            let parts = parts(&table(TableKind::Gpt, partitions), 1 << 30);
            parts.into_iter().map(|part| part.name).collect::<Vec<_>>()
        };
        let disk = vec![
            partition(1, "EFI System", "Bücher", "vfat", "NO NAME"),
            partition(2, "Linux filesystem", "root", "ext4", ""),
            partition(3, "Linux filesystem", "Linux filesystem", "ext4", "Größe / Ελλάδα"),
            partition(4, "Extended", "", "", ""),
            partition(5, "HPFS/NTFS/exFAT", "", "ntfs", ""),
            partition(6, "Linux LVM", "primary", "LVM2_member", ""),
            partition(7, "Microsoft basic data", "../../etc", "", ""),
            partition(8, "", "...", "", "\u{202e}\0"),
            partition(9, "", &"ж".repeat(100), "", ""),
            partition(10, "", "Gro\u{308}ße", "", ""),
        ];
        let long = format!("9-{}", "ж".repeat(32));
        let said = [
            "1-efi",
            "2-root",
            "3-größe-ελλάδα",
            "5-ntfs",
            "6-lvm2_member",
            "7-etc",
            "8-data",
            &long,
            "10-größe",
        ];
        assert_eq!(names(disk), said);
    }

    #[test]
    fn parts_that_overlap_are_told() {
        let mut disk = ["", "", "", ""].map(|label| partition(1, "Linux filesystem", label, "", ""));
        for (number, (start, len)) in [(0, 100), (200, 300), (250, 20), (499, 1)].into_iter().enumerate() {
            disk[number].number = number as u32 + 1;
            (disk[number].start, disk[number].len) = (start, len);
        }
        let mut table = table(TableKind::Gpt, disk.to_vec());
        table.notes.push("a note".into());
        let told = remarks(&table, &parts(&table, 1 << 20));
        let overlap = |one, other| format!("partitions {one} and {other} overlap: one of them is wrong");
        assert_eq!(told, ["a note".to_owned(), overlap(2, 3), overlap(2, 4)]);
        table.partitions[3] = Partition { number: 4, ..table.partitions[2].clone() };
        let told = remarks(&table, &parts(&table, 1 << 20));
        assert_eq!(told[1..], [overlap(2, 3), overlap(2, 4), overlap(3, 4)], "two are the same");
    }

    #[test]
    fn a_disk_without_a_table_is_one_part_or_none() {
        let mut disk = table(TableKind::None, Vec::new());
        assert_eq!(parts(&disk, 4096), []);
        disk.filesystem = Some("xfs".into());
        disk.filesystem_label = Some("Data".into());
        let [part] = &parts(&disk, 4096)[..] else { panic!("one part") };
        assert_eq!((part.name.as_str(), part.start, part.len, part.whole), ("1-data", 0, 4096, true));
    }
}
