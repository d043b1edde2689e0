"""Which rule a tensor gets."""

import pytest

from plgolf import GPT, GPTConfig
from plgolf.errors import UserError
from plgolf.model import HeadConfig
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig, assign_rules
from plgolf.quantize.rows import Rows
from plgolf.roles import Role, parameter_roles

RAW = CodecConfig(raw=Raw())
ROLES = parameter_roles(GPT(GPTConfig(vocab_size=64, dim=32, num_layers=2, head=HeadConfig(tied=False))))


def assigned(*rules: str) -> dict[str, set[str]]:
    found = assign_rules(dict.fromkeys(rules, RAW), ROLES)
    assert list(found) == list(ROLES)
    return {rule: {name for name, chosen in found.items() if chosen == rule} for rule in rules}


def test_roles_alone_are_a_partition():
    found = assigned("matrix", "embedding", "head", "scalar")
    for role in Role:
        assert found[role.value] == {name for name, kind in ROLES.items() if kind is role}
    assert sum(map(len, found.values())) == len(ROLES)


def test_a_part_takes_its_matrices_and_the_innermost_wins():
    found = assigned("attention", "mlp", "v_proj", "embedding", "head", "scalar")
    assert found["v_proj"] == {f"blocks.{i}.attention.v_proj.weight" for i in range(2)}
    assert {name.split(".")[3] for name in found["attention"]} == {"q_proj", "k_proj", "out_proj"}
    assert {name.split(".")[2] for name in found["mlp"]} == {"mlp"}
    assert "blocks.0.attention.qk_gain" in found["scalar"]


def test_a_part_and_a_role_take_what_is_both():
    found = assigned("matrix", "embedding", "head", "scalar", "attention.scalar")
    assert found["attention.scalar"] == {f"blocks.{i}.attention.qk_gain" for i in range(2)}
    assert "skip_weights" in found["scalar"]


def test_a_rule_of_layers_takes_its_part_out_of_these_layers():
    found = assigned(
        "matrix", "mlp", "mlp of layers last 1", "embedding", "head", "scalar of layers 0", "scalar"
    )
    assert {name.split(".")[1] for name in found["mlp of layers last 1"]} == {"1"}
    assert (
        {name.split(".")[1] for name in found["mlp"]}
        == {"0"}
        == {name.split(".")[1] for name in found["scalar of layers 0"]}
    )
    assert "skip_weights" in found["scalar"] and "blocks.1.mlp_scale" in found["scalar"]
    found = assigned(
        "up_proj", "mlp of layers all", "matrix of layers 0", "matrix", "embedding", "head", "scalar"
    )
    assert {name.split(".")[3] for name in found["up_proj"]} == {"up_proj"}
    assert {name.split(".")[3] for name in found["mlp of layers all"]} == {"down_proj"}
    assert found["matrix of layers 0"] == {name.replace(".1.", ".0.") for name in found["matrix"]}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            ("matrix", "embedding", "head"),
            "must have one rule for skip_weights, whose role is scalar, got none",
        ),
        (
            ("attention", "embedding", "head", "scalar"),
            "blocks.0.mlp.up_proj.weight, whose role is matrix, got none",
        ),
        (("matrix", "embedding", "head", "scalar", "conv"), "quantize.conv must match a tensor"),
        (
            ("matrix", "attention", "mlp", "embedding", "head", "scalar"),
            "quantize.matrix must match a tensor",
        ),
        (("matrix", "mlp", "mlp.matrix", "embedding", "head", "scalar"), "got mlp and mlp.matrix"),
        (("matrix", "embedding", "head", "scalar", "mlp.gain"), "quantize.mlp.gain must end with a role"),
        (
            ("matrix", "mlp of layers last 3", "embedding", "head", "scalar"),
            "quantize.mlp of layers last 3 must be some of the layers 0 to 1, got 'last 3'",
        ),
        (
            ("matrix", "mlp of layers final", "embedding", "head", "scalar"),
            "quantize.mlp of layers final must be like 'all', 'first 3', .*, got 'final'",
        ),
        (
            ("matrix", "mlp of layers 0", "mlp of layers first 1", "embedding", "head", "scalar"),
            "got mlp of layers 0 and mlp of layers first 1",
        ),
        (
            ("matrix", "embedding", "head", "head of layers 0", "scalar"),
            "quantize.head of layers 0 must match a tensor",
        ),
        ((), "must have one rule for"),
    ],
)
def test_plans_that_are_not_one_rule_for_each_tensor_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        assigned(*rules)


def test_a_codec_is_exactly_one():
    assert CodecConfig(rows=Rows(bits=6)).codec == Rows(bits=6) and CodecConfig(raw=Raw()).name == "raw"
    with pytest.raises(UserError, match="exactly one of raw, rows, gptq, got none"):
        CodecConfig()
    with pytest.raises(UserError, match="exactly one of raw, rows, gptq, got raw, rows"):
        CodecConfig(raw=Raw(), rows=Rows())
