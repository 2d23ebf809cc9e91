"""What scripts/bench measures: bench.py WORK TOOLS IMAGE...

Every tool gets the same images in the same order, its secret from the environment, a home of its own, and default settings where they are
comparable: borg with zstd 3 and without its cache of unchanged files, restic without a parent, since all are to read the image.
"""

import contextlib
import glob
import mmap
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time

MIB = 1 << 20
# Random reads: so many, or as many as this time allows.
READS, SECONDS = 2000, 60
# Bytes of memory that one measurement touches at most, and the advice to touch them (Linux 5.14), which Python has no name for.
CLAIMED, POPULATE_WRITE = 4 << 30, 23
# How long a mount may take until its first byte can be read.
PATIENCE = 120


def say(text):
    print(text, file=sys.stderr, flush=True)


class Image:
    """A source, and where its data lies."""

    def __init__(self, path):
        self.path, self.directory, self.name = path, os.path.dirname(path), os.path.basename(path)
        self.ranges = []
        with open(path, "rb") as file:
            self.size = file.seek(0, os.SEEK_END)
            at = 0
            while at < self.size:
                try:
                    start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                self.ranges.append((start, at))
        self.data = sum(end - start for start, end in self.ranges)
        if not self.data:
            sys.exit(f"{path} holds no data")

    def offsets(self, count=READS):
        """Aligned places in its data, in random order, the same in every run."""
        chance = random.Random(4096)
        blocks = [(start // 4096, end // 4096) for start, end in self.ranges if end - start >= 8192]
        chosen = chance.choices(blocks, weights=[last - first for first, last in blocks], k=count)
        return [chance.randrange(first, last) * 4096 for first, last in chosen]


def read_data(path, image):
    """Reads all that is data in the image from the file at `path`, in order."""
    buffer = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        for start, end in image.ranges:
            file.seek(start)
            while start < end:
                count = file.readinto(memoryview(buffer)[: min(MIB, end - start)])
                if not count:
                    sys.exit(f"{path} ends at {start}, before its data does")
                start += count


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    claim_memory()


def claimable(wanted):
    """So many bytes of memory, or most of what is free: more would push out what others use."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemFree")) * 1024
    return max(MIB, min(wanted, free * 3 // 4))


def claim_memory(wanted=CLAIMED):
    """Has the host of a virtual machine give so much memory now. It takes back what is free, and otherwise whoever is measured would wait for it, page by page."""
    with mmap.mmap(-1, claimable(wanted)) as memory, contextlib.suppress(OSError):
        memory.madvise(POPULATE_WRITE)


class Tool:
    def __init__(self, work):
        self.home = f"{work}/{self.name}"
        self.repository, self.mountpoint = f"{self.home}/repository", f"{self.home}/mnt"
        os.makedirs(self.mountpoint)
        self.environment = dict(os.environ, HOME=self.home, XDG_CACHE_HOME=f"{self.home}/cache", XDG_STATE_HOME=f"{self.home}/state",
                                XDG_CONFIG_HOME=f"{self.home}/config", **self.variables())
        self.server = None
        self.peak_create = self.peak_mount = 0
        # Seconds of processor that the last command used.
        self.processor = 0

    def run(self, *words, directory="/", feed=None):
        """Runs a command, its standard input written by `feed`; its seconds, and the most memory that it had at once, in bytes."""
        log = f"{self.home}/log"
        with open(log, "wb") as output:
            began = time.monotonic()
            process = subprocess.Popen(words, env=self.environment, cwd=directory, stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                                       stdout=output, stderr=output, pipesize=MIB)
            try:
                if feed:
                    # A command that ends before its input does has its say in the log.
                    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                        feed(pipe)
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            seconds = time.monotonic() - began
        self.processor = usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            with open(log, errors="replace") as output:
                sys.exit(f"{' '.join(words)}: exit code {process.returncode}\n{output.read()[-2000:]}")
        return seconds, usage.ru_maxrss * 1024

    def create(self, name, image):
        read_data(image.path, image)
        seconds, memory = self.run(*self.create_words(name, image), directory=image.directory)
        self.peak_create = max(self.peak_create, memory)
        return seconds

    def stored(self):
        return sum(os.lstat(os.path.join(folder, file)).st_size for folder, _, files in os.walk(self.repository) for file in files)

    def mount(self, name, image):
        """Mounts with everything cold; the image's path, and the seconds until its first data could be read."""
        drop_caches()
        return self.start(lambda: self.readable(name, image))

    def readable(self, name, image):
        """The path of a mounted image, once its first data can be read."""
        path = self.mounted(name, image)
        with open(path, "rb", buffering=0) as file:
            file.seek(image.ranges[0][0])
            return path if file.read(4096) else None

    def start(self, ready):
        """Starts the server and asks until it is ready; the answer, and the seconds until it came."""
        words = self.mount_words()
        began = time.monotonic()
        self.server = subprocess.Popen(words, env=self.environment, cwd="/", stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            with contextlib.suppress(FileNotFoundError, IndexError):
                if answer := ready():
                    return answer, time.monotonic() - began
            if self.server.poll() is not None:
                sys.exit(f"{' '.join(words)}: ended with {self.server.returncode} before it was mounted")
            if time.monotonic() - began > PATIENCE:
                sys.exit(f"{' '.join(words)}: nothing to read after {PATIENCE} s")
            time.sleep(0.001)

    def note_peak(self):
        """Asks the server how much memory it had at most."""
        with open(f"/proc/{self.server.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        self.peak_mount = max(self.peak_mount, peak * 1024)

    def unmount(self):
        """Ends the mount."""
        self.note_peak()
        subprocess.run(["umount", self.mountpoint], check=True)
        try:
            self.server.wait(5)
        except subprocess.TimeoutExpired:
            # A copy of the mount in another mount namespace keeps it alive.
            self.end()
        self.server = None

    def end(self):
        """Leaves nothing running or mounted, whatever happened."""
        if self.server and self.server.poll() is None:
            subprocess.run(["umount", "-l", self.mountpoint], stderr=subprocess.DEVNULL, check=False)
            self.server.terminate()
            try:
                self.server.wait(10)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()


class Copal(Tool):
    name = "copal"

    def variables(self):
        return {"COPAL_PASSPHRASE": "a passphrase for the bench", "COPAL_STATE_DIR": f"{self.home}/state"}

    def version(self):
        return subprocess.check_output(["copal", "--version"], text=True).strip()

    def init(self):
        self.run("copal", "init", self.repository)

    def create_words(self, name, image):
        return ["copal", "create", f"{self.repository}::{name}", image.name]

    def mount_words(self):
        return ["copal", "mount", "-f", self.repository, self.mountpoint]

    def mounted(self, name, image):
        return f"{self.mountpoint}/{name}/latest.img"


class Borg(Tool):
    name = "borg"

    def variables(self):
        return {"BORG_PASSPHRASE": "a passphrase for the bench", "BORG_BASE_DIR": self.home}

    def version(self):
        return subprocess.check_output(["borg", "--version"], text=True).strip() + " (repokey-blake2, zstd 3)"

    def init(self):
        self.run("borg", "init", "--encryption", "repokey-blake2", self.repository)

    def create_words(self, name, image):
        return ["borg", "create", "--compression", "zstd,3", "--files-cache", "disabled", f"{self.repository}::{name}", image.name]

    def mount_words(self):
        return ["borg", "mount", "--foreground", self.repository, self.mountpoint]

    def mounted(self, name, image):
        return f"{self.mountpoint}/{name}/{image.name}"


class Restic(Tool):
    name = "restic"

    def variables(self):
        return {"RESTIC_PASSWORD": "a passphrase for the bench", "RESTIC_CACHE_DIR": f"{self.home}/cache"}

    def version(self):
        return " ".join(subprocess.check_output(["restic", "version"], text=True).split()[:2]) + " (defaults)"

    def init(self):
        self.run("restic", "init", "--repo", self.repository)

    def create_words(self, name, image):
        return ["restic", "backup", "--repo", self.repository, "--quiet", "--force", "--host", "bench", "--tag", name, image.name]

    def mount_words(self):
        return ["restic", "mount", "--repo", self.repository, "--quiet", self.mountpoint]

    def mounted(self, name, image):
        return glob.glob(f"{self.mountpoint}/tags/{name}/[0-9]*/{image.name}")[0]


def microseconds(path, offsets, seconds=SECONDS):
    """How long each 4 KiB read took, and what was read."""
    times, found = [], []
    file = os.open(path, os.O_RDONLY)
    try:
        # Without this the kernel reads ahead of what it takes for a sequence.
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        began = time.monotonic()
        for offset in offsets:
            before = time.perf_counter_ns()
            found.append(os.pread(file, 4096, offset))
            times.append((time.perf_counter_ns() - before) / 1000)
            if time.monotonic() - began > seconds:
                break
    finally:
        os.close(file)
    return times, found


def mean_p50_p99(times):
    ordered = sorted(times)
    return statistics.fmean(times), ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def rate(image, seconds):
    return image.data / 1e6 / seconds


def measure(tool, images):
    """All figures of one tool: (row, unit) to number."""
    figures = {}
    tool.init()
    first = images[0]
    creates = [("first", first)] + [("unchanged", first)] + [("changed", image) for image in images[1:]]
    for number, (how, image) in enumerate(creates):
        say(f"{tool.name}: create {how} ({image.name})")
        seconds = tool.create(f"state{number}", image)
        figures[f"create, {how} ({image.name})", "s"] = seconds
        figures[f"create, {how} ({image.name})", "MB/s"] = rate(image, seconds)
        if how == "first":
            figures["stored after the first", "MiB"] = tool.stored() / MIB
    figures[f"stored after all {len(creates)}", "MiB"] = tool.stored() / MIB
    figures["peak memory of create", "MiB"] = tool.peak_create / MIB

    number = 2 if len(images) > 1 else 0
    name, image = f"state{number}", creates[number][1]
    say(f"{tool.name}: sequential read ({image.name})")
    path, seconds = tool.mount(name, image)
    figures["mount to first byte", "ms"] = seconds * 1000
    drop_caches()
    for how in "cold", "warm":
        began = time.monotonic()
        read_data(path, image)
        figures[f"sequential read of data, {how}", "MB/s"] = rate(image, time.monotonic() - began)
    tool.unmount()

    say(f"{tool.name}: random reads ({image.name})")
    path, _ = tool.mount(name, image)
    drop_caches()
    offsets = image.offsets()
    cold, found = microseconds(path, offsets)
    warm, again = microseconds(path, offsets[: len(cold)])
    for how, times in ("cold", cold), ("warm", warm):
        for what, figure in zip(("mean", "p50", "p99"), mean_p50_p99(times)):
            figures[f"random 4 KiB, {how}, {what}", "µs"] = figure
    tool.unmount()
    figures["peak memory of mount", "MiB"] = tool.peak_mount / MIB

    with open(image.path, "rb", buffering=0) as source:
        expected = [os.pread(source.fileno(), 4096, offset) for offset in offsets[: len(cold)]]
    if found != expected or again != expected[: len(again)]:
        sys.exit(f"{tool.name}: what its mount gave is not what was backed up")
    return figures


def number(figure):
    return "–" if figure is None else f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 1 else f"{figure:.2f}" if figure >= 0.1 else f"{figure:.3f}"


def table(tools, figures):
    peers = [tool.name for tool in tools if tool.name != "copal"] if "copal" in figures else []
    shown = {"copal": "Copal"}
    head = ["", "", *(shown.get(tool.name, tool.name) for tool in tools), *(f"Copal / {peer}" for peer in peers), "better is"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 3) + ["---"]]
    rows = list(dict.fromkeys(row for tool in tools for row in figures[tool.name]))
    for row in rows:
        values = {tool.name: figures[tool.name].get(row) for tool in tools}
        ratios = [number(values["copal"] / values[peer]) + "×" if values["copal"] and values[peer] else "–" for peer in peers]
        better = "more" if row[1].endswith("/s") else "less"
        lines.append([*row, *(number(values[tool.name]) for tool in tools), *ratios, better])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown processor")
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / MIB
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {os.uname().release}"


def main():
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    work, wanted, images = sys.argv[1], sys.argv[2].split(), [Image(path) for path in sys.argv[3:]]
    classes = {"copal": Copal, "borg": Borg, "restic": Restic}
    tools = [classes[name](work) for name in wanted]
    figures = {}
    for tool in tools:
        try:
            figures[tool.name] = measure(tool, images)
        finally:
            tool.end()
        shutil.rmtree(tool.repository)
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}. {'; '.join(tool.version() for tool in tools)}.")
    print(f"Images: {', '.join(f'{image.name} ({image.size / 1e9:.2f} GB, {image.data / 1e9:.2f} GB of data)' for image in images)}.")
    print("One run. Sources in the page cache; before a mount and before each cold read, the page cache dropped. MB/s are 10^6 bytes of data.\n")
    print(table(tools, figures))


if __name__ == "__main__":
    main()
