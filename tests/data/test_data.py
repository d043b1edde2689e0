import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from threading import Event, current_thread

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, MODELS, VOCAB_SIZE, arrays, meta
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plgolf.data.loader import BatchLoader
from plgolf.data.shards import ShardReader, find_shards, find_side_cars, open_shard, write_shard
from plgolf.data.stream import Batch, BatchPlan, TrainStream, ValidationSplit, plan_batches
from plgolf.errors import UserError


def reader(name: str, split: str) -> ShardReader:
    return ShardReader(find_shards(GOLDEN / name, split), vocab_size=VOCAB_SIZE)


@MODELS
def test_training_batches_are_the_references(name):
    golden, seq_len = arrays(name, "batches"), meta(name)["seq_len"]
    checked = 0
    for key in golden:
        if not key.endswith("_x"):
            continue
        world_size, rank, accum = (int("".join(filter(str.isdigit, p))) for p in key.split("_")[:3])
        sequences = meta(name)["batches"]["global_tokens"] // (world_size * accum * seq_len)
        plan = BatchPlan(sequences, sequences, accum, world_size)
        stream = TrainStream(reader(name, "train"), plan, seq_len=seq_len, rank=rank)
        # Backwards: a batch depends on its number alone.
        for k in reversed(range(6)):
            batch = stream.batch(k)
            assert batch.num_sequences == sequences
            np.testing.assert_array_equal(batch.input_ids.numpy(), golden[key][k])
            np.testing.assert_array_equal(batch.target_ids.numpy(), golden[key[:-1] + "y"][k])
            checked += 1
    assert checked == 36


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), data=st.data())
def test_reader_repeats_the_concatenated_shards(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("shards")
    total = sum(sizes)
    tokens = np.arange(total, dtype=np.uint16)
    for i, chunk in enumerate(np.split(tokens, np.cumsum(sizes)[:-1])):
        write_shard(folder / f"t_train_{i:06d}.bin", chunk)
    shards = ShardReader(find_shards(folder, "train"), vocab_size=total + 1)
    start, count = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 40))
    if total == 0 and count:
        with pytest.raises(ValueError, match="has no tokens"):
            shards.read(start, count)
    else:
        expected = [tokens[(start + i) % total] for i in range(count)]
        assert shards.read(start, count).tolist() == expected


