"""Files to be spoilt, and processes of bounded memory to read them in."""

import io
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from plgolf.artifact import load_gpt
from plgolf.errors import UserError

TESTS = Path(__file__).parents[1]


def saved(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def refusal(path: Path, data: bytes) -> str:
    """Writes an artifact that must be refused in one line; returns the line without the path."""
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_gpt(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message.removeprefix(f"{path}: ")


def mutated(data: bytes, seed: int) -> bytes:
    """Flips, cuts, inserts, overwrites or moves a few bytes."""
    at = random.Random(seed)
    result = bytearray(data)
    where, length = at.randrange(len(data)), at.randrange(1, 30)
    kind = at.randrange(5)
    if kind == 0:
        del result[where:]
    elif kind == 1:
        for _ in range(at.randrange(1, 5)):
            result[at.randrange(len(data))] ^= 1 << at.randrange(8)
    elif kind == 2:
        result[where:where] = at.randbytes(length)
    elif kind == 3:
        result[where : where + length] = bytes([at.choice((0, 127, 128, 255))]) * length
    else:
        there = at.randrange(len(data))
        result[where : where + length] = result[there : there + length]
    return bytes(result)


def rezipped(data: bytes, *, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """Writes a zip anew, with other contents for some of its records; ``data_pkl`` is ``data.pkl``."""
    changed = {name.replace("_", "."): content for name, content in records.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, changed.get(name.partition("/")[2], old.read(name)))
    return as_torch_ends(file.getvalue())


def as_torch_ends(data: bytes) -> bytes:
    """Ends a zip of Python's as torch.save ends one: with the records of large archives, always."""
    end = data[-22:]
    number, size, start = (int.from_bytes(end[a:b], "little") for a, b in ((10, 12), (12, 16), (16, 20)))
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, size, start) + struct.pack(
        "<4sLQL", b"PK\6\7", 0, len(data) - 22, 1
    )
    return data[:-22] + end64 + end


def run_bounded(code: str, *arguments: object, mebibytes: int) -> str:
    """Runs code that may allocate so much more once it has set ``limit()``; returns what it prints."""
    prelude = (
        "import resource, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "def limit():\n"
        "    pages = int(open('/proc/self/statm').read().split()[5])\n"
        f"    most = pages * resource.getpagesize() + ({mebibytes} << 20)\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (most, most))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TESTS,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout
