//! Signals: work ends at once, and nothing is left half-done.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::support::{Ended, Place, noise, sparse};

const SIGNALS: [(Signal, i32); 3] = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("kill");
}

#[track_caller]
fn assert_stopped(place: &Place, ended: &Ended, code: i32) {
    assert_eq!((ended.code, ended.killed, ended.stdout.len()), (code, false, 0), "{ended}");
    assert!(ended.stderr.contains("no archive was made"), "{ended}");
    assert_eq!(place.archives(), ["web01"]);
    place.assert_no_leftovers();
}

#[test]
fn a_create_that_waits_for_standard_input() {
    let place = Place::with_archive();
    let before = place.tree("repo");
    for (signal, code) in SIGNALS {
        let mut child = place.copal("create repo::x -").stdin(Stdio::piped()).spawn();
        let mut stdin = child.stdin.take().expect("a pipe");
        // More than the pipe holds: once it is written, the program is reading. Then it waits for the rest.
        stdin.write_all(&noise(1, 1 << 20)).expect("write");
        send(&child, signal);
        let ended = Ended::of(child.wait_with_output().expect("wait"));
        drop(stdin);
        assert_stopped(&place, &ended, code);
    }
    let files = |tree: Vec<(_, Option<Vec<u8>>)>| {
        tree.into_iter().filter(|(_, bytes)| bytes.is_some()).collect::<Vec<_>>()
    };
    assert!(files(before) == files(place.tree("repo")), "nothing is left");
}

#[test]
fn a_create_that_waits_for_a_fifo() {
    let place = Place::with_archive();
    rustix::fs::mknodat(rustix::fs::CWD, place.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("mkfifo");
    for (signal, code) in SIGNALS {
        let child = place.copal("create repo::x fifo").spawn();
        let mut fifo = std::fs::File::options().write(true).open(place.path("fifo")).expect("open");
        fifo.write_all(&noise(1, 1 << 20)).expect("write");
        send(&child, signal);
        let ended = Ended::of(child.wait_with_output().expect("wait"));
        drop(fifo);
        assert_stopped(&place, &ended, code);
    }
}

#[test]
fn a_create_whose_fifo_has_no_writer() {
    let place = Place::with_archive();
    rustix::fs::mknodat(rustix::fs::CWD, place.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("mkfifo");
    let child = place.copal("create repo::x - fifo").stdin(Stdio::piped()).spawn();
    let mut child = child;
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&noise(1, 1 << 20)).expect("write");
    // From here on it waits for somebody to write into the FIFO.
    drop(stdin);
    send(&child, Signal::TERM);
    let ended = Ended::of(child.wait_with_output().expect("wait"));
    assert_stopped(&place, &ended, 143);
}

#[test]
fn a_create_whose_command_gives_nothing_ends_the_command_too() {
    let place = Place::with_archive();
    let script = "echo $$ >&2; exec sleep 1000";
    let mut child = place.copal("create repo::x --command -- sh -c").arg(script).spawn();
    let mut pid = String::new();
    let stderr = child.stderr.as_mut().expect("a pipe");
    while !pid.ends_with('\n') {
        let mut byte = [0];
        stderr.read_exact(&mut byte).expect("read");
        pid.push(char::from(byte[0]));
    }
    send(&child, Signal::TERM);
    let ended = Ended::of(child.wait_with_output().expect("wait"));
    assert_stopped(&place, &ended, 143);
    let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
    assert!(test_kill_process(pid).is_err(), "the command is gone");
}

#[test]
fn a_command_that_goes_on_after_its_output_can_be_stopped() {
    let place = Place::with_archive();
    let script = "exec >&-; echo closed >&2; exec sleep 1000";
    let mut child = place.copal("create repo::x --command -- sh -c").arg(script).spawn();
    let mut said = [0; 7];
    child.stderr.as_mut().expect("a pipe").read_exact(&mut said).expect("read");
    send(&child, Signal::INT);
    let ended = Ended::of(child.wait_with_output().expect("wait"));
    assert_stopped(&place, &ended, 130);
}

#[test]
fn an_extract_leaves_no_file() {
    let place = Place::with_repository();
    let len = 200 << 20;
    sparse(&place.path("disk.img"), len, &[(0, 150 << 20)]);
    place.copal("create repo::x disk.img --compression none").ok();
    let child = place.copal("extract repo::x home/out.img").spawn();
    // It has begun when its temporary file holds something.
    let begun = || {
        let file = std::fs::read_dir(place.path("home")).expect("read_dir").next()?.ok()?.path();
        let mut byte = [0; 1];
        std::fs::File::open(file).ok()?.read_exact_at(&mut byte, 0).ok()
    };
    while begun().is_none() {
        std::thread::yield_now();
    }
    send(&child, Signal::TERM);
    let ended = Ended::of(child.wait_with_output().expect("wait"));
    // It may have been done just before.
    if ended.code == 0 {
        return;
    }
    assert_eq!(ended.code, 143, "{ended}");
    ended.says(&["home/out.img was not made: stopped by signal 15"]);
    assert_eq!(std::fs::read_dir(place.path("home")).expect("read_dir").count(), 0);
}

#[test]
fn a_second_signal_ends_a_program_that_does_not_listen() {
    let place = Place::with_archive();
    let mut child = place.copal("create repo::x -").stdin(Stdio::piped()).spawn();
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&noise(1, 1 << 20)).expect("write");
    send(&child, Signal::INT);
    send(&child, Signal::TERM);
    let ended = Ended::of(child.wait_with_output().expect("wait"));
    drop(stdin);
    // By the first, the second, or both at once; what it leaves is shown as nothing.
    assert!(matches!(ended.code, 130 | 143), "{ended}");
    assert_eq!(place.archives(), ["web01"]);
    place.copal("create repo::web01 disk.img").ok();
}
