//! `copal ls`: parts, directories, long listings, patterns, and what is said where there is nothing.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::support::{Place, can, partitioned};

/// A place with a disk of two parts in `repo::disk`, an ext4 with files and a FAT, and one of swap space; `None` where tools are missing.
pub(super) fn with_disk() -> Option<Place> {
    let place = Place::with_repository();
    let there = place
        .shell("PATH=$PATH:/sbin:/usr/sbin; command -v mke2fs && command -v mkfs.vfat && command -v mcopy")
        .end();
    if !can("mke2fs, mkfs.vfat, mcopy", there.code == 0) {
        return None;
    }
    fs::File::create(place.path("disk.img")).expect("create").set_len(64 << 20).expect("set_len");
    let table = "label: gpt\nstart=1MiB,size=8M,type=uefi,name=efi\nstart=9MiB,size=40M,type=L,name=root\nstart=49MiB,size=8M,type=swap\n";
    if !partitioned(&place, table) {
        return None;
    }
    place
        .shell(
            r#"
            PATH=$PATH:/sbin:/usr/sbin
            mkdir -p from/etc/deep/er from/home "from/Grüße"
            echo '127.0.0.1 localhost' > from/etc/hosts
            echo 'proc /proc proc' > from/etc/fstab
            echo inner > from/etc/deep/er/x.conf
            echo a > from/etc/a.conf
            ln -s ../etc/hosts from/home/link
            ln from/etc/hosts from/home/hard
            chmod 4751 from/etc/a.conf
            touch -d '2001-02-03 04:05:06Z' from/etc/fstab
            printf x > "from/home/$(printf 'bad\377\033[1mname')"
            mkfifo from/home/pipe
            truncate -s 3M from/home/sparse
            printf end >> from/home/sparse
            truncate -s 40M root.img
            mke2fs -q -F -t ext4 -L system -d from root.img > mke2fs.log
            dd if=root.img of=disk.img bs=1M seek=9 conv=notrunc,sparse status=none
            truncate -s 8M efi.img
            mkfs.vfat -n ESP efi.img > /dev/null
            mkdir -p efi/EFI/BOOT; echo loader > "efi/EFI/BOOT/a long file name.efi"
            LC_ALL=C.UTF-8 mcopy -s -i efi.img efi/EFI ::
            dd if=efi.img of=disk.img bs=1M seek=1 conv=notrunc,sparse status=none
            "#,
        )
        .end();
    place.copal("create repo::disk disk.img").ok();
    Some(place)
}

#[test]
fn parts_come_in_a_table() {
    let Some(place) = with_disk() else { return };
    let table = place.copal("ls repo::disk").ok().text();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["PART", "NAME", "FILESYSTEM", "LABEL", "SIZE"]);
    assert_eq!(rows[1][..4], ["1", "1-efi", "vfat", "ESP"]);
    assert_eq!(rows[2][..4], ["2", "2-system", "ext4", "system"], "{table}");
    assert_eq!(rows.len(), 4);
    let json = place.copal("ls repo::disk --json").ok().json();
    assert_eq!((&json["parts"][1]["readable"], &json["parts"][2]["readable"]), (&true.into(), &false.into()));
}

#[test]
fn directories_are_listed_by_part_and_path_however_they_are_named() {
    let Some(place) = with_disk() else { return };
    let etc = "a.conf\ndeep\nfstab\nhosts\n";
    for args in [
        "repo::disk:2:/etc",
        "repo::disk:2-system /etc",
        "repo::disk:system etc",
        "repo::disk:2:/home/../etc/",
        "repo::disk~0:2 etc/.",
    ] {
        assert_eq!(place.copal(&format!("ls {args}")).ok().text(), etc, "{args}");
    }
    assert_eq!(place.copal("ls repo::disk:1:/EFI/BOOT").ok().text(), "a long file name.efi\n");
    assert_eq!(
        place.copal("ls repo::disk:1:/efi/boot").ok().text(),
        "a long file name.efi\n",
        "FAT knows no case"
    );
    let listed = place.copal("ls repo::disk:1:/efi/B*/*LONG*").ok().text();
    assert_eq!(listed, "/EFI/BOOT/a long file name.efi\n", "nor do patterns on it");
    place.copal("ls repo::disk:2:/etc/A.*").warns(&["/etc/A.*: there is nothing of that name"]);
    assert_eq!(place.copal("ls repo::disk:2:/etc/*.conf").ok().text(), "/etc/a.conf\n");
    assert_eq!(
        place.copal("ls repo::disk:2:/etc/**/*.conf").ok().text(),
        "/etc/a.conf\n/etc/deep/er/x.conf\n"
    );
    assert_eq!(place.copal("ls -d repo::disk:2:/etc").ok().text(), "/etc\n");
    let all = place.copal("ls -R repo::disk:2:/etc").ok().text();
    assert_eq!(all, "/etc:\na.conf\ndeep\nfstab\nhosts\n\n/etc/deep:\ner\n\n/etc/deep/er:\nx.conf\n\n");
}

