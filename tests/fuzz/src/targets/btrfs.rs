//! btrfs: a device of 2 MiB with one chunk, the second half of it, for everything.

use super::volume::{fields, pieces, try_survey};

const LEN: usize = 2 << 20;
const SUPERBLOCK: usize = 64 << 10;
/// The chunk begins here, on the device and by its address.
const CHUNK: usize = 1 << 20;
const NODE: usize = 4096;
const SUM: usize = 32;
const HEADER: usize = 101;
const ITEM: usize = 25;
const USED: u64 = 5 * NODE as u64;

pub(super) fn volume(input: &[u8]) -> bool {
    try_survey(input, "btrfs", LEN, seal)
}

/// Makes the checksums of the superblock and the first nodes right.
fn seal(bytes: &mut [u8]) {
    let nodes = (0..8).map(|node| CHUNK + node * NODE);
    for at in nodes.chain([SUPERBLOCK]) {
        let sum = crc32c::crc32c(&bytes[at + SUM..at + NODE]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

fn key(object: u64, kind: u8, offset: u64) -> Vec<u8> {
    [&object.to_le_bytes()[..], &[kind], &offset.to_le_bytes()].concat()
}

fn chunk() -> Vec<u8> {
    fields(&[
        (0, &(CHUNK as u64).to_le_bytes()),
        (8, &2_u64.to_le_bytes()),
        (24, &7_u64.to_le_bytes()),
        (44, &[1, 0, 1, 0]),
        (48, &1_u64.to_le_bytes()),
        (56, &(CHUNK as u64).to_le_bytes()),
        (64, &[8; 16]),
    ])
}

fn superblock() -> Vec<u8> {
    let system = [key(256, 228, CHUNK as u64), chunk()].concat();
    let long = u64::to_le_bytes;
    let address = |node: usize| long((CHUNK + node * NODE) as u64);
    fields(&[
        (32, &[7; 16]),
        (48, &long(SUPERBLOCK as u64)),
        (64, b"_BHRfS_M"),
        (72, &long(9)),
        (80, &address(1)),
        (88, &address(0)),
        (112, &long(LEN as u64)),
        (120, &long(USED)),
        (136, &long(1)),
        (144, &4096_u32.to_le_bytes()),
        (148, &4096_u32.to_le_bytes()),
        (160, &(system.len() as u32).to_le_bytes()),
        (164, &long(9)),
        (180, &long(3)),
        (188, &long(0x345)),
        (201, &long(1)),
        (209, &long(LEN as u64)),
        (267, &[8; 16]),
        (283, &[7; 16]),
        (299, b"label"),
        (811, &system),
    ])
}

fn leaf(node: usize, tree: u64, items: &[(Vec<u8>, Vec<u8>)]) -> (usize, Vec<u8>) {
    let at = CHUNK + node * NODE;
    let mut out = fields(&[
        (32, &[7; 16]),
        (48, &(at as u64).to_le_bytes()),
        (56, &[1]),
        (80, &9_u64.to_le_bytes()),
        (88, &tree.to_le_bytes()),
        (96, &(items.len() as u32).to_le_bytes()),
        (HEADER - 1, &[0]),
    ]);
    let mut offset = (items.len() * ITEM) as u32;
    for (key, data) in items {
        let len = data.len() as u32;
        out.extend([&key[..], &offset.to_le_bytes(), &len.to_le_bytes()].concat());
        offset += len;
    }
    items.iter().for_each(|(_, data)| out.extend(data));
    (at, out)
}

fn root(node: usize) -> Vec<u8> {
    let address = (CHUNK + node * NODE) as u64;
    fields(&[(160, &9_u64.to_le_bytes()), (176, &address.to_le_bytes()), (238, &[0])])
}

fn seed(free: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let (start, len) = (CHUNK as u64, CHUNK as u64);
    let device_extent =
        fields(&[(0, &[3]), (8, &[0, 1]), (16, &start.to_le_bytes()), (24, &len.to_le_bytes()), (47, &[0])]);
    let group = fields(&[(0, &USED.to_le_bytes()), (16, &7_u64.to_le_bytes())]);
    let roots = [(2, 3), (4, 2), (10, 4)].map(|(tree, node)| (key(tree, 132, 0), root(node)));
    let all = [
        (SUPERBLOCK, superblock()),
        leaf(0, 3, &[(key(256, 228, start), chunk())]),
        leaf(1, 1, &roots),
        leaf(2, 4, &[(key(1, 204, start), device_extent)]),
        leaf(3, 2, &[(key(start, 192, len), group)]),
        leaf(4, 10, free),
    ];
    pieces(true, &all)
}

pub(super) fn volume_seeds() -> Vec<Vec<u8>> {
    let start = CHUNK as u64;
    let info = |flags: u8| (key(start, 198, start), vec![1, 0, 0, 0, flags, 0, 0, 0]);
    let extent = (key(start + USED, 199, start - USED), Vec::new());
    let mut bits = vec![0xff; CHUNK / 4096 / 8];
    bits[0] = 0xe0;
    vec![seed(&[info(0), extent]), seed(&[info(1), (key(start, 200, start), bits)])]
}
