//! What `copal mount` refuses before it mounts anything, and `copal umount` of what is no mount.

use std::fs;

use super::support::Place;

#[test]
fn mountpoints_that_cannot_be() {
    let place = Place::with_archive();
    for option in ["", " -f"] {
        let mount = |at: &str| place.copal(&format!("mount repo {at}{option}"));
        mount("none").fails(&["none does not exist; make it with 'mkdir -p' first"]);
        mount("disk.img").fails(&["disk.img is not a directory"]);
        fs::create_dir_all(place.path("repo/inside")).expect("mkdir");
        mount("repo/inside").fails(&["lie in each other", "choose another directory"]);
        mount("repo").fails(&["lie in each other"]);
        mount(".").fails(&["lie in each other"]);
    }
}

#[test]
fn options_that_make_no_sense() {
    let place = Place::with_archive();
    let mount = |options: &str| place.copal(&format!("mount repo home {options}"));
    mount("--cache-size 1M").fails(&["a cache of 1048576 bytes is too small; give at least 16M"]);
    mount("--cache-size x").fails(&["\"x\" is no size"]);
    mount("-o cache_size=x").fails(&["mount option \"cache_size=x\"", "is no size"]);
    mount("-o uid=me").fails(&["mount option \"uid=me\""]);
    mount("--mode 888").fails(&["\"888\" is no mode; write octal digits"]);
    mount("-o mode=7777").fails(&["is no mode"]);
    mount("--allow-other --allow-root").fails(&["cannot be used with"]);
    place.copal("mount repo").fails(&["<DIR>"]);
}

#[test]
fn archives_that_are_not_there() {
    let place = Place::with_archive();
    for option in ["", " -f"] {
        place
            .copal(&format!("mount repo::web02 home{option}"))
            .fails(&["no archive fits \"web02\"", "'copal list' shows"]);
        place.copal(&format!("mount repo::web01~4 home{option}")).fails(&["no archive fits"]);
        place.copal(&format!("mount repo:: home{option}")).fails(&["it is empty; name an archive"]);
        place.copal(&format!("mount none home{option}")).fails(&["there is no repository at none"]);
    }
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted() {
    let place = Place::with_archive();
    place.copal("umount home").fails(&["no Copal repository is mounted on", "home"]);
    place.copal("umount -l home").fails(&["no Copal repository is mounted on"]);
    place.copal("umount none").fails(&["none does not exist"]);
    place.copal("umount /proc").fails(&["no Copal repository is mounted on /proc"]);
}
