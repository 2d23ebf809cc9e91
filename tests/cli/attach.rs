//! `copal attach`, `copal detach` and `copal attached`, as far as they go without a mount.

use super::support::Place;

#[test]
fn an_archive_has_to_be_named() {
    let place = Place::with_archive();
    place.copal("attach repo").fails(&["name an archive to attach", "repo::web01"]);
    place.copal("attach").fails(&["REPO::ARCHIVE"]);
    place.copal("attach repo::web01 home --no-mount").fails(&["--no-mount"]);
    place.copal("attach repo::web01 --overlay --no-replay").fails(&["--no-replay"]);
    place.copal("detach").fails(&["--all"]);
}

#[test]
fn where_nothing_is_attached_nothing_is_listed() {
    let place = Place::new();
    let script = |args: &str| format!("COPAL_ATTACH_STATE=records \"$COPAL\" {args}");
    assert!(place.shell(&script("attached")).ok().stdout.is_empty());
    let listed = place.shell(&script("attached --json")).ok().json();
    assert_eq!(listed["attached"].as_array().map(Vec::len), Some(0));
    assert!(!place.path("records").exists(), "looking makes nothing");
}
