import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus.texts import some_texts, tokenizer
from golden_data import GOLDEN, TOKENIZER
from hypothesis import given, settings
from hypothesis import strategies as st
from lively import lively

import plgolf
from plgolf import GPT, GPTConfig, LanguageModel
from plgolf.artifact import load_gpt, save_artifact
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.errors import UserError
from plgolf.generation.decoding import Context
from plgolf.generation.sampling import Sampling, draw, probabilities
from plgolf.model import AttentionConfig, HeadConfig
from plgolf.model.weights import gpt_with_weights
from plgolf.reference.int8_zlib import pack, unpack

SEQ_LEN = 16


def small(vocab_size=260, **settings_) -> GPT:
    attention = AttentionConfig(num_heads=4, num_kv_heads=2)
    shape = {"vocab_size": vocab_size, "dim": 32, "num_layers": 3, "compute_dtype": "float32"}
    return lively(GPTConfig(**{**shape, "attention": attention, **settings_}))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(small(), ByteTokenizer(), SEQ_LEN)


def uncached(model, prompt, sampling, *, max_tokens, seed) -> str:
    """What ``generate`` promises, without a cache: each token is computed from all tokens that it sees."""
    made_by, generator = model.tokenizer, torch.Generator().manual_seed(seed)
    ids = [made_by.bos_id, *made_by.encode(prompt).tolist()]
    first = len(ids)
    seen = ids[-model.seq_len :]
    for _ in range(max_tokens):
        with torch.inference_mode():
            logits = model.gpt(torch.tensor([seen]))[0, -1]
        index = draw(probabilities(logits, sampling), generator)
        if index == made_by.bos_id:
            break
        ids.append(index)
        seen.append(index)
        if len(seen) > model.seq_len:
            seen = seen[-max(model.seq_len // 2, 1) :]
    return made_by.decode(ids)[len(made_by.decode(ids[:first])) :]


@settings(max_examples=25)
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    seq_len=st.integers(1, 24),
    seed=st.integers(0, 2**63 - 1),
)
def test_generated_text_is_the_same_without_a_cache(model, prompt, temperature, seq_len, seed):
    """For several context lengths, and with prompts longer than the context."""
    model = LanguageModel(model.gpt, model.tokenizer, seq_len)
    sampling = Sampling(temperature=temperature, top_p=0.99)
    expected = uncached(model, prompt, sampling, max_tokens=40, seed=seed)
    pieces = list(model.stream(prompt, sampling, max_tokens=40, seed=seed))
    assert "".join(pieces) == expected and all(pieces)


@pytest.mark.parametrize("seq_len", [SEQ_LEN, 6])
def test_a_rotary_base_that_depends_on_the_length_is_that_of_training(seq_len):
    """Short texts too turn as the sequences of training, which are those of the file's length."""
    gpt = small(attention=AttentionConfig(num_heads=4, num_kv_heads=2, rope_length=4))
    model, ids = LanguageModel(gpt, ByteTokenizer(), seq_len), torch.tensor([[256, 97, 98, 99, 97]])
    row = torch.nn.functional.pad(ids, (0, seq_len - 5))
    with torch.inference_mode():
        whole, short = gpt(row)[0], gpt(ids)[0]
        context = Context(gpt, seq_len=seq_len, expected=5)
        found = torch.stack([context.next_logits(ids[0, i : i + 1].tolist()) for i in range(5)])
    torch.testing.assert_close(found, whole[:5], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(short, whole[:5], rtol=1e-3, atol=1e-3)
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode("abca").tolist()]
    nats = -gpt(torch.tensor([ids + [0] * (seq_len - 5)]))[0, :4].log_softmax(1)[range(4), ids[1:]].sum()
    assert model.score("abca").nats == pytest.approx(nats.item(), rel=1e-5)


def test_the_same_seed_gives_the_same_text_and_leaves_other_generators_alone(model):
    state = torch.random.get_rng_state()
    first = model.generate("a", seed=3, max_tokens=50)
    assert model.generate("a", seed=3, max_tokens=50) == first != model.generate("a", seed=4, max_tokens=50)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.generate("a", temperature=0, seed=1) == model.generate("a", temperature=0, seed=2)
    assert model.generate("a", top_k=1, seed=1) == model.generate("a", temperature=0)


def test_text_ends_where_the_next_document_would_begin():
    gpt = small(head=HeadConfig(tied=False))
    with torch.no_grad():
        gpt.head.proj.weight.zero_()  # All ids are equally likely.
    model = LanguageModel(gpt, ByteTokenizer(), SEQ_LEN)
    generator, uniform = torch.Generator().manual_seed(5), torch.full((260,), 1 / 260, dtype=torch.float64)
    drawn = [draw(uniform, generator) for _ in range(2000)]
    end = drawn.index(ByteTokenizer.bos_id)
    assert 0 < end < 1999
    expected = ByteTokenizer().decode(drawn[:end])
    assert model.generate("", temperature=1.0, seed=5, max_tokens=2000) == expected
    assert model.generate("", temperature=1.0, seed=5, max_tokens=end) == expected
    assert model.generate("", temperature=1.0, seed=5, max_tokens=end - 1) != expected


def test_stream_yields_each_piece_before_the_next_token_is_computed(model):
    forwards = []
    hook = model.gpt.head.register_forward_hook(lambda *_: forwards.append(1))
    pieces = model.stream("abc", Sampling(temperature=0.5), max_tokens=20)
    assert not forwards
    next(pieces)
    # A character may have up to four bytes, each of which is a token here.
    assert 1 <= len(forwards) <= 4
    assert "".join(pieces) and 10 < len(forwards) <= 20
    hook.remove()


def test_a_first_space_after_the_prompt_is_kept():
    made_by = tokenizer("challenge bpe")
    gpt = small(vocab_size=512, head=HeadConfig(tied=False))
    space = made_by.processor.piece_to_id("\u2581a")
    # This piece comes next, whatever came before.
    gpt.head.register_forward_hook(lambda *arguments: arguments[-1] + 99 * (torch.arange(512) == space))
    model = LanguageModel(gpt, made_by, SEQ_LEN)
    assert model.generate("x", temperature=0, max_tokens=2) == " a a"
    assert model.generate("", temperature=0, max_tokens=2) == "a a"


def test_a_bfloat16_model_is_kept_and_generates_in_float32():
    gpt = small(compute_dtype="bfloat16")
    model = LanguageModel(gpt, ByteTokenizer(), SEQ_LEN)
    exact = LanguageModel(in_float32(gpt), ByteTokenizer(), SEQ_LEN)
    assert model.generate("a", max_tokens=40) == uncached(exact, "a", Sampling(), max_tokens=40, seed=0)
    assert model.gpt is gpt and gpt.embedding.weight.dtype is torch.bfloat16


def in_float32(gpt) -> GPT:
    weights = {name: tensor.float() for name, tensor in gpt.state_dict().items()}
    return gpt_with_weights(replace(gpt.config, compute_dtype="float32"), weights)


def nats_by_hand(model, documents):
    """Window by window, one at a time, by log-softmax."""
    stream = []
    for text in documents:
        stream += [model.tokenizer.bos_id, *model.tokenizer.encode(text).tolist()]
    nats, scored = 0.0, 0
    for start in range(0, len(stream) - 1, model.seq_len):
        window = torch.tensor(stream[start : start + model.seq_len + 1])
        with torch.inference_mode():
            found = model.gpt(window[None, :-1])[0].double().log_softmax(1)
        nats -= found.gather(1, window[1:, None]).sum().item()
        scored += len(window) - 1
    assert scored == len(stream) - 1
    return nats, scored


@settings(max_examples=25)
@given(documents=st.lists(st.text("ab é\n\U0001f600", max_size=60), max_size=4).filter(any))
def test_scores_count_each_token_and_each_byte_once(model, documents):
    score = model.score(documents)
    nats, num_tokens = nats_by_hand(model, documents)
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.num_tokens == num_tokens == score.num_bytes + len(documents) - 1
    assert score.num_bytes == len("".join(documents).encode())
    assert score.bpb == pytest.approx(score.nats / math.log(2) / score.num_bytes)
    for same in (tuple(documents), iter(documents), (text for text in documents), np.array(documents)):
        assert model.score(same) == score
    if len(documents) == 1:
        assert model.score(documents[0]) == score


def test_a_bfloat16_model_is_scored_in_its_own_dtype():
    model = LanguageModel(small(compute_dtype="bfloat16"), ByteTokenizer(), SEQ_LEN)
    text = "".join(some_texts())[:700]
    score = model.score(text)
    assert score.nats == pytest.approx(nats_by_hand(model, [text])[0], rel=1e-4)
    assert score.nats != LanguageModel(in_float32(model.gpt), ByteTokenizer(), SEQ_LEN).score(text).nats


def test_long_texts_are_scored_in_bounded_batches(model, monkeypatch):
    from plgolf.evaluate import documents

    text = "".join(some_texts())[:5000]
    whole = model.score(text)
    shapes = []
    hook = model.gpt.register_forward_hook(lambda _, args, out: shapes.append(tuple(out.shape)))
    monkeypatch.setattr(documents, "_BATCH_LOGITS", 4 * SEQ_LEN * 260)
    split = model.score(text)
    hook.remove()
    assert len(shapes) > 70 and set(shapes[:-2]) == {(4, SEQ_LEN)}
    assert split.nats == pytest.approx(whole.nats, rel=1e-6) and split.num_tokens == whole.num_tokens


def save(model, path, **options):
    options = {"seq_len": model.seq_len, "tokenizer": model.tokenizer.to_bytes(), **options}
    return save_artifact(model.gpt, path, **options)


@pytest.mark.parametrize("kind", ["byte", "lossless bpe"])
def test_the_tokenizer_is_inside_or_beside_the_artifact_or_given(kind, tmp_path):
    made_by = tokenizer(kind)
    model = LanguageModel(small(vocab_size=made_by.vocab_size), made_by, SEQ_LEN)
    path = tmp_path / "a.ptz"
    save(model, path, carry_tokenizer=True)
    carried = plgolf.load_artifact(path)
    assert carried.tokenizer.to_bytes() == made_by.to_bytes() and carried.seq_len == SEQ_LEN
    save(model, path)
    alone = plgolf.load_artifact(path)
    assert alone.tokenizer is None and alone.gpt(torch.tensor([[1]])).isfinite().all()
    for use in (alone.generate, alone.score):
        with pytest.raises(UserError, match="tokenizer must be given: the artifact carries none, and"):
            use("text")
    file = tmp_path / made_by.file_name
    file.write_bytes(made_by.to_bytes())
    beside = plgolf.load_artifact(path)
    moved = shutil.move(file, tmp_path / f"other{file.suffix}")
    given = [plgolf.load_artifact(path, tokenizer=one) for one in (moved, str(moved), made_by)]
    scores = {one.score("a text") for one in (carried, beside, *given)}
    texts = {one.generate("a", max_tokens=20) for one in (carried, beside, *given)}
    assert len(scores) == len(texts) == 1


def test_another_tokenizer_is_refused_with_both_names(model, tmp_path):
    path = tmp_path / "a.ptz"
    made_by = tokenizer("lossless bpe")
    model = LanguageModel(small(vocab_size=512), made_by, SEQ_LEN)
    save(model, path)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer("lossless unigram").to_bytes())
    others = [(None, "tokenizer.model"), (TOKENIZER, TOKENIZER), (ByteTokenizer(), "the tokenizer")]
    for other, name in others:
        with pytest.raises(UserError) as error:
            plgolf.load_artifact(path, tokenizer=other)
        said = str(error.value)
        assert str(name) in said and str(path) in said and made_by.sha256 in said and "\n" not in said
    # If two are beside it, the one that fits is taken.
    (tmp_path / "tokenizer.model").write_bytes(made_by.to_bytes())
    (tmp_path / "tokenizer.json").write_bytes(ByteTokenizer().to_bytes())
    assert plgolf.load_artifact(path).tokenizer.sha256 == made_by.sha256
    byte_model = LanguageModel(small(), ByteTokenizer(), SEQ_LEN)
    save(byte_model, path)
    assert plgolf.load_artifact(path).tokenizer.sha256 == ByteTokenizer().sha256
    # A file without a hash needs at least the same number of ids.
    save(byte_model, path, tokenizer=None)
    with pytest.raises(UserError, match=r"a\.ptz: the tokenizer must have the 260 ids of the model, got 512"):
        plgolf.load_artifact(path)


