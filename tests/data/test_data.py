import numpy as np
import pytest
import torch
from golden_data import GOLDEN, MODELS, TOKENIZER, VOCAB_SIZE, arrays, meta
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from plgolf.data.byte_counts import byte_counts
from plgolf.data.corpus import document_hash, is_validation, stdlib_documents
from plgolf.data.prepare import decode_documents, encode_documents, prepare_stdlib
from plgolf.data.shards import ShardReader, find_shards, open_shard, write_shard
from plgolf.data.stream import (
    BatchLoader,
    BatchPlan,
    TrainStream,
    ValidationSplit,
    plan_batches,
)
from plgolf.data.tokenizer import load_tokenizer, train_lossless_bpe


def reader(name: str, split: str) -> ShardReader:
    shards = find_shards(str(GOLDEN / name / f"fineweb_{split}_*.bin"))
    return ShardReader(shards, vocab_size=VOCAB_SIZE)


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


def test_byte_tables_are_the_references():
    golden = arrays("tied", "bpb_luts")
    tables = byte_counts(load_tokenizer(TOKENIZER, vocab_size=VOCAB_SIZE))
    np.testing.assert_array_equal(tables.base_bytes.numpy(), golden["base_bytes"])
    np.testing.assert_array_equal(tables.has_leading_space.numpy(), golden["has_leading_space"])
    np.testing.assert_array_equal(tables.is_boundary.numpy(), golden["is_boundary"])


def test_ids_past_the_tokenizer_are_boundaries_without_bytes():
    tables = byte_counts(load_tokenizer(TOKENIZER, vocab_size=VOCAB_SIZE), size=VOCAB_SIZE + 8)
    assert tables.is_boundary[VOCAB_SIZE:].all() and not tables.base_bytes[VOCAB_SIZE:].any()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), data=st.data())
def test_reader_is_the_endless_concatenation(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("shards")
    total = sum(sizes)
    tokens = np.arange(total, dtype=np.uint16)
    for i, chunk in enumerate(np.split(tokens, np.cumsum(sizes)[:-1])):
        write_shard(folder / f"t_train_{i:06d}.bin", chunk)
    shards = ShardReader(find_shards(str(folder / "*.bin")), vocab_size=total + 1)
    start, count = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 40))
    if total == 0 and count:
        with pytest.raises(ValueError, match="holds no tokens"):
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
        assert len(split) >= 1
        for k in range(len(split)):
            batch = split.batch(k)
            assert batch.input_ids.shape == (batch_sequences, seq_len)
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


def test_bad_splits_are_refused(tmp_path):
    write_shard(tmp_path / "v_val_000000.bin", np.arange(20, dtype=np.uint16))
    source = ShardReader(find_shards(str(tmp_path / "*")), vocab_size=32)
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
        (b"\0" * 1224, "is no token shard"),
        (whole[:100], "is no token shard"),
        (whole[:3], "is no token shard"),
        (b"", "is no token shard"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            open_shard(path)
        assert str(path) in str(error.value)
    with pytest.raises(ValueError, match="cannot be read"):
        open_shard(tmp_path / "none.bin")
    with pytest.raises(ValueError, match="no token shard matches"):
        find_shards(str(tmp_path / "nothing_*.bin"))


def test_byte_side_cars_are_no_shards(tmp_path):
    write_shard(tmp_path / "a_val_000000.bin", np.arange(4, dtype=np.uint16))
    write_shard(tmp_path / "a_val_bytes_000000.bin", np.arange(4, dtype=np.uint16))
    assert [s.path.name for s in find_shards(str(tmp_path / "*_val_*.bin"))] == ["a_val_000000.bin"]


def test_reader_names_ids_outside_the_vocabulary_and_shrunk_files(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(100, dtype=np.uint16))
    source = ShardReader([open_shard(path)], vocab_size=99)
    assert source.read(0, 99).size == 99
    with pytest.raises(ValueError, match="below vocab_size 99, got 99 near token 99"):
        source.read(50, 50)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"a\.bin: ends before token 100"):
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
    seen = []
    with pytest.raises(ValueError, match="shard 6"):
        seen.extend(loader)
    iterator = iter(loader)
    assert next(iterator) == 2
    iterator.close()
    assert made[:5] == [2, 3, 4, 5, 6]


