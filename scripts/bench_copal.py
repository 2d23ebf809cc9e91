"""Measurements of scripts/bench mount that are made of Copal alone."""

import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import bench_peers
from bench import CLAIMED, MIB, claim_memory, claimable, drop_caches, rate, read_data, say
from bench_common import BRIEF_RUNS, CACHE, GIB, PIECE, REST, compare, compare_whole, drain, first_of, holes, part, piped, seconds_to_read, several
from bench_readers import by_many, deep, extract, first_byte, listed, one_by_one, restores, sequential
from loops import attached, claim_pages, filesystem, largest_partition


def ceiling(bench, copal):
    """Figures of the micro-benchmark, beside all rows that it bounds."""
    if not shutil.which("opening"):
        say("NO CEILING: there is no micro-benchmark")
        return
    say("copal: the ceiling")
    words = ["opening", copal.repository, bench.name]
    found = json.loads(subprocess.check_output(words, env=copal.environment, cwd="/", text=True))
    bench.notes.append(f"Micro-benchmark: {found['one_core']:.0f} MB/s on one core, {found['all_cores']:.0f} on all, {found['chunk_us']:.1f} µs a chunk.")
    plain, chunks = found["all_cores"], found["cores"] * 1e6 / found["chunk_us"]
    bounds = dict.fromkeys(("sequential", "sequential, packs cached", "extract", "extract, packs cached", "dump", "partition"), plain)
    bounds |= dict.fromkeys(("threads", "depth", "depth, packs cached"), chunks)
    for key, figure in (bounds | {"processor": GIB / 1e6 / found["one_core"]}).items():
        bench.note(key, "ceiling", figure)


def packs(copal):
    """Where sealed data lies, in the order of writing."""
    files = [os.path.join(folder, file) for folder, _, names in os.walk(copal.repository) for file in names]
    return sorted(files, key=os.path.getmtime)


def read_packs(copal):
    """Reads all that is stored; bytes and seconds."""
    began, taken = time.monotonic(), 0
    buffer = bytearray(MIB)
    for path in packs(copal):
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                taken += count
    return taken, time.monotonic() - began


def packs_cached(copal):
    drop_caches()
    read_packs(copal)


def through_cached_packs(bench, copal):
    """Tells what storage costs: the same reads, but the packs are in memory already."""
    def once():
        with bench.mounted(copal) as path:
            packs_cached(copal)
            return bench.rate(seconds_to_read(path, bench.image))

    bench.note("sequential, packs cached", copal, several(once))
    drop_caches()
    taken, seconds = read_packs(copal)
    bench.notes.append(f"Storage: all {taken / MIB:,.0f} MiB of the repository read in order with nothing cached, by one reader: {taken / 1e6 / seconds:,.0f} MB/s.")
    deep(bench, copal, "depth, packs cached", lambda: packs_cached(copal))
    extract(bench, copal, copal.extract_words(bench.name, bench.image, bench.fast), "extract, packs cached", bench.image, lambda: packs_cached(copal))


def through_loops(bench, copal):
    for key, options in ("loop, direct", ["--direct-io=on"]), ("loop, plain", []):
        unchecked = [True]

        def once(options=options, unchecked=unchecked):
            with bench.mounted(copal) as path, attached(path, *options) as device:
                claim_pages(f"{bench.work}/claimed", claimable(CLAIMED))
                seconds = seconds_to_read(device, bench.image)
                if unchecked:
                    compare(device, bench.image, "a loop device on copal")
                    unchecked.clear()
            return bench.rate(seconds)

        bench.note(key, copal, several(once))
        bench.note(key, "beside", bench.figures["sequential"]["copal"])


def partition(bench, copal):
    number, start, length, _ = largest_partition(bench.image.path)
    words = copal.partition_words(bench.name, bench.image, number, bench.fast)
    if not words:
        say("NOT MEASURED: extract of one partition, which this Copal cannot")
        return
    target = f"{bench.fast}/{bench.image.name}"
    ranges = [(max(first, start), min(end, start + length)) for first, end in bench.image.ranges]
    data = sum(end - first for first, end in ranges if end > first)

    def once():
        drop_caches()
        seconds, _ = copal.run(*words, directory=bench.fast)
        compare_whole(["cmp", "-n", str(length), "-i", f"0:{start}", target, bench.image.path], "copal, one partition")
        os.remove(target)
        return seconds

    bench.note("partition", copal, data / 1e6 / several(once))


def warm(bench, path, copal):
    """A piece of the image, read again, against the same piece of the source."""
    piece = part(bench.image, first_of(bench.image.ranges, PIECE))
    paths = {copal.name: path, "beside": bench.image.path}
    for each in paths.values():
        read_data(each, piece)
    times = collections.defaultdict(list)
    for _ in range(5):
        for name, each in paths.items():
            times[name].append(seconds_to_read(each, piece))
    for name, taken in times.items():
        bench.note("warm", name, rate(piece, statistics.median(taken)))


def read_by(pid):
    with open(f"/proc/{pid}/io") as file:
        return int(next(line for line in file if line.startswith("rchar")).split()[1])


