//! Packs: many sealed blobs in one stored file, readable without an index (`docs/format.md`, section 6).

use super::location::{KEY_MODE_CLASS, Location, PackRef};
use super::wire::Reader;
use super::{FormatError, limits};
use crate::codec::CodecError;
use crate::codec::compress::Compression;
use crate::codec::keys::{BlobKind, KeyClass, Keyring};
use crate::codec::seal::{BLOB_OVERHEAD, packing_bound};
use crate::id::{BlobId, PackId};

const MAGIC: &[u8; 8] = b"COPALPCK";
const END_MAGIC: &[u8; 8] = b"COPALEND";
const VERSION: u16 = 1;
/// Bytes before the first blob, in mode 1.
pub const HEADER_LEN: usize = 40;
/// Bytes at the end that say where the trailer begins.
pub const FOOTER_LEN: usize = 40;
/// Plain bytes of one trailer entry.
const ENTRY_LEN: usize = 45;

/// What a pack holds. The discriminants are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PackKind {
    /// Chunks.
    Data = 1,
    /// Span maps and tree nodes.
    Maps = 2,
}

impl PackKind {
    /// The kind with this tag.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        [Self::Data, Self::Maps].into_iter().find(|kind| *kind as u8 == tag)
    }

    /// The kind of pack that holds a kind of blob.
    #[must_use]
    pub fn of(kind: BlobKind) -> Self {
        match kind {
            BlobKind::Chunk => Self::Data,
            BlobKind::SpanMap | BlobKind::Node => Self::Maps,
        }
    }

    /// Where its packs are stored.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Data => "packs",
            Self::Maps => "maps",
        }
    }
}

/// One blob of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    /// What it is.
    pub kind: BlobKind,
    /// Its id.
    pub id: BlobId,
    /// Offset of the sealed bytes in the pack.
    pub offset: u32,
    /// Length of the sealed bytes.
    pub sealed_len: u32,
    /// Length of the plain bytes.
    pub plain_len: u32,
}

impl PackEntry {
    /// Where the blob lies.
    #[must_use]
    pub fn location(&self, pack: PackRef) -> Location {
        Location { pack, offset: self.offset, sealed_len: self.sealed_len }
    }
}

/// The most plain bytes a blob may have.
#[must_use]
pub fn plain_limit(kind: BlobKind) -> usize {
    match kind {
        BlobKind::Chunk => limits::MAX_CHUNK as usize,
        BlobKind::SpanMap => limits::MAX_SPAN_MAP,
        BlobKind::Node => limits::MAX_NODE,
    }
}

/// The most sealed bytes a blob may have.
#[must_use]
pub fn sealed_limit(kind: BlobKind) -> usize {
    plain_limit(kind) + BLOB_OVERHEAD
}

fn blob_aad(keyring: &Keyring, kind: BlobKind, epoch: u32, id: &BlobId) -> Vec<u8> {
    [&keyring.repository().as_bytes()[..], b"blob", &[kind as u8], &epoch.to_le_bytes(), id.as_bytes()]
        .concat()
}

/// Seals a blob under the current epoch.
///
/// # Errors
/// [`CodecError::MissingKey`].
pub fn seal_blob(
    keyring: &Keyring,
    kind: BlobKind,
    id: &BlobId,
    plain: &[u8],
    compression: Compression,
) -> Result<Vec<u8>, CodecError> {
    let mut sealed = Vec::with_capacity(packing_bound(plain.len()));
    seal_blob_into(&mut sealed, keyring, kind, id, plain, compression)?;
    Ok(sealed)
}

/// As [`seal_blob`], behind what is in `out`, which does not move if there is room ([`packing_bound`]).
///
/// # Errors
/// As [`seal_blob`]; nothing was appended then.
pub fn seal_blob_into(
    out: &mut Vec<u8>,
    keyring: &Keyring,
    kind: BlobKind,
    id: &BlobId,
    plain: &[u8],
    compression: Compression,
) -> Result<(), CodecError> {
    let epoch = keyring.current_epoch();
    let aad = blob_aad(keyring, kind, epoch, id);
    keyring.seal_key(kind.class(), epoch)?.seal_packed_into(out, &aad, plain, compression);
    Ok(())
}

/// Opens a blob sealed under `epoch`; `sealed` is overwritten. The id is part of what is verified, but the content is not
/// hashed: the caller does that, since for maps and nodes only a part is hashed.
///
/// # Errors
/// [`CodecError`].
pub fn open_blob(
    keyring: &Keyring,
    kind: BlobKind,
    id: &BlobId,
    epoch: u32,
    sealed: &mut [u8],
) -> Result<Vec<u8>, CodecError> {
    let mut plain = Vec::new();
    open_blob_into(keyring, kind, id, epoch, sealed, &mut plain)?;
    Ok(plain)
}

