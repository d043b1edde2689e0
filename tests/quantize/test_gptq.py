"""GPTQ and low-rank corrections against what the program of the record 2026-04-27 stored."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_data import GOLDEN

from plgolf import GPT
from plgolf.artifact import load_gpt, save_artifact
from plgolf.container import Container
from plgolf.errors import UserError
from plgolf.quantize.codec import Raw
from plgolf.quantize.encoding import encode_tensors
from plgolf.quantize.gptq import Gptq, gptq_codes
from plgolf.quantize.low_rank import LowRank
from plgolf.quantize.plan import CodecConfig, assign_rules
from plgolf.quantize.rows import Rows
from plgolf.quantize.streams import TensorSpec
from plgolf.reference.records import config_from_record, weights_from_record
from plgolf.roles import parameter_roles

APRIL = "2026-04-27"
FOLDER = GOLDEN / "records" / APRIL
CONTENT = json.loads((FOLDER / "quant.json").read_text())
CONFIG = config_from_record(json.loads((FOLDER / "meta.json").read_text())["model"], APRIL)
SUFFIXES = {
    "q": "codes",
    "scale": "scales",
    "gq": "codes",
    "gs": "scales",
    "lqA_a": "left",
    "lqAs_a": "left_scales",
    "lqB_a": "right",
    "lqBs_a": "right_scales",
}


def stored(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file}


SINGLE = stored("gptq_single")


def sdclip(bits, sigmas, **settings):
    return CodecConfig(gptq=Gptq(rows=Rows(bits=bits, sigmas=[sigmas]), **settings))


def record_rules(low_rank=LowRank()):  # noqa: B008 (frozen)
    return {
        "attention": sdclip(6, 13.0, low_rank=low_rank),
        "mlp": sdclip(6, 11.5, low_rank=low_rank),
        "embedding": sdclip(7, 14.0, low_rank=low_rank),
        "scalar": CodecConfig(raw=Raw(dtype="float16")),
        "output_gate.scalar": CodecConfig(rows=Rows(quantiles=[1.0])),
    }


@pytest.fixture(scope="module")
def gpt():
    made = GPT(CONFIG)
    made.load_state_dict(weights_from_record(stored("weights"), APRIL, CONFIG))
    return made


@pytest.fixture(scope="module")
def hessians():
    """The record's, by plgolf's names; queries, keys and values have one input."""
    found = stored("quant_hessians")
    del found["calib_x"]
    for name in [name for name in found if ".c_q." in name]:
        found |= {name.replace("c_q", other): found[name] for other in ("c_k", "c_v")}
    return weights_from_record(found, APRIL, CONFIG)


def specs_of(gpt, rules):
    assigned = assign_rules(rules, parameter_roles(gpt))
    return [TensorSpec(name, t.dtype, tuple(t.shape), assigned[name]) for name, t in gpt.state_dict().items()]


@pytest.mark.parametrize("case", "abcd")
def test_codes_and_scales_of_a_matrix_are_the_records(case):
    sigmas, largest = SINGLE[f"{case}_clip_sigmas_range"].tolist()
    codec = sdclip(int(largest + 1).bit_length(), sigmas).codec
    (planes,) = codec.encode_all([SINGLE["W"]], [SINGLE["H"]])
    assert codec.rows.largest_code == largest
    assert torch.equal(planes["codes"], SINGLE[f"{case}_q"])
    assert torch.equal(planes["scales"], SINGLE[f"{case}_s"])


def test_codes_do_not_depend_on_how_errors_are_grouped_as_in_the_record():
    scales = SINGLE["b32_s"].float()[None, :, None]
    codes = gptq_codes(SINGLE["W"][None], SINGLE["H"][None], scales, 31, block=32)
    assert torch.equal(codes[0], SINGLE["b32_q"]) and torch.equal(SINGLE["b32_q"], SINGLE["b_q"])


@pytest.mark.parametrize(("pack", "group"), [("asym", 64), ("sym", None)])
def test_factors_of_an_error_are_the_records(pack, group):
    codec = LowRank(group=group)
    planes = codec.encode(SINGLE["E"])
    names = {"left": "qA", "left_scales": "sA", "right": "qB", "right_scales": "sB"}
    for ours, theirs in names.items():
        expected = SINGLE[f"{pack}_{theirs}"]
        assert torch.equal(planes[ours].view(expected.shape), expected), ours
    assert {n: (p.dtype, tuple(p.shape)) for n, p in planes.items()} == codec.planes((12, 128))
    q = {name: planes[name].numpy().astype(np.float64) for name in planes}
    scaled = [
        q[name].reshape(len(q[f"{name}_scales"]), -1) * q[f"{name}_scales"][:, None]
        for name in ("left", "right")
    ]
    product = scaled[0].reshape(12, 4) @ scaled[1].reshape(4, 128)
    np.testing.assert_allclose(codec.decode(planes), product, atol=1e-5)


def test_rows_of_gates_are_the_records():
    planes = Rows(bits=8, quantiles=[1.0]).encode(SINGLE["gate"])
    assert torch.equal(planes["codes"], SINGLE["gate_q"]) and torch.equal(planes["scales"], SINGLE["gate_s"])


def test_every_tensor_of_a_model_is_stored_as_the_record_does(gpt, hessians):
    rules = record_rules()
    found = encode_tensors(gpt.state_dict(), specs_of(gpt, rules), rules, hessians, 3)
    by_suffix, compared = {}, 0
    for name, values in stored("quant_result").items():
        base, _, suffix = name.rpartition(".")
        whole = suffix not in SUFFIXES
        by_suffix.setdefault("values" if whole else SUFFIXES[suffix], {})[name if whole else base] = values
    for plane, named in by_suffix.items():
        for name, expected in weights_from_record(named, APRIL, CONFIG).items():
            assert torch.equal(found.arrays[name][plane].view(expected.shape), expected), (name, plane)
            compared += 1
    assert compared == sum(map(len, found.arrays.values())) == 146
    chosen = weights_from_record(dict.fromkeys(CONTENT["lqer_chosen"], torch.ones(1)), APRIL, CONFIG)
    assert {spec.name for spec in found.specs if spec.rule.endswith(".low_rank")} == chosen.keys()


def row_loss(gpt):
    """Mean loss of the record's plain evaluation: whole rows of 4 sequences, cut at documents."""
    tokens = torch.from_numpy(
        np.fromfile(FOLDER / "fineweb_val_000000.bin", np.uint16)[512:].astype(np.int64)
    )
    losses = []
    for row in range(3):
        x, y = (tokens[row * 96 + shift : row * 96 + shift + 96] for shift in (0, 1))
        borders = {0, 96, *torch.nonzero(x == 1).flatten().tolist()}
        ends = sorted(borders)
        starts = [at for a, b in pairwise(ends) for at in range(a, b, 24)]
        segments = torch.tensor([*starts, 96], dtype=torch.int32)
        with torch.no_grad():
            losses.append(F.cross_entropy(gpt(x[None], cu_seqlens=segments)[0], y).item())
    return sum(losses) / 3


