"""plgolf's own container: a model comes back as its codecs say, whatever the coder."""

import hashlib
import json
import sys

import pytest
import torch
from golden_data import GOLDEN

from plgolf import GPT, GPTConfig, load_artifact
from plgolf.artifact import load_gpt, read_artifact, save_artifact
from plgolf.container import Container
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.errors import UserError
from plgolf.model import AttentionConfig, HeadConfig
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows
from plgolf.reference.records import config_from_record
from plgolf.roles import parameter_roles

RAW, FLOAT16 = CodecConfig(raw=Raw()), CodecConfig(raw=Raw(dtype="float16"))


def rows(bits: int, **settings) -> CodecConfig:
    return CodecConfig(rows=Rows(bits=bits, **settings))


MIXED = {"attention": rows(6), "mlp": rows(5), "embedding": rows(8), "head": FLOAT16, "scalar": RAW}


def trained_gpt(dtype: str = "bfloat16", *, tied: bool = False, num_layers: int = 2) -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=260,
        dim=64,
        num_layers=num_layers,
        compute_dtype=dtype,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2, rope_base=50.0),
        head=HeadConfig(tied=tied),
    )
    gpt = GPT(config)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return gpt


@pytest.mark.parametrize("coder", ["zlib", "lzma", "brotli", "zstd"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_tensor_comes_back_as_its_codec_says(coder, dtype, tmp_path):
    gpt, path = trained_gpt(dtype), tmp_path / "model.plgolf"
    before = {name: tensor.clone() for name, tensor in gpt.state_dict().items()}
    content = ByteTokenizer().to_bytes()
    form = Container(MIXED, coder)
    stats = save_artifact(gpt, path, seq_len=99, tokenizer=content, carry_tokenizer=True, format=form)
    assert all(torch.equal(tensor, before[name]) for name, tensor in gpt.state_dict().items())
    artifact = read_artifact(path)
    assert (artifact.config, artifact.seq_len, artifact.tokenizer) == (gpt.config, 99, content)
    assert artifact.tokenizer_sha256 == hashlib.sha256(content).hexdigest()
    for name, tensor in before.items():
        rule = next((r for r in ("attention", "mlp", "embedding", "head") if f"{r}." in name), "scalar")
        rule = "scalar" if name.endswith(("qk_gain", "_scale", "_mix", "skip_weights")) else rule
        codec = MIXED[rule].codec
        expected = codec.decode(codec.encode(tensor), tuple(tensor.shape), tensor.dtype)
        found = artifact.weights[name]
        assert found.dtype is tensor.dtype and torch.equal(found, expected), name
        assert artifact.stored[name].codec == MIXED[rule].name
    assert {artifact.stored[name].kept for name in before} == {"int5", "int6", "int8", "float16", "float32"}
    assert stats["param_count"] == sum(tensor.numel() for tensor in before.values())
    assert sum(stats["stream_bytes"].values()) < path.stat().st_size < stats["baseline_tensor_bytes"] / 3
    assert load_gpt(path)(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()
    assert isinstance(load_artifact(path).generate("a", max_tokens=2), str)


def test_the_same_model_gives_the_same_bytes_and_raw_is_exact(tmp_path):
    gpt = trained_gpt(tied=True)
    form = Container({"matrix": RAW, "embedding": RAW, "scalar": RAW}, "zlib")
    for name in ("a", "b"):
        save_artifact(gpt, tmp_path / name, format=form)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for name, tensor in load_gpt(tmp_path / "a").state_dict().items():
        assert torch.equal(tensor, gpt.state_dict()[name])


def test_one_layer_whose_skip_weights_are_empty_comes_back(tmp_path):
    gpt = trained_gpt(num_layers=1)
    save_artifact(gpt, tmp_path / "a", format=Container({**MIXED, "scalar": rows(8)}))
    assert load_gpt(tmp_path / "a").skip_weights.shape == (0, 64)


def test_fewer_bits_and_better_coders_make_fewer_bytes(tmp_path):
    gpt = trained_gpt(tied=True)
    sizes = {}
    for bits in (8, 6, 4, 2):
        form = Container({"matrix": rows(bits), "embedding": rows(bits), "scalar": FLOAT16}, "zlib")
        save_artifact(gpt, tmp_path / "a", format=form)
        sizes[bits] = (tmp_path / "a").stat().st_size
    save_artifact(gpt, tmp_path / "reference.int8.ptz")
    assert sizes[8] < (tmp_path / "reference.int8.ptz").stat().st_size
    assert sizes[2] < 0.65 * sizes[4] and sizes[4] < 0.75 * sizes[6] and sizes[6] < 0.85 * sizes[8]


@pytest.mark.parametrize(
    ("rules", "spoil", "message"),
    [
        (MIXED, lambda gpt: gpt.skip_weights[0, 3].fill_(torch.nan), "skip_weights must be finite"),
        (MIXED, lambda gpt: gpt.head.proj.weight[0, 0].fill_(1e5), r"head\.proj\.weight must be finite"),
        (MIXED, lambda gpt: gpt.embedding.weight[5].fill_(1e8), r"embedding\.weight must be at most 8\.3"),
        (MIXED, lambda gpt: gpt.half(), "must be torch.float32, got torch.float16"),
        ({**MIXED, "conv": RAW}, lambda gpt: None, r"quantize\.conv must match a tensor"),
    ],
)
def test_what_could_not_be_read_again_replaces_no_file(tmp_path, rules, spoil, message):
    gpt, path = trained_gpt("float32"), tmp_path / "model.plgolf"
    save_artifact(gpt, path, format=Container(MIXED, "zlib"))
    before = path.read_bytes()
    with torch.no_grad():
        spoil(gpt)
    with pytest.raises(UserError, match=message):
        save_artifact(gpt, path, format=Container(rules, "zlib"))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_coder_that_is_not_installed_is_named_before_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match="pip install zstandard"):
        Container(MIXED, "zstd")


def test_parts_of_the_model_have_rules_of_their_own(tmp_path):
    record = json.loads((GOLDEN / "records" / "2026-03-22" / "meta.json").read_text())
    config = config_from_record(record["config"], "2026-03-22")
    gpt = GPT(config)
    roles = parameter_roles(gpt)
    rules = {
        "attention": rows(6),
        "mlp": rows(6),
        "matrix": FLOAT16,
        "embedding": rows(8),
        "bigram_hash.embedding": rows(7),
        "scalar": FLOAT16,
    }
    save_artifact(gpt, tmp_path / "model.plgolf", format=Container(rules))
    stored = read_artifact(tmp_path / "model.plgolf").stored
    assert stored.keys() == roles.keys()
    bigram = {name: stored[name].kept for name in stored if "bigram_hash" in name}
    assert sorted(bigram.values()) == ["float16", "float16", "int7"]
    assert stored["embedding.weight"].kept == "int8"
    assert load_gpt(tmp_path / "model.plgolf").config == config
