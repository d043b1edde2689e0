"""Files of ``torch.save`` that are damaged, or made to do harm."""

import ast
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hostile.files import mutated, rezipped, saved
from hypothesis import example, given, settings
from hypothesis import strategies as st

import plgolf
from plgolf.errors import UserError
from plgolf.tensor_file import MAX_PICKLE_BYTES, load_tensors
from plgolf.tensor_file.pickle_check import check_pickle

PLAIN = {"a": torch.arange(6.0).view(2, 3), "b": [1, 2.5, None, True, ("é", 2**40)], "c": {3: torch.ones(4)}}
FILE = saved(PLAIN)


class Attack:
    def __reduce__(self):
        return open, ("ran", "w")


def refused(data: bytes) -> str:
    with pytest.raises(UserError) as error:
        load_tensors(io.BytesIO(data))
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def pickled(*parts: bytes) -> bytes:
    """A file whose pickle is made by hand, beside the records of ``FILE``."""
    return rezipped(FILE, data_pkl=b"\x80\x02" + b"".join(parts) + b".")


def test_what_was_saved_comes_back():
    state = OrderedDict(w=torch.randn(3, 4, dtype=torch.bfloat16).t(), n=torch.zeros(0))
    state._metadata = OrderedDict({"": {"version": 1}})
    value = {**PLAIN, "state": state, "whole": torch.tensor([1, -(2**60)])}
    loaded = load_tensors(io.BytesIO(saved(value)))
    assert loaded["b"] == value["b"] and torch.equal(loaded["c"][3], torch.ones(4))
    assert torch.equal(loaded["state"]["w"], state["w"]) and loaded["state"]._metadata == state._metadata
    shapes = load_tensors(io.BytesIO(saved(value)), map_location="meta", verify=False)
    assert shapes["a"].is_meta and shapes["a"].shape == (2, 3)
    assert load_tensors(io.BytesIO(rezipped(FILE)))["b"] == PLAIN["b"]


def test_files_are_unpickled_in_one_place():
    for path in Path(plgolf.__file__).parent.rglob("*.py"):
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        if any(ast.unparse(call) in ("torch.load", "pickle.load", "pickle.loads") for call in calls):
            assert path.parts[-2:] == ("tensor_file", "reading.py"), path


def test_a_flipped_bit_in_tensor_data_is_noticed_here_alone():
    spoilt = bytearray(FILE)
    spoilt[FILE.find(torch.arange(6.0).numpy().tobytes()) + 6] ^= 1
    believed = torch.load(io.BytesIO(bytes(spoilt)), weights_only=True)["a"]
    assert not torch.equal(believed, PLAIN["a"])
    assert "Bad CRC-32 for file 'archive/data/0'" in refused(bytes(spoilt))


DEEP = b"]" * 70 + b"a" * 69
GLOBALS = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0%dX\3\0\0\0cpuK%ctQ"


def tensor(
    size: bytes, stride: bytes, *, key: int = 0, numel: bytes = b"\6", offset: bytes = b"K\0"
) -> bytes:
    storage = STORAGE % (key, numel)
    return GLOBALS[0] + b"(" + storage + offset + size + stride + b"\x89" + GLOBALS[1] + b")RtR"


HUGE = b"\x8a\6" + (2**46).to_bytes(6, "little") + b"\x85"

