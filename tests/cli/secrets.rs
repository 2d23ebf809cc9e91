//! Where secrets come from, and where they must never go.

use super::support::Place;

const SECRET: &str = "correct horse battery Stäple";

fn encrypted() -> Place {
    let place = Place::new();
    place.copal("init repo").env("COPAL_PASSPHRASE", SECRET).ok();
    place
}

#[test]
fn a_passphrase_comes_by_every_channel() {
    let place = encrypted();
    place.write("pass", format!("{SECRET}\nanother line\n").as_bytes());
    place.write("dos", format!("{SECRET}\r\n").as_bytes());
    place.copal("list repo").env("COPAL_PASSPHRASE", SECRET).ok();
    place.copal("list repo --passphrase-file pass").ok();
    place.copal("list repo --passphrase-file dos").ok();
    place.copal("list repo").env("COPAL_PASSCOMMAND", "head -n1 pass").ok();
    place.shell("exec 7<pass; COPAL_PASSPHRASE_FD=7 exec $COPAL list repo").ok();
    place.shell("cat pass | COPAL_PASSPHRASE_FD=0 $COPAL list repo").ok();
}

#[test]
fn a_passphrase_is_the_same_however_its_accents_are_typed() {
    let place = encrypted();
    place.copal("list repo").env("COPAL_PASSPHRASE", SECRET.replace('ä', "a\u{308}")).ok();
}

#[test]
fn a_passphrase_command_runs_without_a_shell() {
    let place = encrypted();
    let words = format!("printf %s '{SECRET}'");
    place.copal("list repo").env("COPAL_PASSCOMMAND", words).ok();
    let list = |command: &str| place.copal("list repo").env("COPAL_PASSCOMMAND", command);
    list("echo x; touch made").fails(&["wrong passphrase"]);
    assert!(!place.path("made").exists());
    list("$(touch made)").fails(&["COPAL_PASSCOMMAND: cannot run"]);
    assert!(!place.path("made").exists());
    list("false").fails(&["COPAL_PASSCOMMAND: \"false\" failed with exit status: 1"]);
    list("sh -c 'kill -9 $$'").fails(&["failed with signal: 9"]);
    list("").fails(&["COPAL_PASSCOMMAND is empty"]);
    list("'open").fails(&["open quote"]);
    list("/no/such/program").fails(&["COPAL_PASSCOMMAND: cannot run \"/no/such/program\""]);
}

#[test]
fn broken_channels_say_which() {
    use std::os::unix::ffi::OsStrExt;
    let place = encrypted();
    place.write("binary", b"\xff\xfe\n");
    place.write("long", &vec![b'x'; 70_000]);
    let list = |args: &str| place.copal(&format!("list repo {args}"));
    list("--passphrase-file none").fails(&["cannot open passphrase file none", "No such file"]);
    list("--passphrase-file binary").fails(&["passphrase file binary", "not text in UTF-8"]);
    list("--passphrase-file long").fails(&["longer than 64 KiB"]);
    list("").env("COPAL_PASSPHRASE_FD", "x").fails(&["COPAL_PASSPHRASE_FD is \"x\", not a number"]);
    list("").env("COPAL_PASSPHRASE_FD", "99").fails(&["descriptor 99, which cannot be read"]);
    let binary = std::ffi::OsStr::from_bytes(b"\xff");
    list("").env("COPAL_PASSPHRASE", binary).fails(&["COPAL_PASSPHRASE is not text in UTF-8"]);
}

#[test]
fn wrong_secrets_say_so() {
    let place = encrypted();
    place.write("disk.img", b"x");
    place.write("key", &[1; 32]);
    for command in
        ["list repo", "info repo::x", "create repo::x disk.img", "extract repo::x out", "mount repo home"]
    {
        place.copal(command).env("COPAL_PASSPHRASE", "wrong").fails(&["wrong passphrase", "key slots"]);
        place.copal(command).env("COPAL_KEY_FILE", "key").fails(&["wrong key file"]);
        place.copal(command).fails(&["a passphrase is needed", "COPAL_PASSPHRASE"]);
    }
    place.copal("list repo --key-file none").fails(&["cannot open key file none", "stays locked"]);
    place.copal("init b --encryption keyfile --key-file key").ok();
    place.copal("list b --key-file key").ok();
    place.copal("list b").env("COPAL_KEY_FILE", "key").ok();
    place.write("other", &[2; 32]);
    place.copal("list b --key-file other").fails(&["wrong key file", "key slots"]);
    place.copal("list b").env("COPAL_PASSPHRASE", SECRET).fails(&["wrong passphrase"]);
}

#[test]
fn secrets_appear_nowhere() {
    let place = Place::new();
    let disk = b"unmistakable words on the disk".repeat(1000);
    place.write("disk.img", &disk);
    place.write("key", b"raw key material of thirty-two or more bytes");
    let with = |args: &str| place.copal(args).env("COPAL_PASSPHRASE", SECRET).env("COPAL_LOG", "trace");
    let key = |args: &str| place.copal(&format!("{args} --key-file key")).env("COPAL_LOG", "trace");
    let outputs = [
        with("init repo").end(),
        with("create repo::x disk.img --stats --comment c").end(),
        with("create repo::x disk.img --json").end(),
        with("list repo --json").end(),
        with("info repo").end(),
        with("info repo::x --json").end(),
        with("create repo::y none.img").end(),
        place.copal("list repo").env("COPAL_PASSPHRASE", format!("{SECRET}!")).end(),
        place.copal("list repo").env("COPAL_PASSCOMMAND", format!("sh -c 'exit 1' '{SECRET}'")).end(),
        key("init keyed --encryption keyfile").end(),
        key("create keyed::x disk.img").end(),
        key("info keyed::x").end(),
    ];
    let secrets = [SECRET.as_bytes(), b"raw key material", b"unmistakable words"];
    let holds = |bytes: &[u8], secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    for output in &outputs {
        assert!(
            secrets.iter().all(|s| !holds(&output.stdout, s) && !holds(output.stderr.as_bytes(), s)),
            "{output}"
        );
    }
    for folder in ["repo", "keyed", "state", "home"] {
        for (path, bytes) in place.tree(folder) {
            let bytes = bytes.unwrap_or_default();
            assert!(secrets.iter().all(|secret| !holds(&bytes, secret)), "{}", path.display());
        }
    }
}

#[test]
fn a_backed_up_command_does_not_learn_the_secret() {
    let place = encrypted();
    let env = place.copal("create repo::env --command -- env").env("COPAL_PASSPHRASE", SECRET);
    env.env("COPAL_PASSCOMMAND", "echo hidden").ok();
    let shown = place.copal("extract repo::env --stdout").env("COPAL_PASSPHRASE", SECRET).ok();
    assert!(shown.text().contains("HOME="), "{shown}");
    assert!(!shown.text().contains("COPAL_PASS"), "{shown}");
}
