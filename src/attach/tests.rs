//! Crashes at every step of an attach and of its taking down, on a model of the machine; what stays must be what others have.

mod machine;

use std::path::{Path, PathBuf};

use self::machine::{Crash, Machine};
use super::plan::{Disk, KnownFilesystems, Plan, Wishes, plan};
use super::salvage::salvage;
use super::setup::{Outcome, Shown, set_up};
use super::state::{Record, Served};
use super::teardown::{Left, take_down};
use crate::allocation::journal::Journal;
use crate::fuse::mountpoint::MountEntry;
use crate::partition::Part;
use crate::task::Stop;

fn part(number: u32, filesystem: &str) -> Part {
    Part {
        number,
        name: format!("{number}-{filesystem}"),
        start: u64::from(number) << 20,
        len: 1 << 20,
        filesystem: Some(filesystem.into()),
        label: String::new(),
        uuid: None,
        whole: false,
    }
}

/// Two disks with all that an attach deals with: a filesystem that no driver reads, a journal, a btrfs, volumes.
fn disks() -> Vec<Disk> {
    let kinds = ["vfat", "ext4", "btrfs", "LVM2_member", "swap"];
    let parts = kinds.into_iter().zip(1..).map(|(kind, number)| (part(number, kind), Journal::NeedsReplay));
    let disk = |member: &str, parts| Disk {
        member: member.into(),
        image: format!("{member}.img").into(),
        len: 1 << 30,
        sector: 512,
        parts,
        notes: Vec::new(),
    };
    vec![disk("vda", parts.collect()), disk("vdb", vec![(part(1, "xfs"), Journal::Clean)])]
}

fn planned(scan: bool) -> Plan {
    let wishes = Wishes { mount: true, scan, overlay: false, replay: true, lvm: true };
    plan(&disks(), wishes, &KnownFilesystems::new())
}

fn record() -> Record {
    let archive =
        Served { repository: "/r".into(), name: "web01".into(), id: "1".into(), time: "now".into() };
    let mut record = Record::new("0badcafe".into(), "this boot".into(), archive, "/mnt/restore".into());
    record.own_directory = true;
    record
}

fn attach(machine: &mut Machine, scan: bool) -> super::Result<Vec<Outcome>> {
    set_up(machine, &mut record(), &disks(), &planned(scan), &Stop::default())
}

/// Takes down what is written down, as a new process does. Whether it is all gone.
fn detach(machine: &mut Machine) -> bool {
    let Some(mut record) = machine.saved() else { return true };
    take_down(machine, &mut record).is_ok_and(|report| report.gone)
}

#[test]
fn all_that_is_set_up_is_taken_down() {
    for scan in [false, true] {
        let mut machine = Machine::new();
        let outcomes = attach(&mut machine, scan).unwrap();
        let shown: Vec<_> = outcomes.iter().map(|outcome| (outcome.name.as_str(), &outcome.shown)).collect();
        let mounted = |name: &str| {
            shown.iter().any(|(found, shown)| *found == name && matches!(shown, Shown::Mounted { .. }))
        };
        for name in ["p2-ext4", "p3-btrfs", "p1-xfs", "p4-lv-root"] {
            assert!(mounted(name), "{name}: {shown:?}");
        }
        assert!(matches!(shown[0], ("p1-vfat", Shown::Failed(_))), "{shown:?}");
        assert!(machine.has_rule() && machine.saved().is_some_and(|record| record.complete));
        assert!(detach(&mut machine));
        machine.assert_only_others();
    }
}

#[test]
fn a_directory_that_somebody_else_has_made_meanwhile_stays_theirs() {
    let shown = |machine: &mut Machine, directory: &str, any_name| {
        machine.make_directory_by_hand(directory);
        let mut record = record();
        record.directory = directory.into();
        record.any_name = any_name;
        let done = set_up(machine, &mut record, &disks(), &planned(false), &Stop::default());
        assert!(detach(machine));
        machine.remove_directory_by_hand(directory);
        machine.assert_only_others();
        done.map(|_| record.directory)
    };
    let chosen_for_us = shown(&mut Machine::new(), "/run/copal/web01-now", true).unwrap();
    assert_eq!(chosen_for_us, Path::new("/run/copal/web01-now-0badcafe"));
    for wished in ["/mnt/restore", "/run/copal/restore"] {
        let said = shown(&mut Machine::new(), wished, false).unwrap_err().to_string();
        assert!(said.contains(wished), "{said}");
    }
}