CORRUPTIONS = {
    "empty": (b"", "must be a file of torch.save"),
    "text": (b"plain text " * 50, "must be a file of torch.save"),
    "legacy": (pickle.dumps({"a": 1}) * 50, "must be a file of torch.save"),
    "cut": (FILE[:-1], "is damaged or cut short"),
    "longer": (FILE + b"\0", "is damaged or cut short"),
    "twice": (FILE + FILE, "is damaged or cut short"),
    "python's zip": (rezipped(FILE)[:-98] + rezipped(FILE)[-22:], "is damaged or cut short"),
    "deflated": (rezipped(FILE, compression=zipfile.ZIP_DEFLATED), "must be stored, not compressed"),
    "other names": (
        rezipped(FILE).replace(b"archive/data/1", b"brchive/data/1"),
        "torch.save does not write",
    ),
    "the same name": (rezipped(FILE).replace(b"data/1", b"DATA/0"), "must have different names"),
    "no pickle": (rezipped(FILE).replace(b"data.pkl", b"data.pkk"), "but has no data.pkl"),
    "large pickle": (
        rezipped(FILE, data_pkl=b"]" * (MAX_PICKLE_BYTES + 1)),
        "its data.pkl must have at most 2097152 bytes, got 2097153",
    ),
    "a call": (saved({"x": Attack()}), r"it names 'builtins.open'|it names '_?io.open'"),
    "a class": (saved({"x": torch.float32}), "it names 'torch.float32'"),
    "an allocation": (
        pickled(b"c__builtin__\nbytearray\n\x8a\5\0\0\0\0\x20\x85R"),
        "it names '__builtin__.bytearray'",
    ),
    "a parameter": (saved(torch.nn.Parameter(torch.ones(1))), "it names 'torch._utils._rebuild_parameter'"),
    "a sparse tensor": (saved(torch.eye(2).to_sparse()), "it names 'torch"),
    "a meta tensor": (saved(torch.ones(2, device="meta")), "it names 'torch"),
    "another dtype": (saved(torch.ones(2, dtype=torch.complex64)), "it names 'torch.ComplexFloatStorage'"),
    "with a gradient": (saved(torch.ones(2, requires_grad=True)), "holds a malformed tensor"),
    "a large integer": (saved(10**30), "its integers must have at most 8 bytes, got 13"),
    "a tuple as a key": (saved({(1, 2): 3}), "its keys must be strings or integers, got tuple"),
    "an object": (saved(OrderedDict(a=GLOBALS)), "it names '_codecs.encode'"),
    "nested": (pickled(DEEP), "must be nested at most 64 deep"),
    "in itself": (pickled(b"]q\0h\0a"), "must be nested at most 64 deep"),
    "a function": (pickled(GLOBALS[1]), "must hold plain tensors and values only, got type"),
    "a storage": (
        pickled(STORAGE % (0, b"\6")),
        "must hold plain tensors and values only, got TypedStorage",
    ),
    "attributes": (pickled(GLOBALS[1] + b")R}X\5\0\0\0itemsNsb"), "an object in it has attributes"),
    "copies": (pickled(GLOBALS[1] + b"}\x85R"), "must hold plain tensors only: _empty_dict"),
    "larger than its record": (
        pickled(tensor(b"K\x20\x85", b"K\1\x85", numel=b"\x20")),
        "storage '0' must have 24 bytes, got 32 values",
    ),
    "no such record": (pickled(tensor(b"K\6\x85", b"K\1\x85", key=9)), "storage '9' must have None bytes"),
    "stride 0": (pickled(tensor(HUGE, b"K\0\x85")), r"shape \(70368744177664,\) in a storage of 6 values"),
    "beyond the end": (pickled(tensor(b"K\6\x85", b"K\1\x85", offset=b"K\1")), "in a storage of 6 values"),
    "a negative offset": (pickled(tensor(b"K\1\x85", b"K\1\x85", offset=b"J\xff\xff\xff\xff")), "malformed"),
    "one dimension more": (pickled(tensor(b"K\1\x85", b"K\1K\1\x86")), "holds a malformed tensor"),
    "set an element": (pickled(tensor(b"K\6\x85", b"K\1\x85") + b"K\0K\0s"), "item assignment"),
    "many of one": (
        pickled(b"]q\0(" + tensor(b"K\6\x85", b"K\1\x85") + b"q\1" + b"h\1" * 100 + b"e"),
        "its tensors must fit into its [0-9]+ bytes of data, got 2424",
    ),
    "an unknown operation": (pickled(b"I1\n"), "must hold plain tensors only: 73"),
    "cut pickle": (rezipped(FILE, data_pkl=b"\x80\x02]"), "must hold plain tensors only: EOFError"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_cost_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, message = CORRUPTIONS[name]
    assert re.search(message, refused(data)), refused(data)
    assert not list(tmp_path.iterdir())


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_mutated_files_load_what_was_saved_or_are_refused(seed):
    try:
        loaded = load_tensors(io.BytesIO(mutated(FILE, seed)))
    except UserError:
        return
    assert loaded["b"] == PLAIN["b"] and torch.equal(loaded["a"], PLAIN["a"])


with zipfile.ZipFile(io.BytesIO(FILE)) as archive:
    PICKLE = archive.read("archive/data.pkl")
    SIZES = {info.filename.partition("/")[2]: info.file_size for info in archive.infolist()}


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
@example(seed=0)
def test_mutated_pickles_are_refused_or_plain(seed):
    data = rezipped(FILE, data_pkl=mutated(PICKLE, seed))
    try:
        loaded = load_tensors(io.BytesIO(data))
    except UserError:
        return
    assert_plain(loaded)


def assert_plain(value):
    """Fails for anything but tensors with all their data, and values, in containers."""
    if isinstance(value, torch.Tensor):
        assert type(value) is torch.Tensor and not value.requires_grad and value.grad_fn is None
        assert value.clone().untyped_storage().nbytes() <= len(FILE)
        assert not set(vars(value))
    elif type(value) in (dict, OrderedDict):
        assert all(type(key) in (str, int) for key in value)
        assert set(getattr(value, "__dict__", ())) <= {"_metadata"}
        for item in value.values():
            assert_plain(item)
    elif type(value) in (list, tuple):
        for item in value:
            assert_plain(item)
    else:
        assert type(value) in (str, int, float, bool, type(None))


class Other:
    """Stands for anything that is not plain."""


@pytest.mark.parametrize("value", [Other(), {"a": [Other()]}, torch.nn.Parameter(torch.ones(2)), {1.5: 2}])
def test_what_is_not_plain_fails_the_check_above(value):
    with pytest.raises(AssertionError):
        assert_plain(value)


def test_check_pickle_accepts_plain_tensors_and_refuses_a_record_of_another_size():
    check_pickle(PICKLE, SIZES)
    with pytest.raises(UserError, match="must have 16 bytes, got 6 values"):
        check_pickle(PICKLE, {**SIZES, "data/0": 16})
