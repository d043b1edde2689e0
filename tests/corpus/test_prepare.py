import gzip
import hashlib
import io
import itertools
import json
import lzma
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus.texts import TEXT, Lines, small_shards, some_texts, tokenizer, write_jsonl  # noqa: F401
from golden_data import TOKENIZER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from plgolf.corpus.building import Output
from plgolf.corpus.documents import Document, Reading
from plgolf.corpus.encoding import encode_in_order
from plgolf.corpus.prepare import prepare, prepare_stdlib
from plgolf.corpus.sampling import draw_sample
from plgolf.corpus.shuffling import ShuffledDocuments
from plgolf.corpus.splitting import Corpus, Holdout
from plgolf.corpus.stdlib import is_validation, stdlib_files
from plgolf.corpus.text_files import find_files
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer
from plgolf.corpus.verify import verify
from plgolf.data.manifest import read_manifest
from plgolf.data.shards import ShardReader, find_shards, find_side_cars
from plgolf.data.tokenizer import load_tokenizer
from plgolf.version import __version__

BYTES = TokenizerRecipe(model_type="byte")


def make(inputs, root, **options):
    console = Lines()
    defaults = {"reading": Reading(), "holdout": Holdout(), "recipe": BYTES, "output": Output(workers=2)}
    settings = defaults | options
    return prepare([str(path) for path in inputs], root, console=console, **settings), console.lines


def tokens(root, split, reader=ShardReader):
    shards = reader(find_shards(root, split))
    return shards.read(0, shards.num_tokens)


def texts(root, split):
    manifest = read_manifest(root)
    return load_tokenizer(root / manifest.tokenizer.file).decode_documents(tokens(root, split))


def reference_shards(documents, model, num_val, shard_tokens):
    """The challenge's exporter, by its description: a buffer that is written when full and between splits."""
    processor = SentencePieceProcessor(model_file=str(model))
    files, buffer, split = {}, [], "val"

    def flush():
        if buffer:
            index = sum(name.startswith(f"fineweb_{split}") for name in files)
            header = np.zeros(256, dtype="<i4")
            header[:3] = 20240520, 1, len(buffer)
            content = header.tobytes() + np.array(buffer, dtype="<u2").tobytes()
            files[f"fineweb_{split}_{index:06d}.bin"] = content
            buffer.clear()

    for number, text in enumerate(documents):
        wanted = "val" if number < num_val else "train"
        if wanted != split:
            flush()
            split = wanted
        for token in [processor.bos_id(), *processor.encode(text, out_type=int)]:
            buffer.append(token)
            if len(buffer) == shard_tokens:
                flush()
    flush()
    return files


def test_challenge_shards_are_the_references_byte_for_byte(tmp_path):
    documents = [*some_texts(), "  ﬁgure ™\t\n two   blanks \u3000", "\u2581mark", "caf\u00e9 \U0001f600"]
    source = write_jsonl(tmp_path / "docs.jsonl", documents)
    manifest, _ = make(
        [source],
        tmp_path / "set",
        holdout=Holdout(val_documents=5),
        recipe=TokenizerRecipe(tokenizer=str(TOKENIZER)),
        output=Output(name="fineweb", shard_tokens=10_007, workers=2),
    )
    expected = reference_shards(documents, TOKENIZER, 5, 10_007)
    # The patterns of the reference program find the tokens and nothing else.
    written = [*(tmp_path / "set").glob("fineweb_train_*.bin"), *(tmp_path / "set").glob("fineweb_val_*.bin")]
    assert {path.name: path.read_bytes() for path in written} == expected and len(expected) > 10
    side_cars = {path.stem for path in (tmp_path / "set").glob("*.bytes")}
    assert side_cars == {Path(name).stem for name in expected if "val" in name} and len(side_cars) > 1
    assert (tmp_path / "set" / "tokenizer.model").read_bytes() == TOKENIZER.read_bytes()
    assert manifest.splits["val"].documents == 5


def test_the_challenge_preset_trains_as_the_challenge_did(tmp_path):
    """The trainer's options, as the exporter's tokenizer holds them."""
    proto = ModelProto.FromString(tokenizer("challenge bpe").to_bytes())
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    assert (trainer.byte_fallback, trainer.split_digits, trainer.hard_vocab_limit) == (True, True, False)
    assert trainer.character_coverage == pytest.approx(0.999)
    assert (trainer.max_sentence_length, trainer.max_sentencepiece_length) == (4192, 16)
    assert (trainer.pad_id, trainer.bos_id, trainer.eos_id, trainer.unk_id) == (0, 1, 2, 3)
    assert (normalizer.name, normalizer.add_dummy_prefix) == ("nmt_nfkc", False)
    assert normalizer.remove_extra_whitespaces


