"""What scripts/bench create measures: bench_create.py WORK TOOLS LONG IMAGE...

Every tool stores the same states of one disk in the same order, its sources in the page cache. Then Copal alone stores what is made up: holes,
zeros, streams of several lengths. Its figures stand beside the ceiling that benches/chain.rs finds in the same run.
"""

import json
import os
import shutil
import statistics
import subprocess
import time

import bench_copal
import bench_create_rows as rows
import bench_long
import bench_peers
import bench_rows
import bench_sources
from bench import MIB, machine, rate, say
from bench_common import GIB, RUNS, available, run, several
from bench_series import SLOW, Step, compare_last, knows, series

TIB = 1 << 40
ZEROS = 8 * GIB
# What must stay free in memory beside the zeros; what part of a stream is stored, at most.
SPARE, SHRUNK = 2 * GIB, 50


def disk(images):
    """The states that are timed: without vm-0, which the others are not compared with."""
    return [image for image in images if image.name != "vm-0.img"] or images


def plan(images, copal=False):
    """The creates of a series. What was not timed comes last, for what all take together."""
    timed = disk(images)
    reads = ("--force-read",) if copal and knows("create", "--force-read") else ()
    steps = [Step("first", timed[0]), Step("unchanged", timed[0], reads)]
    if reads:
        steps.append(Step("untouched", timed[0]))
    steps += [Step(f"changed {number}", image) for number, image in enumerate(timed[1:3], 1)]
    return steps + [Step(f"untimed {image.name}", image) for image in images if image not in timed[:3]]


def note(bench, tool, steps, taken):
    """Speed and memory of each step."""
    for step in steps:
        seconds, memory = taken[step.key]
        bench.note(step.key, tool, seconds * 1000 if step.key == "untouched" else rate(step.image, seconds))
        bench.note(f"{step.key}, memory", tool, memory / MIB)


def measure_tool(bench, name):
    """The series of one tool; its version."""
    copal = name == "copal"
    steps, versions = plan(bench.images, copal), []

    def finished(tool):
        versions.append(tool.version())
        bench.note("stored", name, tool.stored() / MIB)
        if copal:
            compare_last(tool, steps)
            reserve = os.path.getsize(f"{tool.repository}/reserve") / MIB
            bench.notes.append(f"Of what Copal stored, {reserve:.0f} MiB are the reserve, which holds nothing (`copal init --reserve`).")

    say(f"{name}: {len(steps)} creates, {RUNS} times unless they are slow")
    kind = bench_peers.Series if copal else bench_peers.CLASSES[name]
    note(bench, name, steps, series(f"{bench.work}/{name}", kind, steps, finished))
    return versions


def only_used(bench):
    """The series again, without blocks that the filesystems do not use."""
    if not knows("create", "--skip-unused"):
        bench.notes.append("This Copal has no `--skip-unused`.")
        return
    say("copal: only blocks that are used")
    steps = [Step(step.key, step.image, (*step.options, "--skip-unused")) for step in plan(bench.images, True)]
    taken = series(f"{bench.work}/used", bench_peers.Series, steps, lambda tool: bench.note("stored, used", tool, tool.stored() / MIB))
    bench.note("stored, used", "beside", bench.figures["stored"]["copal"])
    seconds, memory = taken["first"]
    bench.note("first, used", "copal", rate(steps[0].image, seconds))
    bench.note("first, used, memory", "copal", memory / MIB)


def chain(bench):
    """What the chain of a create allows now, by itself; `None` without its micro-benchmark."""
    if not shutil.which("chain"):
        say("NO CEILING: there is no micro-benchmark")
        return None
    say("copal: the ceiling")
    return json.loads(subprocess.check_output(["chain", disk(bench.images)[0].path], text=True))


def ceiling(bench, before, after):
    """The means of what was found before the series and after it, since machines have neighbours."""
    if not (before and after):
        return

    def mean(step, cores):
        return (before[step][cores] + after[step][cores]) / 2

    for key, step in ("first", "store"), ("unchanged", "hash"), ("first, used", "store"):
        if key in bench.figures:
            bench.note(key, "ceiling", mean(step, "all_cores"))
    bench.note("zeros", "ceiling", mean("read", "all_cores") / 1000)
    for when, found in ("before", before), ("after", after):
        figures = "; ".join(f"{step} {' and '.join(f'{figure:,.0f}' for figure in found[step].values())}" for step in ("read", "zeros", "hash", "seal", "store"))
        bench.notes.append(f"Micro-benchmark {when} the series, MB/s on one core and on all {found['cores']}: {figures}.")
    bench.notes.append(f"{after['plain'] / 1e6:,.0f} MB in {after['chunks']:,} chunks, {after['distinct']:,} of them distinct. The ceilings are means of both. That of zeros is reading from the page cache. The chain cuts what lies in memory, a create what it has just read into a processor's cache, so that it may come nearer than its other work would let it.")


def derivation(bench):
    """Tells what the passphrase takes. It stays in all figures of what is encrypted, of peers too."""
    tool = bench_peers.Series(f"{bench.work}/keys")
    seconds = bench_copal.derivation(tool)
    shutil.rmtree(tool.home)
    bench.notes.append(f"Key derivation: {seconds * 1000:.0f} ms, part of every encrypted create, but not of the ceiling.")


