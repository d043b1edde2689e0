"""Containers that are damaged, or made to do harm."""

import copy
import hashlib
import json
import os
import random
import struct
import tempfile
import zlib
from pathlib import Path

import pytest
import torch
from hostile.files import mutated, refusal, run_bounded
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf import GPT, GPTConfig
from plgolf.artifact import load_gpt, save_artifact
from plgolf.container import Container
from plgolf.container.layout import assemble, disassemble
from plgolf.errors import UserError
from plgolf.model import AttentionConfig
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows

RULES = {
    "matrix": CodecConfig(rows=Rows(bits=6)),
    "embedding": CodecConfig(raw=Raw(dtype="float16")),
    "scalar": CodecConfig(raw=Raw()),
}
CONTENT = b"{}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("container") / "a.plgolf"
    attention = AttentionConfig(num_heads=2, num_kv_heads=1)
    gpt = GPT(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32", attention=attention))
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    form = Container(RULES, "zlib")
    save_artifact(gpt, path, seq_len=8, tokenizer=CONTENT, carry_tokenizer=True, format=form)
    load_gpt(path)
    return path.read_bytes()


@pytest.fixture
def refused(tmp_path):
    return lambda data: refusal(tmp_path / "bad.plgolf", data)


def parts(data: bytes) -> tuple[dict, list[bytes]]:
    """Returns the header, and the compressed streams with the tokenizer's last."""
    header, rest = disassemble(data)
    streams, rest = [], bytes(rest)
    for length in [*(stream["bytes"] for stream in header["streams"]), header["tokenizer"]["bytes"]]:
        streams.append(rest[:length])
        rest = rest[length:]
    return header, streams


def put(*path, value):
    """Replaces what a path of keys leads to in the header, by a value or by what a function makes of it."""

    def change(header, streams):
        node = header
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value(node[path[-1]]) if callable(value) else value

    return change


def drop(*path):
    def change(header, streams):
        node = header
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return change


def stream(index, change):
    """Replaces the content of a stream, with its length in the header."""

    def replace(header, streams):
        streams[index] = zlib.compress(change(bytearray(zlib.decompress(streams[index]))))
        entry = header["tokenizer"] if index == -1 else header["streams"][index]
        entry["bytes"] = len(streams[index])

    return replace


def at(position, value):
    def change(content):
        content[position] = value % 256
        return bytes(content)

    return change


CODES, SCALES, HALVES, FLOATS = range(4)
BIG = 10**30
STRUCTURES = {
    "version 2": (put("version", value=2), "header version must be 1, got 2"),
    "version true": (put("version", value=True), "header version must be 1, got True"),
    "no version": (drop("version"), "header version must be 1, got None"),
    "no config": (drop("config"), "config is missing"),
    "no seq_len": (drop("seq_len"), "seq_len is missing"),
    "no hash": (drop("tokenizer_sha256"), "tokenizer_sha256 is missing"),
    "no coder": (drop("coder"), "header.coder is missing"),
    "no streams": (drop("streams"), "header.streams is missing"),
    "another field": (lambda h, s: h.update(run="rm"), "header.run is not a setting of Listing"),
    "a field of lines": (lambda h, s: h.update({"a\nb": 1}), r"header.a\nb is not a setting of Listing"),
    "a setting of lines": (lambda h, s: h["config"].update({"a\nb": 1}), r"config.a\nb is not a setting"),
    "a coder": (put("coder", value="lzip"), "header.coder must be one of ('zlib', 'lzma', 'brotli', 'zstd')"),
    "a list for a coder": (put("coder", value=[]), "header.coder must be one of"),
    "codecs in a list": (put("codecs", value=[]), "header.codecs must be a mapping"),
    "a rule of lines": (
        lambda h, s: h["codecs"].update({"a\nb": {"raw": {}}}),
        "keys have only letters, digits",
    ),
    "a long rule": (
        lambda h, s: h["codecs"].update({"a" * 999: {"raw": {}}}),
        "keys have only letters, digits",
    ),
    "no codec": (put("codecs", "matrix", value={}), "exactly one of raw, rows, gptq, got none"),
    "two codecs": (
        lambda h, s: h["codecs"]["matrix"].update(raw={}),
        "exactly one of raw, rows, gptq, got raw, rows",
    ),
    "an unknown codec": (
        put("codecs", "matrix", value={"lqer": {}}),
        "header.codecs.matrix.lqer is not a setting",
    ),
    "bits": (put("codecs", "matrix", "rows", "bits", value=40), "bits must be from 2 to 8, got 40"),
    "fewer bits": (put("codecs", "matrix", "rows", "bits", value=5), "codes must be from -15 to 15"),
    "bits of text": (
        put("codecs", "matrix", "rows", "bits", value="6"),
        "rows.bits must be of type int, got '6'",
    ),
    "a scale": (put("codecs", "matrix", "rows", "scale", value="int8"), "rows.scale must be one of"),
    "wider scales": (
        put("codecs", "matrix", "rows", "scale", value="float32"),
        "its streams must be those of",
    ),
    "floor": (put("codecs", "matrix", "rows", "floor", value=-1.0), "floor must be finite and at least 0"),
    "tensors": (put("tensors", value={}), "header.tensors must be of type list, got {}"),
    "a tensor": (put("tensors", 1, value=3), "header.tensors.1 must be a mapping, got 3"),
    "a name": (put("tensors", 1, "name", value="a\nb"), "letters, digits, _ and dots, got 'a\\nb'"),
    "a long name": (put("tensors", 1, "name", value="a" * 9999), "letters, digits, _ and dots, got 'aaaa"),
    "a name twice": (
        put("tensors", 1, "name", value="blocks.0.mlp.up_proj.weight"),
        "must have different names",
    ),
    "another name": (put("tensors", 1, "name", value="x"), "weights do not fit: "),
    "a dtype": (put("tensors", 1, "dtype", value="int8"), "header.tensors.1.dtype must be one of"),
    "a narrow dtype": (
        put("tensors", 1, "dtype", value="bfloat16"),
        "must be torch.float32, got torch.bfloat16",
    ),
    "a rule": (
        put("tensors", 1, "rule", value="conv"),
        "header.codecs must have the rule of embedding.weight",
    ),
    "another rule": (put("tensors", 1, "rule", value="scalar"), "its streams must be those of"),
    "a shape": (
        put("tensors", 1, "shape", value=[32, 64]),
        "embedding.weight must have shape (64, 32), got (32, 64)",
    ),
    "a larger shape": (
        put("tensors", 1, "shape", value=[64, 33]),
        "stream embedding.values must be a whole zlib",
    ),
    "a huge shape": (put("tensors", 1, "shape", value=[2**20, 2**20]), "at most 1073741824 values"),
    "a bomb's shape": (
        put("tensors", 1, "shape", value=[2**15, 2**14]),
        "must inflate to at most 67108864 bytes",
    ),
    "an empty huge shape": (put("tensors", 1, "shape", value=[0, 2**62]), "at most 1073741824 values"),
    "a negative shape": (put("tensors", 1, "shape", value=[-64, -32]), "at most 1073741824 values"),
    "many dims": (put("tensors", 1, "shape", value=[1] * 60), "at most 1073741824 values"),
    "a shape of text": (
        put("tensors", 1, "shape", value=["64", 32]),
        "shape.0 must be of type int, got '64'",
    ),
    "a shape of true": (
        put("tensors", 1, "shape", value=[True, 32]),
        "shape.0 must be of type int, got True",
    ),
    "10**30": (put("tensors", 1, "shape", value=[BIG]), "shape.0 must fit 64 bits"),
    "a tensor less": (drop("tensors", 1), "its streams must be those of its tensors and codecs"),
    "a tensor less of many": (drop("tensors", 3), "must be a whole zlib stream"),
    "a stream's length": (put("streams", 0, "bytes", value=7), "lengths of its streams must add up to"),
    "a negative length": (
        put("streams", 0, "bytes", value=-7),
        "header.streams.0.bytes must be at least 0, got -7",
    ),
    "a stream less": (drop("streams", 0), "its streams must be those of its tensors and codecs"),
    "streams in another order": (put("streams", value=lambda s: s[::-1]), "its streams must be those of"),
    "a stream of another plane": (put("streams", 0, "plane", value="zeros"), "its streams must be those of"),
    "a tokenizer's size": (
        put("tokenizer", "size", value=2**30),
        "header.tokenizer.size must be from 1 to 16777216, got 1073741824",
    ),
    "a tokenizer of nothing": (
        put("tokenizer", "size", value=0),
        "tokenizer.size must be from 1 to 16777216, got 0",
    ),
    "a tokenizer's hash": (
        put("tokenizer_sha256", value="0" * 64),
        "its tokenizer's sha256 must be 000000000",
    ),
    "a tokenizer of no hash": (
        put("tokenizer_sha256", value=None),
        "sha256 must be None, as its header says",
    ),
    "another tokenizer": (stream(-1, at(0, 9)), "its tokenizer's sha256 must be"),
    "a hash": (put("tokenizer_sha256", value="Z" * 64), "must be 64 hexadecimal digits"),
    "seq_len 0": (put("seq_len", value=0), "from 1 to 2147483647, got 0"),
    "seq_len text": (put("seq_len", value="9" * 9999), "from 1 to 2147483647, got '999"),
    "a config": (put("config", value=[[]]), "config must be a mapping, got [[]]"),
    "2**40 ids": (put("config", "vocab_size", value=2**40), "vocab_size must be at most 1048576"),
    "layers": (put("config", "num_layers", value=300), "num_layers must be their 2, got 300"),
    "width": (
        put("config", "dim", value=65536),
        "embedding.weight must have shape (64, 65536), got (64, 32)",
    ),
    "a code": (stream(CODES, at(0, 32)), "codes must be from -31 to 31, got 32"),
    "a low code": (stream(CODES, at(0, -128)), "codes must be from -31 to 31, got -128"),
    "a code too many": (
        stream(CODES, lambda c: bytes(c) + b"\0"),
        "its stream matrix.codes must be a whole zlib stream",
    ),
    "a code too few": (
        stream(CODES, lambda c: bytes(c[:-1])),
        "its stream matrix.codes must be a whole zlib stream",
    ),
    "scales of 0": (stream(SCALES, lambda c: bytes(len(c))), "scales must be positive and finite, got 0.0"),
    "scales of NaN": (
        stream(SCALES, lambda c: b"\xff" * len(c)),
        "scales must be positive and finite, got nan",
    ),
    "NaN": (stream(HALVES, lambda c: b"\xff" * len(c)), "embedding.weight must be finite"),
    "NaN as they are": (stream(FLOATS, lambda c: b"\xff" * len(c)), "must be finite"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_of_another_kind_cost_one_line(name, whole, refused):
    change, message = STRUCTURES[name]
    header, streams = parts(whole)
    change(header, streams)
    assert message in refused(assemble(header, streams))


def test_files_of_another_kind_cost_one_line(whole, refused):
    header, streams = parts(whole)
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:8], whole[:9], whole + b"\0", whole + whole):
        assert "is damaged or cut short" in refused(data)
    for position in range(8, len(whole), 97):  # No flipped bit is missed.
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        assert "is damaged or cut short" in refused(bytes(flipped))
    assert "lengths of its streams must add up" in refused(assemble(header, [*streams, b"\0"]))
    assert "must be a whole zlib stream" in refused(with_header(whole, b"{" * 50, size=49))
    assert "its header must have at most 1048576 bytes" in refused(with_header(whole, b"{" * 50, size=2**21))
    for text in (b"{", b"[" * 100_000, b"9" * 60_000, b"\xff", b"[]", b"null", b'{"version":"1"}'):
        assert "its header" in refused(with_header(whole, text))


def with_header(whole: bytes, text: bytes, size: int | None = None) -> bytes:
    """Replaces the JSON header by any bytes, with a right checksum."""
    _, rest = disassemble(whole)
    small = zlib.compress(text)
    sizes = struct.pack("<II", len(small), len(text) if size is None else size)
    body = whole[:8] + sizes + small + bytes(rest)
    return body + struct.pack("<I", zlib.crc32(body))


def load_or_refuse(data: bytes) -> None:
    """Reads a container, which may only be refused in a line."""
    path = Path(tempfile.gettempdir()) / f"hostile-{os.getpid()}.plgolf"
    path.write_bytes(data)
    try:
        gpt = load_gpt(path)
    except UserError as error:
        message = str(error)
    else:
        assert gpt(torch.zeros(1, 4, dtype=torch.long)).shape == (1, 4, 64)
        return
    finally:
        path.unlink()
    assert message.startswith(f"{path}: ") and "\n" not in message


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_mutated_files_with_a_right_checksum_load_or_are_refused(whole, seed):
    body = mutated(whole[:-4], seed)
    if body.startswith(whole[:8]):
        load_or_refuse(body + struct.pack("<I", zlib.crc32(body)))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_mutated_headers_load_or_are_refused(whole, seed):
    header, _ = disassemble(whole)
    load_or_refuse(with_header(whole, mutated(json.dumps(header).encode(), seed)))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_mutated_streams_load_or_are_refused(whole, seed):
    header, streams = parts(whole)
    index = random.Random(seed).randrange(len(streams))
    stream(index - 1, lambda content: mutated(bytes(content), seed))(header, streams)
    load_or_refuse(assemble(header, streams))


LEAVES = [
    None,
    0,
    -1,
    1.5,
    float("nan"),
    "x",
    [],
    {},
    True,
    2**40,
    {"a": 1},
    10**30,
    1e400,
    [2**40],
    "scalar",
]


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), value=st.sampled_from(LEAVES))
def test_headers_with_a_leaf_replaced_load_or_are_refused(whole, seed, value):
    at, (header, streams) = random.Random(seed), parts(whole)
    node = {"header": header}
    key = "header"
    while isinstance(node[key], dict | list) and node[key] and (key == "header" or at.random() < 0.8):
        node = node[key]
        key = at.choice(list(node)) if isinstance(node, dict) else at.randrange(len(node))
    node[key] = copy.deepcopy(value)
    load_or_refuse(assemble(header, streams))


