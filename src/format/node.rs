//! Nodes of the map tree (`docs/format.md`, section 8).

use super::location::{Location, read_hints};
use super::span_map::{split_content, with_hints};
use super::wire::Reader;
use super::{FormatError, limits};
use crate::id::BlobId;

const WHAT: &str = "tree node";
/// Stored bytes of one child.
const CHILD_LEN: usize = 42;
const FULL: u8 = 1;

/// A child: a span map beneath level 0, else a node of the level below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Its place among 256.
    pub slot: u8,
    /// Its id.
    pub id: BlobId,
    /// Bytes beneath it that are not in holes.
    pub data: u64,
    /// Whether there is no hole beneath it.
    pub full: bool,
}

/// The content of a node, which its id covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// 0 above span maps.
    pub level: u8,
    /// The children, by slot; what is absent is a hole.
    pub children: Vec<Child>,
}

impl Node {
    /// Bytes beneath it that are not in holes.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.children.iter().map(|child| child.data).sum()
    }

    /// The content as stored and hashed.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let count = u16::try_from(self.children.len()).expect("a node has at most 256 children");
        let mut out = Vec::with_capacity(3 + CHILD_LEN * self.children.len());
        out.push(self.level);
        out.extend_from_slice(&count.to_le_bytes());
        for child in &self.children {
            out.push(child.slot);
            out.extend_from_slice(child.id.as_bytes());
            out.extend_from_slice(&child.data.to_le_bytes());
            out.push(if child.full { FULL } else { 0 });
        }
        out
    }

    fn from_content(bytes: &[u8]) -> Result<Self, FormatError> {
        let malformed = |reason: &str| FormatError::malformed(WHAT, reason);
        let mut reader = Reader::new(WHAT, bytes);
        let level = reader.u8()?;
        if level > limits::MAX_LEVEL {
            return Err(malformed("its level is too high"));
        }
        let count = reader.u16()?.into();
        let count = reader.check_count("children of a node", count, limits::NODE_FANOUT as u32, CHILD_LEN)?;
        let mut children: Vec<Child> = Vec::with_capacity(count);
        for _ in 0..count {
            let child = read_child(&mut reader)?;
            if children.last().is_some_and(|last| last.slot >= child.slot) {
                return Err(malformed("children are not sorted"));
            }
            children.push(child);
        }
        reader.finish()?;
        if children.is_empty() {
            return Err(malformed("it has no children"));
        }
        // 256 children of 2^56 bytes each would not even fit into a u64.
        let data = children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.data));
        if data.is_none_or(|data| data > limits::MAX_IMAGE) {
            return Err(malformed("its children hold more data than an image can"));
        }
        Ok(Self { level, children })
    }
}

fn read_child(reader: &mut Reader<'_>) -> Result<Child, FormatError> {
    let [slot] = reader.array()?;
    let id = BlobId(reader.array()?);
    let data = reader.u64()?;
    let flags = reader.u8()?;
    if flags & !FULL != 0 || data == 0 || data > limits::MAX_IMAGE {
        return Err(FormatError::malformed(WHAT, "a child's flags or data bytes are out of bounds"));
    }
    Ok(Child { slot, id, data, full: flags == FULL })
}

/// The stored form: content, with hints for each child.
#[must_use]
pub fn to_bytes(content: &[u8], locations: &[Location]) -> Vec<u8> {
    with_hints(content, locations)
}

/// The content of a stored node, not yet verified or parsed.
///
/// # Errors
/// [`FormatError`].
pub fn content_of(plain: &[u8]) -> Result<&[u8], FormatError> {
    split_content(WHAT, plain).map(|(content, _)| content)
}

/// Reads the stored form: the node, and one location for each child.
///
/// # Errors
/// [`FormatError`].
pub fn from_bytes(plain: &[u8]) -> Result<(Node, Vec<Location>), FormatError> {
    let (content, mut reader) = split_content(WHAT, plain)?;
    let node = Node::from_content(content)?;
    let locations = read_hints(&mut reader, node.children.len())?;
    reader.finish()?;
    Ok((node, locations))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::span_map::tests::location;

    fn sample() -> (Node, Vec<Location>) {
        let child = |slot| Child { slot, id: BlobId([slot; 32]), data: 1 << 24, full: slot == 3 };
        (
            Node { level: 1, children: vec![child(0), child(3), child(255)] },
            vec![location(1, 0), location(2, 9), location(1, 80)],
        )
    }

    #[test]
    fn golden_bytes() {
        let (node, locations) = sample();
        let bytes = to_bytes(&node.content(), &locations);
        assert_eq!(bytes.len(), 4 + 3 + 3 * 42 + 2 + 2 * 21 + 3 * 10);
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "f83a02d075c91f84");
        assert_eq!(from_bytes(&bytes).unwrap(), (node, locations));
    }

    #[test]
    fn unsorted_empty_and_too_high_are_refused() {
        let (node, locations) = sample();
        let mut bad = node.clone();
        bad.children.swap(0, 1);
        assert!(from_bytes(&to_bytes(&bad.content(), &locations)).is_err());
        assert!(Node::from_content(&Node { level: 0, children: vec![] }.content()).is_err());
        assert!(Node::from_content(&Node { level: 6, ..node }.content()).is_err());
    }

    #[test]
    fn a_node_holds_no_more_data_than_an_image() {
        let child = |slot| Child { slot, id: BlobId([slot; 32]), data: limits::MAX_IMAGE / 256, full: true };
        let mut node = Node { level: 5, children: (0..=255).map(child).collect() };
        assert_eq!(Node::from_content(&node.content()).unwrap().data_bytes(), limits::MAX_IMAGE);
        node.children[7].data += 1;
        assert!(Node::from_content(&node.content()).is_err());
        node.children.iter_mut().for_each(|child| child.data = limits::MAX_IMAGE);
        assert!(Node::from_content(&node.content()).is_err());
    }

    proptest! {
        #[test]
        fn mutated_nodes_never_panic(at in 0usize..207, value: u8) {
            let (node, locations) = sample();
            let mut bytes = to_bytes(&node.content(), &locations);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = from_bytes(&bytes);
        }
    }
}