def test_the_manifest_describes_files_and_sources(tmp_path):
    sources = [
        write_jsonl(tmp_path / "a.jsonl", ["one", "two \U0001f600"]),
        write_jsonl(tmp_path / "b.jsonl", ["three", "four", " five"]),
    ]
    manifest, lines = make(
        [tmp_path / "*.jsonl"],
        tmp_path / "set",
        holdout=Holdout(val_documents=2),
        recipe=TokenizerRecipe(tokenizer=str(TOKENIZER)),
    )
    assert manifest == read_manifest(tmp_path / "set")
    assert manifest.sources == [
        {
            "path": str(path),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "documents": count,
        }
        for path, count in zip(sources, (2, 3), strict=True)
    ]
    train, val = manifest.splits["train"], manifest.splits["val"]
    assert (val.documents, val.raw_bytes, val.scored_bytes) == (2, 11, 11)
    # The blank in front of "five" is dropped by this tokenizer.
    assert (train.documents, train.raw_bytes, train.scored_bytes) == (3, 14, 13)
    assert train.tokens == tokens(tmp_path / "set", "train").size
    for entry in [*train.shards, *val.shards, *val.side_cars]:
        path = tmp_path / "set" / entry.file
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry.bytes == path.stat().st_size == 1024 + 2 * entry.tokens
    assert manifest.plgolf == __version__ and manifest.options["val_documents"] == 2
    assert "train: 13 scored bytes for 14 raw ones (-7.14 %)" in manifest.byte_note
    assert any(manifest.byte_note in line for line in lines)
    content = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert content["tokenizer"]["sha256"] == hashlib.sha256(TOKENIZER.read_bytes()).hexdigest()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(TEXT.filter(bool), min_size=2, max_size=30, unique=True))
@pytest.mark.parametrize("kind", ["lossless bpe", "byte"])
@pytest.mark.usefixtures("small_shards")
def test_documents_and_their_bytes_survive_a_round_trip(tmp_path_factory, kind, documents):
    folder = tmp_path_factory.mktemp("any")
    model = folder / ("t" + tokenizer(kind).file_name[-6:].replace("r.", "."))
    model = model.with_suffix(Path(tokenizer(kind).file_name).suffix)
    model.write_bytes(tokenizer(kind).to_bytes())
    source = write_jsonl(folder / "a.jsonl", documents)
    manifest, _ = make(
        [source],
        folder / "set",
        holdout=Holdout(val_documents=1),
        recipe=TokenizerRecipe(tokenizer=str(model)),
        output=Output(shard_tokens=17),
    )
    assert texts(folder / "set", "val") + texts(folder / "set", "train") == documents
    assert manifest.byte_note == ""
    for split, part in (("val", documents[:1]), ("train", documents[1:])):
        size = len("".join(part).encode())
        assert manifest.splits[split].raw_bytes == manifest.splits[split].scored_bytes == size
    assert all(check.passed for check in verify(folder / "set", console=Lines()))


def test_side_cars_count_the_raw_bytes_of_a_tokenizer_that_drops_some(tmp_path):
    documents = ["a" + " " * 200_000 + "b c", "x\n\n\ny " * 50, "z"]
    source = write_jsonl(tmp_path / "a.jsonl", documents)
    recipe = TokenizerRecipe(tokenizer=str(TOKENIZER))
    with pytest.raises(ValueError, match=r"a\.jsonl:1: too few tokens: more than 65535 bytes, spaces"):
        make([source], tmp_path / "set", holdout=Holdout(val_documents=2), recipe=recipe)
    documents[0] = "a" + " " * 65_000 + "b c"
    write_jsonl(source, documents)
    manifest, _ = make([source], tmp_path / "set", holdout=Holdout(val_documents=2), recipe=recipe)
    val = manifest.splits["val"]
    assert val.raw_bytes == len("".join(documents[:2]).encode()) > 300 + val.scored_bytes
    side_cars = find_side_cars(tmp_path / "set", "val", find_shards(tmp_path / "set", "val"))
    counts = ShardReader(side_cars).read(0, val.tokens).astype(int)
    starts = np.flatnonzero(tokens(tmp_path / "set", "val") == 1)
    assert counts[starts].tolist() == [0, 0]
    sums = np.add.reduceat(counts, starts)
    assert sums.tolist() == [len(text.encode()) for text in documents[:2]]


