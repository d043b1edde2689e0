"""Settings in files: versions, newer fields, and errors that name the whole path."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from plgolf.config import Migration, config_from_dict, config_to_dict, newer, version_of
from plgolf.errors import UserError, at_least
from plgolf.model import GPTConfig


@dataclass(frozen=True, kw_only=True)
class Rotary:
    base: float = 10000.0
    fraction: float = newer(1.0)

    def __post_init__(self) -> None:
        at_least("base", self.base, 1)


def rope_base_moves(values: dict[str, Any]) -> dict[str, Any]:
    rotary = {"base": values.pop("rope_base")}
    return {**values, "rotary": rotary}


def heads_have_a_longer_name(values: dict[str, Any]) -> dict[str, Any]:
    return {("num_heads" if name == "heads" else name): value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Version 1 had ``rope_base`` and ``heads``, version 2 ``rotary`` and ``heads``."""

    num_heads: int = 8
    rotary: Rotary = field(default_factory=Rotary)
    windows: tuple[int, int] = (0, 1)
    migrations: ClassVar[tuple[Migration, ...]] = (rope_base_moves, heads_have_a_longer_name)


@pytest.mark.parametrize(
    "saved",
    [
        {"heads": 4, "rope_base": 500.0},
        {"version": 1, "heads": 4, "rope_base": 500.0},
        {"version": 2, "heads": 4, "rotary": {"base": 500.0}},
        {"version": 3, "num_heads": 4, "rotary": {"base": 500.0}},
    ],
)
def test_a_dict_of_any_version_becomes_the_present_one(saved):
    before = dict(saved)
    assert config_from_dict(Attention, saved) == Attention(num_heads=4, rotary=Rotary(base=500.0))
    assert saved == before


def test_a_dict_says_its_version_and_newer_fields_only_where_they_are_used():
    assert config_to_dict(Attention()) == {
        "version": 3,
        "num_heads": 8,
        "rotary": {"base": 10000.0},
        "windows": [0, 1],
    }
    turned = Attention(rotary=Rotary(fraction=0.25))
    assert config_to_dict(turned)["rotary"]["fraction"] == 0.25
    for config in (Attention(), turned, Attention(windows=(2, 3))):
        assert config_from_dict(Attention, config_to_dict(config)) == config


@pytest.mark.parametrize("version", [0, 4, True, "3", 2.0])
def test_other_versions_are_refused(version):
    with pytest.raises(
        UserError, match="config.version must be at most 3, the newest that this plgolf knows"
    ):
        config_from_dict(Attention, {"version": version})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 3, "rotary": {"base": 0.5}}, "model.gpt.rotary.base must be at least 1, got 0.5"),
        ({"version": 2, "rotary": {"base": "x"}}, "model.gpt.rotary.base must be of type float, got 'x'"),
        ({"version": 3, "windows": [1]}, r"model.gpt.windows must have 2 values, got \[1\]"),
        ({"version": 3, "windows": [1, "a"]}, "model.gpt.windows.1 must be of type int, got 'a'"),
        ({"num_heads": 4}, "model.gpt must be a Attention of version 1: 'rope_base'"),
        ({"version": 3, "heads": 4}, "model.gpt.heads is not a setting of Attention"),
    ],
)
def test_an_error_names_the_whole_path(values, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        config_from_dict(Attention, values, where="model.gpt")


def test_a_file_of_a_later_plgolf_is_refused_by_its_version():
    newest = version_of(GPTConfig)
    with pytest.raises(UserError, match=f"config.version must be at most {newest}, .*, got {newest + 1}"):
        config_from_dict(GPTConfig, {"version": newest + 1})
