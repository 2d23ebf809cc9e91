"""The rows of scripts/bench mount: what each compares, and what it should reach. Figures are a dict of key to dict of column to number."""

from dataclasses import dataclass

from bench import number

# "Ceiling" is what opening and verifying chunks allows, from the micro-benchmark; "beside" what else the row is held against.
COLUMNS = {"copal": "Copal", "ceiling": "ceiling", "beside": "beside", "squashfs": "squashfs", "qcow2": "qcow2", "borg": "borg", "restic": "restic"}
# Of what the processors could open in random order, the share that 28,000 IOPS are on the machine of limits.md, which opens a chunk in 50 µs.
DEPTH_SHARE = 28_000 * 50e-6 / 2


@dataclass(frozen=True)
class Target:
    """Copal's figure, divided by that of a column, or itself where there is none."""

    of: str | None
    least: float | None = None
    most: float | None = None
    strict: bool = False

    def bound(self):
        sign = (">" if self.strict else "≥") if self.least is not None else "<" if self.strict else "≤"
        unit = "×" if self.of else ""
        return f"{sign} {self.least if self.least is not None else self.most:g}{unit}"

    def met(self, ratio):
        if self.least is not None:
            return ratio > self.least if self.strict else ratio >= self.least
        return ratio < self.most if self.strict else ratio <= self.most


@dataclass(frozen=True)
class Row:
    what: str
    unit: str
    key: str
    targets: tuple = ()
    # What stands in the column "beside".
    beside: str = ""
    # Left out where nothing was measured, since only longer runs measure it, or a Copal that has what it is about.
    long: bool = False


def ceiling(share):
    return Target("ceiling", least=share)


def peers(least, *names):
    return tuple(Target(name, least=least) for name in names)


ROWS = [
    Row("sequential read of data, cold", "MB/s", "sequential",
        (ceiling(0.85), Target("squashfs", least=1.6), *peers(3, "borg", "restic"))),
    Row("the same, packs in the page cache", "MB/s", "sequential, packs cached", ()),
    Row("the same, cold, `losetup --direct-io=on`", "MB/s", "loop, direct", (Target("beside", least=0.8),), "the file"),
    Row("the same, cold, plain `losetup`", "MB/s", "loop, plain", (Target("beside", least=0.6),), "the file"),
    Row("`extract` to tmpfs, sparse, cold", "MB/s", "extract", (ceiling(0.9), *peers(3, "borg", "restic"))),
    Row("the same, packs in the page cache", "MB/s", "extract, packs cached", ()),
    Row("`extract --stdout`, cold", "MB/s", "dump", (ceiling(0.9), *peers(3, "borg", "restic"))),
    Row("`extract` of the largest partition to tmpfs, cold", "MB/s", "partition", (ceiling(0.9),)),
    Row("random 4 KiB, cold, 1 thread, mean", "µs", "random mean", (Target("qcow2", most=1, strict=True),)),
    Row("the same, p50", "µs", "random p50"),
    Row("the same, p99", "µs", "random p99", (Target("beside", most=3, strict=True),), "its mean"),
    Row("the same, p99 / mean", "×", "random spread"),
    Row("random 4 KiB, cold, 8 threads", "IOPS", "threads", (Target("qcow2", least=1, strict=True),)),
    Row("random 4 KiB, cold, `losetup --direct-io=on`, depth 32", "IOPS", "depth",
        (ceiling(DEPTH_SHARE), Target("qcow2", least=1, strict=True))),
    Row("the same, packs in the page cache", "IOPS", "depth, packs cached"),
    Row("random 4 KiB in a thin image of 1 TiB, mean", "µs", "thin", (Target("beside", most=1.5),), "the image, read the same way", long=True),
    Row("warm re-read", "MB/s", "warm", (Target("beside", least=0.9),), "a local file"),
    Row("`tar` of the largest filesystem, cold, `losetup --direct-io=on`", "MB/s", "tar, direct", (Target("beside", least=0.7),), "the raw image"),
    Row("the same, plain `losetup`", "MB/s", "tar, plain", (Target("beside", least=0.7),), "the raw image"),
    Row("all archives of one disk at once, cold, in total", "MB/s", "together", (Target("beside", least=1),), "one reader"),
    Row("the same, chunks opened", "", "together, opened", (Target("beside", most=1),), "distinct chunks"),
    Row("4 GiB of holes", "GB/s", "holes", (Target(None, least=3),)),
    Row("server CPU per GiB of data, sequential", "s", "processor", (Target("ceiling", most=1.25),)),
    Row("mount to first `ls`, cold, less key derivation", "ms", "ls", (Target(None, most=50, strict=True),)),
    Row("mount to first byte, cold, less key derivation", "ms", "byte", (Target(None, most=50, strict=True),)),
    Row("the same, page cache warm", "ms", "byte, warm"),
    *(Row(f"mount to {what}, cold, {held}, unencrypted", "ms", f"{key}, {held}", (Target(None, most=50, strict=True),), long=True)
      for held in ("10 archives", "10,000 archives", "1 thousand chunks", "4 million chunks") for what, key in (("first `ls`", "ls"), ("first byte", "byte"))),
    Row("peak memory of the server", "MiB", "memory", (Target("beside", most=1),), "cache + 64 MiB"),
    Row("peak memory of the server, 30 minutes of mixed load", "MiB", "memory, mixed", (Target("beside", most=1),), "cache + 64 MiB", long=True),
]


def claim(target, row, values, columns):
    """Ratio, target, whether it is met."""
    of = row.beside if target.of == "beside" else columns.get(target.of, "")
    base = values.get(target.of) if target.of else 1
    if not base or values.get("copal") is None:
        return [f"– of {of}" if of else "–", target.bound(), "**not measured**"]
    ratio = values["copal"] / base
    shown = f"{ratio:.2f}× {of}" if of else number(ratio)
    return [shown, target.bound(), "yes" if target.met(ratio) else "**no**"]


def table(figures, rows=tuple(ROWS), columns=COLUMNS):
    head = ["", "", *columns.values(), "ratio", "target", "met"]
    lines = [head, ["---"] * 2 + ["---:"] * len(columns) + ["---"] * 3]
    for row in rows:
        if row.long and row.key not in figures:
            continue
        values = figures.get(row.key, {})
        begin = [row.what, row.unit, *(number(values.get(column)) for column in columns)]
        # The first target stands beside the figures, each further one on a line of its own.
        for claimed in [claim(target, row, values, columns) for target in row.targets] or [["", "", ""]]:
            lines.append([*begin, *claimed])
            begin = [""] * len(begin)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