/// As [`open_blob`], into a buffer, whose content is replaced.
///
/// # Errors
/// As [`open_blob`].
pub fn open_blob_into(
    keyring: &Keyring,
    kind: BlobKind,
    id: &BlobId,
    epoch: u32,
    sealed: &mut [u8],
    plain: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let aad = blob_aad(keyring, kind, epoch, id);
    keyring.seal_key(kind.class(), epoch)?.open_packed_into(&aad, sealed, plain_limit(kind), plain)
}

/// The first bytes of a pack.
#[must_use]
pub fn header(kind: PackKind, pack: PackRef) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[10] = kind as u8;
    out[11] = pack.mode;
    out[12..16].copy_from_slice(&pack.epoch.to_le_bytes());
    out[16..32].copy_from_slice(pack.id.as_bytes());
    out
}

/// Reads the first [`HEADER_LEN`] bytes of the pack called `id`.
///
/// # Errors
/// [`FormatError`].
pub fn parse_header(id: PackId, bytes: &[u8]) -> Result<(PackKind, PackRef), FormatError> {
    let mut reader = Reader::new("pack", bytes);
    reader.magic(MAGIC)?;
    reader.version(VERSION)?;
    let [kind, mode] = reader.array()?;
    let epoch = reader.u32()?;
    let named = PackId(reader.array()?);
    if mode != KEY_MODE_CLASS {
        return Err(FormatError::KeyMode { what: "pack", mode });
    }
    reader.zeros::<8>()?;
    reader.finish()?;
    let kind =
        PackKind::from_tag(kind).ok_or_else(|| FormatError::malformed("pack", format!("kind {kind}")))?;
    if named != id {
        return Err(FormatError::malformed("pack", format!("it says it is {named}")));
    }
    Ok((kind, PackRef { id, mode, epoch }))
}

/// Trailer and footer behind `blobs_end` bytes of header and blobs.
///
/// # Errors
/// [`CodecError::MissingKey`].
pub fn trailer(
    keyring: &Keyring,
    header: &[u8; HEADER_LEN],
    entries: &[PackEntry],
    blobs_end: usize,
) -> Result<Vec<u8>, CodecError> {
    let mut plain = Vec::with_capacity(entries.len() * ENTRY_LEN);
    for entry in entries {
        plain.push(entry.kind as u8);
        plain.extend_from_slice(entry.id.as_bytes());
        plain.extend_from_slice(&entry.offset.to_le_bytes());
        plain.extend_from_slice(&entry.sealed_len.to_le_bytes());
        plain.extend_from_slice(&entry.plain_len.to_le_bytes());
    }
    // Stored raw, since ids do not compress and the footer, which the seal covers, states the sealed length.
    let sealed_len = plain.len() + BLOB_OVERHEAD;
    let mut footer = [0; FOOTER_LEN];
    let narrow =
        |len: usize| u32::try_from(len).expect("writers close a pack long before 4 GiB").to_le_bytes();
    footer[..4].copy_from_slice(&narrow(sealed_len));
    footer[4..8].copy_from_slice(&narrow(entries.len()));
    footer[8..16].copy_from_slice(END_MAGIC);
    footer[16..24].copy_from_slice(&((blobs_end + sealed_len + FOOTER_LEN) as u64).to_le_bytes());
    footer[24..].copy_from_slice(&header[16..32]);
    let aad = [keyring.repository().as_bytes(), &header[..], &footer[..]].concat();
    let key = keyring.seal_key(KeyClass::Index, keyring.current_epoch())?;
    let mut out = key.seal_packed(&aad, &plain, Compression::None);
    out.extend_from_slice(&footer);
    Ok(out)
}

/// What a pack's footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the trailer lies in the pack: offset and length in bytes.
    pub trailer: (u64, u32),
    /// How many entries it has.
    pub entries: u32,
    bytes: [u8; FOOTER_LEN],
}

/// Reads the last [`FOOTER_LEN`] bytes of the pack called `id`, which is `pack_len` bytes long.
///
/// # Errors
/// [`FormatError`].
pub fn parse_footer(id: PackId, pack_len: u64, bytes: &[u8; FOOTER_LEN]) -> Result<Footer, FormatError> {
    let malformed = |reason: &str| Err(FormatError::malformed("pack", reason));
    let mut reader = Reader::new("pack", bytes);
    let [trailer_len, entries] = [reader.u32()?, reader.u32()?];
    if reader.magic(END_MAGIC).is_err() {
        return malformed("its end is missing");
    }
    if reader.u64()? != pack_len || PackId(reader.array()?) != id {
        return malformed("it is cut, or another pack's end");
    }
    let room = pack_len.saturating_sub((HEADER_LEN + FOOTER_LEN) as u64);
    let expected = u64::from(entries) * ENTRY_LEN as u64 + BLOB_OVERHEAD as u64;
    if trailer_len > limits::MAX_TRAILER || u64::from(trailer_len) > room || pack_len > limits::MAX_PACK {
        return malformed("its trailer is too long");
    }
    if entries == 0 || entries > limits::MAX_PACK_ENTRIES || u64::from(trailer_len) != expected {
        return malformed("its trailer's length does not fit its number of entries");
    }
    let offset = pack_len - FOOTER_LEN as u64 - u64::from(trailer_len);
    Ok(Footer { trailer: (offset, trailer_len), entries, bytes: *bytes })
}