@pytest.mark.parametrize(("low_rank", "key"), [(LowRank(), "eval_after"), (None, "eval_after_without_lqer")])
def test_a_file_has_the_records_weights_and_score(gpt, hessians, tmp_path, low_rank, key):
    assert row_loss(gpt) == pytest.approx(CONTENT["eval_before"][0], rel=1e-5)
    form = Container(record_rules(low_rank), "zlib", low_rank_tensors=3 if low_rank else None)
    stats = save_artifact(gpt, tmp_path / "model.plgolf", format=form.calibrated(hessians))
    restored = load_gpt(tmp_path / "model.plgolf")
    if low_rank:
        weights = weights_from_record(stored("quant_dequantized"), APRIL, CONFIG)
        assert len(weights) == 24
        for name, expected in weights.items():
            assert torch.equal(restored.state_dict()[name], expected), name
    assert row_loss(restored) == pytest.approx(CONTENT[key][0], rel=1e-5)
    assert ("embedding.low_rank.left" in stats["stream_bytes"]) == bool(low_rank)


def correlated(seed, matrices=3, rows=24, columns=150):
    torch.manual_seed(seed)
    weights = torch.randn(matrices, rows, columns)
    x = torch.randn(matrices, 4 * columns, columns) @ torch.randn(matrices, columns, columns)
    return weights, x.mT @ x


def output_error(weights, hessians, codes, scales):
    off = (weights - codes * scales).double()
    return (off @ hessians.double() * off).sum((1, 2))


def test_outputs_change_less_than_by_rounding_to_the_nearest():
    weights, hessians = correlated(0)
    scales = (weights.std(2) / 3)[:, :, None]
    nearest = (weights / scales).round().clamp(-15, 15)
    codes = gptq_codes(weights, hessians, scales, 15)
    better = output_error(weights, hessians, codes, scales)
    assert (better < 0.5 * output_error(weights, hessians, nearest, scales)).all()