def test_the_number_of_threads_does_not_matter(tmp_path):
    documents = [text[i : i + 3000] for text in some_texts() for i in range(0, len(text), 3000)]
    made_by, outcomes = tokenizer("lossless bpe"), []
    for workers in (1, 5):
        labelled = [("val" if i % 7 == 0 else "train", d) for i, d in enumerate(map(document, documents))]
        parts = {split: ([], []) for split in ("val", "train")}
        for encoded in encode_in_order(labelled, made_by, workers=workers):
            parts[encoded.split][0].extend(np.concatenate(encoded.tokens).tolist())
            parts[encoded.split][1].extend(np.concatenate(encoded.raw_bytes or [[]]).tolist())
        outcomes.append(parts)
    assert outcomes[0] == outcomes[1]
    val = made_by.decode_documents(np.array(outcomes[0]["val"][0], dtype=np.uint16))
    assert val == documents[::7]


def document(text):
    return Document(text, len(text.encode()), "memory", 1)


def test_encoding_stops_when_its_consumer_does():
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield "train", document("x" * 300_000)

    batches = encode_in_order(endless(), tokenizer("byte"), workers=2)
    next(batches)
    batches.close()
    assert len(drawn) < 30


def corpus(path, holdout, **options):
    files = find_files([str(path)], Reading())
    val_files = find_files(holdout.val_inputs, Reading())
    return Corpus(files, val_files, Reading(), holdout, **({"seed": 1, "on_error": "stop"} | options))


def split_of(made, normalize=str):
    return [(split, d.text) for stream in made.streams(normalize) for split, d in stream]


