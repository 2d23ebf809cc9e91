//! Decisions.

use super::*;

fn part(number: u32, filesystem: &str, uuid: &str) -> Part {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Part {
        number,
        name: format!("{number}-x"),
        start: u64::from(number) << 20,
        len: 1 << 20,
        filesystem: some(filesystem),
        label: String::new(),
        uuid: some(uuid),
        whole: false,
    }
}

fn disk(parts: Vec<(Part, Journal)>) -> Disk {
    Disk {
        member: "disk".into(),
        image: "disk.img".into(),
        len: 1 << 30,
        sector: 512,
        parts,
        notes: Vec::new(),
    }
}

const SAFE: Wishes = Wishes { mount: true, scan: false, overlay: false, replay: true, lvm: false };

fn decided(parts: Vec<(Part, Journal)>, wishes: Wishes) -> Plan {
    plan(&[disk(parts)], wishes, &KnownFilesystems::new())
}

fn mount_of(planned: &Planned) -> &Mount {
    match &planned.then {
        Then::Mount(mount) => mount,
        other => panic!("it is to be mounted, not {other:?}"),
    }
}

fn reason_of(planned: &Planned) -> &str {
    match &planned.then {
        Then::Nothing(reason) => reason,
        other => panic!("nothing is to be done, not {other:?}"),
    }
}

#[test]
fn a_clean_filesystem_is_mounted_read_only_without_an_overlay() {
    for kind in ["ext4", "xfs", "btrfs", "ntfs", "vfat", "exfat", "iso9660", "squashfs"] {
        let plan = decided(vec![(part(2, kind, ""), Journal::Clean)], SAFE);
        let mount = mount_of(&plan.parts[0]);
        assert_eq!((plan.overlay, plan.parts[0].device), (false, Some(Access::Read)), "{kind}");
        assert!(!mount.write && mount.note.is_none() && mount.directory.ends_with("p2-x"), "{kind}");
        assert!(mount.ways.iter().all(|way| !way.options.contains("noload") && !way.options.contains("rec")));
    }
}

#[test]
fn a_journal_is_replayed_in_an_overlay_and_by_the_partition_that_has_it_alone() {
    for journal in [Journal::NeedsReplay, Journal::Unknown] {
        let plan = decided(vec![(part(1, "vfat", ""), journal), (part(2, "ext4", ""), journal)], SAFE);
        let devices: Vec<_> = plan.parts.iter().map(|part| part.device).collect();
        assert_eq!((plan.overlay, &devices[..]), (true, &[Some(Access::Read), Some(Access::Write)][..]));
        assert!(!mount_of(&plan.parts[1]).write, "it is mounted read-only all the same");
    }
}

#[test]
fn nobody_promises_that_the_log_of_ntfs_is_replayed() {
    let note = |kind| {
        let plan = decided(vec![(part(1, kind, ""), Journal::NeedsReplay)], SAFE);
        mount_of(&plan.parts[0]).note.clone().unwrap_or_default()
    };
    assert!(note("ext4").contains("replayed") && note("ntfs").contains("may be missing"));
    assert_eq!(
        decided(vec![(part(1, "xfs", ""), Journal::Unknown)], SAFE).parts[0].device,
        Some(Access::Write)
    );
}

#[test]
fn without_a_replay_nothing_is_writable_and_it_is_told() {
    let wishes = Wishes { replay: false, ..SAFE };
    for (kind, option) in [("ext3", "noload"), ("xfs", "norecovery"), ("btrfs", "rescue=nologreplay")] {
        let plan = decided(vec![(part(1, kind, ""), Journal::NeedsReplay)], wishes);
        let mount = mount_of(&plan.parts[0]);
        assert!(mount.ways[0].options.ends_with(option), "{:?}", mount.ways);
        assert!(mount.note.as_deref().is_some_and(|note| note.contains("NOT REPLAYED")));
        assert_eq!((plan.overlay, plan.parts[0].device), (false, Some(Access::Read)));
        let clean = decided(vec![(part(1, kind, ""), Journal::Clean)], wishes);
        assert!(!mount_of(&clean.parts[0]).ways[0].options.contains(option));
    }
}

#[test]
fn an_image_cannot_make_the_kernel_panic_on_errors_nor_clash_with_its_original() {
    let plan =
        decided(vec![(part(1, "ext4", ""), Journal::Clean), (part(2, "xfs", ""), Journal::Clean)], SAFE);
    assert_eq!(mount_of(&plan.parts[0]).ways[0].options, "errors=remount-ro");
    assert_eq!(mount_of(&plan.parts[1]).ways[0].options, "nouuid");
}

#[test]
fn an_overlay_makes_everything_writable_that_can_be() {
    let parts = ["ext4", "ntfs", "squashfs"].into_iter().zip(1..);
    let parts = parts.map(|(kind, number)| (part(number, kind, ""), Journal::Clean)).collect();
    let plan = decided(parts, Wishes { overlay: true, ..SAFE });
    assert!(plan.overlay && plan.parts.iter().all(|part| part.device == Some(Access::Write)));
    let writes: Vec<bool> = plan.parts.iter().map(|part| mount_of(part).write).collect();
    assert_eq!(writes, [true, true, false]);
}

