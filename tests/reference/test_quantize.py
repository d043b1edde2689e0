import io
import json
import pickle
import zlib

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, MODELS, arrays, golden_gpt, meta, reference_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf import GPT, GPTConfig, interop, reference
from plgolf.artifact import load_gpt, read_artifact, save_artifact
from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.model import AttentionConfig, HeadConfig
from plgolf.reference.int8_zlib import (
    dequantize_state_dict,
    pack,
    quantize_state_dict,
    unpack,
)
from plgolf.reference.rounding import dequantize_int8, quantize_int8

CONFIG = GPTConfig(
    vocab_size=300,
    dim=256,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, rope_base=77.0),
    head=HeadConfig(tied=False, softcap=9.0),
)


def golden_input():
    dtypes = json.loads((GOLDEN / "tied" / "quant_dtypes.json").read_text())
    return {
        name: torch.from_numpy(value).to(getattr(torch, dtypes[name]))
        for name, value in arrays("tied", "quant_input").items()
    }


def trained_gpt() -> GPT:
    torch.manual_seed(0)
    gpt = GPT(CONFIG)
    with torch.no_grad():
        for p in gpt.parameters():
            p.add_(torch.randn_like(p))
    return gpt


def test_codes_scales_and_counters_are_the_references(tmp_path):
    stats = reference.write_reference_artifact(golden_input(), tmp_path / "a.int8.ptz")
    assert stats == meta("tied")["quant_stats"]
    ours = torch.load(io.BytesIO(zlib.decompress((tmp_path / "a.int8.ptz").read_bytes())), weights_only=True)
    theirs = torch.load(
        io.BytesIO(zlib.decompress((GOLDEN / "tied" / "model.int8.ptz").read_bytes())),
        weights_only=True,
    )
    assert list(ours) == list(theirs)
    for part in ("quantized", "scales", "passthrough"):
        assert list(ours[part]) == list(theirs[part])
        for name, tensor in theirs[part].items():
            assert ours[part][name].dtype is tensor.dtype, name
            assert torch.equal(ours[part][name], tensor), name
    for part in ("__quant_format__", "dtypes", "qmeta", "passthrough_orig_dtypes"):
        assert ours[part] == theirs[part]


def test_dequantised_tensors_are_the_references():
    tensors = reference.read_reference_artifact(GOLDEN / "tied" / "model.int8.ptz")
    golden, dtypes = arrays("tied", "quant_dequantized"), golden_input()
    assert set(tensors) == set(golden)
    for name, value in golden.items():
        assert tensors[name].dtype is dtypes[name].dtype
        np.testing.assert_array_equal(tensors[name].to(torch.from_numpy(value).dtype), value)


@MODELS
def test_the_references_artifact_becomes_a_model(name):
    path = GOLDEN / name / "trained.int8.ptz"
    config = reference.gpt_config_from_reference(meta(name)["config"], compute_dtype="float32")
    gpt = load_gpt(path, config=config)
    assert not gpt.training and gpt.config == config
    expected = reference.weights_from_reference(reference.read_reference_artifact(path))
    assert all(torch.equal(gpt.state_dict()[k], v) for k, v in expected.items())
    inferred = load_gpt(path).config
    assert inferred.attention.num_kv_heads == config.attention.num_kv_heads
    assert (inferred.dim, inferred.num_layers, inferred.mlp) == (config.dim, config.num_layers, config.mlp)
    assert inferred.head.tied is config.head.tied


@MODELS
def test_names_translate_both_ways(name):
    theirs = reference_weights(name)
    ours = golden_gpt(name).state_dict()
    assert set(reference.weights_from_reference(theirs)) == set(ours)
    assert set(reference.weights_to_reference(ours)) == set(theirs)


