"""Token shards and byte side-cars that are damaged or not regular files."""

import os

import numpy as np
import pytest
from hostile.files import mutated
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.data.shards import ShardReader, find_shards, find_side_cars, open_shard, shard_header, write_shard
from plgolf.errors import UserError

TOKENS = np.arange(300, dtype=np.uint16)
WHOLE = shard_header(300) + TOKENS.tobytes()


def header(magic=20240520, version=1, num_tokens=300, size=1024) -> bytes:
    return np.array([magic, version, num_tokens] + [0] * 253, "<i4").tobytes()[:size]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a token shard"),
        (header(size=1023), "is not a token shard"),
        (header(magic=0) + bytes(600), "must start with 20240520, 1, got 0, 1 in 1624 bytes"),
        (header(version=2) + bytes(600), "got 20240520, 2 in 1624 bytes"),
        (header(num_tokens=-1) + bytes(600), "for the -1 tokens in its header"),
        (header(num_tokens=-(2**31)), "for the -2147483648 tokens in its header"),
        (header(num_tokens=2**31 - 1) + bytes(600), "must be 4294968318 bytes for the 2147483647 tokens"),
        (header() + bytes(599), "size must be 1624 bytes for the 300 tokens in its header, got 1623"),
        (header() + bytes(602), "got 1626"),
    ],
)
def test_damaged_shards_are_refused_in_one_line(tmp_path, data, message):
    path = tmp_path / "x_val_000000.bin"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        find_shards(tmp_path, "val")
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket to nowhere"])
@pytest.mark.parametrize("name", ["x_val_000000.bin", "x_val_000000.bytes", "x_val_bytes_000000.bin"])
def test_pipes_folders_and_devices_are_refused_without_waiting(tmp_path, kind, name):
    write_shard(tmp_path / "a_val_000000.bin", TOKENS)
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        find_side_cars(tmp_path, "val", find_shards(tmp_path, "val"))


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_mutated_shards_are_read_whole_or_refused(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "m_val_000000.bin"
    path.write_bytes(mutated(WHOLE, seed))
    try:
        shard = open_shard(path)
        tokens = ShardReader([shard], vocab_size=512).read(0, shard.num_tokens)
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message
        return
    assert tokens.size == shard.num_tokens and (not tokens.size or tokens.max() < 512)
