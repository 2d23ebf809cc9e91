//! Files with several names: the first one that is met is copied, the others are linked to it.

use std::collections::HashMap;

use parking_lot::{Condvar, Mutex};

use crate::filesystem::Node;

/// The files of a run with further names that were not met yet.
#[derive(Debug, Default)]
pub(super) struct Links {
    files: Mutex<HashMap<Node, State>>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    /// Somebody copies it.
    Copying,
    /// It is there, under this path in the destination, and has so many names that were not met.
    There(Vec<u8>, u32),
}

/// What to do with a file that has several names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Copy it, then say so by [`Links::done`].
    Copy,
    /// Link to this path in the destination.
    Link(Vec<u8>),
}

impl Links {
    /// Waits for whoever copies the file. Files are asked for in the order of the queue, so nobody waits for one behind.
    pub(super) fn turn(&self, node: Node) -> Turn {
        let mut files = self.files.lock();
        loop {
            match files.get_mut(&node) {
                None => {
                    files.insert(node, State::Copying);
                    return Turn::Copy;
                }
                Some(State::Copying) => self.changed.wait(&mut files),
                Some(State::There(path, left)) => {
                    *left -= 1;
                    let path = path.clone();
                    if *left == 0 {
                        files.remove(&node);
                    }
                    return Turn::Link(path);
                }
            }
        }
    }

    /// Says where a file is, that has `links` names in all; with `None`, that copying it failed, so the next one tries.
    pub(super) fn done(&self, node: Node, path: Option<Vec<u8>>, links: u32) {
        let mut files = self.files.lock();
        match path {
            Some(path) if links > 1 => files.insert(node, State::There(path, links - 1)),
            _ => files.remove(&node),
        };
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_copied_once_and_forgotten_with_its_last_name() {
        let links = Links::default();
        let node = Node(7);
        assert_eq!(links.turn(node), Turn::Copy);
        links.done(node, None, 3);
        assert_eq!(links.turn(node), Turn::Copy, "the first one failed");
        links.done(node, Some(b"a".to_vec()), 3);
        assert_eq!(links.turn(node), Turn::Link(b"a".to_vec()));
        assert_eq!(links.turn(node), Turn::Link(b"a".to_vec()));
        assert!(links.files.lock().is_empty());
    }

    #[test]
    fn whoever_comes_while_it_is_copied_waits() {
        let links = Links::default();
        assert_eq!(links.turn(Node(1)), Turn::Copy);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| links.turn(Node(1)));
            links.done(Node(1), Some(b"x".to_vec()), 2);
            assert_eq!(other.join().unwrap(), Turn::Link(b"x".to_vec()));
        });
    }
}
