//! `copal info`.

use std::io::Write;
use std::process::Stdio;

use super::support::{Place, can, noise, sparse};

#[test]
fn a_repository() {
    let place = Place::with_archive();
    let text = place.copal("info repo").ok();
    text.prints(&[
        "Repository   ",
        " in repo",
        "Encryption   none",
        "fastcdc, 32.0 KiB on average, in spans of 16.0 MiB",
        "Archives     1 with 293.0 KiB in data",
    ]);
    let json = place.copal("info repo --json").ok().json();
    assert_eq!(
        (&json["archives"], &json["data"], &json["encrypted"]),
        (&1.into(), &300_000.into(), &false.into())
    );
    assert_eq!((&json["chunker"]["kind"], &json["chunker"]["avg"]), (&"fastcdc-1".into(), &32768.into()));
    assert!(json["stored"].as_u64() > Some(300_000) && json["packs"] == 2, "{json}");
}

#[test]
fn sessions_of_a_repository() {
    let place = Place::with_archive();
    assert_eq!(place.copal("info repo --json").ok().json()["sessions"], serde_json::json!([]));
    let mut child = place.copal("create repo::x -").stdin(Stdio::piped()).spawn();
    let mut stdin = child.stdin.take().expect("a pipe");
    // More than the pipe holds: once it is written, the program is reading, and has published its session.
    stdin.write_all(&noise(1, 1 << 20)).expect("write");
    let json = place.copal("info repo --json").ok().json();
    let sessions = json["sessions"].as_array().expect("sessions");
    assert_eq!(sessions.len(), 1, "{json}");
    assert_eq!((&sessions[0]["pid"], &sessions[0]["state"]), (&child.id().into(), &"running".into()));
    assert!(sessions[0]["id"].is_string() && sessions[0]["started"].is_string(), "{json}");
    let process = format!("process {} on ", child.id());
    place.copal("info repo").ok().prints(&["Session      create x: ", &process, " since 20", ", running\n"]);

    child.kill().expect("kill");
    child.wait().expect("wait");
    place.copal("info repo").ok().prints(&[&process, ", dead\n"]);
    for copy in ["repo/sessions", "repo/mirror/sessions"] {
        for (path, _) in place.tree(copy) {
            std::fs::write(path, b"x").expect("write");
        }
    }
    place.copal("info repo").warns(&["sessions/", "damaged"]).prints(&["Session      #", "cannot be read"]);
}

#[test]
fn an_archive() {
    let place = Place::with_archive();
    let text = place.copal("info repo::web01").ok();
    text.prints(&[
        "Archive      web01 #",
        "Size         293.0 KiB, of which 293.0 KiB in data",
        "Previous     none",
        "Member       disk.img: 293.0 KiB",
        "Source       file /",
        "Partitions   none recognised",
    ]);
    place.copal("create repo::web01 disk.img").ok();
    let first = place.copal("info repo::web01~1 --json").ok().json();
    let second = place.copal("info repo::web01 --json").ok().json();
    assert_eq!(second["previous"], first["id"]);
    assert_eq!(second["chunks"], first["chunks"]);
    assert_eq!(second["stats"]["new_chunks"], 0);
    assert!(second["stored"].as_u64() > Some(300_000), "{second}");
    assert!(second["seconds"].is_number() && second["host"].is_string());
}

#[test]
fn partitions_and_filesystems() {
    let place = Place::with_repository();
    let there = |program: &str| {
        place.shell(&format!("PATH=$PATH:/sbin:/usr/sbin command -v {program}")).end().code == 0
    };
    if !can("sfdisk and mkfs.ext4", there("sfdisk") && there("mkfs.ext4")) {
        return;
    }
    sparse(&place.path("disk.img"), 64 << 20, &[]);
    let mut table = place.shell("PATH=$PATH:/sbin:/usr/sbin sfdisk -q disk.img").stdin(Stdio::piped());
    let mut child = table.spawn();
    let script = "label: gpt\nsize=4M,type=U,name=esp\ntype=L,name=root\n";
    child.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("write");
    assert!(child.wait_with_output().expect("wait").status.success());
    place.shell("PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -F -L rootfs -E offset=5242880 disk.img 32M").end();
    place.copal("create repo::x disk.img").ok();
    place.copal("info repo::x").ok().prints(&[
        "Partitions   GPT ",
        " 1  offset       1048576     4.0 MiB",
        " 2  offset       5242880",
        "ext4 \"rootfs\"",
    ]);
    let json = place.copal("info repo::x --json").ok().json();
    let partitions = &json["members"][0]["partitions"]["partitions"];
    assert_eq!((&partitions[0]["start"], &partitions[1]["filesystem"]), (&1_048_576.into(), &"ext4".into()));

    sparse(&place.path("fs.img"), 32 << 20, &[]);
    place.shell("PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -F -L alone fs.img").ok();
    place.copal("create repo::y fs.img").ok();
    place.copal("info repo::y").ok().prints(&["Filesystem   ext4 \"alone\""]);
}
