"""The rows of scripts/bench create: what each compares, and what it should reach."""

from bench_rows import Row, Target, ceiling, peers

# "Ceiling" is what the chain of a create allows by itself, from the micro-benchmark; "beside" what else the row is held against.
COLUMNS = {"copal": "Copal", "ceiling": "ceiling", "beside": "beside", "borg": "borg", "borg-fixed": "borg, fixed 4 MiB", "restic": "restic"}
# What a create may take: in all, and for each of its workers, in MiB.
MEMORY, WORKER = 128, 48
# Sizes of the stream, in GiB; of the long ones, only longer runs.
STREAMS, LONG_STREAMS = (1, 8), (64, 1024)
# Millions of chunks in repositories that are crowded.
CROWD, LARGE_CROWD = 10, 130
# What a GiB may cost in a long stream beside one in the shortest.
CONSTANT = 1.1
BOUND = f"{MEMORY} MiB + {WORKER} MiB a worker"


def memory(key, long=False):
    return Row("the same, peak memory", "MiB", f"{key}, memory", (Target("beside", most=1),), BOUND, long)


def stored(what, key, *targets, beside="", long=False):
    return Row(what, "MiB", key, targets, beside, long)


def cost(gib, long=False):
    targets = (Target("beside", most=CONSTANT),) if gib != STREAMS[0] else ()
    return (Row(f"CPU seconds per GiB, stream of {gib} GiB, unencrypted", "s", f"stream {gib}", targets, f"{STREAMS[0]} GiB", long),
            memory(f"stream {gib}", long))


ROWS = [
    Row("first create of vm-1", "MB/s", "first", (ceiling(0.85), *peers(4, "borg"), *peers(8, "restic"))),
    memory("first"),
    Row("create of the unchanged image, read again", "MB/s", "unchanged", (ceiling(0.7), *peers(3, "borg-fixed"), *peers(10, "borg"))),
    memory("unchanged"),
    Row("create of the unchanged image, not read", "ms", "untouched", long=True),
    memory("untouched", long=True),
    Row("vm-2 after vm-1", "MB/s", "changed 1", peers(4, "borg")),
    memory("changed 1"),
    Row("vm-3 after vm-2", "MB/s", "changed 2", peers(4, "borg")),
    memory("changed 2"),
    stored("stored in the end, all archives and metadata", "stored", Target("borg", most=1.03), Target("restic", most=1.03)),
    stored("the same with `--skip-unused`", "stored, used", Target("beside", most=0.7), beside="without", long=True),
    Row("first create of vm-1 with `--skip-unused`", "MB/s", "first, used", long=True),
    memory("first, used", long=True),
    Row("1 TiB of holes, CPU, unencrypted", "s", "holes", (Target(None, most=0.1, strict=True),)),
    Row("the same, time", "s", "holes, time"),
    Row("8 GiB of written zeros, unencrypted", "GB/s", "zeros", (Target(None, least=8),)),
    memory("zeros"),
    Row("first create of vm-1, two cores over one", "×", "scaling", (Target(None, least=1.8),)),
    *(row for gib in STREAMS for row in cost(gib)),
    *(row for gib in LONG_STREAMS for row in cost(gib, long=True)),
    Row(f"storing {CROWD} million chunks of 4 KiB, peak memory", "MiB", "crowding, memory", (Target("beside", most=1),), BOUND, long=True),
    Row(f"first create of vm-1 beside {CROWD} million chunks", "MB/s", "crowded", (), "an empty repository", long=True),
    memory("crowded", long=True),
    Row(f"first create of vm-1 beside {LARGE_CROWD} million chunks, made up", "MB/s", "large crowd", (), "an empty repository", long=True),
    memory("large crowd", long=True),
]