def test_a_sequence_length_that_the_file_lacks_must_be_given(tmp_path):
    for name in ("tied", "untied"):
        model = plgolf.load_artifact(GOLDEN / name / "trained.int8.ptz", tokenizer=TOKENIZER)
        with pytest.raises(UserError, match="seq_len must be given"):
            model.generate("a")
    model = plgolf.load_artifact(GOLDEN / "tied" / "trained.int8.ptz", tokenizer=TOKENIZER, seq_len=64)
    assert model.generate("The", max_tokens=10) and model.score("The text").num_bytes == 8


def test_version_1_files_still_load(model, tmp_path):
    import json

    path = tmp_path / "a.ptz"
    save(model, path)
    obj = unpack(path.read_bytes())
    header = json.loads(obj["__plgolf__"])
    assert header["version"] == 2 and header["seq_len"] == SEQ_LEN
    old = json.dumps({"version": 1, "config": header["config"]})
    (tmp_path / "old.ptz").write_bytes(pack({**obj, "__plgolf__": old}))
    loaded = plgolf.load_artifact(tmp_path / "old.ptz", tokenizer=ByteTokenizer())
    assert loaded.seq_len is None
    new = plgolf.load_artifact(path, tokenizer=ByteTokenizer())
    assert loaded.gpt.config == new.gpt.config
    again = plgolf.load_artifact(tmp_path / "old.ptz", tokenizer=ByteTokenizer(), seq_len=SEQ_LEN)
    assert again.score("abc") == new.score("abc")
    assert torch.equal(load_gpt(path).embedding.weight, new.gpt.embedding.weight)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m: m.generate("a", max_tokens=0), "max_tokens must be at least 1, got 0"),
        (lambda m: m.generate("a", seed=-1), "seed must be from 0 to 9223372036854775807, got -1"),
        (lambda m: m.generate("a", top_k=-2), "top_k must be at least 1, got -2"),
        (lambda m: m.generate("a\udc80"), r"prompt must be Unicode, got '\udc80' at 1"),
        (lambda m: m.generate(b"a"), "prompt must be a string, got bytes"),
        (lambda m: m.generate(None), "prompt must be a string, got NoneType"),
        (lambda m: m.generate("a", max_tokens=2.5), "max_tokens must be a whole number, got 2.5"),
        (lambda m: m.generate("a", max_tokens="9"), "max_tokens must be a whole number, got '9'"),
        (lambda m: m.generate("a", seed=None), "seed must be a whole number, got None"),
        (lambda m: m.generate("a", top_k=1.5), "top_k must be a whole number, got 1.5"),
        (lambda m: m.generate("a", top_p="a"), "top_p must be above 0 and at most 1, got 'a'"),
        (
            lambda m: m.generate("a", temperature="0"),
            "temperature must be finite and at least 0, got '0'",
        ),
        (lambda m: m.stream("a", 0.8), "sampling must be a Sampling, got 0.8"),
        (lambda m: m.score(b"a"), "text must be a string or an iterable of strings, got bytes"),
        (lambda m: m.score({"a": 1}), "text must be a string or an iterable of strings, got dict"),
        (lambda m: m.score(None), "text must be a string or an iterable of strings, got NoneType"),
        (lambda m: m.score(Path("a.txt")), "text must be a string or an iterable of strings, got PosixPath"),
        (lambda m: m.score(["a", 3]), "text[1] must be a string, got int"),
        (lambda m: m.score(t for t in ["a", "\udc80"]), r"text[1] must be Unicode, got '\udc80' at 0"),
        (lambda m: m.score(iter(())), "text must not be empty"),
        (
            lambda m: LanguageModel(m.gpt, "tokenizer.json"),
            "tokenizer must be a plgolf.data.tokenizer.Tokenizer, got 'tokenizer.json'",
        ),
        (lambda m: LanguageModel(m.gpt, m.tokenizer, 16.0), "seq_len must be a whole number, got 16.0"),
        (lambda m: plgolf.load_artifact(None), "path must be the path of a file, got None"),
        (lambda m: plgolf.load_artifact(3), "path must be the path of a file, got 3"),
        (lambda m: m.score("\udc80"), r"text must be Unicode, got '\udc80' at 0"),
        (lambda m: m.score(""), "text must not be empty"),
        (lambda m: m.score([]), "text must not be empty"),
        (lambda m: LanguageModel(m.gpt, m.tokenizer, 0), "seq_len must be from 1 to 1048576, got 0"),
    ],
)
def test_mistakes_are_refused_in_one_line(model, use, message):
    with pytest.raises(UserError) as error:
        use(model)
    assert str(error.value) == message


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_weights_too_large_to_compute_with_are_refused_in_one_line(temperature):
    gpt = small()
    with torch.no_grad():
        for p in gpt.parameters():
            if p.ndim < 2:
                p.fill_(3e38)
    model = LanguageModel(gpt, ByteTokenizer(), SEQ_LEN)
    with pytest.raises(UserError, match="logits must be finite, got nan"):
        model.generate("x", temperature=temperature)
    with pytest.raises(UserError, match="losses must be finite, got nan"):
        model.score("x")


