//! Everything that is named by text: archives, objects, ids, states, catalogue segments.

use copal::format::catalogue::SegmentName;
use copal::format::msgpack;
use copal::format::name::ArchiveName;
use copal::format::state::{StateName, believable};
use copal::id::{ArchiveId, BlobId};
use copal::storage::Name;

/// The text as a name of each kind. What is parsed is shown as it was, so that nothing has two names.
pub(super) fn all(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let archive = archive_name(text);
    let object = object_name(text);
    let state = StateName::parse(text).inspect(|name| assert_eq!(name.to_string(), text));
    if let Some(state) = state {
        let both = believable(vec![state, state]);
        assert!(both.is_empty() || both == [state, state], "what is believed once is believed again");
    }
    let segment = SegmentName::parse(text).inspect(|name| assert_eq!(name.to_string(), text));
    let id = text.parse::<ArchiveId>().inspect(|id| assert_eq!(id.to_string(), text));
    let blob = text.parse::<BlobId>().inspect(|id| assert_eq!(id.to_string(), text));
    let parsed = state.is_some() || segment.is_some();
    assert!(!parsed || object, "{text:?} is the name of an object that no storage takes");
    archive || object || id.is_ok() || blob.is_ok()
}

fn archive_name(text: &str) -> bool {
    let stored = msgpack::from_bytes::<ArchiveName>("name", &msgpack::to_bytes(&text));
    let Ok(name) = ArchiveName::new(text) else {
        assert!(stored.is_err(), "{text:?} may be stored but not typed");
        return false;
    };
    assert_eq!(ArchiveName::new(name.as_str()).as_ref(), Ok(&name), "normal forms are stable");
    assert_eq!(
        msgpack::from_bytes("name", &msgpack::to_bytes(&name)).as_ref(),
        Ok(&name),
        "and stored as they are"
    );
    // As a file of a mount it stands alone in a directory.
    let shown = name.as_str();
    assert!(
        !shown.is_empty()
            && shown.len() <= 200
            && !shown.starts_with('.')
            && !shown.contains(['/', '\0', '\n'])
    );
    true
}

fn object_name(text: &str) -> bool {
    let Some(name) = Name::new(text) else { return false };
    assert_eq!(name.as_str(), text);
    let safe = |part: &str| !part.is_empty() && part != "." && part != "..";
    assert!(
        text.len() <= Name::MAX && !text.starts_with('/') && text.split('/').all(safe) && text.is_ascii()
    );
    true
}

pub(super) fn all_seeds() -> Vec<Vec<u8>> {
    let hex = "0123456789abcdef0123456789abcdef";
    [
        "web01",
        "B\u{fc}ro K\u{f6}ln",
        "cafe\u{301}",
        "\u{1f600}",
        hex,
        &format!("{hex}{hex}"),
        &format!("packs/01/{hex}"),
        &format!("states/{hex}/000000000000001f-t-{hex}"),
        &format!("catalogue/00000000000000ff-{hex}"),
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
