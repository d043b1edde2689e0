"""Artifacts that are damaged, or made to do harm."""

import hashlib
import json
import os
import random
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from golden_data import GOLDEN, VOCAB_SIZE
from hostile.files import mutated, refusal, rezipped, run_bounded, saved
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf import GPT, GPTConfig, load_artifact
from plgolf.artifact import load_gpt, read_artifact, save_artifact
from plgolf.errors import UserError
from plgolf.model import AttentionConfig, HeadConfig, MLPConfig
from plgolf.model.weights import check_weights_fit
from plgolf.reference.int8_zlib import pack, unpack

CONFIG = GPTConfig(
    vocab_size=300,
    dim=256,
    num_layers=1,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(expansion=0.5),
    head=HeadConfig(tied=False),
)
HEADER = "__plgolf__"
TOKENIZER = "__plgolf_tokenizer__"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "a.ptz"
    torch.manual_seed(0)
    save_artifact(GPT(CONFIG), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def obj(whole):
    return unpack(whole)


@pytest.fixture
def refused(tmp_path):
    return lambda data: refusal(tmp_path / "bad.ptz", data)


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def changed(part, name, value):
    """Replaces a tensor, a scale or the like by something else, or by what a function makes of it."""

    def change(obj):
        new = value(obj[part][name]) if callable(value) else value
        return {**obj, part: {**obj[part], name: new}}

    return change


def added(part, name, value):
    return lambda obj: {**obj, part: {**obj[part], name: value}}


def removed(part, name):
    return lambda obj: {**obj, part: without(obj[part], name)}


def top(key, value):
    return lambda obj: {**obj, key: value}


def with_header(change):
    return lambda obj: {**obj, HEADER: json.dumps(change(json.loads(obj[HEADER])))}


def with_config(**values):
    return with_header(lambda header: {**header, "config": {**header["config"], **values}})


RIGHT = "right"


def carried(content, sha256=RIGHT):
    """Puts in a tokenizer's file, and what the header says of it."""
    found = hashlib.sha256(content).hexdigest() if sha256 is RIGHT else sha256
    change = with_header(lambda header: {**header, "tokenizer_sha256": found})
    file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return lambda obj: {**change(obj), TOKENIZER: file}


def first(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


MATRIX, GAIN, SCALE = "tok_emb.weight", "blocks.0.attn.q_gain", "blocks.0.mlp_scale"
ATTENTION = {"num_heads": 4, "num_kv_heads": 2, "qk_gain": 1.5, "rope_base": 1e4}
PER_ROW = {"scheme": "per_row", "axis": 0}

STRUCTURES = {
    "no format": (lambda o: without(o, "__quant_format__"), "__quant_format__ is missing"),
    "another format": (top("__quant_format__", 7), "must be int8_clean_per_row_v1, got int"),
    "a tensor for a format": (top("__quant_format__", torch.ones(9, 9)), "per_row_v1, got Tensor"),
    "no scales": (lambda o: without(o, "scales"), "scales must be a dict, got NoneType"),
    "a list of dtypes": (top("dtypes", []), "dtypes must be a dict, got list"),
    "another key": (top("extra", 1), "the key 'extra' is unknown"),
    "a number for a name": (added("passthrough", 3, torch.ones(1)), "names in passthrough must be strings"),
    "a scale too few": (
        removed("scales", MATRIX),
        "must be in all of quantized, scales and dtypes",
    ),
    "in both": (added("passthrough", MATRIX, torch.ones(1)), "must not be in both quantized and passthrough"),
    "float codes": (changed("quantized", MATRIX, torch.Tensor.float), "must be int8 and not empty"),
    "empty codes": (changed("quantized", MATRIX, lambda t: t[:0].clone()), "must be int8 and not empty"),
    "no codes": (changed("quantized", MATRIX, "x"), "must be int8 and not empty, got str"),
    "code -128": (changed("quantized", MATRIX, first(-128)), "must be from -127 to 127, got -128"),
    "scale 0": (changed("scales", MATRIX, first(0.0)), "positive and finite, got 0.0"),
    "scale < 0": (changed("scales", MATRIX, first(-1.0)), "positive and finite, got -1.0"),
    "scale NaN": (changed("scales", MATRIX, first(float("nan"))), "positive and finite, got nan"),
    "scale infinite": (changed("scales", MATRIX, first(float("inf"))), "must be positive and finite"),
    "scale dtype": (changed("scales", MATRIX, torch.Tensor.float), "got torch.float32 of shape (300,)"),
    "scale shape": (changed("scales", MATRIX, lambda t: t[:-1]), "must be torch.float16 of shape (300,)"),
    "one scale": (changed("scales", MATRIX, torch.tensor(1.0)), "of shape (300,), got torch.float32 of"),
    "a dtype": (changed("dtypes", MATRIX, "float128"), "must be one of float32, bfloat16, float16, got"),
    "a dtype's type": (changed("dtypes", MATRIX, [1]), "got list"),
    "a scheme": (changed("qmeta", MATRIX, {"scheme": "per_row", "axis": 1}), "qmeta of 'tok_emb.weight'"),
    "a scheme's type": (changed("qmeta", MATRIX, torch.ones(2)), "qmeta of 'tok_emb.weight' must be"),
    "a scheme of nothing": (added("qmeta", "x", PER_ROW), "qmeta of 'x' must be"),
    "NaN": (changed("passthrough", GAIN, first(float("nan"))), "'blocks.0.attn.q_gain' must be finite"),
    "infinity": (changed("passthrough", GAIN, first(float("inf"))), "'blocks.0.attn.q_gain' must be finite"),
    "text": (changed("passthrough", GAIN, "text"), "must be a tensor, got str"),
    "an original dtype": (
        top("passthrough_orig_dtypes", {GAIN: "bfloat16"}),
        "must be float16 and in",
    ),
    "two names": (added("passthrough", "blocks.0.attention.qk_gain", torch.ones(4)), "must be there once"),
    "a missing tensor": (removed("passthrough", SCALE), "weights do not fit: blocks.0.mlp_scale is missing"),
    "a strange tensor": (
        added("passthrough", "z", torch.ones(1)),
        "'z' is not in this architecture",
    ),
    "a shape": (changed("passthrough", SCALE, torch.ones(9)), "mlp_scale must have shape (256,), got (9,)"),
    "a type": (
        changed("passthrough", SCALE, torch.ones(256).int()),
        "be torch.float32, got torch.int32",
    ),
    "a header of bytes": (top(HEADER, torch.ones(1)), "its header must be a string"),
    "a header of nothing": (top(HEADER, None), "its header must be a string"),
    "a large header": (top(HEADER, " " * 10**6), "a string of at most 65536 characters"),
    "a deep header": (top(HEADER, "[" * 60_000), "its header is malformed"),
    "many digits": (top(HEADER, "9" * 60_000), "its header is malformed"),
    "a list": (top(HEADER, "[]"), "must have a version and a config"),
    "a version": (with_header(lambda h: {**h, "version": [9]}), "version must be 1 or 2, got [9]"),
    "version true": (with_header(lambda h: {**h, "version": True}), "version must be 1 or 2, got True"),
    "a config": (with_header(lambda h: {**h, "config": [[]]}), "config must be a mapping, got [[]]"),
    "nesting": (with_config(head={"tied": {"tied": 1}}), "config.head.tied must be of type bool"),
    "a cap": (with_config(head={"softcap": float("nan")}), "config.head.softcap must be finite, got nan"),
    "1e400": (with_config(attention={**ATTENTION, "rope_base": 1e400}), "rope_base must be finite, got inf"),
    "10**30": (with_config(vocab_size=10**30), "config.vocab_size must fit 64 bits"),
    "10**400 as a float": (with_config(embedding_std=10**400), "config.embedding_std must fit 64 bits"),
    "2**40": (with_config(vocab_size=2**40), "vocab_size must be at most 1048576"),
    "many layers": (with_config(num_layers=2**40), "num_layers must be at most 512"),
    "layers": (with_config(num_layers=300), "num_layers must be their 1, got 300"),
    "width": (with_config(dim=65536), "embedding.weight must have shape (300, 65536), got (300, 256)"),
    "heads": (with_config(attention={**ATTENTION, "num_heads": 8}), "must have shape (8,), got (4,)"),
    "kv heads": (with_config(attention={**ATTENTION, "num_kv_heads": 4}), "k_proj.weight must have shape"),
    "expansion": (with_config(mlp={"expansion": 1e300}), "mlp.expansion must give a whole hidden width"),
    "wide MLP": (with_config(mlp={"expansion": 4096.0}), "up_proj.weight must have shape (1048576, 256)"),
    "tied": (with_config(head={"tied": True}), "'head.proj.weight' is not in this architecture"),
    "compute dtype": (with_config(compute_dtype="float32"), "embedding.weight must be torch.float32"),
    "no seq_len": (with_header(lambda h: without(h, "seq_len")), "and 'seq_len' is missing"),
    "version 1 with more": (with_header(lambda h: {**h, "version": 1}), "and 'seq_len' is unknown"),
    "another field": (with_header(lambda h: {**h, "run": "rm"}), "and 'run' is unknown"),
    "seq_len 0": (with_header(lambda h: {**h, "seq_len": 0}), "from 1 to 2147483647, got 0"),
    "seq_len true": (with_header(lambda h: {**h, "seq_len": True}), "a whole number from 1 to 2147483647"),
    "seq_len 2**40": (with_header(lambda h: {**h, "seq_len": 2**40}), "to 2147483647, got 1099511627776"),
    "seq_len text": (with_header(lambda h: {**h, "seq_len": "9" * 9999}), "from 1 to 2147483647, got '999"),
    "a hash": (with_header(lambda h: {**h, "tokenizer_sha256": 7}), "must be 64 hexadecimal digits, got 7"),
    "a hash's letters": (with_header(lambda h: {**h, "tokenizer_sha256": "Z" * 64}), "64 hexadecimal digits"),
    "a tokenizer's hash": (carried(b"{}", sha256="0" * 64), "sha256 must be 0000000000000000000000000000000"),
    "a tokenizer of no hash": (carried(b"{}", sha256=None), "sha256 must be None, as its header says, got 4"),
    "a tokenizer of text": (top(TOKENIZER, "text"), "must be a uint8 tensor of 1 to 16777216 bytes"),
    "a tokenizer of codes": (top(TOKENIZER, torch.ones(3, dtype=torch.int8)), "must be a uint8 tensor of 1"),
    "a tokenizer of nothing": (top(TOKENIZER, torch.ones(0, dtype=torch.uint8)), "must be a uint8 tensor"),
    "a square tokenizer": (top(TOKENIZER, torch.ones(2, 2, dtype=torch.uint8)), "must be a uint8 tensor of"),
    "a large tokenizer": (top(TOKENIZER, torch.ones(2**24 + 1, dtype=torch.uint8)), "a uint8 tensor of 1 to"),
    "only a tokenizer": (
        lambda o: without(carried(b"{}")(o), HEADER),
        "must have a header, since it has a tokenizer",
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_of_another_kind_cost_one_line(name, obj, refused):
    change, message = STRUCTURES[name]
    assert message in refused(zlib.compress(saved(change(obj)), 1))


def test_files_of_another_kind_cost_one_line(whole, refused, tmp_path):
    payload = zlib.decompress(whole)
    for data, message in [
        (whole + b"\0", "must end with its zlib stream, got 1 further bytes"),
        (whole + whole, "further bytes"),
        (whole[:-1], "is cut short"),
        (zlib.compress(payload[:-1]), "does not end as torch.save ends it"),
        (zlib.compress(rezipped(payload, compression=zipfile.ZIP_DEFLATED)), "stored, not compressed"),
        (zlib.compress(saved([1])), "must hold a dict, got list"),
        (zlib.compress(saved({"a": torch.ones(3)})), "__quant_format__ is missing"),
    ]:
        assert message in refused(data)
    os.mkfifo(tmp_path / "pipe.ptz")
    for path in (tmp_path, tmp_path / "none.ptz", tmp_path / "pipe.ptz", "/dev/zero"):
        with pytest.raises(UserError, match="cannot be read"):
            load_gpt(path)


@pytest.mark.slow
def test_a_carried_file_that_is_no_tokenizer_costs_one_line(obj, tmp_path):
    path = tmp_path / "a.ptz"
    model = (GOLDEN / "tied" / "tokenizer.model").read_bytes()
    for content, message in [
        (b"{", "its tokenizer must be JSON"),
        (b"{}", "its tokenizer must be a tokenizer.json of Hugging Face"),
        (b"\0", "its tokenizer must be a SentencePiece model"),
        (b"[" * 100_000, "its tokenizer must be a SentencePiece model"),
        (b'{"a":' * 100_000, "its tokenizer must be JSON"),
        (model[:-3], "its tokenizer must be a SentencePiece model"),
        (model, "the tokenizer must have the 300 ids of the model"),
    ]:
        path.write_bytes(pack(carried(content)(obj)))
        # The weights are fine, and load without it.
        assert load_gpt(path).config == CONFIG
        with pytest.raises(UserError) as error:
            load_artifact(path)
        assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_mutated_tokenizers_load_or_are_refused(byte_artifact, seed):
    content, obj = byte_artifact
    path = Path(tempfile.gettempdir()) / f"hostile-{os.getpid()}.ptz"
    path.write_bytes(zlib.compress(saved(carried(mutated(content, seed) or b"x")(obj)), 1))
    try:
        model = load_artifact(path)
    except UserError as error:
        message = str(error)
    else:
        assert model.score("a text").num_bytes == 6
        assert isinstance(model.generate("a", max_tokens=2), str)
        return
    finally:
        path.unlink()
    assert message.startswith(f"{path}: ") and "\n" not in message


@pytest.fixture(scope="module")
def byte_artifact(tmp_path_factory):
    """The golden tokenizer's file, and the dict of an artifact that has as many ids."""
    path = tmp_path_factory.mktemp("artifact") / "a.ptz"
    content = (GOLDEN / "tied" / "tokenizer.model").read_bytes()
    config = GPTConfig(vocab_size=VOCAB_SIZE, dim=16, num_layers=1, compute_dtype="float32")
    save_artifact(GPT(config), path, seq_len=8)
    return content, unpack(path.read_bytes())


@pytest.mark.slow
def test_a_great_length_takes_no_memory_and_one_of_billions_is_refused(obj, tmp_path):
    def write(seq_len):
        change = with_header(lambda header: {**header, "seq_len": seq_len})
        (tmp_path / "a.ptz").write_bytes(pack(change(obj)))

    write(2**31 - 1)
    with pytest.raises(UserError, match=r"a\.ptz: seq_len must be from 1 to 1048576, got 2147483647"):
        load_artifact(tmp_path / "a.ptz")
    write(2**20)
    code = (
        "import plgolf\nfrom plgolf.generation.decoding import Context\nlimit()\n"
        "model = plgolf.load_artifact(sys.argv[1])\nassert model.seq_len == 2**20\n"
        "print(Context(model.gpt, seq_len=model.seq_len, expected=9).next_logits([1, 2]).shape)\n"
    )
    assert run_bounded(code, tmp_path / "a.ptz", mebibytes=200) == "torch.Size([300])\n"


def test_what_compresses_well_still_loads(tmp_path):
    gpt = GPT(CONFIG)
    save_artifact(gpt, tmp_path / "fresh.ptz")
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.zero_()
    save_artifact(gpt, tmp_path / "zero.ptz")
    for name in ("fresh", "zero"):
        load_gpt(tmp_path / f"{name}.ptz")
    assert (tmp_path / "zero.ptz").stat().st_size < 10_000


def test_a_loaded_model_is_an_ordinary_one(tmp_path, whole):
    path = tmp_path / "a.ptz"
    path.write_bytes(whole)
    before = torch.random.get_rng_state()
    gpt = load_gpt(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    reference = GPT(CONFIG)
    reference.load_state_dict(gpt.state_dict())
    tokens = torch.randint(300, (2, 16))
    assert torch.equal(gpt(tokens), reference.eval()(tokens))
    assert torch.equal(gpt.rotary.inverse_frequency, reference.rotary.inverse_frequency)
    parameters = [p for p in gpt.parameters() if p.requires_grad]
    assert len(parameters) == sum(p.requires_grad for p in reference.parameters())
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)
    gpt(tokens, tokens).backward()
    assert all(p.grad is not None for p in parameters)


def test_names_may_share_data_in_the_file_and_not_in_the_model(obj, tmp_path):
    names = (SCALE, "blocks.0.attn_scale")
    spoilt = {**obj, "passthrough": {**obj["passthrough"], **dict.fromkeys(names, torch.ones(256))}}
    (tmp_path / "a.ptz").write_bytes(pack(spoilt))
    block = load_gpt(tmp_path / "a.ptz").blocks[0]
    with torch.no_grad():
        block.mlp_scale.zero_()
    assert block.attention_scale.sum() == 256


def test_shapes_alone_can_be_checked(tmp_path, whole):
    path = tmp_path / "a.ptz"
    path.write_bytes(whole)
    weights = {name: tensor.to("meta") for name, tensor in read_artifact(path).weights.items()}
    check_weights_fit(CONFIG, weights)
    with pytest.raises(UserError, match=r"head\.proj\.weight is missing"):
        check_weights_fit(CONFIG, without(weights, "head.proj.weight"))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_mutated_payloads_load_or_are_refused(whole, seed):
    load_or_refuse(zlib.compress(mutated(zlib.decompress(whole), seed), 1))


OTHERS = st.sampled_from(
    [
        *(None, 0, -1, 1.5, float("nan"), "x", [], {}, (1,), True, 2**40, {"a": 1}),
        *(torch.zeros(3), torch.zeros(0), torch.zeros((), dtype=torch.int64), torch.ones(4, 4).half()),
        *(torch.zeros(4, dtype=torch.int8), torch.full((2, 2), float("nan")), torch.zeros(1).expand(9)),
    ]
)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), value=OTHERS)
def test_artifacts_with_a_leaf_replaced_load_or_are_refused(obj, seed, value):
    at = random.Random(seed)
    part = at.choice(list(obj))
    if isinstance(obj[part], dict) and at.random() < 0.8:
        load_or_refuse(zlib.compress(saved(added(part, at.choice([*obj[part], "new"]), value)(obj)), 1))
    else:
        load_or_refuse(zlib.compress(saved(top(part, value)(obj)), 1))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    value=st.sampled_from([None, 0, -1, 3, 1e400, -1e300, 10**30, 2**62, "x", [], {}, True, 0.5]),
)
def test_configurations_with_a_leaf_replaced_load_or_are_refused(obj, seed, value):
    at = random.Random(seed)
    header = json.loads(obj[HEADER])
    node, key = header, "config"
    while isinstance(node[key], dict) and at.random() < 0.8:
        node, key = node[key], at.choice(list(node[key]))
    node[key] = value
    load_or_refuse(zlib.compress(saved(top(HEADER, json.dumps(header))(obj)), 1))


def load_or_refuse(data: bytes) -> None:
    """Reads an artifact as ``load_gpt`` does, which may only refuse it in a line."""
    path = Path(tempfile.gettempdir()) / f"hostile-{os.getpid()}.ptz"
    path.write_bytes(data)
    try:
        gpt = load_gpt(path)
    except UserError as error:
        message = str(error)
    else:
        assert gpt(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()
        return
    finally:
        path.unlink()
    assert message.startswith(f"{path}: ") and "\n" not in message


@pytest.mark.slow
def test_bombs_are_refused_in_bounded_memory(tmp_path, obj):
    bomb = zlib.compressobj(9)
    data = b"".join(bomb.compress(bytes(2**20)) for _ in range(256)) + bomb.flush()
    assert len(data) < 0.3 * 2**20
    (tmp_path / "bomb.ptz").write_bytes(data)
    lists = b"\x80\x02(" + b"]" * 500_000 + b"t."
    (tmp_path / "lists.ptz").write_bytes(zlib.compress(rezipped(saved([]), data_pkl=lists)))
    (tmp_path / "header.ptz").write_bytes(pack({**obj, HEADER: " " * 5_000_000}))
    (tmp_path / "layers.ptz").write_bytes(pack(with_config(num_layers=2**40)(obj)))
    with (tmp_path / "large.ptz").open("wb") as file:
        file.truncate(2**31)
    code = (
        "from plgolf.artifact import load_gpt\nlimit()\nfor path in sys.argv[1:]:\n"
        "    try:\n        load_gpt(path)\n    except ValueError as error:\n"
        "        print(str(error).removeprefix(path))\n"
    )
    names = ("bomb", "lists", "header", "layers", "large")
    said = run_bounded(code, *(tmp_path / f"{name}.ptz" for name in names), mebibytes=200).splitlines()
    assert [line.partition(", got")[0] for line in said] == [
        ": must inflate to at most 67108864 bytes",
        ": must hold a dict",
        ": its data.pkl must have at most 2097152 bytes",
        ": config.num_layers must be at most 512",
        ": must have at most 1073741824 bytes",
    ]


def test_golden_files_still_load():
    for name in ("tied", "untied"):
        load_gpt(GOLDEN / name / "trained.int8.ptz")
