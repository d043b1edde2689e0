import pytest

from plgolf import GPT, GPTConfig
from plgolf.errors import UserError
from plgolf.model import MLPConfig
from plgolf.model.flops import train_flops_per_token
from plgolf.model.layers import layer_indices


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        ("all", range(11)),
        ("first 3", [0, 1, 2]),
        ("last 4", [7, 8, 9, 10]),
        ("from 8", [8, 9, 10]),
        ("3-5", [3, 4, 5]),
        ("9, 10", [9, 10]),
        ("9,10", [9, 10]),
        ("0, 3-5, 4", [0, 3, 4, 5]),
        ("last 11", range(11)),
    ],
)
def test_words_choose_layers(words, layers):
    assert layer_indices(words, 11) == frozenset(layers)


@pytest.mark.parametrize(
    "words",
    ["", "none", "last", "first 0", "last 12", "from 11", "5-3", "11", "9, 11", "-1", "1 2", "all, 3"],
)
def test_words_that_choose_no_layer_are_refused(words):
    with pytest.raises(UserError, match="^layers must be .*got"):
        layer_indices(words, 11)


def test_layers_differ_in_the_width_of_their_mlp():
    widths = MLPConfig(expansions=[0.5, 2.0, 3.0, 3.0])
    gpt = GPT(GPTConfig(vocab_size=64, dim=32, num_layers=4, mlp=widths))
    assert [block.mlp.up_proj.weight.size(0) for block in gpt.blocks] == [16, 64, 96, 96]
    same = GPTConfig(vocab_size=64, dim=32, num_layers=4, mlp=MLPConfig(expansion=8.5 / 4))
    assert train_flops_per_token(gpt.config, 9) == train_flops_per_token(same, 9)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([1.0], r"expansions must be 4 numbers, one per layer, got \[1.0\]"),
        ([1.0, 1, 1, 0.3], "whole hidden"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(dim=32, num_layers=4, mlp=MLPConfig(expansions=widths))
