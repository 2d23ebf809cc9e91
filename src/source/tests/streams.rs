//! Tests of FIFOs and commands.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

use super::super::*;
use super::open;

const NEVER: &dyn Fn() -> bool = &|| false;

fn command(program: &str, args: &[&str]) -> Result<Stream, SourceError> {
    let args = args.iter().map(Into::into).collect();
    match Source::open(&SourceSpec::Command { program: program.into(), args })? {
        Source::Stream(stream) => Ok(stream),
        Source::Seekable(seekable) => panic!("{seekable:?} has a length"),
    }
}

fn shell(script: &str) -> Stream {
    command("sh", &["-c", script]).unwrap()
}

#[test]
fn fifo_is_a_stream_that_ends_once() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let writer = std::thread::spawn({
        let path = path.clone();
        move || OpenOptions::new().write(true).open(path).unwrap().write_all(&[3; 200_000]).unwrap()
    });
    let Source::Stream(mut stream) = open(&path).unwrap() else { panic!("a FIFO has no length") };
    let mut buf = vec![0; 150_000];
    assert_eq!(stream.read(&mut buf, NEVER).unwrap(), 150_000, "a read fills its buffer over many writes");
    assert_eq!(stream.read(&mut buf, NEVER).unwrap(), 50_000);
    writer.join().unwrap();
    OpenOptions::new().read(true).write(true).open(&path).unwrap().write_all(b"late").unwrap();
    assert_eq!(stream.read(&mut buf, NEVER).unwrap(), 0, "the end stays the end");
    assert_eq!(stream.kind(), SourceKind::Fifo);
    assert_eq!(stream.path_bytes(), path.as_os_str().as_bytes());
    stream.finish(NEVER).unwrap();
}

#[test]
fn command_that_succeeds() {
    let mut stream = shell("printf abc; sleep 0.05; printf def; echo 'not this' >&2");
    let mut buf = [0; 4];
    assert_eq!(stream.read(&mut buf, NEVER).unwrap(), 4);
    assert_eq!(&buf, b"abcd");
    assert_eq!(stream.read(&mut buf, NEVER).unwrap(), 2);
    assert_eq!(&buf[..2], b"ef");
    assert_eq!(stream.read(&mut buf, NEVER).unwrap(), 0);
    assert_eq!((stream.kind().as_str(), stream.path_bytes()), ("command", &b"sh"[..]));
    stream.finish(NEVER).unwrap();
}

#[test]
fn command_input_is_empty() {
    let mut stream = command("cat", &[]).unwrap();
    assert_eq!(stream.read(&mut [0; 16], NEVER).unwrap(), 0);
    stream.finish(NEVER).unwrap();
}

#[test]
fn command_that_fails_says_how() {
    let failure = |script: &str| {
        let mut stream = shell(script);
        while stream.read(&mut [0; 4096], NEVER).unwrap() > 0 {}
        match stream.finish(NEVER) {
            Err(error @ SourceError::CommandFailed { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(failure("printf partial; exit 3").contains("exit status: 3"));
    assert!(failure("kill -9 $$").contains("signal: 9"));
}

#[test]
fn command_finished_early_is_no_success() {
    let mut stream = shell("exec yes");
    stream.read(&mut [0; 10], NEVER).unwrap();
    assert!(matches!(stream.finish(NEVER), Err(SourceError::CommandFailed { .. })));
}

#[test]
fn command_that_is_not_there_or_not_executable() {
    let error = command("copal-no-such-program", &[]).unwrap_err();
    assert!(matches!(&error, SourceError::CommandMissing { program } if program == "copal-no-such-program"));
    assert!(matches!(command("/etc/passwd", &[]), Err(SourceError::CommandStart { .. })));
}

#[test]
fn dropped_command_is_killed_and_reaped() {
    let mut stream = shell("printf '%8d' $$; exec sleep 600");
    let mut text = [0; 8];
    assert_eq!(stream.read(&mut text, NEVER).unwrap(), 8);
    let pid: i32 = std::str::from_utf8(&text).unwrap().trim().parse().unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    test_kill_process(pid).unwrap();
    drop(stream);
    // A zombie would still be there to receive a signal.
    assert_eq!(test_kill_process(pid), Err(rustix::io::Errno::SRCH));
}
