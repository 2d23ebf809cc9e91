//! What `create` need not read, as users meet it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, SystemTime};

use super::support::{Place, can, noise, sparse};

/// The magic number of tmpfs, where times of files tell too little.
const TMPFS: u32 = 0x0102_1994;
const SPAN: u64 = 16 << 20;

/// Whether files of a place have times that tell of every change; waits until those of `disk.img` lie back far enough.
#[track_caller]
fn settled(place: &Place) -> bool {
    let kind = rustix::fs::statfs(place.path("disk.img")).expect("statfs").f_type as u32;
    if !can("a directory for temporary files that is no tmpfs", kind != TMPFS) {
        return false;
    }
    let changed = fs::metadata(place.path("disk.img")).expect("stat").ctime().unsigned_abs();
    let settled = SystemTime::UNIX_EPOCH + Duration::from_secs(changed + 4);
    if let Ok(left) = settled.duration_since(SystemTime::now()) {
        std::thread::sleep(left);
    }
    true
}

#[test]
fn an_unchanged_file_is_told() {
    let place = Place::with_archive();
    if !settled(&place) {
        return;
    }
    let first = place.copal("create repo::web01 disk.img --json").ok().json();
    assert_eq!((&first["read"], &first["reused"]), (&300_000.into(), &serde_json::json!([])));
    let created = place.copal("create repo::web01 disk.img --json").ok().json();
    assert_eq!((&created["read"], &created["reused"][0]["unchanged"]), (&0.into(), &true.into()));
    assert_eq!(created["reused"][0]["archive"], first["id"]);
    place
        .copal("create repo::web01 disk.img --stats")
        .ok()
        .prints(&["Unchanged disk.img is as it was in #", "not read"]);
    let forced = place.copal("create repo::web01 disk.img --force-read --json").ok().json();
    assert_eq!(forced["read"], 300_000);
    assert!(place.copal("extract repo::web01~1 --stdout").ok().stdout == place.read("disk.img"));
    place.copal("check repo --verify-data").ok();
}

/// A place with an image of four spans, backed up as state `1`.
fn told() -> Place {
    let place = Place::with_repository();
    sparse(&place.path("disk.img"), 4 * SPAN, &[(0, 9000), (SPAN, 9000), (2 * SPAN, 9000), (3 * SPAN, 9000)]);
    place.copal("create repo::disk disk.img --source-token 1").ok();
    place
}

fn change(place: &Place, span: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(place.path("disk.img")).expect("open");
    file.write_all_at(&noise(99, 9000), span * SPAN).expect("write");
}

