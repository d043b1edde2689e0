"""Runs of three records: batches, optimizer, schedules, clipping and moving average together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from golden_data import TOKENIZER
from golden_records import APRIL, MARCH, MARCH_B, april, content, golden, march, off, score_of_april, shards

from plgolf import GPT
from plgolf.data.packed import PackedStream
from plgolf.data.stream import BatchPlan, Stream, TrainStream, ValidationSplit
from plgolf.data.tokenizer import load_tokenizer
from plgolf.evaluate import Windows, evaluate, split_targets
from plgolf.optim import AdamConfig, MuonAdam, MuonConfig, Warmdown
from plgolf.optim.group_schedules import GroupSchedules
from plgolf.progress import RunProgress
from plgolf.reference.records import weights_to_record
from plgolf.roles import param_groups
from plgolf.training.averages import Averages


@dataclass
class Seen:
    """What each step had."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    momenta: list[float] = field(default_factory=list)
    rates: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Run:
    """A record's run.

    Args:
        gpt: the model, with the weights of the start.
        optimizer: its optimizer.
        stream: batches of a single rank.
        count: micro-batches of a step.
        warmdown: schedule of the learning rates.
        progress: progress before a step.
        clip: largest norm of the gradient.
        ema: share of the moving average that stays at each step.
    """

    gpt: GPT
    optimizer: MuonAdam
    stream: Stream
    count: int
    warmdown: Warmdown
    progress: Callable[[int], RunProgress]
    clip: float
    ema: float

    def train(self, steps: int) -> tuple[Seen, dict[str, torch.Tensor]]:
        """Returns what each step had, and the averaged weights."""
        gpt, optimizer, seen, averages = self.gpt, self.optimizer, Seen(), Averages(self.ema, None, 0.5)
        schedules = GroupSchedules(optimizer, self.progress, self.warmdown, {})
        averages.begin("ema", dict(gpt.named_parameters()))
        for step in range(steps):
            gpt.at(self.progress(step).fraction)
            optimizer.zero_grad()
            losses = []
            for index in range(self.count * step, self.count * (step + 1)):
                batch = self.stream.batch(index)
                ids, targets = batch.input_ids.long(), batch.target_ids.long()
                loss = gpt(ids, targets, cu_seqlens=batch.cu_seqlens)
                (loss / self.count).backward()
                losses.append(loss.item())
            seen.losses.append(float(np.mean(losses)))
            seen.norms.append(torch.nn.utils.clip_grad_norm_(gpt.parameters(), self.clip).item())
            seen.rates.append({group["role"]: group["lr"] for group in optimizer.param_groups})
            optimizer.step()
            [momentum] = [group["momentum"] for group in optimizer.param_groups if "momentum" in group]
            seen.momenta.append(momentum)
            schedules.step()
            averages.update(dict(gpt.named_parameters()), self.progress(step + 1).fraction)
        return seen, averages.result(dict(gpt.named_parameters()))


SETTINGS = content("meta.json", APRIL)["optimizer"]


def run_of_april(dtype: str, rows: list[dict[str, Any]]) -> Run:
    gpt, seq_len = april(enable_looping_at=0.35), content("meta.json", APRIL)["model"]["train_seq_len"]
    betas = (SETTINGS["beta1"], SETTINGS["beta2"])
    optimizer = MuonAdam(
        param_groups(gpt),
        matrix=MuonConfig(
            lr=SETTINGS["matrix_lr"],
            momentum=SETTINGS["muon_momentum"],
            momentum_start=SETTINGS["muon_momentum_warmup_start"],
            momentum_warmup_steps=SETTINGS["muon_momentum_warmup_steps"],
            momentum_dtype=dtype,
            newton_schulz_dtype=dtype,
            polynomial="polar_express",
            equalize="rows",
            weight_decay=SETTINGS["muon_wd"],
        ),
        embedding=AdamConfig(lr=SETTINGS["tied_embed_lr"], betas=betas, weight_decay=SETTINGS["embed_wd"]),
        scalar=AdamConfig(lr=SETTINGS["scalar_lr"], betas=betas, weight_decay=SETTINGS["adam_wd"]),
    )
    budget = SETTINGS["max_wallclock_seconds"] - SETTINGS["gptq_reserve_seconds"]

    def progress(step: int) -> RunProgress:
        seconds = rows[min(step, len(rows) - 1)]["elapsed_ms"] / 1000
        return RunProgress(step=step, elapsed_seconds=seconds, max_seconds=budget)

    count = SETTINGS["grad_accum_steps"]
    sequences = SETTINGS["train_batch_tokens"] // count // seq_len
    stream = PackedStream(
        shards("train", APRIL), BatchPlan(sequences, sequences, 1, 1), seq_len=seq_len, rank=0, bos_id=1
    )
    warmdown = Warmdown(fraction=SETTINGS["warmdown_frac"], floor=SETTINGS["min_lr"])
    return Run(
        gpt, optimizer, stream, count, warmdown, progress, SETTINGS["grad_clip_norm"], SETTINGS["ema_decay"]
    )


