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
        ((), "must have one rule for"),
    ],
)
def test_plans_that_are_not_one_rule_for_each_tensor_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        assigned(*rules)


def test_a_codec_is_exactly_one():
    assert CodecConfig(rows=Rows(bits=6)).codec == Rows(bits=6) and CodecConfig(raw=Raw()).name == "raw"
    with pytest.raises(UserError, match="exactly one of raw, rows, got none"):
        CodecConfig()
    with pytest.raises(UserError, match="exactly one of raw, rows, got raw, rows"):
        CodecConfig(raw=Raw(), rows=Rows())
