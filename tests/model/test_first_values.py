"""Further choices of initial values: their spectra and factors, and that the others stay."""

import math
from dataclasses import replace

import pytest
import torch

from plgolf import GPT, GPTConfig
from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.model.first_values import FirstValuesConfig

PLAIN = GPTConfig(vocab_size=64, dim=32, num_layers=3, compute_dtype="float32")


def made(config: GPTConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return GPT(config).state_dict()


def test_an_overtone_embedding_keeps_directions_and_has_singular_values_that_fall_by_the_root():
    before = made(PLAIN)["embedding.weight"]
    after = made(replace(PLAIN, first_values=FirstValuesConfig(embedding="overtone")))["embedding.weight"]
    u, s, vh = torch.linalg.svd(before.double(), full_matrices=False)
    expected = u * (s[0] / torch.arange(1, 33).sqrt()) @ vh
    torch.testing.assert_close(after.double(), expected, rtol=1e-4, atol=1e-7)


def test_layers_mix_and_scale_by_depth_and_nothing_else_changes():
    config = FirstValuesConfig(residual_mix="sigmoid", up_scale=(1.0, 0.7))
    before, after = made(PLAIN), made(replace(PLAIN, first_values=config))
    for name, value in before.items():
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else 0
        expected = value
        if name.endswith("residual_mix"):
            keep = 1 / (1 + math.exp(-3 * (layer / 2 - 0.5)))
            expected = torch.tensor([[keep], [1 - keep]]).expand(2, 32)
        elif name.endswith("up_proj.weight"):
            expected = value * (1 - 0.15 * layer)
        torch.testing.assert_close(after[name], expected, msg=name)


def test_the_model_of_a_file_is_built_without_computing_them():
    config = replace(PLAIN, first_values=FirstValuesConfig(embedding="overtone", residual_mix="sigmoid"))
    with torch.device("meta"):
        assert GPT(config).embedding.weight.is_meta
    assert config_from_dict(GPTConfig, config_to_dict(config)) == config
    assert "first_values" not in config_to_dict(PLAIN)


def test_a_factor_of_0_is_refused_by_its_path():
    with pytest.raises(UserError, match=r"first_values\.up_scale\.1 must be finite and positive, got 0"):
        config_from_dict(GPTConfig, {"first_values": {"up_scale": [1.0, 0]}})