#[test]
fn what_holds_others_gets_no_device_and_an_explanation() {
    let kinds = [
        ("crypto_LUKS", "'cryptsetup open --readonly DEVICE NAME'"),
        ("LVM2_member", "--lvm"),
        ("linux_raid_member", "mdadm"),
        ("swap", "swap"),
        ("zfs_member", "zfs_member is not mounted"),
        ("", "nothing that is known"),
    ];
    for (kind, said) in kinds {
        let plan = decided(vec![(part(1, kind, ""), Journal::Unknown)], SAFE);
        assert_eq!((plan.overlay, plan.parts[0].device), (false, None), "{kind}");
        assert!(reason_of(&plan.parts[0]).contains(said), "{kind}");
        let devices = decided(vec![(part(1, kind, ""), Journal::Unknown)], Wishes { mount: false, ..SAFE });
        assert_eq!(devices.parts[0].device, Some(Access::Read), "{kind}");
        assert!(!devices.overlay && matches!(devices.parts[0].then, Then::Left(_)), "{kind}");
    }
}

#[test]
fn volumes_are_activated_only_if_asked_for_and_never_on_the_image_itself() {
    let plan = decided(vec![(part(3, "LVM2_member", ""), Journal::Unknown)], Wishes { lvm: true, ..SAFE });
    assert_eq!((plan.overlay, plan.parts[0].device), (true, Some(Access::Write)));
    assert_eq!(plan.parts[0].then, Then::Volumes);
    let volume = Part { whole: true, ..part(1, "ext4", "") };
    for (journal, wanted) in [(Journal::NeedsReplay, Access::Write), (Journal::Clean, Access::Read)] {
        let (access, Then::Mount(mount)) = plan.volume(&volume, journal, "p3-lv-root".into()) else {
            panic!("it is to be mounted")
        };
        assert_eq!(access, wanted);
        assert!(!mount.write && mount.ways[0].options == "errors=remount-ro");
    }
    let within = plan.volume(&part(1, "LVM2_member", ""), Journal::Unknown, PathBuf::new());
    assert!(matches!(within, (Access::Read, Then::Nothing(_))));
}

#[test]
fn a_btrfs_that_the_host_has_is_refused() {
    let known = KnownFilesystems::from([("0b".to_owned(), "/dev/sda2".to_owned())]);
    let disks =
        [disk(vec![(part(1, "btrfs", "0b"), Journal::Clean), (part(2, "btrfs", "0c"), Journal::Clean)])];
    let plan = plan(&disks, SAFE, &known);
    assert_eq!(plan.parts[0].device, None, "its signature is not shown to the host");
    assert!(reason_of(&plan.parts[0]).contains("/dev/sda2"));
    mount_of(&plan.parts[1]);
    // An ext4 with the same id is of no harm.
    let ext = [disk(vec![(part(1, "ext4", "0b"), Journal::Clean)])];
    mount_of(&super::plan(&ext, SAFE, &known).parts[0]);
}

#[test]
fn devices_of_one_btrfs_are_mounted_once() {
    let parts = [(1, "a", Journal::Clean), (2, "b", Journal::Clean), (3, "a", Journal::NeedsReplay)];
    let parts = parts.map(|(number, uuid, journal)| (part(number, "btrfs", uuid), journal)).to_vec();
    let plan = decided(parts, SAFE);
    assert_eq!(mount_of(&plan.parts[0]).with, [2]);
    assert_eq!(plan.parts[2].then, Then::PartOf("1-x".into()));
    let devices: Vec<_> = plan.parts.iter().map(|part| part.device).collect();
    assert_eq!(devices, [Some(Access::Write), Some(Access::Read), Some(Access::Write)]);
    assert!(mount_of(&plan.parts[1]).with.is_empty());
}

#[test]
fn several_disks_have_a_directory_each() {
    let two = ["vda", "vdb"]
        .map(|member| Disk { member: member.into(), ..disk(vec![(part(1, "ext4", ""), Journal::Clean)]) });
    let plan = plan(&two, SAFE, &KnownFilesystems::new());
    let directories: Vec<_> = plan.parts.iter().map(|part| mount_of(part).directory.clone()).collect();
    assert_eq!(directories, [PathBuf::from("vda/p1-x"), PathBuf::from("vdb/p1-x")]);
}

#[test]
fn a_disk_that_is_scanned_is_as_writable_as_its_most_writable_partition() {
    let parts = vec![(part(1, "vfat", ""), Journal::Clean), (part(2, "ext4", ""), Journal::NeedsReplay)];
    assert_eq!(decided(parts, SAFE).whole_disk(0), Some(Access::Write));
    assert_eq!(decided(vec![(part(1, "swap", ""), Journal::Clean)], SAFE).whole_disk(0), None);
}