def test_matrices_together_are_as_they_are_alone_and_columns_may_have_steps():
    weights, hessians = correlated(1)
    scales = (weights.std(2) / 3)[:, :, None]
    together = gptq_codes(weights, hessians, scales, 15)
    for index in range(3):
        only = slice(index, index + 1)
        assert torch.equal(gptq_codes(weights[only], hessians[only], scales[only], 15)[0], together[index])
    wide = scales * torch.linspace(0.5, 2.0, 150)
    codes = gptq_codes(weights, hessians, wide, 127)
    assert ((weights - codes * wide).abs() < 40 * wide).all() and not torch.equal(codes, together)


def test_inputs_that_are_always_0_or_nearly_dependent_are_no_failure():
    weights, _ = correlated(2)
    scales = (weights.std(2) / 3)[:, :, None]
    assert not gptq_codes(weights, torch.zeros(3, 150, 150), scales, 15).any()
    x = torch.randn(3, 150, 1) * torch.tensor([1e4])
    codes = gptq_codes(weights, x @ x.mT, scales, 15, damping=1e-9)
    assert codes.abs().max() <= 15 and codes.any()


def test_important_rows_have_wider_limits():
    weights, hessians = correlated(3, matrices=1)
    weights[0, 5] *= 4
    plain, aware = (
        sdclip(6, 12.85, importance=share).codec.encode_all([weights[0]], [hessians[0]])[0]["scales"].double()
        for share in (0.0, 0.175)
    )
    power = hessians[0].diagonal().double()
    rows = (weights[0].abs().double() * power / power.mean()).mean(1)
    expected = plain * (1 + 0.175 * (rows / rows.mean() - 1))
    np.testing.assert_allclose(aware, expected, rtol=2**-10)
    assert aware[5] / plain[5] > 1.2


def test_what_a_codec_cannot_do_is_refused(gpt, hessians):
    with pytest.raises(UserError, match="damping must be above 0 and at most 1, got 0"):
        Gptq(rows=Rows(), damping=0)
    with pytest.raises(UserError, match="importance must be at least 0 and below 1, got 1.0"):
        Gptq(rows=Rows(), importance=1.0)
    with pytest.raises(UserError, match="rank must be at least 1, got 0"):
        LowRank(rank=0)
    codec = sdclip(6, 13.0, low_rank=LowRank(group=48)).codec
    with pytest.raises(UserError, match="divides, times the rank .4., got 32"):
        codec.planes((32, 32), torch.float32)
    with pytest.raises(UserError, match="at least low_rank.rank .4. rows and columns"):
        codec.planes((3, 32), torch.float32)
    with pytest.raises(UserError, match="must be a matrix for gptq, got the shape .5."):
        codec.planes((5,), torch.float32)
    rules = record_rules()
    some = {name: h for name, h in hessians.items() if name != "blocks.2.mlp.up_proj.weight"}
    with pytest.raises(UserError, match="blocks.2.mlp.up_proj.weight must have been calibrated"):
        encode_tensors(gpt.state_dict(), specs_of(gpt, rules), rules, some)
    bad = {**hessians, "blocks.2.mlp.up_proj.weight": torch.full((32, 32), torch.nan)}
    with pytest.raises(UserError, match="blocks.2.mlp.up_proj.weight.* must have inputs that are finite"):
        encode_tensors(gpt.state_dict(), specs_of(gpt, rules), rules, bad)
    with pytest.raises(UserError, match="low_rank_tensors must be null where no codec"):
        Container(record_rules(None), low_rank_tensors=3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("left", 2, "left must be from -2 to 1, got -?[012] to 2"),
        ("right", -9, "right must be from -8 to 7, got -9 to"),
        ("left_scales", 0.0, "left_scales must be positive and finite, got 0.0"),
        ("right_scales", float("inf"), "right_scales must be positive and finite"),
    ],
)
def test_factors_of_strangers_are_checked(name, value, message):
    codec = sdclip(6, 13.0, low_rank=LowRank()).codec
    error = SINGLE["E"]
    planes = Rows(bits=6).encode(error) | codec.low_rank.encode(error)
    planes[name].view(-1)[0] = value
    with pytest.raises(UserError, match=message):
        codec.decode(planes, (12, 128), torch.float32)
