//! Span maps and nodes of the map tree. Both are canonical: one value, one form.

use copal::extent::Extent;
use copal::format::node::{self, Child, Node};
use copal::format::span_map::{self, ChunkRef, SpanMap};
use copal::id::BlobId;

use crate::samples::location;

pub(super) fn span_map(input: &[u8]) -> bool {
    let content = span_map::content_of(input);
    let Ok((map, locations)) = span_map::from_bytes(input) else { return false };
    assert_eq!(content.as_deref(), Ok(&map.content()[..]));
    assert_eq!(span_map::with_hints(&map.content(), &locations), input);
    assert!(map.data_bytes() <= map.span_len.into());
    true
}

pub(super) fn span_map_seeds() -> Vec<Vec<u8>> {
    let chunk = |id, plain_len| ChunkRef { id: BlobId([id; 32]), plain_len };
    let extent = |offset, chunk, chunk_offset, len| Extent { offset, chunk, chunk_offset, len };
    let extents = vec![extent(0, 0, 0, 4096), extent(8192, 0, 4096, 100), extent(12288, 1, 0, 5)];
    let map = SpanMap { span_len: 1 << 24, chunks: vec![chunk(1, 4196), chunk(2, 5)], extents };
    vec![
        span_map::with_hints(&map.content(), &[location(1, 40), location(2, 50)]),
        span_map::with_hints(&map.content(), &[location(1, 40), location(1, 50)]),
    ]
}

pub(super) fn node(input: &[u8]) -> bool {
    let content = node::content_of(input);
    let Ok((node, locations)) = node::from_bytes(input) else { return false };
    assert_eq!(content.as_deref(), Ok(&node.content()[..]));
    assert_eq!(node::to_bytes(&node.content(), &locations), input);
    assert!(node.children.iter().all(|child| child.data <= node.data_bytes()));
    true
}

pub(super) fn node_seeds() -> Vec<Vec<u8>> {
    let child = |slot| Child { slot, id: BlobId([slot; 32]), data: 1 << 24, full: slot == 3 };
    let node = Node { level: 1, children: vec![child(0), child(3), child(255)] };
    let locations = [location(1, 0), location(2, 9), location(1, 80)];
    // As full as a node can be, and of the largest images.
    let children = (0..=255).map(|slot| Child { data: 1 << 48, ..child(slot) });
    let full = Node { level: 5, children: children.collect() };
    let mut over = full.clone();
    over.children.iter_mut().for_each(|child| child.data = 1 << 56);
    let near = [location(1, 0); 256];
    let far = [&full, &over].map(|node| node::to_bytes(&node.content(), &near));
    [vec![node::to_bytes(&node.content(), &locations)], far.to_vec()].concat()
}
