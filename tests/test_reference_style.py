"""benchmarks/reference_style.py does what the reference program did, and what plgolf does."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from golden_data import GOLDEN, MODELS, golden_gpt, meta

from plgolf.optim import AdamConfig, MuonConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def contestants(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module("contestants")
    for name in set(sys.modules) - before:
        if name in ("contestants", "reference_style"):
            del sys.modules[name]


def golden_size(contestants, name: str, run: dict, **muon):
    seq_len, tokens = meta(name)["seq_len"], run["global_tokens"] // run["grad_accum"]
    return contestants.Size(
        gpt=golden_gpt(name).config,
        optimizer={
            "matrix": MuonConfig(
                momentum_start=run["muon_momentum_warmup_start"],
                momentum_warmup_steps=run["momentum_warmup_steps"],
                **muon,
            ),
            "embedding": AdamConfig(lr=0.03 if name == "tied" else 0.6),
            "head": AdamConfig(lr=0.008),
            "scalar": AdamConfig(lr=0.02),
        },
        seq_len=seq_len,
        sequences=tokens // seq_len,
        accumulation=run["grad_accum"],
    )


@MODELS
def test_first_steps_are_the_reference_programs(contestants, name):
    run = json.loads((GOLDEN / name / "trajectory.json").read_text())["plain"]
    size = golden_size(contestants, name, run)
    loop = contestants.contestant("reference-float32", golden_gpt(name), size, GOLDEN / name, CPU)
    constant = run["steps"] - run["warmdown_iters"]
    losses = [loop.step() for _ in range(constant)]
    assert losses[:3] == pytest.approx(run["loss"][:3], rel=1e-4)
    assert losses == pytest.approx(run["loss"][:constant], rel=2e-2)


@MODELS
@pytest.mark.parametrize("run", ["plain", "accum4_clip"])
def test_plgolf_takes_the_same_steps(contestants, name, run):
    settings = json.loads((GOLDEN / name / "trajectory.json").read_text())[run]
    size = golden_size(contestants, name, settings, newton_schulz_dtype="float32")
    start = golden_gpt(name), size, GOLDEN / name, CPU
    loops = [contestants.contestant(f"{who}-float32", *start) for who in ("reference", "plgolf")]
    losses = [[float(loop.step()) for _ in range(6)] for loop in loops]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-6)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