def test_a_length_of_billions_allocates_nothing(model):
    with pytest.raises(UserError, match=r"seq_len must be from 1 to 1048576, got 2147483647"):
        LanguageModel(model.gpt, model.tokenizer, 2**31 - 1).generate(max_tokens=2**40)


def test_a_tokenizer_that_cannot_be_carried_is_refused(model, tmp_path):
    for options in ({"tokenizer": None}, {"tokenizer": b""}, {"tokenizer": bytes(2**24 + 1)}):
        with pytest.raises(UserError, match="a tokenizer to carry must have from 1 to 16777216 bytes"):
            save_artifact(model.gpt, tmp_path / "a.ptz", **options, carry_tokenizer=True)
    with pytest.raises(UserError, match="seq_len must be a whole number from 1 to 2147483647, got 0"):
        save_artifact(model.gpt, tmp_path / "a.ptz", seq_len=0)
    assert not (tmp_path / "a.ptz").exists()


def test_load_artifact_refuses_other_types_and_a_second_architecture(model, tmp_path):
    path = tmp_path / "a.ptz"
    save(model, path)
    assert plgolf.load_artifact(path, config=model.gpt.config).gpt.config == model.gpt.config
    for words, message in (
        ({"tokenizer": 3}, "tokenizer must be the path of a file, got 3"),
        ({"config": {"dim": 32}}, "config must be a GPTConfig, got dict"),
        ({"config": replace(model.gpt.config, dim=64)}, f"{path}: config must be left out: the file has its"),
        ({"seq_len": "64"}, f"{path}: seq_len must be a whole number, got '64'"),
    ):
        with pytest.raises(UserError) as error:
            plgolf.load_artifact(path, **words)
        assert str(error.value).startswith(message)
