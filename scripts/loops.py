"""Loop devices and the filesystems on them, for scripts/bench mount; all read-only."""

import contextlib
import os
import signal
import subprocess
import sys
import time


@contextlib.contextmanager
def attached(path, *options):
    """A loop device on a file. Gone when this returns, so that the file's mount can be ended."""
    # Between losetup's work and its answer, nobody would know which device to detach.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    device = None
    try:
        try:
            device = subprocess.check_output(["losetup", "--read-only", "--find", "--show", *options, path], text=True).strip()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        yield device
    finally:
        if device:
            detach(device)


def detach(device):
    subprocess.run(["losetup", "--detach", device], check=True)
    backing = f"/sys/block/{os.path.basename(device)}/loop/backing_file"
    for _ in range(500):
        if not os.path.exists(backing):
            return
        time.sleep(0.01)
    sys.exit(f"{device} is still attached")


def claim_pages(path, size):
    """As bench.claim_memory, for the pages of block devices: the kernel takes them from other memory than those of programs and files. `path` is made, and removed."""
    try:
        with open(path, "wb") as file:
            file.truncate(size)
        with attached(path, "--direct-io=on") as device, open(device, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


# For filesystems that must not be written to, not even to replay their journals.
READ_ONLY = {"ext2": "ro,noload", "ext3": "ro,noload", "ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}


@contextlib.contextmanager
def filesystem(device, kind, where):
    subprocess.run(["mount", "-t", kind, "-o", READ_ONLY.get(kind, "ro"), device, where], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", where], check=True)


def output(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout


def largest_partition(path):
    """Number, start, length and filesystem of the largest partition that this kernel can mount; number 0 is the image as a whole."""
    with open("/proc/filesystems") as file:
        known = {line.split()[-1] for line in file if line.strip()}
    lines = [tuple(map(int, line.split())) for line in output("partx", "-g", "-b", "-r", "-o", "NR,START,SIZE", path).splitlines()]
    best = (0, 0, os.stat(path).st_size, None)
    for number, first, length in lines or [(0, 0, best[2])]:
        kind = output("blkid", "-p", "-O", str(first * 512), "-S", str(length), "-o", "value", "-s", "TYPE", path).strip()
        if kind in known and (best[3] is None or length > best[2]):
            best = (number, first * 512, length, kind)
    return best
