"""The numbers that the programs of published records computed, read from ``tests/golden/records``."""

import json
from functools import cache
from typing import Any

import numpy as np
from golden_data import GOLDEN, arrays
from torch import Tensor

from plgolf import GPT
from plgolf.data.shards import ShardReader, find_shards
from plgolf.reference.records import config_from_record, weights_from_record

MARCH, MARCH_B, APRIL = "2026-03-22", "2026-03-23", "2026-04-27"
RECORDS = GOLDEN / "records"


@cache
def golden(file: str, record: str = MARCH) -> dict[str, np.ndarray]:
    return arrays(f"records/{record}", file)


@cache
def content(file: str, record: str = MARCH) -> Any:
    return json.loads((RECORDS / record / file).read_text())


def shards(split: str, record: str = MARCH) -> ShardReader:
    return ShardReader(find_shards(RECORDS / record, split))


def off(a: Tensor | np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def march(program: str = MARCH, *, weights: dict[str, np.ndarray] | None = None, **changes: Any) -> GPT:
    """The small model of March, with changed settings and with weights under the program's names."""
    config = config_from_record({**content("meta.json")["config"], **changes}, program)
    gpt = GPT(config)
    named = weights_from_record({**golden("weights"), **(weights or {})}, program, config)
    gpt.load_state_dict({name: named[name] for name in gpt.state_dict()})
    return gpt


def april(weights: dict[str, np.ndarray] | None = None, **changes: Any) -> GPT:
    """The small model of April."""
    config = config_from_record({**content("meta.json", APRIL)["model"], **changes}, APRIL)
    gpt = GPT(config)
    gpt.load_state_dict(weights_from_record({**golden("weights", APRIL), **(weights or {})}, APRIL, config))
    return gpt
