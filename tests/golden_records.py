"""The numbers that the programs of published records computed, read from ``tests/golden/records``."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from golden_data import GOLDEN, TOKENIZER, arrays
from torch import Tensor

from plgolf import GPT
from plgolf.data.borders import Borders
from plgolf.data.shards import ShardReader, find_shards, find_side_cars
from plgolf.data.stream import ValidationSplit
from plgolf.data.tokenizer import load_tokenizer
from plgolf.evaluate import Plain, Score, evaluate, split_targets
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


def score_of_april(gpt: GPT, *, sequences: int) -> Score:
    """Plain evaluation in packed rows of a number of sequences, in which documents are cut at a sequence."""
    reader, seq_len = shards("val", APRIL), content("meta.json", APRIL)["model"]["eval_seq_len"]
    split = ValidationSplit(
        reader,
        seq_len=sequences * seq_len,
        batch_sequences=2,
        raw_bytes=ShardReader(find_side_cars(RECORDS / APRIL, "val", reader.shards)),
        borders=Borders(content("meta.json", APRIL)["bos_id"], seq_len),
    )
    targets = replace(split_targets(split, load_tokenizer(TOKENIZER)), byte_counts=None)
    return evaluate(Plain(split.batch(index) for index in range(len(split))), gpt, targets)
