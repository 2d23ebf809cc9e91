//! The rule that keeps an attach's devices from the host's udev.
//!
//! The host may be the one that was backed up: an image's UUIDs and labels are then its own. Under this rule loop devices on the served images, their partitions, and
//! volumes of groups imported from them have no links in `/dev/disk`, are never ready for systemd, are unknown to udisks, and nothing is assembled of them
//! (LVM, RAID, btrfs, multipath). It is keyed on the file behind the device, which lies where only this attach has files, and on names of device mapper
//! that only this attach gives.
//!
//! Rules of others that look at block devices come later, in the order of their names; upstream's rules for device mapper begin with 10 and 11, and make links in 13.

use std::path::{Path, PathBuf};

use super::state::Record;

/// Where rules are that last until the next boot.
const RULES: &str = "/run/udev/rules.d";
/// Where udev looks for rules.
pub(super) const FOLDERS: [&str; 5] =
    ["/etc/udev/rules.d", RULES, "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];
/// There while udev runs.
pub(super) const CONTROL: &str = "/run/udev/control";
/// What udev knows of devices, by `b` and their numbers.
pub(super) const DATABASE: &str = "/run/udev/data";
/// A property that devices have by the rule alone.
const MARK: &str = "UDISKS_IGNORE";

/// Where the rule of an attach belongs.
#[must_use]
pub fn path(record: &Record) -> PathBuf {
    Path::new(RULES).join(format!("12-copal-attach-{}.rules", record.id))
}

/// The rule of an attach.
#[must_use]
pub fn text(record: &Record) -> String {
    // The path holds no character that means something to udev: its last part is a number.
    let (run, group) = (record.run(), record.group_prefix());
    format!(
        r#"# Made by 'copal attach', and removed by 'copal detach {directory}'.
SUBSYSTEM!="block", GOTO="copal_end"
ACTION=="remove", GOTO="copal_end"
KERNEL=="loop*", ATTRS{{loop/backing_file}}=="{run}/*", GOTO="copal_hide"
KERNEL=="dm-*", ATTR{{dm/name}}=="{group}*", GOTO="copal_hide"
GOTO="copal_end"
LABEL="copal_hide"
ENV{{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}}="1"
ENV{{DM_UDEV_DISABLE_DISK_RULES_FLAG}}="1"
ENV{{DM_UDEV_DISABLE_OTHER_RULES_FLAG}}="1"
ENV{{ID_IGNORE_DISKSEQ}}="1"
ENV{{DM_MULTIPATH_DEVICE_PATH}}="0"
ENV{{SYSTEMD_READY}}="0"
ENV{{{MARK}}}="1"
LABEL="copal_end"
"#,
        directory = printable(&record.directory),
        run = run.display(),
    )
}

/// Whether the rule was applied to a device, by what udev's database has of it.
#[must_use]
pub fn is_applied(entry: &str) -> bool {
    entry.lines().any(|line| line.strip_prefix("E:").and_then(|line| line.strip_prefix(MARK)) == Some("=1"))
}

/// A path for a comment: what could end the line is left out.
fn printable(path: &Path) -> String {
    path.display().to_string().replace(|c: char| c.is_control(), "?")
}
