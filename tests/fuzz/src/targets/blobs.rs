//! Blobs: as they are stored, and what is packed behind a good seal.

use copal::codec::compress::{Compression, pack_into};
use copal::codec::keys::BlobKind;
use copal::format::pack::{open_blob, plain_limit, seal_blob};
use copal::id::BlobId;

use crate::samples::{REPOSITORY, ring};

const KINDS: [BlobKind; 3] = [BlobKind::Chunk, BlobKind::SpanMap, BlobKind::Node];
const ID: BlobId = BlobId([7; 32]);

/// A stored blob. Only untouched ones open.
pub(super) fn sealed(input: &[u8]) -> bool {
    let mut accepted = false;
    for kind in KINDS {
        if let Ok(plain) = open_blob(ring(), kind, &ID, 1, &mut input.to_vec()) {
            assert!(plain.len() <= plain_limit(kind));
            let mut again =
                seal_blob(ring(), kind, &ID, &plain, Compression::default()).expect("all keys are there");
            assert_eq!(open_blob(ring(), kind, &ID, 1, &mut again), Ok(plain));
            accepted = true;
        }
    }
    accepted
}

pub(super) fn sealed_seeds() -> Vec<Vec<u8>> {
    let seal = |kind, plain: &[u8]| {
        seal_blob(ring(), kind, &ID, plain, Compression::default()).expect("all keys are there")
    };
    vec![seal(BlobKind::Chunk, b"one"), seal(BlobKind::Chunk, &[2; 5000]), seal(BlobKind::Node, b"node")]
}

/// What was packed before it was sealed as a node.
pub(super) fn plain(input: &[u8]) -> bool {
    let key = ring().seal_key(BlobKind::Node.class(), 1).expect("all keys are there");
    let aad =
        [&REPOSITORY.as_bytes()[..], b"blob", &[BlobKind::Node as u8], &1_u32.to_le_bytes(), ID.as_bytes()]
            .concat();
    let mut sealed = key.seal(&aad, input);
    match open_blob(ring(), BlobKind::Node, &ID, 1, &mut sealed) {
        Ok(plain) => {
            assert!(plain.len() <= plain_limit(BlobKind::Node));
            true
        }
        Err(error) => {
            assert_ne!(error, copal::codec::CodecError::Unverified, "the seal is right");
            false
        }
    }
}

pub(super) fn plain_seeds() -> Vec<Vec<u8>> {
    let packed = |plain: &[u8], compression| {
        let mut out = Vec::new();
        pack_into(&mut out, plain, compression);
        out
    };
    vec![packed(b"node", Compression::None), packed(&[3; 5000], Compression::default())]
}
