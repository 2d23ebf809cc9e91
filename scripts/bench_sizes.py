"""What scripts/bench create --sizes measures: bench_sizes.py WORK IMAGE...

The table by which the default lengths of chunks and spans are chosen: the states of a disk, and those of a database's file of which random pages
were written, stored with each. Without encryption, so that no key derivation stands in short times; sealing is the same.
"""

import os
import re
import statistics
import subprocess
import sys
import time

import bench_peers
import bench_sources
from bench import MIB, Image, drop_caches, machine, microseconds, number, say
from bench_common import ALLOWED, RUNS, end_on_signals
from bench_series import SLOW, Step, compare_last, series

# What is the default, and what else there is: chunks of each length in spans of the default one, and the other way round.
CHUNK, CHUNKS = "32K", ("16K", "32K", "64K", "128K", "256K")
SPAN, SPANS = "16M", ("4M", "8M")
HEAD = ("workload", "chunks", "spans", "stored, MiB", "index, MiB", "maps, MiB", "first create, MB/s", "later creates, MB/s", "random 4 KiB, cold, mean, µs")


class Sized(bench_peers.Unencrypted, bench_peers.Series):
    """Keeps one disk in a repository with other settings than the default ones."""


def span_option():
    """What sets the length of spans in `copal init`, if anything does."""
    found = re.search(r"--span[a-z-]*", subprocess.check_output(["copal", "init", "--help"], text=True))
    return found and found.group()


def under(tool, *folders):
    """Bytes of files in folders of the repository, second copies included."""
    places = [f"{tool.repository}/{place}{folder}" for folder in folders for place in ("", "mirror/")]
    return sum(os.lstat(os.path.join(folder, file)).st_size for place in places for folder, _, files in os.walk(place) for file in files)


def cold_read(tool, image):
    """Mean µs of random reads of the newest archive, which have to give what the image holds."""
    path, _ = tool.mount("disk", image)
    drop_caches()
    offsets = image.offsets()
    times, found = microseconds(path, offsets, ALLOWED)
    tool.unmount()
    with open(image.path, "rb", buffering=0) as source:
        if found != [os.pread(source.fileno(), 4096, offset) for offset in offsets[: len(found)]]:
            sys.exit(f"{image.name}: random reads are not what was backed up")
    return statistics.fmean(times)


def row(work, images, settings):
    """The figures of one workload with one setting, in the order of the table's columns."""
    steps, shown = [Step(str(place), image) for place, image in enumerate(images)], []

    def kind(where):
        tool = Sized(where)
        tool.settings = settings
        return tool

    def finished(tool):
        compare_last(tool, steps)
        shown.extend((tool.stored() / MIB, under(tool, "index") / MIB, under(tool, "maps") / MIB, cold_read(tool, images[-1])))

    taken = series(f"{work}/sizes", kind, steps, finished)
    seconds = [taken[step.key][0] for step in steps]
    first = images[0].data / 1e6 / seconds[0]
    later = sum(image.data for image in images[1:]) / 1e6 / sum(seconds[1:]) if images[1:] else None
    return [*shown[:3], first, later, shown[3]]


def rows(work, workloads):
    option = span_option()
    for workload, images in workloads.items():
        for chunk, span in [*((chunk, SPAN) for chunk in CHUNKS), *((CHUNK, span) for span in SPANS if option)]:
            say(f"{workload}: chunks of {chunk}, spans of {span}")
            settings = ("--chunker", f"fastcdc,{chunk}", *((option, span) if option else ()))
            yield [workload, chunk, span, *map(number, row(work, images, settings))]


def main():
    end_on_signals()
    began, work = time.monotonic(), sys.argv[1]
    disk = [Image(path) for path in sys.argv[2:]]
    say("making a database")
    workloads = {"disk": disk, "database": bench_sources.database(work)}
    lines = [HEAD, ["---"] * 3 + ["---:"] * (len(HEAD) - 3), *rows(work, workloads)]
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}. {subprocess.check_output(['copal', '--version'], text=True).strip()}, unencrypted.")
    print(f"Disk: {', '.join(image.name for image in disk)}. Database: {bench_sources.PAGES * bench_sources.PAGE / MIB:,.0f} MiB in pages of {bench_sources.PAGE // 1024} KiB, "
          f"of which {100 // bench_sources.WRITTEN} % were written, at random, between two archives. Medians of {RUNS} runs, each with a new repository; one of a series with "
          f"a create of more than {SLOW} s. Sources in the page cache; random reads by one reader, through a new mount, nothing cached. {(time.monotonic() - began) / 60:.0f} minutes.\n")
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    if not span_option():
        print("\n- This Copal cannot be told the length of spans.")


if __name__ == "__main__":
    main()
