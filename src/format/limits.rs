//! Every bound on stored input, in bytes unless said otherwise (`docs/format.md`).

/// Largest span: 64 MiB.
pub const MAX_SPAN_SHIFT: u8 = 26;
/// Smallest span: 4 MiB.
pub const MIN_SPAN_SHIFT: u8 = 22;
/// Smallest chunk a chunker may aim for.
pub const MIN_CHUNK: u32 = 4 << 10;
/// Longest chunk.
pub const MAX_CHUNK: u32 = 4 << 20;
/// Largest image: 64 PiB, far inside what signed file offsets hold.
pub const MAX_IMAGE: u64 = 1 << 56;

/// Plain bytes of a span map: content and hints of the largest span full of the smallest chunks take 2.1 MB.
pub const MAX_SPAN_MAP: usize = 3 << 20;
/// Plain bytes of a tree node: 256 children in 256 packs take 19 KB.
pub const MAX_NODE: usize = 32 << 10;
/// Chunks of one span map, in number.
pub const MAX_SPAN_CHUNKS: u32 = 1 << (MAX_SPAN_SHIFT - 12);
/// Extents of one span map, in number: data and holes alternate at worst, and chunks cut runs.
pub const MAX_SPAN_EXTENTS: u32 = 1 << 16;
/// Children of one tree node, in number.
pub const NODE_FANOUT: usize = 256;
/// Highest level of a tree node: 256^6 spans.
pub const MAX_LEVEL: u8 = 5;

/// Bounds of the size at which a pack is closed.
pub const PACK_SIZES: std::ops::RangeInclusive<u32> = 1 << 20..=1 << 30;
/// Largest reserve.
pub const MAX_RESERVE: u32 = 1 << 30;
/// Longest pack.
pub const MAX_PACK: u64 = (2 << 30) - 1;
/// Blobs of one pack, in number.
pub const MAX_PACK_ENTRIES: u32 = 256 << 10;
/// Sealed bytes of a pack trailer.
pub const MAX_TRAILER: u32 = 12 << 20;
/// Bytes of a key block.
pub const MAX_KEY_BLOCK: u16 = 4096;

/// Bytes of a config's or a slot's sealed body.
pub const MAX_CONFIG_BODY: u32 = 64 << 10;
/// Key slots that are tried, in number.
pub const MAX_SLOTS: usize = 64;
/// What an envelope may add to an object's plain limit when its length is first checked.
pub const ENVELOPE_SLACK: u64 = 8 << 10;

/// Members of an archive, in number.
pub const MAX_MEMBERS: usize = 64;
/// Unread ranges recorded for one archive, in number.
pub const MAX_BAD_RANGES: usize = 16384;
/// Tags of an archive, in number.
pub const MAX_TAGS: usize = 64;
/// Bytes of a comment.
pub const MAX_COMMENT: usize = 4096;
/// Bytes of a host or user name.
pub const MAX_HOST: usize = 255;
/// Length of a source's token, in bytes.
pub const MAX_TOKEN: usize = 255;
/// Bytes of a source's path.
pub const MAX_SOURCE_PATH: usize = 4096;
/// Bytes of an archive name, member name or tag.
pub const MAX_NAME: usize = 200;

/// Archives of one catalogue segment, in number.
pub const MAX_CATALOGUE_ENTRIES: usize = 4096;
/// Entries of one index segment, in number.
pub const MAX_INDEX_ENTRIES: u32 = 1 << 20;
/// Packs that one index segment or forwarding names, in number.
pub const MAX_INDEX_PACKS: u32 = 256 << 10;
/// Blobs of one list of lost ones, in number.
pub const MAX_LOST: usize = 256 << 10;
/// Index segments that one supersedes, in number.
pub const MAX_SUPERSEDED: u32 = 64 << 10;
/// Names of objects in one list, in number: more than fit into any object at their real length.
pub const MAX_LISTED: usize = 1 << 20;
/// Ids in one list of an intent or condemned list, in number: more than fit.
pub const MAX_DOOMED: usize = 4 << 20;
/// Levels of nesting in a MessagePack object.
pub const MAX_DEPTH: usize = 16;
