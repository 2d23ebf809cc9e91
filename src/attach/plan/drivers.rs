//! What reads which filesystem, with which options; and what to say of all else.

use super::{Driver, Way};

/// Names of DOS and Windows as UTF-8; nobody but root, for there are no owners to go by.
const WINDOWS: &str = "iocharset=utf8,umask=0077";

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A filesystem that can be mounted.
    Filesystem(Mountable),
    /// An encrypted volume.
    Luks,
    /// A physical volume of LVM.
    Lvm,
    /// A member of a RAID array.
    Raid,
    /// Swap.
    Swap,
    /// Something else.
    Other,
}

/// A filesystem that can be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mountable {
    /// Whether it has a journal, which may have to be replayed.
    pub(super) journal: bool,
    /// Whether it can be written to.
    pub(super) writable: bool,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Ext,
    Xfs,
    Btrfs,
    Ntfs,
    Vfat,
    Exfat,
    Iso,
    Squashfs,
}

impl Kind {
    /// By the name at `blkid`.
    pub(super) fn of(filesystem: &str) -> Self {
        let family = match filesystem {
            "ext2" | "ext3" | "ext4" => Family::Ext,
            "xfs" => Family::Xfs,
            "btrfs" => Family::Btrfs,
            "ntfs" => Family::Ntfs,
            "vfat" => Family::Vfat,
            "exfat" => Family::Exfat,
            "iso9660" => Family::Iso,
            "squashfs" => Family::Squashfs,
            "crypto_LUKS" => return Self::Luks,
            "LVM2_member" => return Self::Lvm,
            "linux_raid_member" => return Self::Raid,
            "swap" | "swsuspend" => return Self::Swap,
            _ => return Self::Other,
        };
        let journal = matches!(family, Family::Ext | Family::Xfs | Family::Btrfs | Family::Ntfs);
        let writable = !matches!(family, Family::Iso | Family::Squashfs);
        Self::Filesystem(Mountable { journal, writable, family })
    }

    /// Why it is not mounted, and what to do instead.
    pub(super) fn reason(self, filesystem: &str) -> String {
        match self {
            Self::Luks => {
                "encrypted with LUKS; 'copal attach --no-mount' gives a DEVICE for 'cryptsetup open --readonly DEVICE NAME'"
                    .into()
            }
            Self::Lvm => "a physical volume of LVM; 'copal attach --lvm' mounts its volumes under a new name".into(),
            Self::Raid => "a member of a RAID array; 'copal attach --no-mount' gives a device for 'mdadm --assemble --readonly'".into(),
            Self::Swap => "swap space".into(),
            Self::Filesystem(_) | Self::Other => {
                format!("{filesystem} is not mounted by Copal; 'copal attach --no-mount' gives a device for it")
            }
        }
    }

    /// What to do with its device, which is called `DEVICE ` there if it is to be put in.
    pub(super) fn by_hand(self) -> &'static str {
        match self {
            Self::Luks => {
                "'cryptsetup open --readonly DEVICE NAME', then 'mount -o ro /dev/mapper/NAME DIR'; before the detach 'umount DIR' and 'cryptsetup close NAME'"
            }
            Self::Lvm => {
                "has the ids of its original: see 'LVM inside an image' in docs/recipes.md, or --lvm"
            }
            Self::Raid => "mdadm --assemble --readonly /dev/md/copal DEVICE...",
            Self::Swap => "swap space",
            Self::Filesystem(_) | Self::Other => "",
        }
    }
}

impl Mountable {
    /// Whether its driver is known to replay all of its journal, also for a mount that only reads.
    pub(super) fn is_replayed(self) -> bool {
        matches!(self.family, Family::Ext | Family::Xfs | Family::Btrfs)
    }

    /// Ways to mount it; without a replay of its journal if `skips`.
    pub(super) fn ways(self, skips: bool) -> Vec<Way> {
        let kernel = |name, options: &str| Way { driver: Driver::Kernel(name), options: options.to_owned() };
        let with = |always: &str, skipping: &str| match (always, skips) {
            (always, false) => always.to_owned(),
            ("", true) => skipping.to_owned(),
            (always, true) => format!("{always},{skipping}"),
        };
        match self.family {
            // An image may ask for a panic of the kernel when it is damaged.
            Family::Ext => vec![kernel("ext4", &with("errors=remount-ro", "noload"))],
            Family::Xfs => vec![kernel("xfs", &with("nouuid", "norecovery"))],
            // From its top: all subvolumes are beneath.
            Family::Btrfs => vec![kernel("btrfs", &with("subvolid=5", "rescue=nologreplay"))],
            Family::Ntfs => vec![
                kernel("ntfs3", WINDOWS),
                Way { driver: Driver::Ntfs3g, options: "streams_interface=none,umask=0077".into() },
            ],
            Family::Vfat => vec![kernel("vfat", &format!("utf8,{WINDOWS}"))],
            Family::Exfat => vec![kernel("exfat", WINDOWS)],
            Family::Iso => vec![kernel("iso9660", "iocharset=utf8")],
            Family::Squashfs => vec![kernel("squashfs", "")],
        }
    }
}