def test_the_first_documents_are_held_out(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", ["a", "b", "c"])
    made = corpus(source, Holdout(val_documents=2))
    assert split_of(made) == split_of(made) == [("val", "a"), ("val", "b"), ("train", "c")]


def test_other_files_are_held_out(tmp_path):
    train, val = write_jsonl(tmp_path / "t.jsonl", ["a"]), write_jsonl(tmp_path / "v.jsonl", ["b"])
    assert split_of(corpus(train, Holdout(val_inputs=[str(val)]))) == [("val", "b"), ("train", "a")]
    with pytest.raises(ValueError, match=r"t\.jsonl: is among the training and the validation inputs"):
        corpus(train, Holdout(val_inputs=[str(train)]))


def test_a_fraction_is_held_out_by_hash(tmp_path):
    documents = [f"document {i}" for i in range(20_000)]
    one = write_jsonl(tmp_path / "a.jsonl", documents)
    shuffled = random.Random(0).sample(documents, len(documents))
    other = write_jsonl(tmp_path / "b.jsonl", shuffled)
    first = Counter(split_of(corpus(one, Holdout(val_fraction=0.1))))
    assert first == Counter(split_of(corpus(other, Holdout(val_fraction=0.1))))
    held_out = sum(split == "val" for split, _ in first)
    assert held_out == pytest.approx(2000, rel=0.1)
    assert first != Counter(split_of(corpus(one, Holdout(val_fraction=0.1), seed=2)))
    # A larger fraction holds out the same documents and some more.
    more = {text for split, text in split_of(corpus(one, Holdout(val_fraction=0.2))) if split == "val"}
    assert {text for split, text in first if split == "val"} < more


def test_texts_that_a_tokenizer_makes_equal_stay_together(tmp_path):
    pairs = [[f"word {i}", f"  word\t{i} "] for i in range(300)]
    source = write_jsonl(tmp_path / "a.jsonl", [text for pair in pairs for text in pair])
    normalize = load_tokenizer(TOKENIZER).normalize
    found = [split for split, _ in split_of(corpus(source, Holdout(val_fraction=0.5)), normalize)]
    assert found[::2] == found[1::2] and 100 < found.count("val") < 500
    # The preset's normaliser, which splits before there is a tokenizer, is the trained one's.
    preset = TokenizerRecipe(preset="challenge").normalizer()
    trained = tokenizer("challenge bpe").normalize
    for text in ("  word\t1 ", "ﬁ\u3000x\u00a0y", "™ \uff21"):
        assert preset(text) == trained(text)


def test_training_documents_equal_to_a_validation_document_are_left_out(tmp_path):
    # Not equal as texts, but the same to a tokenizer that normalises blanks.
    source = write_jsonl(tmp_path / "a.jsonl", ["val one", "train", " val  one ", "more", "val one"])
    manifest, lines = make(
        [source],
        tmp_path / "set",
        holdout=Holdout(val_documents=1),
        recipe=TokenizerRecipe(tokenizer=str(TOKENIZER)),
    )
    assert texts(tmp_path / "set", "train") == ["train", "more"]
    reason = "training document equal to a validation document"
    assert manifest.left_out == {reason: 2} and f"left out 2: {reason}" in lines
    assert manifest.splits["train"].scored_bytes == manifest.splits["train"].raw_bytes == 9
    assert all(check.passed for check in verify(tmp_path / "set", console=Lines()))


def test_only_one_rule_may_be_given():
    with pytest.raises(ValueError, match="only one of val_fraction"):
        Holdout(val_fraction=0.1, val_documents=1)
    for bad in ({"val_fraction": 0.0}, {"val_fraction": 1.0}, {"val_documents": 0}):
        with pytest.raises(ValueError, match="must"):
            Holdout(**bad)


def test_the_tokenizer_sees_training_documents_only(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [f"{'v' if i < 50 else 't'}{i}" for i in range(1000)])
    made = corpus(source, Holdout(val_documents=50))

    def drawn(num_bytes):
        return draw_sample(made, TokenizerRecipe(sample_bytes=num_bytes))

    seen = drawn(10**9)
    assert seen == [f"t{i}" for i in range(50, 1000)]
    sample = drawn(400)
    assert 80 < len(sample) < 120 and sum(map(len, sample)) <= 400 and set(sample) < set(seen)
    assert sample == drawn(400)
    assert len(drawn(1)) == 1
    # It is drawn from all of them.
    assert min(int(text[1:]) for text in sample) < 200 < 800 < max(int(text[1:]) for text in sample)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_training_a_tokenizer_is_reproducible(model_type):
    recipe = TokenizerRecipe(model_type=model_type, vocab_size=400)
    one, two = (train_tokenizer(some_texts()[:20], recipe) for _ in range(2))
    assert one.sha256 == two.sha256 and one.lossless


def test_a_vocabulary_that_does_not_suit_the_text_is_refused(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", ["some text", "more", "other words"])
    options = {"holdout": Holdout(val_documents=1)}
    for preset, model_type in itertools.product(("lossless", "challenge"), ("bpe", "unigram")):
        settings = {"preset": preset, "model_type": model_type}
        bounds = []
        for size, rule in ((200, "at least"), (5000, "at most")):
            recipe = TokenizerRecipe(vocab_size=size, **settings)
            with pytest.raises(
                ValueError, match=rf"^vocab_size must be {rule} \d+ for .*, got {size}$"
            ) as error:
                make([source], tmp_path / "set", recipe=recipe, **options)
            assert "character_coverage" not in str(error.value)
            bounds.append(int(str(error.value).split(rule)[1].split()[0]))
        # The numbers that it names are right.
        for index, size in enumerate(bounds):
            recipe = TokenizerRecipe(vocab_size=size, **settings)
            manifest, _ = make([source], tmp_path / f"{preset}{model_type}{index}", recipe=recipe, **options)
            assert manifest.tokenizer.vocab_size == manifest.options["vocab_size"] == size
    assert not (tmp_path / "set").exists()


def test_settings_without_effect_are_refused(tmp_path):
    for bad, message in [
        (
            {"tokenizer": "a.model", "vocab_size": 4000},
            "vocab_size must be left out with tokenizer, .* got 4000",
        ),
        ({"tokenizer": "a.model", "preset": "challenge"}, "preset must be left out with tokenizer"),
        ({"model_type": "byte", "sample_bytes": 9}, "sample_bytes must be left out with model_type byte"),
    ]:
        with pytest.raises(ValueError, match=message):
            TokenizerRecipe(**bad)
    lines = write_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"separator must be left out without text files, got '\\n'"):
        make([lines], tmp_path / "set", reading=Reading(separator="\n"))
    with pytest.raises(ValueError, match="text_field must be left out with text files alone, got 'body'"):
        make([tmp_path / "a.txt"], tmp_path / "set", reading=Reading(text_field="body"))


def test_a_tokenizer_of_more_ids_than_shards_can_hold_is_refused(tmp_path):
    proto = ModelProto.FromString(TOKENIZER.read_bytes())
    for index in range(2**16):
        proto.pieces.add(piece=f"more{index}", score=-1e6)
    (tmp_path / "large.model").write_bytes(proto.SerializeToString())
    source = write_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    with pytest.raises(ValueError, match=r"large\.model: must have at most 65536 ids for shards, got 66048"):
        make([source], tmp_path / "set", recipe=TokenizerRecipe(tokenizer=str(tmp_path / "large.model")))


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_tokenizer_is_lossless_even_if_its_training_text_has_no_space(tmp_path, model_type):
    documents = [chr(0x4E00 + i) * 3 + chr(0x4E00 + 2 * i) for i in range(200)]
    source = write_jsonl(tmp_path / "a.jsonl", ["有 他", *documents])
    recipe = TokenizerRecipe(model_type=model_type, vocab_size=562)
    manifest, _ = make([source], tmp_path / "set", holdout=Holdout(val_documents=1), recipe=recipe)
    assert manifest.tokenizer.lossless and manifest.byte_note == ""
    assert texts(tmp_path / "set", "val") == ["有 他"]
    assert all(check.passed for check in verify(tmp_path / "set", console=Lines()))


def test_a_tokenizer_without_a_piece_for_a_space_is_refused(tmp_path):
    proto = ModelProto.FromString(tokenizer("lossless bpe").to_bytes())
    next(piece for piece in proto.pieces if piece.piece == "\u2581").piece = "\u2581qq"
    (tmp_path / "t.model").write_bytes(proto.SerializeToString())
    assert not load_tokenizer(tmp_path / "t.model").lossless
    source = write_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    with pytest.raises(ValueError, match=r"t\.model: must have a piece for a single space"):
        make([source], tmp_path / "set", recipe=TokenizerRecipe(tokenizer=str(tmp_path / "t.model")))


def test_copies_of_validation_documents_do_not_train_the_tokenizer(tmp_path):
    held_out = [f"zyxwvq {i} zyxwvq" for i in range(5)]
    source = write_jsonl(tmp_path / "a.jsonl", [*held_out, *some_texts()[:9], *held_out * 30])
    recipe = TokenizerRecipe(vocab_size=400)
    manifest, _ = make([source], tmp_path / "set", holdout=Holdout(val_documents=5), recipe=recipe)
    assert manifest.left_out == {"training document equal to a validation document": 150}
    processor = load_tokenizer(tmp_path / "set" / "tokenizer.model").processor
    assert not [i for i in range(400) if "yx" in processor.id_to_piece(i)]


def test_documents_that_are_equal_but_for_unknown_characters_stay_together(tmp_path):
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(some_texts()[:9]), model_writer=model, vocab_size=200, minloglevel=2
    )
    (tmp_path / "t.model").write_bytes(model.getvalue())
    source = write_jsonl(tmp_path / "a.jsonl", [f"{chr(0x4E00 + i)} text {i % 20}" for i in range(400)])
    recipe = TokenizerRecipe(tokenizer=str(tmp_path / "t.model"))
    make([source], tmp_path / "set", holdout=Holdout(val_fraction=0.3), recipe=recipe)
    failed = [c.name for c in verify(tmp_path / "set", console=Lines()) if c.passed is False]
    assert "held out" not in failed


