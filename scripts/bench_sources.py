"""What is made up to be backed up: streams of any length, a database's file that changes, holes and zeros."""

import os
import random
import struct
import subprocess
from types import SimpleNamespace

from bench import MIB, Image

BLOCK = 4096
# The stream repeats itself after this many blocks, but for the number in each.
ROUND = 1024
# Bytes in a block that vary, so few that a tebibyte takes 15 GB; the others fill it up.
VARIED = 64
# A database: pages of 8 KiB, most of each in use, and one in fifty of them written between two archives.
PAGE, USED, PAGES, WRITTEN = 8192, 6000, 1 << 18, 50
# Texts that pages take their rows from: so many that no two pages in a chunk share much.
TEXTS = 16 * MIB


def text(chance, length):
    """Words that repeat, in an order that does not."""
    letters = b"abcdefghijklmnopqrstuvwxyz"
    words = [bytes(chance.choices(letters, k=chance.randrange(3, 12))) for _ in range(5000)]
    # No word is shorter than three letters and a space.
    return b" ".join(chance.choices(words, k=length // 4 + 1))[:length]


def stream(length):
    """A function that writes so many bytes to a pipe, faster than anybody reads them: no two chunks of 4 KiB or more are the same."""
    chance = random.Random(1)
    texts = text(chance, VARIED * ROUND)
    buffer = bytearray(b"".join(texts[at:at + VARIED].ljust(BLOCK, b".") for at in range(0, len(texts), VARIED)))

    def write(pipe):
        for number in range(length // len(buffer)):
            for place, byte in enumerate(number.to_bytes(8, "big")):
                buffer[place::BLOCK] = bytes([byte]) * ROUND
            pipe.write(buffer)

    return write


def database(directory, states=3):
    """Images of a file of a database, each with some pages changed since the one before."""
    chance, paths = random.Random(8192), [f"{directory}/database{state}" for state in range(states)]
    rows = text(chance, TEXTS)

    def page(number, state):
        at = chance.randrange(len(rows) - USED)
        return (struct.pack("<QQ", number, state) + rows[at:at + USED]).ljust(PAGE, b"\0")

    with open(paths[0], "wb") as file:
        file.writelines(page(number, 0) for number in range(PAGES))
    for state in range(1, states):
        subprocess.run(["cp", "--reflink=auto", paths[state - 1], paths[state]], check=True)
        with open(paths[state], "r+b", buffering=0) as file:
            for number in chance.sample(range(PAGES), PAGES // WRITTEN):
                os.pwrite(file.fileno(), page(number, state), number * PAGE)
    return [Image(path) for path in paths]


def made_up(path, size, ranges=()):
    """As Image, for a file that may be without data."""
    return SimpleNamespace(path=path, directory=os.path.dirname(path), name=os.path.basename(path), size=size, ranges=list(ranges),
                           data=sum(end - start for start, end in ranges))


def holes(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return made_up(path, size)


def zeros(path, size):
    """Zeros that were written, as a filesystem has them that was wiped."""
    block = bytes(MIB)
    with open(path, "wb") as file:
        file.writelines(block for _ in range(size // MIB))
    return made_up(path, size, [(0, size)])
