"""Storing the states of a disk one after the other, for scripts/bench create."""

import collections
import shutil
import statistics
import subprocess
from dataclasses import dataclass

from bench import Image
from bench_common import RUNS, compare_whole, piped

# Of a series with a create that takes longer than these seconds, one run has to do.
SLOW = 20


@dataclass(frozen=True)
class Step:
    """One create: what its figures are called, what it stores, and what it is told beyond that."""

    key: str
    image: Image
    options: tuple = ()


def knows(command, option):
    """Whether this Copal has an option."""
    return option in subprocess.check_output(["copal", command, "--help"], text=True).replace(",", " ").split()


def series(directory, kind, steps, finished=lambda tool: None):
    """Median seconds and most memory of each step, by its key. Every run begins with a home and a repository that are new, made by
    `kind`; those of the first are shown to `finished`."""
    taken = collections.defaultdict(list)
    for run in range(RUNS):
        tool = kind(f"{directory}/{run}")
        try:
            tool.init()
            for number, step in enumerate(steps):
                tool.options, tool.peak_create = step.options, 0
                taken[step.key].append((tool.create(f"state{number}", step.image), tool.peak_create))
            if not run:
                finished(tool)
        finally:
            tool.end()
            shutil.rmtree(tool.home)
        if any(seconds > SLOW for times in taken.values() for seconds, _ in times):
            break
    return {key: (statistics.median(seconds for seconds, _ in runs), max(memory for _, memory in runs)) for key, runs in taken.items()}


def compare_last(tool, steps):
    """Ends everything if what was stored last is not what its source holds."""
    image = steps[-1].image
    with piped(tool.dump_words(f"state{len(steps) - 1}", image), tool.environment) as pipe:
        compare_whole(["cmp", "-", image.path], tool.name, pipe)