#[test]
fn a_long_listing_shows_what_is_known() {
    let Some(place) = with_disk() else { return };
    let text = place.copal("ls -l repo::disk:2:/etc").ok().text();
    let line =
        |name: &str| text.lines().find(|line| line.ends_with(name)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("a.conf").starts_with("-rwsr-x--x   1 "));
    assert!(line("fstab").contains(" 16 2001-02-03 04:05:06Z fstab"), "{text}");
    assert!(line("hosts").contains("   2 "));
    assert!(line("deep").starts_with('d'));
    let home = place.copal("ls -l repo::disk:2:/home").ok();
    assert!(home.stdout.windows(25).any(|part| part == b" link -> ../etc/hosts\nprw"), "{home}");
    let json = place.copal("ls repo::disk:2:/home --json").ok().json();
    let entries = json["entries"].as_array().expect("entries");
    let of =
        |path: &str| entries.iter().find(|entry| entry["path"] == path).unwrap_or_else(|| panic!("{json:#}"));
    assert_eq!(
        (&of("/home/link")["target"], &of("/home/sparse")["size"]),
        (&"../etc/hosts".into(), &((3 << 20) + 3).into())
    );
    assert_eq!(of("/home/bad\\xff\\u{1b}[1mname")["path_hex"], "2f686f6d652f626164ff1b5b316d6e616d65");
}

#[test]
fn names_pass_through_a_pipe_as_they_are() {
    let Some(place) = with_disk() else { return };
    let listed = place.copal("ls repo::disk:2:/home").ok();
    assert!(listed.stdout.starts_with(b"bad\xff\x1b[1mname\nhard\n"), "{listed}");
    let odd = std::ffi::OsStr::from_bytes(b"repo::disk:2:/home/bad\xff*");
    assert_eq!(place.copal("ls").arg(odd).ok().stdout, b"/home/bad\xff\x1b[1mname\n");
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let Some(place) = with_disk() else { return };
    place.copal("ls repo::disk:2:/none").warns(&["/none: there is nothing of that name"]);
    place.copal("ls repo::disk:2:/etc/hosts/x").warns(&["it is not a directory"]);
    place.copal("ls repo::disk:9:/").fails(&["has no part \"9\"", "1-efi (vfat), 2-system (ext4), 3-swap"]);
    place.copal("ls repo::disk:/").fails(&["several parts", "name one as"]);
    place.copal("ls repo::disk:3:/").fails(&["part 3-swap"]);
    place.copal("ls repo::gone:2:/").fails(&["no archive fits"]);
    place.copal("ls repo:2:/etc").fails(&["repo:2:/etc"]);
    // Filesystems that only the kernel reads.
    place.shell("PATH=$PATH:/sbin:/usr/sbin; truncate -s 16M x.img; printf XFSB | dd of=x.img conv=notrunc status=none").end();
    place.copal("create repo::xfs x.img").ok();
    let said = place.copal("ls repo::xfs:/").end();
    assert!(said.code == 2 && said.stderr.contains("copal attach repo::#"), "{said}");
}

#[test]
fn a_reference_is_as_long_as_it_fits_an_archive() {
    let Some(place) = with_disk() else { return };
    place.copal("create repo::disk root.img --timestamp 2020-01-02T03:00:00Z").ok();
    place.copal("create repo::vm:2 root.img").ok();
    for reference in [
        "disk@2020-01-02T03:00:00:1",
        "disk@2020-01-02T03:00:00+00:00:1",
        "disk@20200102T030000Z:1",
        "vm:2",
        "vm:2:1",
    ] {
        let listed = place.copal(&format!("ls repo::{reference}:/etc")).ok().text();
        assert!(listed.contains("hosts"), "{reference}: {listed}");
    }
}

#[test]
fn an_error_names_the_component_that_is_wrong() {
    let Some(place) = with_disk() else { return };
    place.copal("create repo::old root.img --timestamp 2020-01-02T03:00:00Z").ok();
    for (reference, words, not) in [
        ("gone:2:/", &["no archive fits \"gone\", nor \"gone:2\""][..], "no part"),
        ("gone:/", &["no archive fits \"gone\";"], "nor"),
        ("old@2019-05-05:1:/", &["no archive fits \"old@2019-05-05\";"], ":1"),
        ("old~7:1:/", &["no archive fits \"old~7\";"], ":1"),
        ("old~x:1:/", &["\"x\" behind '~' is no number"], ":1"),
        ("old@nonsense:1:/", &["\"nonsense\" is no time"], ":1"),
        ("gone@2020-01-02T03:00:00:/", &["no archive fits \"gone@2020-01-02T03:00:00\";"], "nor"),
        (
            "old@2020-01-02T03:00:0x:/",
            &["no part \"0x\" (behind the archive \"old@2020-01-02T03:00\")"],
            "no time",
        ),
        ("old:3:/", &["root.img has no part \"3\"; it has: 1-system (ext4)"], "archive"),
        ("old:1/etc", &["no part \"1/etc\"", "PART:/PATH"], "it has"),
        ("old:1:/none", &["/none: there is nothing of that name"], "archive"),
    ] {
        let said = place.copal(&format!("ls repo::{reference}")).end();
        assert!(said.code != 0, "{reference}: {said}");
        let text = said.stderr.replace(&format!("repo::{reference}"), "");
        assert!(words.iter().all(|word| text.contains(word)) && !text.contains(not), "{reference}: {said}");
    }
}
