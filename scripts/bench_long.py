"""What scripts/bench mount --long measures of Copal beyond its table: large images, many archives, many chunks, half an hour of readers. Takes hours."""

import os
import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import bench_peers
import bench_sources
from bench import MIB, Image, drop_caches, say
from bench_common import BRIEF_RUNS, several
from bench_copal import forget

TIB = 1 << 40
# The thin image has 4 KiB of data in each of these.
EVERY = 4 * MIB
# Seconds of random reads in the thin image and in the other; of the mixed load, and how often that begins anew with cold pages.
THIN, SHORT, MIXED, COLD = 600, 60, 1800, 30
READERS = 8
# Archives in repositories.
ARCHIVES = 10, 10000


def blocks(image):
    return [(start, end) for start, end in image.ranges if end - start >= 4096]


def uncached(path, image, seconds):
    """Mean µs of 4 KiB reads at random data, whose pages are given back so that none is read from memory twice."""
    chance, ranges, taken, reads = random.Random(1), blocks(image), 0, 0
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        ending = time.monotonic() + seconds
        chosen = iter(())
        while time.monotonic() < ending:
            try:
                start, end = next(chosen)
            except StopIteration:
                chosen = iter(chance.choices(ranges, weights=[end - start for start, end in ranges], k=10000))
                continue
            offset = chance.randrange(start // 4096, end // 4096) * 4096
            before = time.perf_counter_ns()
            os.pread(file, 4096, offset)
            taken += time.perf_counter_ns() - before
            reads += 1
            os.posix_fadvise(file, offset, 4096, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
    return taken / reads / 1000


def thin(bench, copal):
    path = f"{bench.work}/thin.img"
    with open(path, "wb") as file:
        file.truncate(TIB)
        for at in range(0, TIB, EVERY):
            os.pwrite(file.fileno(), os.urandom(4096), at)
    image = Image(path)
    copal.create("thin", image)
    for key, name, source, seconds in ("beside", bench.name, bench.image, SHORT), ("copal", "thin", image, THIN):
        say(f"copal: {seconds} s of random reads in {source.name}")
        with bench.mounted(copal, name, source) as mounted:
            bench.note("thin", key, uncached(mounted, source, seconds))
    os.remove(path)


def begun(bench, tool, held, name, ranges):
    """Mount times of a repository of the tool's, with everything cold."""

    def cold(start):
        forget(tool)
        drop_caches()
        _, seconds = start()
        tool.unmount()
        return seconds * 1000

    for key, start in (("ls", lambda: tool.start(lambda: os.listdir(tool.mountpoint))),
                       ("byte", lambda: tool.mount(name, SimpleNamespace(ranges=ranges)))):
        bench.note(f"{key}, {held}", "copal", several(lambda: cold(start), BRIEF_RUNS))


def archives(bench, tool, count):
    """An archive of a tiny file, and copies of it, of a hundred disks."""
    source = f"{bench.work}/tiny"
    with open(source, "wb") as file:
        file.write(os.urandom(8192))
    tool.init()
    tool.run("copal", "create", "--timestamp", "2020-09-13", f"{tool.repository}::machine0", source)
    subprocess.run(["archives", tool.repository, str(count - 1)], stdout=subprocess.DEVNULL, check=True)
    begun(bench, tool, f"{count:,} archives", "machine1", [(0, 8192)])
    shutil.rmtree(tool.repository)


def store_chunks(tool, thousands):
    """A repository with chunks of 4 KiB that are all different and compress well; the most memory that it took to store them."""
    tool.init()
    words = ["copal", "create", "--chunker", "fixed,4K", f"{tool.repository}::big", "-"]
    return tool.run(*words, feed=bench_sources.stream(thousands * 4096000))[1]


def many_chunks(bench, tool, thousands, held):
    store_chunks(tool, thousands)
    begun(bench, tool, held, "big", [(0, 4096)])
    shutil.rmtree(tool.repository)


def mixed(bench, copal):
    """Readers that jump, and readers that go on, in all archives at once."""
    names = {f"state{place}": image for place, image in enumerate(bench.images)}
    ending = time.monotonic() + MIXED

    def reader(number):
        chance = random.Random(number)
        while time.monotonic() < ending:
            name = chance.choice(list(names))
            image, path = names[name], copal.mounted(name, names[name])
            with open(path, "rb", buffering=0) as file:
                start, end = chance.choice(blocks(image))
                if number % 2:
                    for at in range(start, min(end, start + 64 * MIB), MIB):
                        os.pread(file.fileno(), MIB, at)
                    continue
                for _ in range(100):
                    os.pread(file.fileno(), 4096, chance.randrange(image.size // 4096) * 4096)

    with bench.mounted(copal):
        copal.peak_mount = 0
        with ThreadPoolExecutor(READERS) as readers:
            going = [readers.submit(reader, number) for number in range(READERS)]
            while time.monotonic() < ending and not any(each.done() for each in going):
                time.sleep(COLD)
                drop_caches()
            for each in going:
                each.result()
    bench.note("memory, mixed", copal, copal.peak_mount / MIB)
    bench.note("memory, mixed", "beside", bench.figures["memory"]["beside"])


def measure(bench, copal):
    thin(bench, copal)
    say(f"copal: {MIXED // 60} minutes of mixed load")
    mixed(bench, copal)
    tool = bench_peers.Unencrypted(f"{bench.work}/long")
    try:
        for count in ARCHIVES if shutil.which("archives") else ():
            say(f"copal: {count:,} archives")
            archives(bench, tool, count)
        for thousands, held in (1, "1 thousand chunks"), (4000, "4 million chunks"):
            say(f"copal: {held}")
            many_chunks(bench, tool, thousands, held)
    finally:
        tool.end()