@settings(max_examples=60)
@given(data=st.data())
def test_validation_scores_every_sequence_once_on_any_number_of_ranks(tmp_path_factory, data):
    seq_len = data.draw(st.integers(1, 7))
    total = data.draw(st.integers(seq_len + 1, 200))
    world_size = data.draw(st.integers(1, (total - 1) // seq_len))
    batch_sequences = data.draw(st.integers(1, 6))
    path = tmp_path_factory.mktemp("val") / "v_val_000000.bin"
    write_shard(path, np.arange(total, dtype=np.uint16))
    source = ShardReader([open_shard(path)], vocab_size=total)
    inputs, targets = [], []
    for rank in range(world_size):
        split = ValidationSplit(
            source, seq_len=seq_len, batch_sequences=batch_sequences, rank=rank, world_size=world_size
        )
        assert len(split) == math.ceil((split.last - split.first) / batch_sequences)
        padding = len(split) * split.batch_sequences - (split.last - split.first)
        assert 0 <= padding < len(split) and split.batch_sequences <= batch_sequences
        for k in range(len(split)):
            batch = split.batch(k)
            assert batch.input_ids.shape == (split.batch_sequences, seq_len)
            inputs += batch.input_ids[: batch.num_sequences].flatten().tolist()
            targets += batch.target_ids[: batch.num_sequences].flatten().tolist()
    expected = (total - 1) // seq_len * seq_len
    assert split.num_tokens == expected
    assert inputs == list(range(expected)) and targets == list(range(1, expected + 1))


def test_plan_keeps_the_global_batch_and_refuses_what_does_not_divide():
    def plan(world_size, micro=12, tokens=393_216):
        return plan_batches(
            global_batch_tokens=tokens,
            seq_len=4096,
            micro_batch_sequences=micro,
            world_size=world_size,
        )

    assert plan(8) == BatchPlan(12, 12, 1, 8)
    assert plan(1) == BatchPlan(12, 12, 8, 1)
    assert plan(16) == BatchPlan(12, 6, 1, 16)
    with pytest.raises(ValueError, match=r"each of 7 ranks, got 96 sequences of 4096"):
        plan(7)
    with pytest.raises(
        ValueError, match="must divide the 96 sequences of a step.*the 32 of each of 3 ranks, got 12"
    ):
        plan(3)
    with pytest.raises(ValueError, match=r"multiple of data.seq_len \(4096\), got 393217"):
        plan(1, tokens=393_217)


@pytest.mark.parametrize("micro", [4, 8, 16])
def test_any_number_of_ranks_trains_on_the_same_tokens(micro):
    source, steps = reader("tied", "train"), {}
    for world_size in (1, 2, 4, 8, 16):
        plan = plan_batches(
            global_batch_tokens=1024, seq_len=64, micro_batch_sequences=micro, world_size=world_size
        )
        streams = [TrainStream(source, plan, seq_len=64, rank=r) for r in range(world_size)]
        rows = [
            (tuple(x), tuple(y))
            for k in range(3 * plan.accumulation)
            for stream in streams
            for x, y in zip(*(ids.tolist() for ids in stream.batch(k)[:2]), strict=True)
        ]
        assert len(rows) == 3 * 16
        steps[world_size] = [set(rows[i : i + 16]) for i in (0, 16, 32)]
    assert all(step == steps[1] for step in steps.values())


def test_a_batch_moves_with_its_borders_if_it_has_them():
    ids = torch.zeros(1, 8, dtype=torch.uint16)
    plain, packed = Batch(ids, ids, 1), Batch(ids, ids, 1, cu_seqlens=torch.tensor([0, 3, 8]).int())
    moved = packed.to(torch.device("meta"))
    assert moved.num_sequences == 1
    assert {part.device.type for part in (moved.input_ids, moved.target_ids, moved.cu_seqlens)} == {"meta"}
    assert plain.to(torch.device("meta")).cu_seqlens is None
    assert packed.to(ids.device) is packed


def test_bad_splits_are_refused(tmp_path):
    write_shard(tmp_path / "v_val_000000.bin", np.arange(20, dtype=np.uint16))
    source = ShardReader(find_shards(tmp_path, "val"), vocab_size=32)
    with pytest.raises(ValueError, match=r"less one \(19\), got 20"):
        ValidationSplit(source, seq_len=20, batch_sequences=1)
    with pytest.raises(ValueError, match="each of 5 ranks, got 4 sequences of 4 tokens"):
        ValidationSplit(source, seq_len=4, batch_sequences=1, world_size=5)
    with pytest.raises(ValueError, match=r"at least data.seq_len \(4\), got 3"):
        ValidationSplit(source, seq_len=4, batch_sequences=1, max_tokens=3)
    assert ValidationSplit(source, seq_len=4, batch_sequences=1, max_tokens=9).num_tokens == 8


def test_bad_shards_are_refused_by_name(tmp_path):
    path = tmp_path / "x_train_000000.bin"
    write_shard(path, np.arange(100, dtype=np.uint16))
    whole = path.read_bytes()
    assert len(whole) == 1024 + 200 and not list(tmp_path.glob("*.partial"))
    header = np.frombuffer(whole[:1024], "<i4")
    assert header[:3].tolist() == [20240520, 1, 100] and not header[3:].any()
    for content, message in [
        (whole[:-1], "size must be 1224 bytes for the 100 tokens in its header, got 1223"),
        (whole + b"\0", "got 1225"),
        (b"\0" * 1224, "is not a token shard"),
        (whole[:100], "is not a token shard"),
        (whole[:3], "is not a token shard"),
        (b"", "is not a token shard"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            open_shard(path)
        assert str(path) in str(error.value)
    with pytest.raises(ValueError, match="cannot be read"):
        open_shard(tmp_path / "none.bin")
    with pytest.raises(ValueError, match="no token shard matches"):
        find_shards(tmp_path, "val")


@pytest.mark.parametrize("name", ["a_val_000000.bytes", "a_val_bytes_000000.bin"])
def test_byte_side_cars_are_read_beside_their_shards(tmp_path, name):
    write_shard(tmp_path / "a_val_000000.bin", np.arange(10, dtype=np.uint16))
    write_shard(tmp_path / name, np.arange(100, 110, dtype=np.uint16))
    shards = find_shards(tmp_path, "val")
    assert [s.path.name for s in shards] == ["a_val_000000.bin"]
    side_cars = find_side_cars(tmp_path, "val", shards)
    assert [s.path.name for s in side_cars] == [name]
    split = ValidationSplit(
        ShardReader(shards, vocab_size=10), seq_len=3, batch_sequences=2, raw_bytes=ShardReader(side_cars)
    )
    first, last = split.batch(0), split.batch(1)
    assert first.target_ids.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (first.first, last.first, last.num_sequences) == (0, 6, 1)
    assert split.raw_bytes.read(last.first + 1, 3).tolist() == [107, 108, 109]
    assert find_side_cars(tmp_path, "train", []) == []
    write_shard(tmp_path / name, np.arange(9, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"a count for each token, got \[9\] counts for \[10\] tokens"):
        find_side_cars(tmp_path, "val", shards)


def test_reader_names_ids_outside_the_vocabulary_and_shrunk_files(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(100, dtype=np.uint16))
    source = ShardReader([open_shard(path)], vocab_size=99)
    assert source.read(0, 99).size == 99
    with pytest.raises(ValueError, match="below vocab_size 99, got 99 near token 99"):
        source.read(50, 50)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"a\.bin: has changed since it was opened"):
        source.read(50, 50)


def test_loader_prefetches_in_order_and_reports_errors():
    made = []

    def make(index):
        made.append(index)
        if index == 6:
            raise ValueError("shard 6")
        return index

    loader = BatchLoader(make, 9, start=lambda: 2)
    assert len(loader) == 7
    iterator = iter(loader)
    assert [next(iterator) for _ in range(4)] == [2, 3, 4, 5]
    with pytest.raises(ValueError, match="shard 6"):
        next(iterator)
    assert made[:5] == [2, 3, 4, 5, 6]


def test_loader_prepares_the_next_batches_in_the_background():
    ahead, threads = Event(), []

    def make(index):
        threads.append(current_thread().name)
        if index == 3:
            ahead.set()
        return index

    iterator = iter(BatchLoader(make, 9))
    assert next(iterator) == 0
    assert ahead.wait(60)
    iterator.close()
    assert len(threads) >= 4 and all(name.startswith("batches") for name in threads)


def test_a_closed_loader_cancels_batches_that_have_not_started(monkeypatch):
    made, begun, closing, end = [], Event(), Event(), ThreadPoolExecutor.shutdown

    def make(index):
        made.append(index)
        if index == 1:
            begun.set()
            assert closing.wait(60)
        return index

    def shutdown(pool, wait=True, *, cancel_futures=False):
        end(pool, wait=False, cancel_futures=cancel_futures)
        closing.set()
        end(pool, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    iterator = iter(BatchLoader(make, 9))
    assert next(iterator) == 0
    assert begun.wait(60)
    iterator.close()
    assert made == [0, 1]


def test_a_copied_reader_has_files_of_its_own(tmp_path):
    write_shard(tmp_path / "a.bin", np.arange(50, dtype=np.uint16))
    source = ShardReader([open_shard(tmp_path / "a.bin")])
    assert source.read(0, 3).tolist() == [0, 1, 2]
    for copied in (copy(source), deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert copied.read(7, 2).tolist() == [7, 8]
        copied.close()
    del copied
    assert source.read(4, 2).tolist() == [4, 5]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_shards(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("pace", [(0.0,), (0.004, 0.0, 0.0, 0.02), (0.01, 0.0)])
def test_a_slow_disk_changes_neither_batches_nor_their_order(tmp_path, pace):
    class SlowReader(ShardReader):
        reads = 0

        def _fill(self, index, offset, into):
            self.reads += 1
            time.sleep(pace[self.reads % len(pace)])
            super()._fill(index, offset, into)

    for number, size in enumerate((301, 77, 500)):
        write_shard(tmp_path / f"t_train_{number:06d}.bin", np.arange(size, dtype=np.uint16) + 1000 * number)
    shards = find_shards(tmp_path, "train")
    slow, fast = (
        TrainStream(reader(shards), BatchPlan(2, 2, 1, 2), seq_len=16, rank=1)
        for reader in (SlowReader, ShardReader)
    )
    made = list(BatchLoader(slow.batch, 45, start=lambda: 5))
    assert slow.reader.reads > len(made) == 40  # Some cross a border.
    for index, batch in enumerate(made, start=5):
        expected = fast.batch(index)
        np.testing.assert_array_equal(batch.input_ids, expected.input_ids)
        np.testing.assert_array_equal(batch.target_ids, expected.target_ids)
