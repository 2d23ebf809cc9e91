"""What the measurements of scripts/bench mount and create share: where they work, what they read, their figures, and ways to run and compare."""

import collections
import contextlib
import copy
import os
import signal
import statistics
import subprocess
import sys
import time

from bench import MIB, Image, drop_caches, rate, read_data, say

GIB = 1 << 30
# Runs of which the median counts, and of what takes hundredths of a second; what takes longer than SLOW seconds is run once.
RUNS, BRIEF_RUNS, SLOW = 3, 9, 10
# Random reads by many, in all, and the seconds that they or one reader may take.
MANY, ALLOWED = 16000, 10
THREADS, DEPTH = 8, 32
# What a mount is allowed: its cache by default, and as much for everything else.
CACHE, REST = 256 * MIB, 64 * MIB
# A piece of the image that fits the page cache of any machine.
PIECE = 256 * MIB


class Bench:
    """What the measurements share: where to work, what to read, and the figures: key to column to number."""

    def __init__(self, work, images):
        self.work, self.fast = work, f"{work}/fast"
        chosen = next((place for place, image in enumerate(images) if image.name == "vm-2.img"), len(images) - 1)
        self.image, self.name = images[chosen], f"state{chosen}"
        earlier = chosen and next((place for place, image in enumerate(images) if image.name == "vm-1.img"), chosen - 1)
        self.stored = list(dict.fromkeys((earlier, chosen)))
        self.images = images
        self.offsets = self.image.offsets()
        self.figures = collections.defaultdict(dict)
        self.notes = []
        self.versions = []

    def note(self, key, tool, figure):
        self.figures[key][tool if isinstance(tool, str) else tool.name] = figure

    @contextlib.contextmanager
    def mounted(self, tool, name=None, image=None):
        """The image's path in a new mount. Whoever fails leaves it to tool.end()."""
        path, _ = tool.mount(name or self.name, image or self.image)
        drop_caches()
        yield path
        tool.unmount()

    def rate(self, seconds):
        return rate(self.image, seconds)


def stop(number, _):
    # Whoever is impatient does not interrupt the clearing away.
    for each in signal.SIGTERM, signal.SIGHUP:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def end_on_signals():
    """Lets a signal end the measurements as an error would: nothing is left running."""
    for each in signal.SIGTERM, signal.SIGHUP:
        signal.signal(each, stop)


def memory_disk(path):
    """Mounts what keeps its files in memory. The script that measures takes it away."""
    os.makedirs(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90%", "bench", path], check=True)


def run(measure, table):
    """Runs what a script measures in WORK with TOOLS, LONG and IMAGE...; prints how far it came if it fails. What it worked with, and the minutes it took."""
    end_on_signals()
    began = time.monotonic()
    work, wanted, long = sys.argv[1], sys.argv[2].split(), sys.argv[3] == "long"
    bench = Bench(work, [Image(path) for path in sys.argv[4:]])
    memory_disk(bench.fast)
    try:
        bench.versions = measure(bench, wanted, long)
    except Exception:
        say(f"\nUntil it failed:\n{table(bench.figures)}\n")
        raise
    return bench, (time.monotonic() - began) / 60


def repeated(measure, runs=RUNS):
    """What some runs measure, or the one of something slow."""
    figures = []
    while len(figures) < runs:
        began = time.monotonic()
        figures.append(measure())
        if time.monotonic() - began > SLOW:
            break
    return figures


def several(measure, runs=RUNS):
    """The median of some runs, or the one of something slow."""
    return statistics.median(repeated(measure, runs))


def seconds_to_read(path, image):
    began = time.monotonic()
    read_data(path, image)
    return time.monotonic() - began


def compare(path, image, who):
    """Ends everything if what a reader gives is not what was backed up."""
    with open(path, "rb", buffering=0) as file, open(image.path, "rb", buffering=0) as source:
        for start, end in image.ranges:
            for at in range(start, end, MIB):
                length = min(MIB, end - at)
                if os.pread(file.fileno(), length, at) != os.pread(source.fileno(), length, at):
                    sys.exit(f"{who} gives something else than {image.name} holds, at {at} to {at + length}")


def compare_whole(words, who, source=subprocess.DEVNULL):
    if subprocess.run(words, stdin=source, stdout=subprocess.DEVNULL, check=False).returncode:
        sys.exit(f"{who} does not give what was backed up")


def processor(pid):
    """Seconds of processor that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def available():
    """Bytes of memory that a program could have."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024


def part(image, ranges):
    """An image as if it had only these ranges."""
    piece = copy.copy(image)
    piece.ranges = ranges
    piece.data = sum(end - start for start, end in ranges)
    return piece


def first_of(ranges, length):
    """As much of the ranges, from their beginning."""
    chosen = []
    for start, end in ranges:
        if not length:
            break
        end = min(end, start + length)
        chosen.append((start, end))
        length -= end - start
    return chosen


def holes(image):
    """The largest first: beside small ones, the kernel reads data ahead."""
    edges = [0, *(edge for piece in image.ranges for edge in piece), image.size]
    return sorted(((start, end) for start, end in zip(edges[::2], edges[1::2]) if end > start), key=lambda hole: hole[0] - hole[1])


def drain(pipe):
    """Takes everything out of a pipe without copying it; how much that was."""
    taken = 0
    with open("/dev/null", "wb") as sink:
        while count := os.splice(pipe.fileno(), sink.fileno(), MIB):
            taken += count
    return taken


@contextlib.contextmanager
def piped(words, environment=None):
    """A command's standard output, as a pipe of a mebibyte. It has to end well, and is ended when the reader fails."""
    process = subprocess.Popen(words, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, pipesize=MIB)
    try:
        yield process.stdout
        if process.wait():
            sys.exit(f"{' '.join(words)}: exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