def test_long_documents_do_not_train_the_challenges_tokenizer(tmp_path):
    recipe = TokenizerRecipe(preset="challenge", vocab_size=400)
    source = write_jsonl(tmp_path / "a.jsonl", ["x " * 3000, "y " * 3000])
    with pytest.raises(ValueError, match="must have a document to train on: all 1 .* 4192 bytes"):
        make([source], tmp_path / "set", holdout=Holdout(val_documents=1), recipe=recipe)


def test_empty_folders_and_links_are_used_and_other_files_are_kept(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    holdout, target = Holdout(val_documents=1), tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    for overwrite in (False, True):
        make([source], tmp_path / "link", holdout=holdout, overwrite=overwrite)
        assert (tmp_path / "link").is_symlink() and read_manifest(target).name == "target"
    (target / "mine.jsonl").write_text("precious")
    with pytest.raises(ValueError, match=r"link/mine\.jsonl: does not belong to the dataset"):
        make([source], tmp_path / "link", holdout=holdout, overwrite=True)
    assert (target / "mine.jsonl").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "link", "target"]


def test_another_tokenizer_at_the_same_path_or_a_lost_shard_is_another_dataset(tmp_path):
    source, model = write_jsonl(tmp_path / "a.jsonl", ["a", "b"]), tmp_path / "t.model"
    model.write_bytes(TOKENIZER.read_bytes())
    options = {"holdout": Holdout(val_documents=1), "recipe": TokenizerRecipe(tokenizer=str(model))}
    manifest, _ = make([source], tmp_path / "set", **options)
    assert "preset" not in manifest.options and "vocab_size" not in manifest.options
    assert "exists already" in make([source], tmp_path / "set", **options)[1][0]
    model.write_bytes(tokenizer("lossless bpe").to_bytes())
    with pytest.raises(ValueError, match="holds another dataset"):
        make([source], tmp_path / "set", **options)
    model.write_bytes(TOKENIZER.read_bytes())
    (tmp_path / "set" / "set_train_000000.bin").unlink()
    with pytest.raises(ValueError, match="holds another dataset, or a part of one"):
        make([source], tmp_path / "set", **options)