def scaling(bench):
    """The first create on one processor and on two, in turns no longer than a series."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        say("NOT MEASURED: two cores over one, since there is one")
        return

    def pinned(count):
        def kind(work):
            tool = bench_peers.Series(work)
            tool.prefix = ("taskset", "-c", ",".join(map(str, cores[:count])))
            return tool
        return kind

    say("copal: one core, and two")
    steps = plan(bench.images, True)[:1]
    one, two = (series(f"{bench.work}/cores{count}", pinned(count), steps)["first"][0] for count in (1, 2))
    bench.note("scaling", "copal", one / two)
    bench.notes.append(f"Two cores over one: {one:.2f} and {two:.2f} s, key derivation included.")


def holes(bench):
    """Each time a new archive of a new name."""
    say("copal: holes")
    tool = bench_peers.Unencrypted(f"{bench.work}/holes")
    tool.init()
    image = bench_sources.holes(f"{bench.work}/holes.img", TIB)
    taken = [(tool.create(f"holes{run}", image), tool.processor) for run in range(RUNS)]
    os.remove(image.path)
    for key, times in zip(("holes, time", "holes"), zip(*taken)):
        bench.note(key, tool, statistics.median(times))
    shutil.rmtree(tool.home)


def zeros(bench):
    if available() < ZEROS + SPARE:
        say(f"NOT MEASURED: zeros, since memory does not hold {ZEROS // GIB} GiB more")
        return
    say("copal: zeros")
    tool, names = bench_peers.Unencrypted(f"{bench.work}/zeros"), iter(range(RUNS))
    tool.init()
    image = bench_sources.zeros(f"{bench.fast}/zeros.img", ZEROS)
    bench.note("zeros", tool, several(lambda: image.data / 1e9 / tool.create(f"zeros{next(names)}", image)))
    bench.note("zeros, memory", tool, tool.peak_create / MIB)
    os.remove(image.path)
    shutil.rmtree(tool.home)


def streams(bench, sizes):
    """What a GiB costs in streams of several lengths."""
    for gib in sizes:
        if shutil.disk_usage(bench.work).free < gib * GIB // SHRUNK:
            say(f"NOT MEASURED: a stream of {gib} GiB, which needs {gib // SHRUNK} GiB of disk")
            continue
        say(f"copal: a stream of {gib} GiB")
        memory = []

        def once(gib=gib, memory=memory):
            tool = bench_peers.Unencrypted(f"{bench.work}/stream")
            # Such data reaches the chunker's upper bound, which then is about the average of what disks hold.
            tool.settings = ("--chunker", "fastcdc,16K")
            tool.init()
            _, used = tool.run("copal", "create", f"{tool.repository}::stream", "-", feed=bench_sources.stream(gib * GIB))
            memory.append(used)
            shutil.rmtree(tool.home)
            return tool.processor / gib

        bench.note(f"stream {gib}", "copal", several(once))
        bench.note(f"stream {gib}", "beside", bench.figures[f"stream {rows.STREAMS[0]}"]["copal"])
        bench.note(f"stream {gib}, memory", "copal", max(memory) / MIB)


def crowded(bench):
    """The first create of a disk in a repository that holds millions of chunks of others: of streams that were stored, or made up."""
    image = disk(bench.images)[0]

    def once(key, tool):
        seconds = tool.create("disk", image)
        bench.note(key, tool, rate(image, seconds))
        bench.note(key, "beside", bench.figures["first"]["copal"])
        bench.note(f"{key}, memory", tool, tool.peak_create / MIB)
        shutil.rmtree(tool.home)

    say(f"copal: {rows.CROWD} million chunks, then a disk")
    tool = bench_peers.Unencrypted(f"{bench.work}/crowd")
    bench.note("crowding, memory", tool, bench_long.store_chunks(tool, rows.CROWD * 1000) / MIB)
    once("crowded", tool)
    if not shutil.which("crowd"):
        say("NOT MEASURED: an index of many more chunks, since there is nothing that makes it up")
        return
    say(f"copal: {rows.LARGE_CROWD} million chunks, made up, then a disk")
    tool = bench_peers.Unencrypted(f"{bench.work}/crowd")
    tool.init()
    subprocess.run(["crowd", tool.repository, str(rows.LARGE_CROWD)], stdout=subprocess.DEVNULL, check=True)
    once("large crowd", tool)


def measure(bench, wanted, long):
    versions = []
    for name in wanted:
        before = chain(bench) if name == "copal" else None
        try:
            versions += measure_tool(bench, name)
        except SystemExit as error:
            # A signal has a number.
            if name == "copal" or isinstance(error.code, int):
                raise
            say(f"\n*** {name.upper()} CANNOT BE MEASURED HERE; its column stays empty ***\n{error.code}\n")
            bench.notes.append(f"**{name} could not be measured.**")
        if name == "copal":
            only_used(bench)
            if before:
                ceiling(bench, before, chain(bench))
    if "copal" in wanted:
        derivation(bench)
        scaling(bench)
        holes(bench)
        zeros(bench)
        streams(bench, rows.STREAMS + (rows.LONG_STREAMS if long else ()))
        if long:
            crowded(bench)
    limit = rows.MEMORY + rows.WORKER * len(os.sched_getaffinity(0))
    for key in [key for key in bench.figures if key.endswith(", memory")]:
        bench.note(key, "beside", limit)
    return versions


def main():
    bench, minutes = run(measure, lambda figures: bench_rows.table(figures, rows.ROWS, rows.COLUMNS))
    stored = [step.image for step in plan(bench.images) if step.key != "unchanged"]
    described = ", ".join(f"{image.name} ({image.size / 1e9:.2f} GB, {image.data / 1e9:.2f} GB of data)" for image in stored)
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}. {'; '.join(bench.versions)}.")
    print(f"Images, in the order of their archives: {described}. Medians of {RUNS} runs, each with a new repository; one of a series with a create of "
          f"more than {SLOW} s. Sources in the page cache. MB/s are 10^6 bytes of data. {minutes:.0f} minutes.\n")
    print(bench_rows.table(bench.figures, rows.ROWS, rows.COLUMNS) + "\n")
    print("\n".join(f"- {line}" for line in bench.notes))


if __name__ == "__main__":
    main()