@pytest.mark.parametrize(
    ("dtype", "first", "every", "norms", "weights"),
    [("float32", 1e-5, 1e-5, 1e-4, 1e-5), ("bfloat16", 1e-4, 1e-3, 1e-2, 2e-2)],
)
def test_a_run_is_that_of_april(dtype, first, every, norms, weights):
    expected = content("trajectory.json", APRIL)[dtype]
    rows = expected["steps"]
    run = run_of_april(dtype, rows)
    seen, averaged = run.train(len(rows))
    for step, row in enumerate(rows):
        assert seen.losses[step] == pytest.approx(row["train_loss"], rel=first if step < 3 else every), step
        assert seen.norms[step] == pytest.approx(row["grad_norm"], rel=norms), step
        assert seen.momenta[step] == pytest.approx(row["momentum"], abs=1e-9)
        for role, name in (("matrix", "matrix"), ("embedding", "embed"), ("scalar", "scalar")):
            assert seen.rates[step][role] == pytest.approx(row[f"lr_{name}"], abs=1e-9), step
    ends = {"final": dict(run.gpt.named_parameters()), "ema": averaged}
    found = {kind: weights_to_record(each, APRIL, run.gpt.config) for kind, each in ends.items()}
    for key, values in golden(f"trained_{dtype}", APRIL).items():
        kind, name = key.split("/", 1)
        bank, _, index = name.rstrip("]").partition("[")
        tensor = found[kind][bank][int(index)] if index else found[kind][bank]
        assert off(tensor.detach(), values) < weights, key
    for name, end in (("final_val_raw_weights", "final"), ("final_val_ema", "ema")):
        run.gpt.load_state_dict(ends[end])
        score = score_of_april(run.gpt, sequences=4)
        assert score.loss == pytest.approx(expected[name]["val_loss"], rel=every), name
        assert score.bpb_raw == pytest.approx(expected[name]["val_bpb"], rel=every), name


def run_of_march(program: str, settings: dict[str, Any]) -> Run:
    """A run of one of the two programs of March, with its default settings where none are given."""
    gpt, seq_len = march(program), content("meta.json")["train_seq_len"]
    adam = settings.get("adam_wd", 0.04)
    groups = {group["role"]: group for group in param_groups(gpt)}
    if program == MARCH_B:  # It trains the projections of the tables with AdamW.
        tables = [m.proj.weight for m in (gpt.input_parts["bigram_hash"], gpt.value_source)]
        kept = [p for p in groups["matrix"]["params"] if all(p is not table for table in tables)]
        groups["scalar"]["params"] += tables
        groups["matrix"]["params"] = kept
    optimizer = MuonAdam(
        groups.values(),
        matrix=MuonConfig(
            lr=0.025,
            momentum=0.99,
            momentum_warmup_steps=settings["muon_momentum_warmup_steps"],
            weight_decay=settings.get("muon_wd", 0.04),
        ),
        embedding=AdamConfig(lr=0.035, weight_decay=adam),
        scalar=AdamConfig(lr=0.025, weight_decay=adam),
    )
    count = settings["grad_accum"]
    sequences = settings["train_batch_tokens"] // count // seq_len
    plan = BatchPlan(sequences, sequences, 1, 1)
    return Run(
        gpt,
        optimizer,
        TrainStream(shards("train"), plan, seq_len=seq_len, rank=0),
        count,
        Warmdown(settings["warmdown_iters"]),
        lambda step: RunProgress(step=step, elapsed_seconds=0.0, max_steps=settings["iterations"]),
        settings.get("grad_clip_norm", 0.3),
        0.997,
    )


def march_loss(gpt: GPT, seq_len: int) -> float:
    # The programs cut the split to whole sequences of their longer evaluation.
    split = ValidationSplit(shards("val"), seq_len=content("meta.json")["eval_seq_len"], batch_sequences=4)
    return evaluate(Windows(seq_len), gpt, split_targets(split, load_tokenizer(TOKENIZER))).loss


@pytest.mark.parametrize(("program", "name"), [(MARCH, "plain"), (MARCH, "accum_wd"), (MARCH_B, "b")])
def test_a_run_is_that_of_march(program, name):
    """Both programs keep gradients and momentum in bfloat16 in part, which these numbers cannot tell."""
    expected = content("b_trajectory.json") if name == "b" else content("trajectory.json")["runs"][name]
    run = run_of_march(program, expected["settings"])
    seen, averaged = run.train(expected["settings"]["iterations"])
    for step, loss in enumerate(expected["loss"]):
        assert seen.losses[step] == pytest.approx(loss, rel=3e-4 if step < 3 else 1e-3), step
        assert seen.norms[step] == pytest.approx(expected["grad_norm_before_clip"][step], rel=3e-3), step
        factor = expected["lr_scale"][step]
        assert seen.rates[step] == pytest.approx(
            {"matrix": 0.025 * factor, "embedding": 0.035 * factor, "scalar": 0.025 * factor}, rel=1e-9
        )
    assert seen.momenta == pytest.approx(expected["muon_momentum"], abs=1e-9)
    found = {
        "final": weights_to_record(dict(run.gpt.named_parameters()), program, run.gpt.config),
        "ema": weights_to_record(averaged, program, run.gpt.config),
    }
    for kind, most in (("final", 2e-3), ("ema", 5e-5)):
        norms = {name: float(tensor.detach().norm()) for name, tensor in found[kind].items()}
        assert norms == pytest.approx(expected[f"{kind}_norms"], rel=most)
    compared = 0
    for key, values in golden("trajectory_weights").items():
        whose, kind, weight = key.split("/")
        if whose == name:
            tensor, compared = found[kind][weight].detach(), compared + 1
            most = 1.5e-4 if kind == "ema" else 7e-3 if tensor.ndim == 2 and min(tensor.shape) > 2 else 3e-3
            assert off(tensor, values) < most, key
    assert compared > 20
    after = expected["after"]
    assert march_loss(run.gpt, 64) == pytest.approx(after["last_weights"]["val_loss"], rel=1e-3)
    run.gpt.load_state_dict(averaged)
    assert march_loss(run.gpt, 64) == pytest.approx(after["post_ema"]["val_loss"], rel=2e-5)
    # No tensor is large enough to be stored as codes.
    run.gpt.load_state_dict({name: tensor.half() for name, tensor in averaged.items()})
    assert march_loss(run.gpt, 96) == pytest.approx(after["int6_roundtrip"]["val_loss"], rel=2e-5)
