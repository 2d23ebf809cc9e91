"""What scripts/bench mount measures Copal beside: backup tools that extract, and compressed images that the kernel or QEMU serve."""

import os
import shutil
import subprocess
import sys

import bench


class Copal(bench.Copal):
    def extract_words(self, name, image, directory):
        return ["copal", "extract", f"{self.repository}::{name}", f"{directory}/{image.name}"]

    def dump_words(self, name, image):
        return ["copal", "extract", "--stdout", f"{self.repository}::{name}"]

    def partition_words(self, name, image, number, directory):
        """None if this Copal cannot."""
        if "--partition" not in subprocess.check_output(["copal", "extract", "--help"], text=True):
            return None
        return ["copal", "extract", "--partition", str(number), f"{self.repository}::{name}", f"{directory}/{image.name}"]


class Unencrypted(Copal):
    """Derives no key: mounts begin without that, and thousands of archives are made in minutes."""

    # What init is told beyond that.
    settings = ()

    def variables(self):
        return {"COPAL_STATE_DIR": f"{self.home}/state"}

    def init(self):
        self.run("copal", "init", "--encryption", "none", *self.settings, self.repository)


class Series(Copal):
    """Keeps the states of one disk as what they are: archives of one name."""

    # What stands before the command, and what it is told beyond the names.
    prefix = options = ()

    def create_words(self, name, image):
        return [*self.prefix, "copal", "create", *self.options, f"{self.repository}::disk", f"disk={image.name}"]

    def dump_words(self, name, image):
        return super().dump_words("disk", image)

    def mounted(self, name, image):
        return super().mounted("disk", image)


class Borg(bench.Borg):
    def extract_words(self, name, image, directory):
        return ["borg", "extract", "--sparse", f"{self.repository}::{name}", image.name]

    def dump_words(self, name, image):
        return ["borg", "extract", "--stdout", f"{self.repository}::{name}", image.name]


class FixedBorg(Borg):
    """Cuts as is advised for disk images."""

    name = "borg-fixed"

    def version(self):
        return super().version().replace(")", ", fixed 4 MiB)")

    def create_words(self, name, image):
        words = super().create_words(name, image)
        return [*words[:2], "--chunker-params", f"fixed,{4 * bench.MIB}", *words[2:]]


class Restic(bench.Restic):
    def extract_words(self, name, image, directory):
        # Before 0.15 it cannot leave holes.
        sparse = ["--sparse"] if "--sparse" in subprocess.check_output(["restic", "restore", "--help"], text=True) else []
        return ["restic", "restore", "--repo", self.repository, "--quiet", *sparse, "--tag", name, "--target", directory, "latest"]

    def dump_words(self, name, image):
        return ["restic", "dump", "--repo", self.repository, "--quiet", "--tag", name, "latest", image.name]


class Squashfs(bench.Tool):
    """The raw image in a filesystem of its own, which the kernel reads: no server."""

    name = "squashfs"
    stacked = False

    def variables(self):
        return {}

    def version(self):
        # It ends with 1.
        output = subprocess.run(["mksquashfs", "-version"], stdout=subprocess.PIPE, text=True, check=False).stdout
        return f"squashfs of {output.split()[0]} {output.split()[2]} (zstd 3, defaults)"

    def init(self):
        pass

    def create_words(self, name, image):
        return ["mksquashfs", image.name, self.repository, "-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress"]

    def mount(self, name, image):
        bench.drop_caches()
        self.stacked = True
        self.run("mount", "-t", "squashfs", "-o", "loop,ro", self.repository, self.mountpoint)
        return f"{self.mountpoint}/{image.name}", None

    def unmount(self):
        self.run("umount", self.mountpoint)
        self.stacked = False

    def end(self):
        if self.stacked:
            subprocess.run(["umount", "-l", self.mountpoint], stderr=subprocess.DEVNULL, check=False)


class Qcow2(bench.Tool):
    """A compressed image without history, through QEMU's FUSE export: a file that is mounted over."""

    name = "qcow2"

    def __init__(self, work):
        super().__init__(work)
        self.mountpoint = f"{self.home}/export"
        with open(self.mountpoint, "wb"):
            pass

    def variables(self):
        return {}

    def version(self):
        first = subprocess.check_output(["qemu-storage-daemon", "--version"], text=True).splitlines()[0]
        return f"{first.split(' (')[0]} (FUSE export of qcow2, zstd, defaults)"

    def init(self):
        if "type=]fuse" not in subprocess.check_output(["qemu-storage-daemon", "--help"], text=True):
            sys.exit("this qemu-storage-daemon has no FUSE export")

    def create_words(self, name, image):
        return ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", image.name, self.repository]

    def mount_words(self):
        return ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=file,read-only=on,filename={self.repository}",
                "--blockdev", "driver=qcow2,node-name=disk,read-only=on,file=file",
                "--export", f"type=fuse,id=export,node-name=disk,mountpoint={self.mountpoint},writable=off"]

    def mounted(self, name, image):
        return self.mountpoint

    def unmount(self):
        self.note_peak()
        self.server.terminate()
        self.server.wait(10)
        self.server = None


CLASSES = {kind.name: kind for kind in (Copal, Squashfs, Qcow2, Borg, FixedBorg, Restic)}


def remove(tool):
    """All that the tool has stored."""
    if os.path.isdir(tool.repository):
        shutil.rmtree(tool.repository)
    elif os.path.exists(tool.repository):
        os.remove(tool.repository)
