use proptest::prelude::*;

use super::*;
use crate::codec::keys::KeySet;
use crate::format::span_map::tests::location;
use crate::id::RepositoryId;

const NAME: &str = "index/x-0000000000000000089536d40b9d0f69";

fn keyring() -> Keyring {
    Keyring::new(RepositoryId([1; 16]), &KeySet::public(&RepositoryId([1; 16])), 1)
}

fn entry(kind: BlobKind, id: [u8; 32], pack: u8) -> IndexEntry {
    IndexEntry { kind, id: BlobId(id), location: location(pack, 40), plain_len: 9 }
}

/// Many entries, of which some begin alike, and some are of one id.
fn sample(count: u32) -> IndexSegment {
    let entries = (0..count).map(|at| {
        let mut id = *blake3::hash(&(at / 2).to_le_bytes()).as_bytes();
        if at % 10 < 7 {
            id[..8].fill(5);
        }
        entry(BlobKind::Chunk, id, (at % 2) as u8)
    });
    IndexSegment {
        supersedes: vec![SegmentId([4; 16])],
        packs: vec![PackId([1; 16])],
        entries: entries.collect(),
    }
}

fn sorted(mut segment: IndexSegment) -> IndexSegment {
    segment.entries.sort_unstable_by(IndexEntry::order);
    segment
}

#[test]
fn golden_bytes() {
    let entries = vec![
        entry(BlobKind::Chunk, [1; 32], 7),
        entry(BlobKind::Node, [2; 32], 8),
        entry(BlobKind::Chunk, [2; 32], 7),
    ];
    let directory = Directory::of(vec![SegmentId([4; 16])], vec![PackId([7; 16])], &entries).to_bytes();
    assert_eq!(&blake3::hash(&directory).to_hex()[..16], "acc4a8837a4f522d");
    let page = page_to_bytes(&entries);
    assert_eq!(page.len(), 3 * ENTRY_LEN);
    assert_eq!(&blake3::hash(&page).to_hex()[..16], "089536d40b9d0f69");
    let header = Header { epoch: 1, directory_len: 5000, entries: 130 };
    assert_eq!(&blake3::hash(&header.to_bytes()).to_hex()[..16], "08c0d71247527605");
    assert_eq!(Header::from_bytes(&header.to_bytes()), Ok(header));
    assert_eq!(header.page(2), Some((32 + 5000 + 2 * 4252, 2 * 66 + 28)));
    assert_eq!(header.page(3), None);
}

#[test]
fn segments_of_any_length_come_back() {
    let keyring = keyring();
    for count in [0, 1, 63, 64, 65, 1000] {
        let mut bytes = sample(count).seal(&keyring, NAME).unwrap();
        assert!(bytes.len() as u64 <= MAX_STORED);
        let opened = IndexSegment::open(&keyring, NAME, &mut bytes).unwrap();
        assert_eq!(opened, sorted(sample(count)), "{count}");
    }
}

#[test]
fn a_lookup_opens_the_pages_that_may_have_the_id() {
    let keyring = keyring();
    let all = sorted(sample(2000));
    let bytes = all.clone().seal(&keyring, NAME).unwrap();
    let header = Header::from_bytes(&bytes[..HEADER_LEN]).unwrap();
    let behind = HEADER_LEN + header.directory_len();
    let directory = header.open_directory(&keyring, NAME, bytes[HEADER_LEN..behind].to_vec()).unwrap();
    for wanted in &all.entries {
        let pages = pages_of(&directory.firsts, &wanted.id);
        let found = pages.clone().any(|number| {
            let (offset, len) = header.page(number).unwrap();
            let mut sealed = bytes[offset as usize..][..len].to_vec();
            header.open_page(&keyring, NAME, number, &mut sealed).unwrap().contains(wanted)
        });
        assert!(found);
        assert!(pages.len() <= 2 || prefix(&wanted.id) == prefix(&BlobId([5; 32])));
    }
}

#[test]
fn parts_cannot_be_swapped_cut_or_changed() {
    let keyring = keyring();
    let bytes = sample(200).seal(&keyring, NAME).unwrap();
    let opens = |bytes: &[u8], name| IndexSegment::open(&keyring, name, &mut bytes.to_vec()).is_ok();
    assert!(opens(&bytes, NAME) && !opens(&bytes, "index/x-00000000000000000000000000000001"));
    let header = Header::from_bytes(&bytes[..HEADER_LEN]).unwrap();
    let page = |number| header.page(number).map(|(offset, len)| offset as usize..offset as usize + len);
    let mut swapped = bytes.clone();
    swapped.copy_within(page(1).unwrap(), page(0).unwrap().start);
    assert!(!opens(&swapped, NAME));
    for at in (0..bytes.len()).step_by(37).chain(0..HEADER_LEN) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(!opens(&changed, NAME), "byte {at}");
        assert!(!opens(&bytes[..at], NAME), "cut at {at}");
    }
    assert!(!opens(&[&bytes[..], &[0]].concat(), NAME));
}

proptest! {
    #[test]
    fn mutated_parts_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), entries in 0_u32..200) {
        let _ = Header::from_bytes(&bytes);
        let header = Header { epoch: 1, directory_len: 9, entries };
        let _ = Directory::from_bytes(&bytes, &header);
        let _ = page_from_bytes(&bytes);
    }
}
