//! The small objects of the protocol.

use std::fmt::Debug;

use copal::format::msgpack::{from_bytes, to_bytes};
use copal::format::protocol::{Condemned, Intent, LostBlob, LostList, RemovalMarker, Session};
use copal::id::{ArchiveId, BlobId, PackId, SegmentId, SessionId, SlotId};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn decode<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> bool {
    let Ok(value) = from_bytes::<T>("object", input) else { return false };
    assert_eq!(from_bytes::<T>("object", &to_bytes(&value)), Ok(value));
    true
}

pub(super) fn session(input: &[u8]) -> bool {
    decode::<Session>(input)
}

pub(super) fn session_seeds() -> Vec<Vec<u8>> {
    let [host, boot, what] =
        ["host", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "create web01"].map(String::from);
    vec![to_bytes(&Session { host, pid: 77, boot, started: 5, heartbeat: 6, what })]
}

pub(super) fn condemned(input: &[u8]) -> bool {
    decode::<Condemned>(input)
}

pub(super) fn condemned_seeds() -> Vec<Vec<u8>> {
    let packs = vec![PackId([2; 16]), PackId([3; 16])];
    vec![to_bytes(&Condemned { session: SessionId([1; 16]), time: 5, packs })]
}

pub(super) fn intent(input: &[u8]) -> bool {
    decode::<Intent>(input)
}

pub(super) fn intent_seeds() -> Vec<Vec<u8>> {
    let intent = Intent {
        session: SessionId([1; 16]),
        time: 5,
        packs: vec![PackId([2; 16])],
        segments: vec![SegmentId([3; 16])],
        archives: vec![ArchiveId([4; 16])],
        moved: vec!["moved/00/x".into(), "moved/00/y".into()],
    };
    vec![to_bytes(&intent)]
}

pub(super) fn lost(input: &[u8]) -> bool {
    let Ok(list) = LostList::from_bytes(input) else { return false };
    assert_eq!(LostList::from_bytes(&to_bytes(&list)), Ok(list));
    true
}

pub(super) fn lost_seeds() -> Vec<Vec<u8>> {
    let blob = LostBlob { kind: 1, id: BlobId([7; 32]), pack: PackId([3; 16]), offset: 40 };
    vec![to_bytes(&LostList { time: 5, blobs: vec![blob, LostBlob { kind: 2, ..blob }] })]
}

pub(super) fn removal(input: &[u8]) -> bool {
    decode::<RemovalMarker>(input)
}

pub(super) fn removal_seeds() -> Vec<Vec<u8>> {
    vec![to_bytes(&RemovalMarker { slot: SlotId([8; 16]), time: 5, host: "host".into() })]
}