def test_artifact_rebuilds_the_model_alone_and_the_reference_can_read_it(tmp_path):
    gpt, path = trained_gpt(), tmp_path / "new" / "model.int8.ptz"
    before = {k: v.clone() for k, v in gpt.state_dict().items()}
    stats = save_artifact(gpt, path)
    assert all(torch.equal(v, before[k]) for k, v in gpt.state_dict().items())
    assert stats["param_count"] == sum(p.numel() for p in gpt.parameters())
    loaded = load_gpt(path)
    assert loaded.config == CONFIG
    names = reference.read_reference_artifact(path)
    assert "lm_head.weight" in names and "blocks.1.attn.c_q.weight" in names
    for key, tensor in loaded.state_dict().items():
        assert tensor.dtype is before[key].dtype
        assert torch.equal(reference.weights_from_reference(names)[key], tensor)
        step = before[key].float().abs().max() / 127
        assert (tensor.float() - before[key].float()).abs().max() <= step
    tokens = torch.randint(300, (2, 16))
    assert torch.equal(load_gpt(path)(tokens), loaded(tokens))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 8),
    cols=st.integers(1, 40),
    exponent=st.integers(-6, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_rounding_is_within_half_a_step_of_what_is_not_clipped(rows, cols, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, cols, generator=generator) * 10.0**exponent
    codes, scale = quantize_int8(values)
    assert codes.dtype is torch.int8 and scale.dtype is torch.float16 and scale.shape == (rows,)
    assert codes.abs().max() <= 127
    # Half a step, the float16 scale's rounding over 127 steps, and what the quantile clips.
    slack = (0.5 + 127 * 2**-11 + 0.01) * scale.float()[:, None]
    clipped = values.abs().max(1, keepdim=True).values - torch.quantile(
        values.abs(), 0.9999984, dim=1, keepdim=True
    )
    restored = dequantize_int8(codes, scale, torch.float32)
    assert ((restored - values).abs() <= slack + clipped).all()


@pytest.mark.parametrize("shape", [(300, 256), (2_000, 2_200)])
@pytest.mark.parametrize("kind", ["noise", "zeros", "words"])
def test_compressed_no_larger_than_by_the_reference_and_any_zlib_inflates_it(shape, kind):
    torch.manual_seed(1)
    noise = torch.randn(shape).mul(30).clamp(-127, 127)
    codes = {"noise": noise, "zeros": noise * 0, "words": noise[:, :8].repeat(1, shape[1] // 8)}[kind]
    obj = {"quantized": {"w": codes.to(torch.int8)}}
    raw = io.BytesIO()
    torch.save(obj, raw)
    packed = pack(obj)
    assert len(packed) <= len(zlib.compress(raw.getvalue(), 9))
    assert zlib.decompress(packed) == raw.getvalue()


def test_damaged_and_hostile_files_are_refused_without_running_anything(tmp_path):
    path = tmp_path / "a.int8.ptz"
    save_artifact(trained_gpt(), path)
    whole = path.read_bytes()
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return open, (str(ran), "w")

    hostile = io.BytesIO()
    torch.save({"__quant_format__": Attack()}, hostile)
    good = unpack(whole)
    bad_header = {**good, "__plgolf__": json.dumps({"version": 1, "config": {"dims": 3}})}
    short = {**good, "passthrough": dict(list(good["passthrough"].items())[1:])}
    misshapen = {**good, "passthrough": {**good["passthrough"], "skip_weights": torch.zeros(3)}}
    for content, message in [
        (whole[: len(whole) // 2], "is cut short"),
        (b"", "is cut short"),
        (b"plain text", "must be a zlib stream"),
        (zlib.compress(b"0" * 1000), "must be a file of torch.save"),
        (zlib.compress(hostile.getvalue()), "must hold plain tensors only"),
        (zlib.compress(pickle.dumps(Attack())), "must be a file of torch.save"),
        (pack({"quantized": {}}), "must be an int8_clean_per_row_v1 artifact"),
        (pack({**good, "__quant_format__": "int9"}), "format must be int8_clean_per_row_v1, got 'int9'"),
        (pack(bad_header), r"config\.dims is not a setting of GPTConfig"),
        (pack({**good, "__plgolf__": "{"}), "header is malformed"),
        (pack({**good, "__plgolf__": '{"version":9,"config":{}}'}), "version must be 1 or 2, got 9"),
        (pack(short), r"weights do not fit: \S+ is missing"),
        (pack(misshapen), r"weights do not fit: skip_weights must have shape \(1, 256\), got \(3,\)"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            load_gpt(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not ran.exists()
    with pytest.raises(ValueError, match="cannot be read"):
        load_gpt(tmp_path / "none.int8.ptz")
    with pytest.raises(ValueError, match="must inflate to at most 1000 bytes"):
        unpack(whole, max_bytes=1000)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gpt: gpt.skip_weights[0, 3].fill_(torch.nan), "'skip_weights' must be finite"),
        (lambda gpt: gpt.blocks[0].attention.k_proj.weight[0, 0].fill_(1e5), "must be finite"),
        (lambda gpt: gpt.embedding.weight[5].fill_(1e8), "scale of 'tok_emb.weight' must be"),
        (lambda gpt: gpt.half(), "must be torch.float32, got torch.float16"),
    ],
)
def test_what_could_not_be_read_again_takes_no_files_place(tmp_path, spoil, message):
    gpt = GPT(GPTConfig(vocab_size=4096, dim=32, num_layers=2, compute_dtype="float32"))
    save_artifact(gpt, tmp_path / "model.ptz")
    before = (tmp_path / "model.ptz").read_bytes()
    with torch.no_grad():
        spoil(gpt)
    with pytest.raises(UserError, match=message):
        save_artifact(gpt, tmp_path / "model.ptz")
    assert (tmp_path / "model.ptz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.ptz"]


def test_models_of_one_artifact_are_apart(tmp_path):
    save_artifact(trained_gpt(), tmp_path / "model.ptz")
    artifact = read_artifact(tmp_path / "model.ptz")
    first, second = artifact.gpt(), artifact.gpt()
    with torch.no_grad():
        first.embedding.weight.zero_()
    assert second.embedding.weight.any() and artifact.weights["embedding.weight"].any()


def test_foreign_weights_have_no_inferred_shape(tmp_path):
    reference.write_reference_artifact({"w": torch.ones(3)}, tmp_path / "w.ptz")
    assert read_artifact(tmp_path / "w.ptz").config is None
    with pytest.raises(ValueError, match="must hold a model of the reference"):
        load_gpt(tmp_path / "w.ptz")


def test_config_survives_a_dict_and_is_checked():
    assert config_from_dict(GPTConfig, json.loads(json.dumps(config_to_dict(CONFIG)))) == CONFIG
    for values, message in [
        ({"dim": "512"}, r"config\.dim must be of type int, got '512'"),
        ({"dim": True}, "must be of type int"),
        ({"compute_dtype": "int8"}, "must be one of"),
        ({"head": {"cap": 3}}, r"config\.head\.cap is not a setting of HeadConfig"),
        ({"head": 3}, r"config\.head must be a mapping"),
    ]:
        with pytest.raises(ValueError, match=message):
            config_from_dict(GPTConfig, values)
    assert config_from_dict(GPTConfig, {"mlp": {"expansion": 3}}).mlp.expansion == 3.0


def test_reference_settings_must_be_complete_and_known():
    settings_ = meta("tied")["config"]
    with pytest.raises(ValueError, match="must have model_dim"):
        reference.gpt_config_from_reference({k: v for k, v in settings_.items() if k != "model_dim"})
    with pytest.raises(ValueError, match="model_dims must be left out"):
        reference.gpt_config_from_reference({**settings_, "model_dims": 3})
    assert reference.gpt_config_from_reference(settings_).compute_dtype == "bfloat16"


def test_dequantised_weights_quantise_to_the_same_codes():
    obj, _ = quantize_state_dict(trained_gpt().state_dict(), is_control=lambda name: False)
    again, _ = quantize_state_dict(dequantize_state_dict(obj), is_control=lambda name: False)
    assert {key: list(obj[key]) for key in obj} == {key: list(again[key]) for key in again}
    assert len(obj["quantized"]) == 6
    for name, codes in obj["quantized"].items():
        assert torch.equal(codes, again["quantized"][name]), name
        # The clip quantile lies between a row's two largest values: a scale may move by a float16 step.
        torch.testing.assert_close(obj["scales"][name], again["scales"][name], rtol=2**-10, atol=0)
    for name, tensor in obj["passthrough"].items():
        assert torch.equal(tensor, again["passthrough"][name]), name


@pytest.mark.parametrize("name", reference.__all__)
def test_the_old_name_of_the_room_has_its_names(name):
    assert getattr(interop, name) is getattr(reference, name)
    assert not hasattr(interop, f"{name}s")
