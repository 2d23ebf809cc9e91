"""What scripts/bench mount measures: bench_mount.py WORK TOOLS LONG IMAGE...

One image of the series is read through everything that can serve it, after the one before it was stored as well. Every cold figure begins with a
mount of its own and a page cache that holds nothing. Copal's figures stand beside the ceiling that benches/opening.rs finds in the same run.
"""

import os
import time

import bench_copal
import bench_long
import bench_peers
import bench_rows
from bench import CLAIMED, MIB, machine, say
from bench_common import BRIEF_RUNS, RUNS, SLOW, run, several
from bench_readers import by_many, deep, first_byte, listed, one_by_one, restores, sequential


def measure_peer(bench, tool):
    say(f"{tool.name}: sequential")
    sequential(bench, tool)
    say(f"{tool.name}: random")
    one_by_one(bench, tool)
    by_many(bench, tool)
    if tool.name == "qcow2":
        deep(bench, tool)
    if tool.name in ("borg", "restic"):
        say(f"{tool.name}: extract")
        restores(bench, tool)
        say(f"{tool.name}: first ls, first byte")
        # As they come, keys and caches included.
        bench.note("ls", tool, several(lambda: listed(tool)) * 1000)
        bench.note("byte", tool, several(lambda: first_byte(bench, tool)) * 1000)


def prepare(bench, tool):
    """Stores the images and tries a mount; whether that went well. Images of one state need only that."""
    try:
        tool.init()
        for place in bench.stored if tool.name in ("copal", "borg", "restic") else bench.stored[-1:]:
            say(f"{tool.name}: store {bench.images[place].name}")
            tool.create(f"state{place}", bench.images[place])
        with bench.mounted(tool):
            pass
        return True
    except SystemExit as error:
        # A signal has a number.
        if tool.name == "copal" or isinstance(error.code, int):
            raise
        say(f"\n*** {tool.name.upper()} CANNOT BE MEASURED HERE; its column stays empty ***\n{error.code}\n")
        bench.notes.append(f"**{tool.name} could not be measured.**")
        return False


def measure(bench, wanted, long):
    """Each tool in turn, alone; the versions of those that were there."""
    os.makedirs(f"{bench.work}/files", exist_ok=True)
    versions = []
    for name in wanted:
        tool = bench_peers.CLASSES[name](bench.work)
        try:
            if not prepare(bench, tool):
                continue
            versions.append(tool.version())
            (bench_copal.measure if name == "copal" else measure_peer)(bench, tool)
            if tool.peak_mount:
                bench.note("memory", tool, tool.peak_mount / MIB)
            if long and name == "copal":
                bench_long.measure(bench, tool)
        finally:
            tool.end()
        bench_peers.remove(tool)
    return versions


def main():
    bench, minutes = run(measure, bench_rows.table)
    image = bench.image
    before = f", after {bench.images[bench.stored[0]].name}" if len(bench.stored) > 1 else ""
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}. {'; '.join(bench.versions)}.")
    print(f"{image.name} ({image.size / 1e9:.2f} GB, {image.data / 1e9:.2f} GB of data){before}. Medians of {RUNS} runs, one of what takes more than {SLOW} s, "
          f"and of tar and what is read at once, {BRIEF_RUNS} of Copal's first ls and first byte. Cold: a new mount, and nothing in the page cache, packs and programs included; {CLAIMED >> 30} GiB of memory touched and freed before. MB/s are 10^6 bytes of data "
          f"(of tar's output: of that). {minutes:.0f} minutes.\n")
    print(bench_rows.table(bench.figures) + "\n")
    print("\n".join(f"- {note}" for note in bench.notes))


if __name__ == "__main__":
    main()
