//! Where blobs lie: index segments and forwardings.

use copal::codec::keys::BlobKind;
use copal::format::index_segment::{
    Directory, HEADER_LEN, Header, IndexEntry, IndexSegment, page_from_bytes, page_to_bytes,
};
use copal::format::protocol::Forwarding;
use copal::id::{BlobId, PackId, SegmentId};

use crate::samples::location;

/// A header, and the plain bytes of a directory behind it.
pub(super) fn segment(input: &[u8]) -> bool {
    let Some((header, directory)) = input.split_at_checked(HEADER_LEN) else { return false };
    let Ok(header) = Header::from_bytes(header) else { return false };
    assert!((0..3).all(|number| header.page(number).is_none_or(|(_, len)| len > 0)));
    let Ok(parsed) = Directory::from_bytes(directory, &header) else { return false };
    assert_eq!(parsed.to_bytes(), directory);
    true
}

pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    let ring = crate::samples::keyring();
    let entries = (0..100).map(entry).collect();
    let (supersedes, packs) = (vec![SegmentId([4; 16])], vec![PackId([9; 16])]);
    let segment = IndexSegment { supersedes, packs, entries };
    let name = "index/x-00000000000000000000000000000000";
    let sealed = segment.seal(&ring, name).expect("a key");
    let header = Header::from_bytes(&sealed[..HEADER_LEN]).expect("a header");
    let directory = sealed[HEADER_LEN..][..header.directory_len()].to_vec();
    let directory = header.open_directory(&ring, name, directory).expect("a directory");
    vec![[&sealed[..HEADER_LEN], &directory.to_bytes()].concat()]
}

pub(super) fn page(input: &[u8]) -> bool {
    let Ok(entries) = page_from_bytes(input) else { return false };
    assert_eq!(page_to_bytes(&entries), input);
    true
}

pub(super) fn page_seeds() -> Vec<Vec<u8>> {
    vec![page_to_bytes(&(0..3).map(entry).collect::<Vec<_>>())]
}

fn entry(id: u8) -> IndexEntry {
    IndexEntry { kind: BlobKind::Chunk, id: BlobId([id; 32]), location: location(7, 40), plain_len: 9 }
}

pub(super) fn forwarding(input: &[u8]) -> bool {
    let Ok(forwarding) = Forwarding::from_bytes(input) else { return false };
    for (kind, id, location) in &forwarding.blobs {
        assert_eq!(forwarding.find(*kind, id), Some(*location));
    }
    assert_eq!(Forwarding::from_bytes(&forwarding.clone().to_bytes()), Ok(forwarding));
    true
}

pub(super) fn forwarding_seeds() -> Vec<Vec<u8>> {
    let blob = |id, pack| (BlobKind::Chunk, BlobId([id; 32]), location(pack, 40));
    vec![Forwarding { pack: PackId([9; 16]), blobs: vec![blob(1, 4), blob(2, 5)] }.to_bytes()]
}