def test_tokenizer_must_fit(tmp_path):
    with pytest.raises(ValueError, match="vocab_size must equal the 512 pieces of .*, got 1024"):
        load_tokenizer(TOKENIZER, vocab_size=1024)
    with pytest.raises(ValueError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "none.model", vocab_size=512)
    (tmp_path / "bad.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="is no SentencePiece model"):
        load_tokenizer(tmp_path / "bad.model", vocab_size=512)


@pytest.fixture(scope="module")
def lossless() -> SentencePieceProcessor:
    texts = [text for name, text in stdlib_documents() if name.startswith("email/")]
    return SentencePieceProcessor(model_proto=train_lossless_bpe(texts, vocab_size=512))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\0"), max_size=60)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT | st.text("ab \n\t", max_size=30), max_size=5))
def test_the_lossless_tokenizer_gives_everything_back_and_counts_its_bytes(lossless, texts):
    for text in texts:
        assert lossless.decode(lossless.encode(text)) == text
    # Leading spaces of a document stay uncounted by the challenge's rule; the corpus has none.
    texts = ["x" + text for text in texts]
    if not texts:
        return
    tokens = encode_documents(texts, lossless)
    assert decode_documents(tokens.tolist(), lossless) == "".join(texts).encode()
    ids = torch.from_numpy(tokens.astype(np.int64))
    counted = byte_counts(lossless)(ids[:-1], ids[1:]).sum().item()
    assert counted == len("".join(texts).encode())


def test_corpus_is_sorted_split_by_name_and_normalised(tmp_path):
    for name, content in {
        "b.py": b"  \n\tif x:\r\n\ty\r",
        "a.py": b"z",
        "empty.py": b" \n",
        "latin.py": b"\xff",
        "mark.py": "\u2581".encode(),
        "test/t.py": b"t",
        "site-packages/p.py": b"p",
        "pkg/c.py": b"c",
        "readme.txt": b"r",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert list(stdlib_documents(tmp_path)) == [
        ("a.py", "z"),
        ("b.py", "if x:\n\ty\n"),
        ("pkg/c.py", "c"),
    ]
    share = sum(is_validation(f"module{i}.py") for i in range(24_000)) / 24_000
    assert share == pytest.approx(1 / 24, rel=0.1)


def test_prepare_builds_once_whole_and_never_over_something_else(tmp_path):
    root, lines = tmp_path / "data" / "set", []
    prepare_stdlib(root, vocab_size=512, report=lines.append)
    assert len(lines) == 4
    train, val = (find_shards(str(root / f"*_{s}_*.bin"))[0] for s in ("train", "val"))
    assert train.num_tokens > 10 * val.num_tokens > 10 * 50_000
    tokenizer = load_tokenizer(root / "tokenizer.model", vocab_size=512)
    tokens = ShardReader([val], vocab_size=512).read(0, val.num_tokens)
    text = decode_documents(tokens.tolist(), tokenizer)
    expected = [text for name, text in stdlib_documents() if is_validation(name)]
    assert text == "".join(expected).encode()
    ids = torch.from_numpy(tokens.astype(np.int64))
    assert byte_counts(tokenizer)(ids[:-1], ids[1:]).sum().item() == len(text)
    documents = {name: text for name, text in stdlib_documents() if not is_validation(name)}
    first = min(documents, key=document_hash)
    head = ShardReader([train], vocab_size=512).read(0, 200)[1:].tolist()
    assert documents[first].startswith(tokenizer.decode(head[: len(tokenizer.encode(documents[first]))]))
    before = {p: p.stat().st_mtime_ns for p in root.iterdir()}
    prepare_stdlib(root, vocab_size=512, report=lines.append)
    assert len(lines) == 4 and before == {p: p.stat().st_mtime_ns for p in root.iterdir()}
    assert [p.name for p in root.parent.iterdir()] == ["set"]
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"exists but holds no manifest\.json"):
        prepare_stdlib(tmp_path / "other", vocab_size=512, report=lines.append)
    assert not list((tmp_path / "other").iterdir())


def test_a_vocabulary_too_small_for_the_bytes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vocab_size 200 does not suit the text: .") as error:
        prepare_stdlib(tmp_path / "set", vocab_size=200, report=str)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_failing_preparation_leaves_nothing(tmp_path):
    def fail(line):
        if line.startswith("encoding"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_stdlib(tmp_path / "set", vocab_size=512, report=fail)
    assert not list(tmp_path.iterdir())