/// Opens a trailer, given the pack's first bytes, its footer and the trailer's sealed bytes.
///
/// # Errors
/// [`CodecError`] outside, [`FormatError`] inside.
pub fn open_trailer(
    keyring: &Keyring,
    header: &[u8; HEADER_LEN],
    epoch: u32,
    footer: &Footer,
    mut sealed: Vec<u8>,
) -> Result<Result<Vec<PackEntry>, FormatError>, CodecError> {
    let aad = [keyring.repository().as_bytes(), &header[..], &footer.bytes[..]].concat();
    let limit = footer.entries as usize * ENTRY_LEN;
    let plain = keyring.seal_key(KeyClass::Index, epoch)?.open_packed(&aad, &mut sealed, limit)?;
    Ok(parse_entries(&plain, footer.trailer.0))
}

fn parse_entries(plain: &[u8], blobs_end: u64) -> Result<Vec<PackEntry>, FormatError> {
    let malformed = |reason: &str| FormatError::malformed("pack trailer", reason);
    let mut reader = Reader::new("pack trailer", plain);
    let mut entries = Vec::with_capacity(plain.len() / ENTRY_LEN);
    let mut next = HEADER_LEN as u64;
    for _ in 0..plain.len() / ENTRY_LEN {
        let kind = BlobKind::from_tag(reader.u8()?).ok_or_else(|| malformed("unknown kind of blob"))?;
        let id = BlobId(reader.array()?);
        let [offset, sealed_len, plain_len] = [reader.u32()?, reader.u32()?, reader.u32()?];
        if u64::from(offset) != next {
            return Err(malformed("blobs are not gapless"));
        }
        if plain_len as usize > plain_limit(kind) || sealed_len as usize > plain_len as usize + BLOB_OVERHEAD
        {
            return Err(malformed("a blob is too long"));
        }
        next += u64::from(sealed_len);
        entries.push(PackEntry { kind, id, offset, sealed_len, plain_len });
    }
    reader.finish()?;
    if next != blobs_end {
        return Err(malformed("the last blob does not end where the trailer begins"));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::keys::KeySet;
    use crate::id::RepositoryId;

    fn ring() -> Keyring {
        let repository = RepositoryId([1; 16]);
        Keyring::new(repository, &KeySet::public(&repository), 1)
    }

    #[test]
    fn a_pack_reads_back_from_its_own_bytes() {
        let ring = ring();
        let pack = PackRef { id: PackId([5; 16]), mode: 1, epoch: 1 };
        let head = header(PackKind::Data, pack);
        let mut bytes = head.to_vec();
        let mut entries = Vec::new();
        for plain in [&b"one"[..], &[2; 5000]] {
            let id = ring.blob_id(BlobKind::Chunk, plain).unwrap();
            let sealed = seal_blob(&ring, BlobKind::Chunk, &id, plain, Compression::default()).unwrap();
            entries.push(PackEntry {
                kind: BlobKind::Chunk,
                id,
                offset: bytes.len() as u32,
                sealed_len: sealed.len() as u32,
                plain_len: plain.len() as u32,
            });
            bytes.extend_from_slice(&sealed);
        }
        bytes.extend(trailer(&ring, &head, &entries, bytes.len()).unwrap());

        let read = |bytes: &[u8]| -> Option<Vec<PackEntry>> {
            let (_, pack) = parse_header(PackId([5; 16]), bytes.get(..HEADER_LEN)?).ok()?;
            let footer = parse_footer(pack.id, bytes.len() as u64, bytes.last_chunk()?).ok()?;
            let (offset, len) = footer.trailer;
            let sealed = bytes[offset as usize..][..len as usize].to_vec();
            open_trailer(&ring, bytes.first_chunk()?, pack.epoch, &footer, sealed).ok()?.ok()
        };
        assert_eq!(read(&bytes).unwrap(), entries);
        let first_trailer_byte = (entries[1].offset + entries[1].sealed_len) as usize;
        for i in (0..HEADER_LEN).chain(first_trailer_byte..bytes.len()) {
            let mut bad = bytes.clone();
            bad[i] ^= 0x40;
            assert_eq!(read(&bad), None, "byte {i}");
            assert_eq!(read(&bytes[..i]), None, "cut at {i}");
        }
        let mut sealed = bytes[entries[0].offset as usize..][..entries[0].sealed_len as usize].to_vec();
        assert_eq!(
            open_blob(&ring, BlobKind::Chunk, &entries[0].id, 1, &mut sealed.clone()).unwrap(),
            b"one"
        );
        assert!(open_blob(&ring, BlobKind::Chunk, &entries[1].id, 1, &mut sealed).is_err());
    }
}
