import json

import numpy as np
import pytest
from golden_data import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.data.packed import PackedStream
from plgolf.data.shards import ShardReader, find_shards, open_shard, write_shard
from plgolf.data.stream import BatchPlan
from plgolf.data.windows import WindowStream
from plgolf.errors import UserError

RECORD = GOLDEN / "records" / "2026-04-27"
META = json.loads((RECORD / "meta.json").read_text())
SEQ_LEN = META["model"]["train_seq_len"]
BOS = META["bos_id"]


def arrays(name):
    with np.load(RECORD / name) as content:
        return dict(content)


def shards(folder=RECORD):
    return ShardReader(find_shards(folder, "train"))


def packed(reader, plan, *, rank=0, seq_len=SEQ_LEN, most=SEQ_LEN, bos_id=BOS):
    return PackedStream(reader, plan, seq_len=seq_len, rank=rank, bos_id=bos_id, max_document_tokens=most)


class CountingReader(ShardReader):
    """Counts the tokens that are read of each shard."""

    def _fill(self, index, offset, into):
        self.tokens_read = getattr(self, "tokens_read", 0) + into.size
        super()._fill(index, offset, into)


def test_packed_rows_are_those_of_the_record():
    golden, optimizer = arrays("loader.npz"), META["optimizer"]
    sequences = optimizer["train_batch_tokens"] // optimizer["grad_accum_steps"] // SEQ_LEN
    checked = 0
    for name in sorted(golden, reverse=True):  # A batch depends on its number alone.
        world_size, rank, index, kind = (part.lstrip("wsrankb") for part in name.split("_"))
        if kind != "x":
            continue
        # The record keeps the rows of its ranks in one shard; here those are a step.
        stream = packed(shards(), BatchPlan(sequences, sequences, 1, int(world_size)), rank=int(rank))
        batch = stream.batch(int(index))
        np.testing.assert_array_equal(batch.input_ids.numpy(), golden[name][None])
        np.testing.assert_array_equal(batch.target_ids.numpy(), golden[f"{name[:-1]}y"][None])
        borders = golden[f"{name[:-1]}cu"]
        padding = np.full(64 - borders.size, sequences * SEQ_LEN)
        np.testing.assert_array_equal(batch.cu_seqlens.numpy(), [*borders, *padding])
        checked += 1
    assert checked == 27


def test_windows_are_those_of_the_record():
    expected = arrays("quant_hessians.npz")["calib_x"]
    stream = WindowStream(shards(), BatchPlan(4, 4, 2, 1), seq_len=SEQ_LEN, rank=0)
    for index in (2, 0, 1):
        batch = stream.batch(index)
        np.testing.assert_array_equal(batch.input_ids.numpy(), expected[index])
        np.testing.assert_array_equal(batch.input_ids[:, 1:], batch.target_ids[:, :-1])


def as_in_the_record(sizes, seq_len, count):
    """Draws windows with a state, step by step as specified: (shard, start) each."""
    generator = np.random.Generator(np.random.PCG64(0))
    starts = [[] for _ in sizes]
    drawn = []
    while len(drawn) < count:
        if not any(starts):
            for shard, size in enumerate(sizes):
                most = min(seq_len - 1, max(0, size - seq_len - 1))
                phase = int(generator.integers(0, most + 1)) if most > 0 else 0
                order = generator.permutation((size - 1 - phase) // seq_len)
                starts[shard] = (phase + order * seq_len).tolist()
        left = np.array([len(each) for each in starts])
        shard = int(generator.choice(len(sizes), p=left / left.sum()))
        drawn.append((shard, starts[shard].pop()))
    return drawn


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), seq_len=st.integers(1, 9), data=st.data())
def test_windows_need_no_state(tmp_path_factory, sizes, seq_len, data):
    folder = tmp_path_factory.mktemp("windows")
    sizes = [*sizes, seq_len + 1]
    for number, size in enumerate(sizes):
        write_shard(folder / f"t_train_{number:06d}.bin", np.arange(size, dtype=np.uint16) + 100 * number)
    stream = WindowStream(shards(folder), BatchPlan(2, 2, 1, 1), seq_len=seq_len, rank=0)
    expected = as_in_the_record(sizes, seq_len, 120)
    for index in data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=5)):
        rows = [100 * shard + start for shard, start in expected[2 * index : 2 * index + 2]]
        np.testing.assert_array_equal(stream.batch(index).input_ids[:, 0], rows)
        np.testing.assert_array_equal(stream.batch(index).target_ids[:, -1], np.add(rows, seq_len))


def rows_by_step(make, plans, steps):
    found = []
    for plan in plans:
        streams = [make(plan, rank) for rank in range(plan.world_size)]
        found.append(
            [
                {
                    (*x.tolist(), *y.tolist())
                    for stream in streams
                    for batch in stream.step(step)
                    for x, y in zip(batch.input_ids, batch.target_ids, strict=True)
                }
                for step in range(steps)
            ]
        )
    return found