#[test]
fn the_rule_is_there_before_the_first_device_and_after_the_last() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    assert!(detach(&mut machine));
    let log = machine.log();
    let at = |what: &str| log.iter().position(|line| line.starts_with(what)).unwrap();
    let last = |what: &str| log.iter().rposition(|line| line.starts_with(what)).unwrap();
    assert!(last("loop") < at("wait for rule") && at("wait for rule") < at("mount"), "{log:?}");
    assert!(at("rule") < at("loop") && last("no loop") < last("no rule"), "{log:?}");
    assert!(last("unmount /mnt") < at("no group") && last("no group") < last("no loop"), "{log:?}");
    assert!(last("no loop") < last("unmount /run"), "{log:?}");
}

#[test]
fn only_volumes_whose_journal_is_replayed_are_written_to() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    let log = machine.log();
    let about = |what: &str| log.iter().filter(|line| line.starts_with(what)).cloned().collect::<Vec<_>>();
    let group = record().group_prefix() + "vg0";
    assert_eq!(about("group"), [format!("group {group} Read")]);
    assert_eq!(about("write"), [format!("write to {group}/root")]);
    assert!(detach(&mut machine));
}

#[test]
fn nothing_is_unmounted_while_the_server_is_stopped() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    machine.stop_servers();
    let before = machine.log().len();
    assert!(!detach(&mut machine));
    assert!(machine.log()[before..].iter().all(|line| line == "save"), "{:?}", &machine.log()[before..]);
    machine.continue_servers();
    assert!(detach(&mut machine));
    machine.assert_only_others();
}

/// All crashes of an attach, each before and after a step.
fn crashes(scan: bool) -> Vec<Crash> {
    let mut machine = Machine::new();
    attach(&mut machine, scan).unwrap();
    (1..=machine.steps()).flat_map(|step| [Crash::Before(step), Crash::After(step)]).collect()
}

#[test]
fn a_crash_at_any_step_leaves_what_detach_cleans() {
    for scan in [false, true] {
        let crashes = crashes(scan);
        assert!(crashes.len() > 80, "{}", crashes.len());
        for crash in crashes {
            for trouble in [Machine::nothing, Machine::server_killed, Machine::server_ended, Machine::reboot]
            {
                let mut machine = Machine::new();
                machine.crash(crash);
                assert!(attach(&mut machine, scan).is_err());
                machine.revive();
                trouble(&mut machine);
                assert!(detach(&mut machine), "{crash:?}: {:?}", machine.log());
                machine.assert_only_others();
            }
        }
    }
}

#[test]
fn a_detach_may_crash_at_any_step_too() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    let first = machine.steps();
    assert!(detach(&mut machine));
    for step in first + 1..=machine.steps() {
        for crash in [Crash::Before(step), Crash::After(step)] {
            let mut machine = Machine::new();
            attach(&mut machine, false).unwrap();
            machine.crash(crash);
            detach(&mut machine);
            machine.revive();
            assert!(detach(&mut machine), "{crash:?}: {:?}", machine.log());
            machine.assert_only_others();
        }
    }
}

#[test]
fn what_is_in_use_stays_with_all_that_it_needs() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    machine.use_mount("/mnt/restore/vda/p2-ext4");
    let mut record = machine.saved().unwrap();
    let report = take_down(&mut machine, &mut record).unwrap();
    let what = PathBuf::from("/mnt/restore/vda/p2-ext4");
    assert!(!report.gone);
    assert_eq!(report.left, [Left::Busy { what, users: vec!["process 7 (less)".into()] }]);
    assert!(machine.saved().is_some_and(|record| !record.complete) && machine.has_rule());
    machine.use_nothing();
    assert!(detach(&mut machine));
    machine.assert_only_others();
}

#[test]
fn what_others_mounted_in_the_same_place_is_left_alone() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    let path = PathBuf::from("/mnt/restore/vdb/p1-xfs");
    machine.mount_of_others(&path, "/dev/sdz1");
    let mut record = machine.saved().unwrap();
    let report = take_down(&mut machine, &mut record).unwrap();
    assert!(matches!(&report.left[..], [Left::Strange { what, .. }] if *what == path), "{report:?}");
    machine.unmount_of_others();
    assert!(detach(&mut machine));
    machine.assert_only_others();
}

#[test]
fn what_others_mounted_over_it_is_named() {
    for above in ["/mnt/restore", "/mnt", "/run/copal"] {
        let mut machine = Machine::new();
        attach(&mut machine, false).unwrap();
        machine.mount_of_others(Path::new(above), "tmpfs");
        let mut record = machine.saved().unwrap();
        let report = take_down(&mut machine, &mut record).unwrap();
        let cover = Left::Strange { what: above.into(), found: "theirs of tmpfs".into() };
        assert_eq!((report.gone, report.left), (false, vec![cover]), "{above}");
        machine.unmount_of_others();
        assert!(detach(&mut machine));
        machine.assert_only_others();
    }
}