def nothing(bench, path, copal):
    """Reads holes."""
    piece = part(bench.image, first_of(holes(bench.image), 4 * GIB))
    if not piece.data:
        say("NOT MEASURED: holes, since there are none")
        return
    claim_memory(piece.data + CLAIMED // 2)
    before = read_by(copal.server.pid)
    seconds = seconds_to_read(path, piece)
    bench.note("holes", copal, piece.data / 1e9 / seconds)
    bench.notes.append(f"Holes: {piece.data / GIB:.1f} GiB; the server read {(read_by(copal.server.pid) - before) / 1024:,.0f} KiB meanwhile, requests included.")


def counts(copal):
    """What the mount says of itself, or nothing."""
    try:
        with open(f"{copal.mountpoint}/.copal/stats.json") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def opened(copal):
    used = counts(copal).get("chunks")
    return used and used["loads"] + used.get("ahead", 0)


def together(bench, copal):
    """All archives at once, each by a reader of its own. What is not stored yet is now: peers have nothing to compare with."""
    names = {f"state{place}": image for place, image in enumerate(bench.images)}
    if len(names) == 1:
        names["again"] = bench.image
    for name, image in names.items():
        if name not in (f"state{place}" for place in bench.stored):
            copal.create(name, image)
    distinct = sum(facts(copal, name)["stats"]["new_chunks"] for name in names)
    with bench.mounted(copal):
        paths = [copal.mounted(name, image) for name, image in names.items()]
        claim_memory(sum(image.data for image in names.values()) + CLAIMED // 2)
        before = opened(copal)
        began = time.monotonic()
        with ThreadPoolExecutor(len(paths)) as readers:
            list(readers.map(read_data, paths, names.values()))
        seconds = time.monotonic() - began
        after = opened(copal)
    bench.note("together", copal, sum(image.data for image in names.values()) / 1e6 / seconds)
    bench.note("together", "beside", bench.figures["sequential"]["copal"])
    bench.note("together, opened", "beside", distinct)
    if after is None:
        say("NOT MEASURED: how many chunks were opened, which this mount does not say")
    else:
        bench.note("together, opened", copal, after - before)
    bench.notes.append(f"At once: {len(names)} archives ({', '.join(image.name for image in names.values())}).")


def facts(copal, name):
    words = ["copal", "info", "--json", f"{copal.repository}::{name}"]
    return json.loads(subprocess.check_output(words, env=copal.environment, text=True))


def tar(bench, device, kind):
    """MB/s of an archive of all files, and the archive's hash."""
    where = f"{bench.work}/files"
    words = ["tar", "-C", where, "-cf", "-", "."]
    with filesystem(device, kind, where):
        drop_caches()
        began = time.monotonic()
        with piped(words) as pipe:
            taken = drain(pipe)
        seconds = time.monotonic() - began
        with piped(words) as pipe:
            answer = subprocess.run(["sha256sum"], stdin=pipe, stdout=subprocess.PIPE, text=True, check=True).stdout
    return taken / 1e6 / seconds, answer


def whole_tree(bench, copal):
    number, start, _, kind = largest_partition(bench.image.path)
    if not kind:
        say("NOT MEASURED: tar, since this kernel knows no filesystem of the image")
        return
    # No limit to its size: a filesystem may be some sectors longer than its partition, as it is after a careless mkfs.
    piece = ["--offset", str(start)]
    say(f"tar of partition {number} ({kind})")
    with attached(bench.image.path, *piece) as device:
        raw, expected = tar(bench, device, kind)
    for key, options in ("tar, direct", ["--direct-io=on"]), ("tar, plain", []):
        with bench.mounted(copal) as path, attached(path, *piece, *options) as device:
            figure, found = tar(bench, device, kind)
        if found != expected:
            sys.exit(f"{key}: the files in the mounted image are not those of the source")
        bench.note(key, copal, figure)
        bench.note(key, "beside", raw)


def derivation(copal):
    """Seconds that a passphrase takes: what listing an encrypted repository takes longer than listing one that is not."""
    medians = []
    for encryption in "passphrase", "none":
        # A secret that is not needed is refused.
        tool = copal if encryption == "passphrase" else bench_peers.Unencrypted(f"{copal.home}/open")
        repository = f"{tool.home}/{encryption}"
        tool.run("copal", "init", "--encryption", encryption, repository)
        medians.append(statistics.median(tool.run("copal", "list", repository)[0] for _ in range(5)))
        shutil.rmtree(tool.home if tool is not copal else repository)
    return medians[0] - medians[1]


def forget(tool):
    """As on a machine that sees the repository for the first time."""
    for folder in "state", "cache":
        shutil.rmtree(f"{tool.home}/{folder}", ignore_errors=True)


def beginnings(bench, copal):
    """Rows of how soon a mount is of use: with an empty cache, and without what the passphrase takes."""
    less = derivation(copal)
    bench.notes.append(f"Key derivation: {less * 1000:.0f} ms, taken off Copal's mount times, not off those of extract: what `copal list` of an empty "
                       "repository takes longer with a passphrase than with `--encryption none`.")

    def cold():
        forget(copal)
        drop_caches()

    # The last comes after one that has read all it needs.
    for key, once in (("ls", lambda: listed(copal, cold)), ("byte", lambda: first_byte(bench, copal, cold)),
                      ("byte, warm", lambda: first_byte(bench, copal, lambda: forget(copal)))):
        bench.note(key, copal, (several(once, BRIEF_RUNS) - less) * 1000)


def measure(bench, copal):
    ceiling(bench, copal)
    say("copal: sequential")
    sequential(bench, copal)
    through_cached_packs(bench, copal)
    say("copal: through loop devices")
    through_loops(bench, copal)
    say("copal: extract")
    restores(bench, copal)
    partition(bench, copal)
    say("copal: random")
    one_by_one(bench, copal)
    bench.note("random p99", "beside", bench.figures["random mean"]["copal"])
    by_many(bench, copal)
    deep(bench, copal)
    say("copal: warm, holes")
    with bench.mounted(copal) as path:
        warm(bench, path, copal)
        nothing(bench, path, copal)
    whole_tree(bench, copal)
    say("copal: first ls, first byte")
    beginnings(bench, copal)
    say("copal: all archives at once")
    together(bench, copal)
    bench.note("memory", "beside", (CACHE + REST) / MIB)