@pytest.mark.usefixtures("small_shards")
def test_many_small_shards(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", ["some text " * 100, "more text " * 200])
    output = Output(shard_tokens=2)
    make([source], tmp_path / "set", holdout=Holdout(val_documents=1), output=output)
    assert len(list((tmp_path / "set").iterdir())) > 2000
    assert all(check.passed for check in verify(tmp_path / "set", console=Lines()))


@pytest.mark.usefixtures("small_shards")
def test_shuffling_depends_on_the_seed_and_keeps_all_documents(tmp_path):
    documents = [f"{i} " * (i % 5 + 1) for i in range(500)]
    source = write_jsonl(tmp_path / "a.jsonl", documents)
    orders = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = Output(name="x", shuffle=True, seed=seed, shard_tokens=300)
        make([source], tmp_path / name, holdout=Holdout(val_documents=20), output=output)
        assert texts(tmp_path / name, "val") == documents[:20]
        orders[name] = texts(tmp_path / name, "train")
        assert sorted(orders[name]) == sorted(documents[20:])
    assert orders["a"] == orders["b"] != orders["c"]
    places = np.array([orders["a"].index(text) for text in documents[20:]])
    assert abs(np.corrcoef(places, np.arange(480))[0, 1]) < 0.2
    assert not list((tmp_path / "a").glob(".*"))


def test_every_order_is_equally_likely(tmp_path):
    counts = Counter()
    for seed in range(1200):
        shuffled = ShuffledDocuments(tmp_path, seed, buckets=2)
        shuffled.add(np.split(np.arange(3, dtype=np.uint16), 3))
        counts[tuple(np.concatenate(list(shuffled)).tolist())] += 1
    assert len(counts) == 6 and all(150 < count < 250 for count in counts.values())


def test_refused_documents_stop_everything_or_are_counted(tmp_path):
    source = tmp_path / "a.jsonl"
    lines = [b'{"text": "fine"}', b'{"text": "\xff"}', b"{", b'{"text": ""}', b'{"text": "\\ufeff"}']
    source.write_bytes(b"\n".join([*lines, b'{"text": "good"}', b'{"text": "also"}', b""]))
    options = {"holdout": Holdout(val_documents=1), "recipe": TokenizerRecipe(tokenizer=str(TOKENIZER))}
    with pytest.raises(ValueError, match=r"a\.jsonl:2: malformed UTF-8: byte 0xff \(--on_error skip"):
        make([source], tmp_path / "set", **options)
    manifest, said = make([source], tmp_path / "set", on_error="skip", **options)
    # This tokenizer drops U+FEFF, so that no token is left.
    assert manifest.left_out == {"malformed UTF-8": 1, "broken JSON": 1, "empty document": 2}
    assert texts(tmp_path / "set", "train") == ["good", "also"]
    assert "left out 2: empty document" in said
    assert manifest.sources[0]["documents"] == 3


def test_a_split_without_documents_is_refused(tmp_path):
    for documents, holdout, message in [
        (["a", "b"], Holdout(val_documents=2), "got none of 2 for train"),
        (["same", "same"], Holdout(), "got none of 2 for"),
        (["x"], Holdout(), "got none of 1 for"),
        ([], Holdout(), "got none of 0 for"),
    ]:
        source = write_jsonl(tmp_path / "a.jsonl", documents)
        with pytest.raises(ValueError, match=f"each split must have a document, {message}"):
            make([source], tmp_path / "set", holdout=holdout)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "recipe", [BYTES, TokenizerRecipe(vocab_size=300), TokenizerRecipe(tokenizer=str(TOKENIZER))]
)
def test_at_least_one_document_is_held_out_and_one_trains(tmp_path, recipe):
    books = tmp_path / "books"
    books.mkdir()
    for number in range(12):
        (books / f"{number}.txt").write_text(f"This is book number {number}. " * 20)
    for seed, fraction, held_out, note in [
        (3, None, {1}, "note: chance held out none of 12 documents (--val_fraction, 5 %): one is held out"),
        (
            1,
            1e-9,
            {1},
            "note: chance held out none of 12 documents (--val_fraction, 1e-07 %): one is held out",
        ),
        (
            1,
            0.999,
            {11},
            "note: chance held out all of 12 documents (--val_fraction, 99.9 %): one is for training",
        ),
        (1, 0.5, set(range(2, 11)), None),
    ]:
        root = tmp_path / f"{seed}{fraction}"
        options = {"recipe": recipe, "output": Output(seed=seed), "holdout": Holdout(val_fraction=fraction)}
        manifest, lines = make([books], root, **options)
        assert manifest.splits["val"].documents in held_out
        assert manifest.splits["train"].documents == 12 - manifest.splits["val"].documents
        assert [line for line in lines if line.startswith("note: chance")] == ([note] if note else [])
        # Which one depends on the texts and the seed, not on their order.
        make(sorted(books.iterdir(), reverse=True), tmp_path / f"{seed}{fraction}r", **options)
        assert texts(root, "val") == texts(tmp_path / f"{seed}{fraction}r", "val")[::-1]
        assert not [check for check in verify(root, console=Lines()) if check.passed is False]


