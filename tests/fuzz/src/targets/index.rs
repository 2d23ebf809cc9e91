//! Where blobs lie: index segments and forwardings.

use copal::codec::keys::BlobKind;
use copal::format::index_segment::{IndexEntry, IndexSegment};
use copal::format::protocol::Forwarding;
use copal::id::{BlobId, PackId, SegmentId};

use crate::samples::location;

pub(super) fn segment(input: &[u8]) -> bool {
    let Ok(segment) = IndexSegment::from_bytes(input) else { return false };
    assert_eq!(IndexSegment::from_bytes(&segment.clone().to_bytes()), Ok(segment));
    true
}

pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    let entry = |kind, id, pack| IndexEntry {
        kind,
        id: BlobId([id; 32]),
        location: location(pack, 40),
        plain_len: 9,
    };
    let entries =
        vec![entry(BlobKind::Chunk, 1, 7), entry(BlobKind::Chunk, 2, 7), entry(BlobKind::Node, 0, 8)];
    let segment = IndexSegment { supersedes: vec![SegmentId([4; 16])], entries };
    vec![segment.to_bytes(), IndexSegment::default().to_bytes()]
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
