"""Fuzzes the readers of files of others: python benchmarks/fuzz.py TARGET [FOLDER] [-runs=N].

Targets are artifact, container, tensor_file, shard and manifest. Inputs that reach new code are kept in
FOLDER. Any exception other than a UserError ends the run, and its input is written to the working directory.
"""

import contextlib
import io
import json
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("fuzzing needs atheris: pip install atheris")

with atheris.instrument_imports(include=["plgolf"]):
    import torch

    from plgolf import GPT, GPTConfig
    from plgolf.artifact import load_gpt, save_artifact
    from plgolf.container import Container
    from plgolf.container.layout import disassemble
    from plgolf.data.manifest import MANIFEST, FileEntry, Manifest, Split, TokenizerEntry, read_manifest
    from plgolf.data.shards import ShardReader, open_shard, shard_header
    from plgolf.data.tokenizer import ByteTokenizer
    from plgolf.errors import UserError
    from plgolf.header import MAGIC
    from plgolf.model import AttentionConfig
    from plgolf.quantize.codec import Raw
    from plgolf.quantize.plan import CodecConfig
    from plgolf.quantize.rows import Rows
    from plgolf.tensor_file import load_tensors
    from plgolf.tensor_file.pickle_check import check_pickle

SCRATCH = Path(tempfile.mkdtemp(prefix="plgolf-fuzz-"))
ARTIFACT, SHARD = SCRATCH / "a.ptz", SCRATCH / "a_val_000000.bin"


def small_gpt() -> GPT:
    config = GPTConfig(
        vocab_size=8, dim=8, num_layers=1, attention=AttentionConfig(num_heads=2, num_kv_heads=1)
    )
    return GPT(config)


def small_artifact() -> bytes:
    save_artifact(small_gpt(), ARTIFACT)
    return ARTIFACT.read_bytes()


def small_container() -> bytes:
    """The JSON header and the streams of a container, with a NUL between them."""
    rules = {"matrix": Rows(bits=4), "embedding": Rows(bits=8)}
    codecs = {rule: CodecConfig(rows=codec) for rule, codec in rules.items()}
    form = Container({**codecs, "scalar": CodecConfig(raw=Raw())}, "zlib")
    save_artifact(small_gpt(), ARTIFACT, format=form)
    header, streams = disassemble(ARTIFACT.read_bytes())
    return json.dumps(header).encode() + b"\0" + bytes(streams)


def small_tensor_file() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.arange(6.0).view(2, 3), "b": [1, None, "c"]}, file)
    return file.getvalue()


def small_manifest() -> bytes:
    entry = FileEntry("a_val_000000.bin", 1064, "0" * 64, 20)
    splits = dict.fromkeys(("train", "val"), Split(1, 20, 20, 20, [entry], []))
    Manifest("a", TokenizerEntry.of(ByteTokenizer(), "tokenizer.json"), splits, [], {}).save(SCRATCH)
    return (SCRATCH / MANIFEST).read_bytes()


def read_payload(data: bytes) -> None:
    ARTIFACT.write_bytes(zlib.compress(data, 1))
    load_gpt(ARTIFACT)


def read_container(data: bytes) -> None:
    # Sizes and checksum are right: they keep a fuzzer from reaching what is behind them.
    text, _, streams = data.partition(b"\0")
    small = zlib.compress(text, 1)
    body = MAGIC + struct.pack("<II", len(small), len(text)) + small + streams
    ARTIFACT.write_bytes(body + struct.pack("<I", zlib.crc32(body)))
    load_gpt(ARTIFACT)


def read_tensors(data: bytes) -> None:
    # The pickle alone too: CRCs keep a fuzzer from reaching it inside its zip.
    try:
        load_tensors(io.BytesIO(data))
    except UserError:
        checked(data)


def checked(data: bytes) -> None:
    """Gives PyTorch what passes check_pickle: which may raise anything but not crash, hang or grow."""
    try:
        check_pickle(data, {"data/0": 24})
    except UserError:
        raise
    except Exception:  # load_tensors treats any exception as a damaged pickle
        return
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(TENSORS)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    file.seek(0)
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(file, map_location="cpu", weights_only=True)


def read_shard(data: bytes) -> None:
    SHARD.write_bytes(data)
    shard = open_shard(SHARD)
    ShardReader([shard], vocab_size=512).read(0, min(shard.num_tokens, 1000))


def read_json(data: bytes) -> None:
    (SCRATCH / MANIFEST).write_bytes(data)
    read_manifest(SCRATCH)


TENSORS = small_tensor_file()
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], bytes]]] = {
    "artifact": (read_payload, lambda: zlib.decompress(small_artifact())),
    "container": (read_container, small_container),
    "tensor_file": (read_tensors, lambda: TENSORS),
    "shard": (read_shard, lambda: shard_header(20) + bytes(40)),
    "manifest": (read_json, small_manifest),
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"the first argument must be one of {', '.join(TARGETS)}, got {name!r}")
    read, seed = TARGETS[name]
    folders = [word for word in sys.argv[2:] if not word.startswith("-")] or [str(SCRATCH / "corpus")]
    options = [word for word in sys.argv[2:] if word.startswith("-")]
    Path(folders[0]).mkdir(parents=True, exist_ok=True)
    (Path(folders[0]) / "seed").write_bytes(seed())
    if name == "tensor_file":
        with zipfile.ZipFile(io.BytesIO(TENSORS)) as archive:
            (Path(folders[0]) / "pickle").write_bytes(archive.read("archive/data.pkl"))

    def test(data: bytes) -> None:
        line = ""
        try:
            read(data)
        except UserError as error:
            line = str(error)
        assert "\n" not in line, json.dumps(line)

    atheris.Setup([sys.argv[0], *options, *folders], test)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