@pytest.mark.parametrize("name", ["a.txt", "a.md.gz", "a.jsonl", "a.json", "a.csv", "stdin"])
def test_a_single_text_is_cut_in_two_at_a_paragraph(tmp_path, name):
    text = "".join(f"Paragraph {i}, with a line\nand another.\n\n" for i in range(200))
    pack = {
        "a.txt": text,
        "a.jsonl": json.dumps({"text": text}),
        "a.json": json.dumps([text]),
        "a.csv": 'text\n"' + text + '"\n',
    }
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name == "a.md.gz" else pack.get(name, text).encode())
    for recipe in (BYTES, TokenizerRecipe(vocab_size=300)):
        root = tmp_path / f"{recipe.model_type}"
        manifest, lines = make([path], root, recipe=recipe)
        [train], [val] = texts(root, "train"), texts(root, "val")
        assert train + val == text and train.endswith("\n\n") and 0.04 < len(val) / len(text) < 0.11
        assert manifest.splits["val"].raw_bytes == len(val.encode()) and manifest.sources[0]["documents"] == 2
        note = "note: a single text is cut near its end: about 5 % of it is held out"
        assert note in lines
        assert all(check.passed for check in verify(root, console=Lines()))
    for kept in (Holdout(val_documents=1), Holdout(val_inputs=[str(path)])):
        with pytest.raises(
            ValueError, match="got none of 1 for train|is among the training and the validation"
        ):
            make([path], tmp_path / "kept", holdout=kept)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one line\n" * 100, "one line\n" * 10),
        ("word " * 200, "word " * 20),
        ("x" * 1000, "x" * 100),
        ("日" * 1000, "日" * 100),
        ("ab", "b"),
    ],
)
def test_a_single_text_without_paragraphs_is_cut_at_a_line_a_word_or_by_length(tmp_path, text, expected):
    (tmp_path / "a.txt").write_text(text)
    make([tmp_path / "a.txt"], tmp_path / "set", holdout=Holdout(val_fraction=0.1))
    assert texts(tmp_path / "set", "val") == [expected]
    assert texts(tmp_path / "set", "train") == [text.removesuffix(expected)]


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_a_single_text_that_is_too_long_for_a_document_is_cut_into_several(tmp_path, suffix):
    text = "".join(f"Paragraph number {i}.\n\n" for i in range(2000))
    source = tmp_path / f"a.txt{suffix}"
    source.write_bytes(lzma.compress(text.encode()) if suffix else text.encode())
    reading = Reading(max_document_bytes=1000)
    manifest, lines = make([source], tmp_path / "set", reading=reading)
    assert "note: a single long text is cut into documents after paragraphs" in lines
    documents = [*texts(tmp_path / "set", "train"), *texts(tmp_path / "set", "val")]
    assert sum(map(len, documents)) == len(text) and all(part.endswith(".\n\n") for part in documents)
    assert set("".join(documents).splitlines()) == set(text.splitlines())
    assert 1 <= manifest.splits["val"].documents < 10 < manifest.splits["train"].documents
    options = {"reading": Reading(max_document_bytes=len(text) // 3), "output": Output(seed=0)}
    _, lines = make([source], tmp_path / "few", **options)
    chance = "chance held out none of 4 documents (--val_fraction, 5 %): one is held out"
    assert f"note: a single long text is cut into documents after paragraphs; {chance}" in lines
    # One of several texts is refused, and a separator decides for itself.
    (tmp_path / "b.txt").write_text("more")
    with pytest.raises(ValueError, match="too long: must be at most 1000 bytes .* a separator would cut"):
        make([source, tmp_path / "b.txt"], tmp_path / "both", reading=reading)
    with pytest.raises(ValueError, match="too long: must be at most 1000 bytes"):
        make([source], tmp_path / "cut", reading=Reading(max_document_bytes=1000, separator="---"))


def test_a_dataset_is_replaced_only_on_request(tmp_path):
    source, root = write_jsonl(tmp_path / "a.jsonl", ["a", "b"]), tmp_path / "set"
    holdout = Holdout(val_documents=1)
    first, _ = make([source], root, holdout=holdout)
    before = {path: path.stat().st_mtime_ns for path in root.iterdir()}
    again, lines = make([source], root, holdout=holdout)
    assert again == first and "exists already" in lines[0]
    assert before == {path: path.stat().st_mtime_ns for path in root.iterdir()}
    for change in ({"output": Output(shard_tokens=9999)}, {"holdout": Holdout(val_fraction=0.5)}):
        with pytest.raises(ValueError, match=r"set: holds another dataset, or a part of one: --overwrite"):
            make([source], root, **({"holdout": holdout} | change))
    write_jsonl(source, ["a", "b", "c"])
    with pytest.raises(ValueError, match="holds another dataset"):
        make([source], root, holdout=holdout)
    make([source], root, holdout=holdout, overwrite=True)
    assert texts(root, "train") == ["b", "c"]
    # A failing replacement leaves what was there.
    source.write_text("{")
    with pytest.raises(ValueError, match="broken JSON"):
        make([source], root, holdout=holdout, overwrite=True)
    assert texts(root, "train") == ["b", "c"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"other: .*without a manifest\.json|but has no manifest\.json"):
            make([source], other, overwrite=overwrite)
    assert (other / "thesis.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "other", "set"]


def test_a_module_always_belongs_to_the_same_split(tmp_path):
    for name in ("b.py", "a.py", "test/t.py", "site-packages/p.py", "pkg/c.py", "readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.name for file in stdlib_files(tmp_path)] == ["a.py", "b.py", "pkg/c.py"]
    names = [f"module{i}.py" for i in range(24_000)]
    assert sum(map(is_validation, names)) == pytest.approx(1000, rel=0.1)
    assert [name for name in names[:100] if is_validation(name)] == [
        "module4.py",
        "module63.py",
        "module82.py",
        "module84.py",
        "module91.py",
    ]


@pytest.mark.slow
def test_the_embedded_dataset_is_made_once_and_whole(tmp_path):
    root, console = tmp_path / "data" / "set", Lines()
    prepare_stdlib(root, vocab_size=512, console=console)
    manifest = read_manifest(root)
    assert manifest.tokenizer.lossless and manifest.tokenizer.vocab_size == 512
    assert manifest.splits["train"].tokens > 10 * manifest.splits["val"].tokens > 500_000
    assert all(check.passed for check in verify(root, console=Lines()))
    lines = len(console.lines)
    prepare_stdlib(root, vocab_size=512, console=console)
    assert len(console.lines) == lines and [path.name for path in root.parent.iterdir()] == ["set"]
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"exists without a manifest\.json"):
        prepare_stdlib(tmp_path / "other", vocab_size=512, console=console)
    assert not list((tmp_path / "other").iterdir())
    with pytest.raises(ValueError, match="vocab_size must be at least"):
        prepare_stdlib(tmp_path / "small", vocab_size=200, console=console)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "other"]


def test_names_that_look_like_splits_do_not_confuse_them(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", ["a", "b", "c"])
    root = tmp_path / "my_val_0_train_bytes_texts"
    make([source], root, holdout=Holdout(val_documents=1))
    assert (texts(root, "val"), texts(root, "train")) == (["a"], ["b", "c"])
    assert all(check.passed for check in verify(root, console=Lines()))


def test_settings_are_checked():
    for bad in (
        {"name": "a/b"},
        {"shard_tokens": 1},
        {"shard_tokens": 1023},
        {"shard_tokens": 2**31},
        {"workers": 0},
        {"seed": -1},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must"):
            Output(**bad)
    for bad in ({"vocab_size": 0}, {"vocab_size": 70_000}, {"sample_bytes": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must"):
            TokenizerRecipe(**bad)
