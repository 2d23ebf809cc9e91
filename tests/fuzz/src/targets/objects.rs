//! Archive records, states, catalogue segments, and the envelope around all sealed objects.

use copal::format::catalogue::{CatalogueEntry, CatalogueSegment, KnownState, SegmentName};
use copal::format::envelope::{self, ObjectKind};
use copal::format::record::ArchiveRecord;
use copal::format::state::{ArchiveState, ChangeKind, StateName};
use copal::id::{ArchiveId, Nonce16, SessionId};

use crate::samples::{archive_name, record as sample, ring};

const ARCHIVE: ArchiveId = ArchiveId([1; 16]);

/// A whole stored object. Only untouched ones open.
pub(super) fn envelope(input: &[u8]) -> bool {
    let kinds = [ObjectKind::Record, ObjectKind::Session, ObjectKind::Forwarding];
    kinds.iter().any(|kind| match envelope::open(ring(), *kind, "archives/a", input) {
        Ok(plain) => {
            let again = envelope::seal(ring(), *kind, "archives/a", &plain).expect("it was within its limit");
            assert_eq!(envelope::open(ring(), *kind, "archives/a", &again), Ok(plain));
            true
        }
        Err(_) => false,
    })
}

pub(super) fn envelope_seeds() -> Vec<Vec<u8>> {
    let seal = |kind| envelope::seal(ring(), kind, "archives/a", b"plain").expect("all keys are there");
    vec![seal(ObjectKind::Record), seal(ObjectKind::Forwarding)]
}

pub(super) fn record(input: &[u8]) -> bool {
    let Ok(record) = ArchiveRecord::from_bytes(input) else { return false };
    let again = record.to_bytes().expect("what was read keeps the rules of what is written");
    assert_eq!(ArchiveRecord::from_bytes(&again).as_ref(), Ok(&record));
    assert!(record.size() >= record.members.iter().map(|member| member.data).sum());
    let entry = CatalogueEntry::of(ARCHIVE, &record);
    let segment = CatalogueSegment { supersedes: vec![], archives: vec![entry] };
    assert_eq!(
        CatalogueSegment::from_bytes(&segment.to_bytes()),
        Ok(segment),
        "every record can be catalogued"
    );
    true
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let mut many = sample();
    many.members.push(many.members[0].clone());
    many.members[1].name = archive_name("vdb");
    many.members[1].root = None;
    many.members[1].data = 0;
    [sample(), many].iter().map(|record| record.to_bytes().expect("a good record")).collect()
}

const KINDS: [ChangeKind; 5] =
    [ChangeKind::Deleted, ChangeKind::Name, ChangeKind::Tags, ChangeKind::Comment, ChangeKind::Withdrawn];

fn state_name(kind: ChangeKind) -> StateName {
    StateName { archive: ARCHIVE, kind, counter: 5, nonce: Nonce16([6; 16]) }
}

/// A state under the name of each kind of change.
pub(super) fn state(input: &[u8]) -> bool {
    let mut accepted = false;
    for name in KINDS.map(state_name) {
        let Ok(state) = ArchiveState::from_bytes(&name, input) else { continue };
        assert_eq!(ArchiveState::from_bytes(&name, &state.to_bytes()), Ok(state));
        accepted = true;
    }
    accepted
}

fn sample_state() -> ArchiveState {
    ArchiveState {
        archive: ARCHIVE,
        counter: 5,
        time: 7,
        host: "host".into(),
        session: SessionId([3; 16]),
        deleted: Some(true),
        name: Some(archive_name("db01")),
        tags: Some(vec![archive_name("monthly")]),
        comment: Some("x".into()),
    }
}

pub(super) fn state_seeds() -> Vec<Vec<u8>> {
    let none = ArchiveState { deleted: None, name: None, tags: None, comment: None, ..sample_state() };
    vec![sample_state().to_bytes(), none.to_bytes()]
}

pub(super) fn catalogue(input: &[u8]) -> bool {
    let Ok(segment) = CatalogueSegment::from_bytes(input) else { return false };
    for entry in &segment.archives {
        let sum = |of: fn(&copal::format::catalogue::MemberSummary) -> u64| {
            entry.members.iter().map(of).sum::<u64>()
        };
        assert!(sum(|member| member.data) <= sum(|member| member.size));
    }
    assert_eq!(CatalogueSegment::from_bytes(&segment.to_bytes()), Ok(segment));
    true
}

pub(super) fn catalogue_seeds() -> Vec<Vec<u8>> {
    let name = SegmentName { counter: 7, nonce: Nonce16([5; 16]) };
    let mut entry = CatalogueEntry::of(ARCHIVE, &sample());
    let state = KnownState { name: state_name(ChangeKind::Name).to_string(), state: sample_state() };
    entry.states = vec![state];
    let segment = CatalogueSegment { supersedes: vec![name.suffix()], archives: vec![entry] };
    vec![segment.to_bytes(), CatalogueSegment::default().to_bytes()]
}