#[test]
fn a_directory_that_others_mounted_on_stays_with_a_reason() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    machine.unmounted_by_hand("/mnt/restore");
    machine.mount_of_others(Path::new("/mnt/restore"), "tmpfs");
    let mut record = machine.saved().unwrap();
    let report = take_down(&mut machine, &mut record).unwrap();
    let what = "/mnt/restore, where theirs of tmpfs is mounted by now,".to_owned();
    assert_eq!((report.gone, report.left), (true, vec![Left::Stays { what }]));
    assert!(machine.saved().is_none());
    machine.unmount_of_others();
    machine.remove_directory_by_hand("/mnt/restore");
    machine.assert_only_others();
}

#[test]
fn what_is_found_by_its_id_is_taken_down_without_a_record() {
    for scan in [false, true] {
        for trouble in [Machine::nothing, Machine::server_killed] {
            let mut machine = Machine::new();
            attach(&mut machine, scan).unwrap();
            let written = machine.saved().unwrap();
            let id = machine.record_damaged();
            trouble(&mut machine);
            let mut found = salvage(&machine, &id).unwrap();
            let mounts = |record: &Record| -> Vec<_> {
                record.mounts.iter().map(|mount| (mount.path.clone(), mount.device.clone())).collect()
            };
            assert_eq!(mounts(&found), mounts(&written));
            // Of a group only the name is seen, so that it may stand on any of the devices.
            let groups =
                |record: &Record| record.groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>();
            assert_eq!(groups(&found), groups(&written));
            let report = take_down(&mut machine, &mut found).unwrap();
            assert_eq!((report.gone, report.left), (true, Vec::new()));
            // Who made these, nobody knows.
            for directory in ["/mnt/restore/vda", "/mnt/restore/vdb", "/mnt/restore"] {
                machine.remove_directory_by_hand(directory);
            }
            machine.assert_only_others();
        }
    }
    // Of one of which nothing is left, nothing is touched.
    let mut machine = Machine::new();
    machine.make_directory_by_hand("/mnt/other");
    let mut found = salvage(&machine, "0badcafe").unwrap();
    assert!(take_down(&mut machine, &mut found).unwrap().gone);
    machine.remove_directory_by_hand("/mnt/other");
    machine.assert_only_others();
}

#[test]
fn a_loop_device_that_is_somebody_elses_by_now_is_left_alone() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    // Somebody unmounted and detached it by hand, and the number is used again, for the same place in another file.
    let device = machine.hand_over("/mnt/restore/vda/p2-ext4", "/srv/theirs.img");
    machine.mount_of_others(Path::new("/mnt/restore/vda/p2-ext4"), device.to_str().unwrap());
    let mut record = machine.saved().unwrap();
    let report = take_down(&mut machine, &mut record).unwrap();
    assert!(matches!(&report.left[..], [Left::Strange { .. }]), "{report:?}");
    machine.unmount_of_others();
    assert!(detach(&mut machine));
    machine.assert_only_others();
    assert!(machine.has_loop(&device));
}

#[test]
fn a_directory_with_something_in_it_stays() {
    let mut machine = Machine::new();
    attach(&mut machine, false).unwrap();
    machine.put_file("/mnt/restore");
    let mut record = machine.saved().unwrap();
    let report = take_down(&mut machine, &mut record).unwrap();
    assert!(report.gone && matches!(&report.left[..], [Left::Stays { .. }]), "{report:?}");
    assert!(machine.saved().is_none());
}

#[test]
fn a_signal_ends_an_attach_between_two_steps() {
    let mut machine = Machine::new();
    let stop = Stop::default();
    stop.flag().store(15, std::sync::atomic::Ordering::Relaxed);
    let mut record = record();
    let error = set_up(&mut machine, &mut record, &disks(), &planned(false), &stop).unwrap_err();
    assert!(matches!(error, super::Error::Stopped { signal: 15 }));
    assert!(take_down(&mut machine, &mut record).unwrap().gone);
    machine.assert_only_others();
}

/// What mount tables show of a mount.
fn entry(path: &Path, source: &Path, kind: &str) -> MountEntry {
    MountEntry { device: "0:1".into(), path: path.into(), kind: kind.into(), source: source.into() }
}
