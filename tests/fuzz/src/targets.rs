//! The targets: one file for each kind of input, one line for each target.

mod allocation;
mod blobs;
mod btrfs;
mod changed_map;
mod command_line;
mod compress;
mod files;
mod index;
mod keys;
mod known;
mod maps;
mod names;
mod objects;
mod pack;
mod partition;
mod protocol;
mod recovery;
mod reference;
mod tree;
mod volume;
mod wire;
mod xfs;

use crate::Target;

/// All of them. Names are those of directories in the corpus.
pub const TARGETS: &[Target] = &[
    Target::new("config", keys::config, keys::config_seeds),
    Target::new("config-body", keys::config_body, keys::config_body_seeds),
    Target::new("slot", keys::slot, keys::slot_seeds),
    Target::new("slot-payload", keys::slot_payload, keys::slot_payload_seeds),
    Target::new("envelope", objects::envelope, objects::envelope_seeds),
    Target::new("record", objects::record, objects::record_seeds),
    Target::new("state", objects::state, objects::state_seeds),
    Target::new("catalogue", objects::catalogue, objects::catalogue_seeds),
    Target::new("session", protocol::session, protocol::session_seeds),
    Target::new("condemned", protocol::condemned, protocol::condemned_seeds),
    Target::new("intent", protocol::intent, protocol::intent_seeds),
    Target::new("removal", protocol::removal, protocol::removal_seeds),
    Target::new("lost", protocol::lost, protocol::lost_seeds),
    Target::new("forwarding", index::forwarding, index::forwarding_seeds),
    Target::new("index-segment", index::segment, index::segment_seeds),
    Target::new("index-page", index::page, index::page_seeds),
    Target::new("span-map", maps::span_map, maps::span_map_seeds),
    Target::new("node", maps::node, maps::node_seeds),
    // Caches, and the repository in memory.
    Target::new("tree", tree::image, tree::image_seeds).reserving(1 << 20),
    // What is wrong is said of each line; what is right is printed in both forms.
    Target::new("recovery", recovery::form, recovery::form_seeds).taking(128).reserving(256 << 10),
    Target::new("pack-ends", pack::ends, pack::ends_seeds),
    Target::new("pack-trailer", pack::trailer, pack::trailer_seeds),
    // Chunks, maps and nodes are opened into what they may be long at most.
    Target::new("blob", blobs::sealed, blobs::sealed_seeds).reserving(4 << 20),
    Target::new("blob-plain", blobs::plain, blobs::plain_seeds),
    // A context of zstd is not counted here; what is unpacked is.
    Target::new("compress", compress::unpack, compress::unpack_seeds).reserving(compress::LIMIT),
    Target::new("wire", wire::read, wire::read_seeds),
    Target::new("names", names::all, names::all_seeds),
    Target::new("reference", reference::reference, reference::reference_seeds),
    // A wildcard is a byte there, and a token here.
    Target::new("glob", reference::glob, reference::glob_seeds).taking(128),
    Target::new("time", reference::time, reference::time_seeds),
    // Tables of 1 MiB, their copy, and the head of each partition.
    Target::new("partition", partition::table, partition::table_seeds).reserving(8 << 20),
    // What is wrong with a map is said in words, and XML is read element by element.
    Target::new("changed-map", changed_map::map, changed_map::map_seeds).taking(256).reserving(64 << 10),
    // The volume, and pieces of it.
    Target::new("ext", allocation::ext, allocation::ext_seeds).reserving(2 << 20),
    Target::new("swap", allocation::swap, allocation::swap_seeds).reserving(2 << 20),
    Target::new("ntfs", allocation::ntfs, allocation::ntfs_seeds).reserving(2 << 20),
    Target::new("fat", allocation::fat, allocation::fat_seeds).reserving(2 << 20),
    Target::new("exfat", allocation::exfat, allocation::exfat_seeds).reserving(2 << 20),
    // The volume, and what is read of it at once.
    Target::new("xfs", xfs::volume, xfs::volume_seeds).reserving(1 << 20),
    Target::new("btrfs", btrfs::volume, btrfs::volume_seeds).reserving(4 << 20),
    // The volume, names and pieces of files.
    Target::new("files-ext", files::ext, files::ext_seeds).reserving(8 << 20),
    Target::new("files-fat", files::fat, files::fat_seeds).reserving(8 << 20),
    Target::new("files-ntfs", files::ntfs, files::ntfs_seeds).reserving(8 << 20),
    Target::new("known", known::memory, known::memory_seeds),
    // All that clap knows of the commands.
    Target::new("command-line", command_line::words, command_line::words_seeds).reserving(1 << 20),
];
