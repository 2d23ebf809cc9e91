"""Measurements of scripts/bench mount that are made of Copal and of its peers alike."""

import json
import os
import statistics
import subprocess
import sys
import time

from bench import drop_caches, mean_p50_p99, microseconds, say
from bench_common import (ALLOWED, DEPTH, GIB, MANY, THREADS, available, compare, compare_whole, drain, piped, processor, repeated, seconds_to_read,
                          several)
from loops import attached


def sequential(bench, tool):
    """Rows of reading all data in order, and of what the server needs of the processors for it."""
    used, unchecked = [], [True]

    def once():
        with bench.mounted(tool) as path:
            before = tool.server and processor(tool.server.pid)
            seconds = seconds_to_read(path, bench.image)
            if tool.server:
                used.append((processor(tool.server.pid) - before) / (bench.image.data / GIB))
            if unchecked:
                compare(path, bench.image, tool.name)
                unchecked.clear()
        return bench.rate(seconds)

    bench.note("sequential", tool, several(once))
    if used:
        bench.note("processor", tool, statistics.median(used))


def one_by_one(bench, tool):
    """Rows of random reads by one reader."""

    def once():
        with bench.mounted(tool) as path:
            times, found = microseconds(path, bench.offsets, ALLOWED)
        with open(bench.image.path, "rb", buffering=0) as source:
            if found != [os.pread(source.fileno(), 4096, offset) for offset in bench.offsets[: len(found)]]:
                sys.exit(f"{tool.name}: random reads are not what was backed up")
        mean, p50, p99 = mean_p50_p99(times)
        return mean, p50, p99, p99 / mean

    for what, figures in zip(("mean", "p50", "p99", "spread"), zip(*repeated(once))):
        bench.note(f"random {what}", tool, statistics.median(figures))


def fio(bench, path, parts, *options):
    """IOPS of random reads at given places, one list for each of fio's jobs: its own generator would read the holes as well."""
    logs = []
    for place, offsets in enumerate(parts):
        logs.append(f"{bench.work}/offsets{place}")
        with open(logs[-1], "w") as file:
            file.write(f"fio version 2 iolog\n{path} add\n{path} open\n")
            file.writelines(f"{path} read {offset} 4096\n" for offset in offsets)
            file.write(f"{path} close\n")
    # Jobs are processes, as is its default: as threads, fio 3.33 now and then crashes on such lists.
    words = ["fio", "--name=random", f"--numjobs={len(parts)}", "--group_reporting", "--readonly", f"--read_iolog={':'.join(logs)}",
             "--fadvise_hint=random", f"--runtime={ALLOWED}", "--output-format=json", f"--output={bench.work}/fio.json", *options]
    subprocess.run(words, check=True, cwd=bench.work, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with open(f"{bench.work}/fio.json") as file:
        job = json.load(file)["jobs"][0]
    if job["error"] or not job["read"]["total_ios"]:
        sys.exit(f"fio failed on {path}: {job['error']}")
    return job["read"]["iops"]


def by_many(bench, tool):
    offsets = bench.image.offsets(MANY)
    parts = [offsets[first::THREADS] for first in range(THREADS)]

    def once():
        with bench.mounted(tool) as path:
            return fio(bench, path, parts, "--ioengine=psync")

    bench.note("threads", tool, several(once))


def deep(bench, tool, key="depth", prepare=drop_caches):
    """Random reads of a loop device with direct I/O, so many at once as a filesystem or virtual machine would have under way."""
    options = ["--ioengine=libaio", "--direct=1", f"--iodepth={DEPTH}"]

    def once():
        with bench.mounted(tool) as path, attached(path, "--direct-io=on") as device:
            prepare()
            return fio(bench, device, [bench.image.offsets(MANY)], *options)

    bench.note(key, tool, several(once))


def room(words, image):
    """Whether the memory of this machine holds what the command writes."""
    needed = image.data if words[0] == "copal" or "--sparse" in words else image.size
    return needed + 2 * GIB < available()


def extract(bench, tool, words, key, image, prepare=drop_caches):
    """Seconds to restore to tmpfs. The first is compared with the source."""
    target = f"{bench.fast}/{image.name}"
    if not room(words, image):
        say(f"NOT MEASURED: {key} by {tool.name}, which would write {image.size / 1e9:.1f} GB to memory")
        return
    unchecked = [True]

    def once():
        prepare()
        seconds, _ = tool.run(*words, directory=bench.fast)
        if unchecked:
            compare_whole(["cmp", target, image.path], f"{tool.name}, {key}")
            unchecked.clear()
        os.remove(target)
        return seconds

    bench.note(key, tool, image.data / 1e6 / several(once))


def dump(bench, tool):
    """Restores to a pipe. What comes through it is compared once."""
    words = tool.dump_words(bench.name, bench.image)

    def once():
        drop_caches()
        began = time.monotonic()
        with piped(words, tool.environment) as pipe:
            taken = drain(pipe)
        if taken != bench.image.size:
            sys.exit(f"{tool.name} gave {taken} bytes of {bench.image.size}")
        return time.monotonic() - began

    bench.note("dump", tool, bench.rate(several(once)))
    with piped(words, tool.environment) as pipe:
        compare_whole(["cmp", "-", bench.image.path], f"{tool.name}, standard output", pipe)


def restores(bench, tool):
    words = tool.extract_words(bench.name, bench.image, bench.fast)
    extract(bench, tool, words, "extract", bench.image)
    dump(bench, tool)


def listed(tool, prepare=drop_caches):
    """Seconds until a new mount lists something."""
    prepare()
    _, seconds = tool.start(lambda: os.listdir(tool.mountpoint))
    tool.unmount()
    return seconds


def first_byte(bench, tool, prepare=drop_caches):
    prepare()
    _, seconds = tool.start(lambda: tool.readable(bench.name, bench.image))
    tool.unmount()
    return seconds