def test_a_carried_file_of_another_hash_is_refused_though_it_inflates(whole, refused):
    header, streams = parts(whole)
    streams[-1] = zlib.compress(b"[]")
    header["tokenizer"]["bytes"] = len(streams[-1])
    assert "its tokenizer's sha256 must be" in refused(assemble(header, streams))
    assert header["tokenizer_sha256"] == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.slow
def test_bombs_are_refused_in_bounded_memory(whole, tmp_path):
    header, streams = parts(whole)
    streams[CODES] = zlib.compress(bytes(2**28), 9)
    header["streams"][CODES]["bytes"] = len(streams[CODES])
    (tmp_path / "bomb.plgolf").write_bytes(assemble(header, streams))
    huge, streams = parts(whole)
    put("tensors", 1, "shape", value=[2**15, 2**14])(huge, streams)
    (tmp_path / "shape.plgolf").write_bytes(assemble(huge, streams))
    lists = b'{"version":1,"a":' + b"[" * 900 + b"[]," * 300_000
    (tmp_path / "lists.plgolf").write_bytes(with_header(whole, lists))
    (tmp_path / "header.plgolf").write_bytes(with_header(whole, b" " * 5_000_000))
    with (tmp_path / "large.plgolf").open("wb") as file:
        file.write(whole[:8])
        file.truncate(2**31)
    code = (
        "from plgolf.artifact import load_gpt\nimport plgolf.container\nlimit()\nfor path in sys.argv[1:]:\n"
        "    try:\n        load_gpt(path)\n    except ValueError as error:\n"
        "        print(str(error).removeprefix(path))\n"
    )
    names = ("bomb", "shape", "lists", "header", "large")
    said = run_bounded(code, *(tmp_path / f"{name}.plgolf" for name in names), mebibytes=200).splitlines()
    starts = (
        ": its stream matrix.codes must be a whole zlib stream",
        ": must inflate to at most 67108864 bytes",
        ": its header",
        ": its header must have at most 1048576 bytes",
        ": must have at most 1073741824 bytes",
    )
    assert len(said) == len(starts)
    for line, start in zip(said, starts, strict=True):
        assert line.startswith(start), line
