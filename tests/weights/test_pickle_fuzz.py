"""Pickles of any instructions: read or refused, in little time and memory, and nothing is changed.

    python -m tests.weights.test_pickle_fuzz 20000 1

reads that many programs of that seed and prints what came of them.
"""

import collections
import io
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import torch_pickle
from apanet_jax.weights.files import read_tensors

MEMORY = 3 << 30
"""Bytes of address space; what is imported takes less than half."""
SECONDS = 10
"""Of the processor for one program; most take under a millisecond."""

HARMLESS = [
    *(("collections", name) for name in ("Counter", "defaultdict", "deque")),
    ("argparse", "Namespace"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("__main__", "Config"),
    ("__builtin__", "set"),
    ("functools", "partial"),
    ("apanet_jax.weights.torch_pickle", "read_torch"),
]
NAMES = [
    *HARMLESS,
    *torch_pickle.KNOWN,
    ("os", "mkdir"),
    ("os", "system"),
    ("builtins", "eval"),
]


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def drawn_instruction(rng):
    """Returns one instruction with its argument, or a few that belong together."""
    module, name = rng.choice(NAMES)
    number = rng.choice([0, 1, 2, 3, 7, 255])
    return rng.choice(
        [
            *(b"(", b"0", b"1", b"2", b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f"),
            *(b"l", b"d", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"\x90"),
            *(b"\x91", b"R", b"R", b"R", b"b", b"b", b"\x81", b"\x92", b"o", b"Q", b"Q", b"\x94"),
            *(b"\x97", b"\x98", b"\x82\1", b"P1\n", b"F1.5\n", b"I01\n", b"L7L\n", b"."),
            b"K" + bytes([number]),
            b"M" + struct.pack("<H", rng.randrange(1 << 16)),
            b"J" + struct.pack("<i", rng.randrange(-5, 1 << 31)),
            b"\x8a\x09" + rng.randbytes(9),
            b"G" + struct.pack(">d", rng.choice([0.0, -1.5, float("nan"), float("inf")])),
            b"U\3" + rng.randbytes(3),
            b"C\3" + rng.randbytes(3),
            b"\x96" + struct.pack("<Q", rng.choice([3, 1 << 40])) + b"abc",
            b"\x95" + struct.pack("<Q", rng.randrange(1 << 40)),
            b"q" + bytes([number]),
            b"h" + bytes([number]),
            b"r" + struct.pack("<I", rng.randrange(1 << 32)),
            f"p{rng.choice([1, 10**12])}\n".encode(),
            f"c{module}\n{name}\n".encode(),
            f"c{module}\n{name}\n".encode(),
            text(module) + text(name) + b"\x93",
            f"(i{module}\n{name}\n".encode(),
            text(rng.choice(["a.weight", "state_dict", "storage", "module", "0", "__defaults__"])),
            storage(rng),
            b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(rng) + b"K\0K\2\x85K\1\x85\x89}tR",
            b"2\x86" * rng.randrange(40),
            b"2" * rng.randrange(300),
        ]
    )


def storage(rng):
    kind = "FloatStorage" if rng.random() < 0.95 else rng.choice(["LongStorage", "uint16"])
    count = b"K\3" if rng.random() < 0.95 else rng.choice([b"K\2", b"J\xff\xff\xff\x7f", b"N"])
    parts = [text("storage"), f"ctorch\n{kind}\n".encode(), text("0"), text("cpu"), count]
    return b"(" + b"".join(parts) + b"tQ"


def tensor(rng):
    whole = [(b"K\2\x85", b"K\1\x85"), (b"K\1K\2\x86", b"K\2K\1\x86"), (b")", b")")]
    shape, strides = rng.choice(whole)
    if rng.random() < 0.05:
        shape = rng.choice([b"K\x05\x85", b")", b"N"])
    call = rng.choice(["_rebuild_tensor_v2", "_rebuild_tensor"])
    return (
        f"ctorch._utils\n{call}\n(".encode() + storage(rng) + b"K\0" + shape + strides + b"\x89}tR"
    )


def drawn_value(rng, depth=4):
    """Returns a program that mostly leaves one value, of any kind, on the stack."""
    if rng.random() < 0.005:
        return drawn_instruction(rng)
    if not depth:
        leaves = [b"N", b"K\7", b"\x88", text("a"), b"G" + bytes(8), b")", b"]", b"}", tensor(rng)]
        return rng.choice(leaves)

    def some(most=3):
        return b"".join(drawn_value(rng, depth - 1) for _ in range(rng.randrange(most + 1)))

    module, name = rng.choice(HARMLESS if rng.random() < 0.9 else NAMES)
    called, inner = f"c{module}\n{name}\n".encode(), drawn_value(rng, depth - 1)
    key = rng.choice([text("b.weight"), text("model"), b"K\3", text("c"), inner])
    # Made only where it is chosen: all of them would be endless.
    ways = [
        lambda: b"](" + some() + b"e",
        lambda: b"(" + some() + b"t",
        lambda: inner + b"2\x86" * rng.randrange(40),
        lambda: b"}(" + key + inner + text("c") + inner + b"u",
        lambda: b"(" + key + inner + b"d",
        lambda: called + b"(" + some() + b"tR",
        lambda: called + b"(" + some() + b"t\x81",
        lambda: called + b")R" + b"(" + key + inner + b"u",
        lambda: called + b")R" + inner + b"b",
        lambda: called + b")R}" + key + inner + b"sb",
        lambda: b"(" + called + some() + b"o",
        lambda: inner + b"q\1h\1\x86",
        lambda: tensor(rng),
        lambda: tensor(rng) + (b"}b" if rng.random() < 0.1 else b""),
    ]
    return rng.choice(ways)()


def drawn_program(rng):
    if rng.random() < 0.2:
        return b"".join(drawn_instruction(rng) for _ in range(rng.randrange(1, 40))) + b"."
    state = b"}(" + text("a.weight") + tensor(rng) + text("b") + drawn_value(rng) + b"u"
    return b"\x80\2}(" + text("more") + drawn_value(rng) + text("state_dict") + state + b"u."


def content(program, rng):
    """Returns a file of either layout with the program in it."""
    if rng.random() < 0.3:
        head = b"\x8a\x0a" + torch_pickle.LEGACY_MAGIC.to_bytes(10, "little") + b".M\xe9\3.}."
        return head + program + b"](" + text("0") + b"e." + struct.pack("<q", 3) + bytes(12)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(12))
    return file.getvalue()


def too_slow(*_):
    raise AssertionError(f"a program takes more than {SECONDS} seconds of the processor")


def state_of_functions():
    calls = [value.call for value in torch_pickle.KNOWN.values() if hasattr(value, "call")]
    return [(call.__defaults__, dict(call.__dict__)) for call in calls]


def read_all(count, seed):
    """Reads programs in an empty folder; returns how many were read, and why others were not."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGVTALRM, too_slow)
    before, came_of_it = state_of_functions(), collections.Counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        path = Path("w.pth")
        for _ in range(count):
            program = drawn_program(rng)
            path.write_bytes(content(program, rng))
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                came_of_it[f"{len(read_tensors(path))} tensors read"] += 1
            except UserError as error:
                assert len(str(error).splitlines()) == 1
                came_of_it["refused"] += 1
            except BaseException:
                print(program)
                raise
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            assert os.listdir() == [path.name], program
            assert state_of_functions() == before, program
        os.chdir("/")
    return came_of_it


@pytest.mark.slow
def test_programs_of_any_instructions_are_read_or_refused():
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.test_pickle_fuzz", "5000", "0"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Neither of the two is rare, or the programs would say nothing.
    assert "refused" in done.stdout and "1 tensors read" in done.stdout


if __name__ == "__main__":
    number, chosen = map(int, sys.argv[1:])
    for outcome, times in sorted(read_all(number, chosen).items()):
        print(f"{outcome}: {times}")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB at most")