def test_any_number_of_ranks_trains_on_the_same_rows():
    plans = [BatchPlan(4, 4, 8 // ranks, ranks) for ranks in (1, 2, 4, 8)]
    found = rows_by_step(lambda plan, rank: packed(shards(), plan, rank=rank), plans, steps=9)
    assert all(each == found[0] for each in found) and all(len(step) == 8 for step in found[0])
    plans = [BatchPlan(4, min(4, 16 // ranks), max(1, 4 // ranks), ranks) for ranks in (1, 2, 8, 16)]
    found = rows_by_step(
        lambda plan, rank: WindowStream(shards(), plan, seq_len=SEQ_LEN, rank=rank), plans, steps=30
    )
    assert all(each == found[0] for each in found)


def write(folder, *documents_of_shards):
    """Writes a shard for each list of documents, given by their lengths; a negative one has no BOS."""
    for number, lengths in enumerate(documents_of_shards):
        tokens = [t for n in lengths for t in ([7] * -n if n < 0 else [BOS] + [7] * (n - 1))]
        write_shard(folder / f"t_train_{number:06d}.bin", np.array(tokens, dtype=np.uint16))
    return ShardReader(find_shards(folder, "train"))


def test_a_step_lies_in_one_shard_from_its_first_document_on(tmp_path):
    reader = write(tmp_path, [-3, 10, 12], [5, 4], [-40], [30])
    stream = packed(reader, BatchPlan(1, 1, 1, 2), seq_len=4, most=4)
    starts = [stream.range_of(index, 0)[0] for index in range(7)]
    # Shards begin at 0, 25, 34 and 74; the second is too short for a step, the third has no document.
    assert starts == [3, 13, 74, 84, 94, 3, 13]
    assert [stream.range_of(index, 1)[0] - start for index, start in enumerate(starts)] == [5] * 7


def test_long_documents_are_cut_from_their_start(tmp_path):
    reader = write(tmp_path, [3, 10, 1, 1, 30])
    [batch] = packed(reader, BatchPlan(3, 3, 1, 1), seq_len=8, most=4).step(0)
    assert batch.cu_seqlens[:10].tolist() == [0, 3, 7, 11, 13, 14, 15, 19, 23, 24]
    assert batch.cu_seqlens.shape == (64,) and set(batch.cu_seqlens[10:].tolist()) == {24}
    [whole] = packed(reader, BatchPlan(3, 3, 1, 1), seq_len=8, most=1000).step(0)
    assert whole.cu_seqlens[:7].tolist() == [0, 3, 13, 14, 15, 24, 24]


def test_a_row_of_more_documents_than_usual_has_twice_as_many_borders(tmp_path):
    reader = write(tmp_path, [100] * 1010 + [1] * 100 + [100] * 990)
    stream = packed(reader, BatchPlan(1, 1, 1, 1), seq_len=100, most=100)
    shapes = {stream.batch(index).cu_seqlens.numel() for index in (*range(20), *range(995, 1005))}
    assert shapes == {64, 128} and stream.num_borders == 64


def test_a_batch_is_found_without_the_tokens_before_it(tmp_path):
    write(tmp_path, *([100] * 500 for _ in range(6)))
    paths = sorted(tmp_path.glob("*.bin"))
    reader = CountingReader([open_shard(path) for path in paths])
    for stream in (
        packed(reader, BatchPlan(2, 2, 1, 1), seq_len=32),
        WindowStream(reader, BatchPlan(2, 2, 1, 1), seq_len=32, rank=0),
    ):
        reader.tokens_read = 0
        stream.batch(4000)
        assert reader.tokens_read <= 66


def test_streams_describe_the_place_of_a_batch():
    stream = packed(shards(), BatchPlan(4, 4, 2, 2))
    start, end = stream.range_of(4, 0)[0], stream.range_of(5, 1)[1]
    path = RECORD / "fineweb_train_000000.bin"
    assert stream.place_of(4, 5, range(2)) == f"training tokens {start:,} to {end:,}, from {path} on"
    windows = WindowStream(shards(), BatchPlan(2, 2, 1, 2), seq_len=SEQ_LEN, rank=1)
    first = ", ".join(f"{s:,}" for s in windows.starts_of(3, 0) + windows.starts_of(3, 1))
    assert windows.place_of(3, 3, range(2)) == f"windows of 24 training tokens from {first} on"
    assert windows.place_of(3, 4, range(2)).endswith(" and others on")


def test_what_cannot_be_packed_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be at most 2, the share of each of 8 ranks.*, got 4"):
        packed(shards(), BatchPlan(4, 2, 1, 8))
    reader = write(tmp_path, [-10, 20], [-30])
    with pytest.raises(UserError, match="must fit a shard with 20 tokens.*, got 20 in 1 rows"):
        packed(reader, BatchPlan(5, 5, 1, 1), seq_len=4)
    with pytest.raises(UserError, match="must be below the 30 tokens of the largest shard, got 30"):
        WindowStream(reader, BatchPlan(1, 1, 1, 1), seq_len=30, rank=0)
