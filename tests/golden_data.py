"""The numbers the reference program produced, read from ``tests/golden``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plgolf import GPT
from plgolf.reference import gpt_config_from_reference, weights_from_reference

GOLDEN = Path(__file__).parent / "golden"
TOKENIZER = GOLDEN / "tied" / "tokenizer.model"
VOCAB_SIZE = 512
MODELS = pytest.mark.parametrize("name", ["tied", "untied"])


def meta(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "meta.json").read_text())


def arrays(name: str, file: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / f"{file}.npz") as content:
        return dict(content)


def reference_weights(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays(name, "weights").items()}


def golden_gpt(name: str) -> GPT:
    """The golden model in float32, with the golden weights."""
    gpt = GPT(gpt_config_from_reference(meta(name)["config"], compute_dtype="float32"))
    gpt.load_state_dict(weights_from_reference(reference_weights(name)))
    return gpt


def ids(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))
