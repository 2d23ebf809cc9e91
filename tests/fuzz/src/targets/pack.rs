//! Packs: header, footer, and the trailer behind its seal.

use copal::codec::compress::Compression;
use copal::codec::keys::{BlobKind, KeyClass};
use copal::codec::seal::BLOB_OVERHEAD;
use copal::format::pack::{self, FOOTER_LEN, HEADER_LEN, PackEntry, PackKind};
use copal::id::{BlobId, PackId};

use crate::samples::{REPOSITORY, pack as sample, ring};

const PACK: PackId = PackId([5; 16]);
const ENTRY_LEN: usize = 45;

/// A header, then a footer, in a pack as long as its footer says and in one as long as the input.
pub(super) fn ends(input: &[u8]) -> bool {
    let head = &input[..input.len().min(HEADER_LEN)];
    let mut accepted = false;
    if let Ok((kind, pack)) = pack::parse_header(PACK, head) {
        assert_eq!(pack::header(kind, pack), head);
        accepted = true;
    }
    let Some(foot) = input.get(HEADER_LEN..).and_then(|rest| rest.first_chunk::<FOOTER_LEN>()) else {
        return accepted;
    };
    let claimed = u64::from_le_bytes(*foot[16..].first_chunk().expect("a footer is longer"));
    for len in [claimed, input.len() as u64] {
        let Ok(footer) = pack::parse_footer(PACK, len, foot) else { continue };
        let (offset, trailer) = footer.trailer;
        assert!(offset >= HEADER_LEN as u64 && offset + u64::from(trailer) + FOOTER_LEN as u64 == len);
        accepted = true;
    }
    accepted
}

fn footer(trailer_len: usize, entries: usize, pack_len: u64) -> [u8; FOOTER_LEN] {
    let narrow = |len: usize| u32::try_from(len).expect("inputs are short").to_le_bytes();
    let mut footer = [0; FOOTER_LEN];
    footer[..4].copy_from_slice(&narrow(trailer_len));
    footer[4..8].copy_from_slice(&narrow(entries));
    footer[8..16].copy_from_slice(b"COPALEND");
    footer[16..24].copy_from_slice(&pack_len.to_le_bytes());
    footer[24..].copy_from_slice(PACK.as_bytes());
    footer
}

pub(super) fn ends_seeds() -> Vec<Vec<u8>> {
    let foot = footer(2 * ENTRY_LEN + BLOB_OVERHEAD, 2, 1 << 20);
    let head = |kind| pack::header(kind, sample(5));
    vec![[head(PackKind::Data), foot].concat(), [head(PackKind::Maps), foot].concat()]
}

/// The end of the last blob (u32), then entries, sealed as they should be.
pub(super) fn trailer(input: &[u8]) -> bool {
    let Some((end, entries)) = input.split_first_chunk::<4>() else { return false };
    let count = entries.len() / ENTRY_LEN;
    let plain = &entries[..count * ENTRY_LEN];
    let end = u64::from(u32::from_le_bytes(*end) & 0x7fff_ffff);
    let trailer_len = plain.len() + BLOB_OVERHEAD;
    let pack_len = end + (trailer_len + FOOTER_LEN) as u64;
    let foot = footer(trailer_len, count, pack_len);
    let Ok(footer) = pack::parse_footer(PACK, pack_len, &foot) else { return false };
    let head = pack::header(PackKind::Data, sample(5));
    let aad = [REPOSITORY.as_bytes(), &head[..], &foot[..]].concat();
    let key = ring().seal_key(KeyClass::Index, 1).expect("all keys are there");
    let sealed = key.seal_packed(&aad, plain, Compression::None);
    let opened = pack::open_trailer(ring(), &head, 1, &footer, sealed).expect("the seal is right");
    let Ok(entries) = opened else { return false };
    let again = pack::trailer(ring(), &head, &entries, end as usize).expect("all keys are there");
    let (sealed, foot_again) = again.split_last_chunk::<FOOTER_LEN>().expect("it ends with a footer");
    assert_eq!(*foot_again, foot);
    assert_eq!(pack::open_trailer(ring(), &head, 1, &footer, sealed.to_vec()), Ok(Ok(entries)));
    true
}

pub(super) fn trailer_seeds() -> Vec<Vec<u8>> {
    let entry =
        |kind, id, offset| PackEntry { kind, id: BlobId([id; 32]), offset, sealed_len: 100, plain_len: 90 };
    let entries = [entry(BlobKind::Chunk, 1, 40), entry(BlobKind::Node, 2, 140)];
    let mut out = 240_u32.to_le_bytes().to_vec();
    for entry in entries {
        out.push(entry.kind as u8);
        out.extend_from_slice(entry.id.as_bytes());
        [entry.offset, entry.sealed_len, entry.plain_len]
            .iter()
            .for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    }
    vec![out]
}