#[test]
fn a_map_of_changed_blocks() {
    let place = told();
    change(&place, 2);
    place.write("map", br#"{"base":"1","target":"2","ranges":[{"offset":33554432,"length":4096}]}"#);
    let create = "create repo::disk disk.img --changed-map map --base disk";
    let created = place.copal(&format!("{create} --trust --json")).ok().json();
    assert_eq!(created["read"], 12_288, "the data of one span");
    assert_eq!(created["reused"][0]["data"], 3 * 12_288);
    assert!(place.copal("extract repo::disk --stdout").ok().stdout == place.read("disk.img"));
    place.copal("info repo::disk").ok().prints(&["State        2"]);
    assert_eq!(place.copal("info repo::disk --json").ok().json()["members"][0]["source_token"], "2");

    // The same map does not count from the new archive, and the sample shows where it lies.
    place
        .copal(create)
        .fails(&["it is of state \"2\", but the map counts from \"1\"", "name the archive of"]);
    place
        .copal(&format!("{create} --base-token 2"))
        .fails(&["it counts from \"1\"", "leave out --base-token"]);
    place.write("map", br#"{"base":"2","target":"3","ranges":[{"offset":33554432,"length":4096}]}"#);
    change(&place, 1);
    place.copal(create).fails(&["bytes 16777216 to ", "are not what archive #", "back up without it"]);
    assert_eq!(place.archives(), ["disk", "disk"]);
    place.assert_no_leftovers();
    place
        .copal("create repo::disk disk.img --changed-map - --base disk~1 --trust")
        .input(b"[]")
        .fails(&["--base-token"]);
    let piped =
        "create repo::disk disk.img --changed-map - --base repo::disk~1 --base-token 1 --trust --stats";
    place.copal(piped).input(b"[]").ok().prints(&["Reused    "]);
    place.copal("check repo --verify-data").ok();
}

#[test]
fn maps_that_are_none() {
    let place = told();
    let create = |args: &str| place.copal(&format!("create repo::disk disk.img {args}"));
    place.write("map", b"[]");
    create("--changed-map map").fails(&["--base"]);
    create("--base disk").fails(&["--changed-map"]);
    create("--trust").fails(&["--changed-map"]);
    create("--changed-map map --base disk --force-read").fails(&["cannot be used with"]);
    create("--changed-map none --base disk").fails(&["cannot open none", "No such file"]);
    create("--changed-map home --base disk").fails(&["is a directory"]);
    create("--changed-map map --base other").fails(&["other"]);
    create("--changed-map map --base elsewhere::disk").fails(&["is another repository"]);
    create("--changed-map disk.img --base disk").fails(&["disk.img is no map of changed blocks"]);
    place.write("cut", br#"[{"offset":0,"length":4096}"#);
    create("--changed-map cut --base disk").fails(&["cut is no map of changed blocks", "no whole list"]);
    place.write("xml", b"<superblock data_block_size=\"128\"><diff left=\"1\">");
    create("--changed-map xml --base disk").fails(&["xml is no map", "it ends before its delta does"]);
    create("--changed-map map --changed-map-format thin-delta --base disk").fails(&["map is no map"]);
    place.write("far", br#"[{"offset":67108864,"length":1}]"#);
    create("--changed-map far --base disk --base-token 1")
        .fails(&["names bytes up to 67108865, but the source has 67108864"]);
    create(&format!("--source-token {}", "x".repeat(256))).fails(&["256 bytes long, 255 are allowed"]);
    assert_eq!(place.archives(), ["disk"]);
}

/// Blocks of 64 KiB; span 1 has another block, span 2 has one no more, span 3 a new one.
const POOL: &str = r#"<superblock uuid="" time="1" transaction="1" data_block_size="128" nr_data_blocks="1024">
  <device dev_id="1" mapped_blocks="3" transaction="0" creation_time="0" snap_time="1">
    <single_mapping origin_block="0" data_block="0" time="0"/>
    <single_mapping origin_block="256" data_block="1" time="0"/>
    <single_mapping origin_block="512" data_block="2" time="0"/>
  </device>
  <device dev_id="2" mapped_blocks="3" transaction="0" creation_time="1" snap_time="1">
    <single_mapping origin_block="0" data_block="0" time="0"/>
    <single_mapping origin_block="256" data_block="3" time="1"/>
    <single_mapping origin_block="768" data_block="4" time="1"/>
  </device>
</superblock>"#;

#[test]
fn a_delta_of_thin_volumes() {
    let place = Place::with_repository();
    let path = "PATH=$PATH:/sbin:/usr/sbin";
    let there = place.shell(&format!("{path} command -v thin_delta")).end().code == 0;
    if !can("thin_delta and thin_restore", there) {
        return;
    }
    sparse(&place.path("disk.img"), 4 * SPAN, &[(0, 9000), (SPAN, 9000), (2 * SPAN, 9000)]);
    place.copal("create repo::disk disk.img --source-token 1").ok();
    sparse(&place.path("disk.img"), 4 * SPAN, &[(0, 9000), (3 * SPAN, 9000)]);
    change(&place, 1);
    place.write("pool.xml", POOL.as_bytes());
    place.shell(&format!("{path}; truncate -s 4M pool; thin_restore -i pool.xml -o pool")).end();
    for verbose in ["", "--verbose"] {
        let delta = format!("{path}; thin_delta {verbose} --thin1 1 --thin2 2 pool > delta.xml");
        place.shell(&delta).ok();
        let base = place.archives().len() - 1;
        let create = format!("create repo::disk disk.img --changed-map delta.xml --base disk~{base} --json");
        let created = place.copal(&create).ok().json();
        assert_eq!(created["reused"][0]["data"], 12_288, "only the first span is the same");
        assert_eq!(created["read"], 3 * 12_288, "two spans, and the first for comparison");
        assert!(place.copal("extract repo::disk --stdout").ok().stdout == place.read("disk.img"));
        assert_eq!(place.copal("info repo::disk --json").ok().json()["members"][0]["source_token"], "2");
    }
}

#[test]
fn what_is_read_of_a_file_does_not_stay_in_the_page_cache() {
    let place = Place::with_repository();
    place.write("disk.img", &noise(3, 8 << 20));
    let resident = || {
        let told = place.shell("fincore -nb -o RES disk.img").ok();
        String::from_utf8_lossy(&told.stdout).trim().parse::<u64>().expect("a number")
    };
    let drop_pages = || {
        let file = fs::File::open(place.path("disk.img")).expect("open");
        file.sync_all().expect("sync");
        // Pages that are just being read cannot be dropped.
        let all_gone = (0..1000).any(|_| {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
            resident() == 0 || {
                thread::sleep(Duration::from_millis(10));
                false
            }
        });
        assert!(all_gone, "{} bytes stay", resident());
        file
    };
    let dont_cache = rustix::io::ReadWriteFlags::from_bits_retain(0x80);
    let mut byte = [0];
    let can_drop =
        rustix::io::preadv2(drop_pages(), &mut [std::io::IoSliceMut::new(&mut byte)], 0, dont_cache);
    if !can("reads that leave no pages behind (Linux 6.14)", can_drop.is_ok()) {
        return;
    }
    drop_pages();
    place.copal("create repo::cold disk.img").ok();
    // What was read ahead of a reader may be there.
    assert!(resident() <= 1 << 20, "{} bytes stay", resident());
    // What is left of it the next reader would drop, whoever that is.
    drop_pages();
    // The system may take pages back at any time, but not each time.
    let stays = (0..10).any(|_| {
        fs::read(place.path("disk.img")).expect("read");
        place.copal("create repo::warm disk.img --force-read").ok();
        resident() == 8 << 20
    });
    assert!(stays, "{} bytes of what others wanted", resident());
}
