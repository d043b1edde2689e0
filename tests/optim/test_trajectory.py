"""Twelve steps of the record of 2026-04-27: optimizer, schedules, clipping and moving average together."""

import json

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, arrays

from plgolf import GPT
from plgolf.data.packed import PackedStream
from plgolf.data.shards import ShardReader, find_shards
from plgolf.data.stream import BatchPlan
from plgolf.optim import AdamConfig, MuonAdam, MuonConfig, Warmdown
from plgolf.optim.group_schedules import GroupSchedules
from plgolf.progress import RunProgress
from plgolf.reference.records import config_from_record, weights_from_record, weights_to_record
from plgolf.roles import param_groups
from plgolf.training.averages import Averages

RECORD = "2026-04-27"
FOLDER = GOLDEN / "records" / RECORD
META = json.loads((FOLDER / "meta.json").read_text())
SETTINGS = META["optimizer"]
BUDGET = SETTINGS["max_wallclock_seconds"] - SETTINGS["gptq_reserve_seconds"]


def optimizer_of(gpt: GPT, dtype) -> MuonAdam:
    betas = (SETTINGS["beta1"], SETTINGS["beta2"])
    return MuonAdam(
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


def micro_batches(number: int) -> PackedStream:
    sequences = SETTINGS["train_batch_tokens"] // number // META["model"]["train_seq_len"]
    return PackedStream(
        ShardReader(find_shards(FOLDER, "train")),
        BatchPlan(sequences, sequences, 1, 1),
        seq_len=META["model"]["train_seq_len"],
        rank=0,
        bos_id=META["bos_id"],
        max_document_tokens=META["model"]["train_seq_len"],
    )


@pytest.mark.parametrize(
    ("dtype", "most_of_losses", "most_of_weights"), [("float32", 1e-5, 1e-5), ("bfloat16", 1e-3, 2e-2)]
)
def test_a_run_is_the_records(dtype, most_of_losses, most_of_weights):
    """Muon in float32 for exact numbers, and in bfloat16, as the record has it."""
    expected = json.loads((FOLDER / "trajectory.json").read_text())[dtype]["steps"]
    config = config_from_record({**META["model"], "enable_looping_at": 0.35}, RECORD)
    gpt = GPT(config)
    gpt.load_state_dict(weights_from_record(arrays(f"records/{RECORD}", "weights"), RECORD, config))
    optimizer, averages = optimizer_of(gpt, dtype), Averages(SETTINGS["ema_decay"], None, 0.5)

    def progress(step: int) -> RunProgress:
        seconds = expected[min(step, len(expected) - 1)]["elapsed_ms"] / 1000
        return RunProgress(step=step, elapsed_seconds=seconds, max_seconds=BUDGET)

    warmdown = Warmdown(fraction=SETTINGS["warmdown_frac"], floor=SETTINGS["min_lr"])
    schedules = GroupSchedules(optimizer, progress, warmdown, {})
    averages.begin("ema", dict(gpt.named_parameters()))
    count = SETTINGS["grad_accum_steps"]
    stream = micro_batches(count)
    for step, row in enumerate(expected):
        gpt.at(progress(step).fraction)
        optimizer.zero_grad()
        losses = []
        for index in range(count * step, count * (step + 1)):
            batch = stream.batch(index)
            loss = gpt(batch.input_ids.long(), batch.target_ids.long(), cu_seqlens=batch.cu_seqlens)
            (loss / count).backward()
            losses.append(loss.item())
        norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), SETTINGS["grad_clip_norm"])
        rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
        optimizer.step()
        schedules.step()
        averages.update(dict(gpt.named_parameters()), progress(step + 1).fraction)
        momenta = {group["role"]: group.get("momentum") for group in optimizer.param_groups}
        assert np.mean(losses) == pytest.approx(row["train_loss"], rel=most_of_losses), step
        assert norm.item() == pytest.approx(row["grad_norm"], rel=10 * most_of_losses), step
        assert momenta["matrix"] == pytest.approx(row["momentum"], abs=1e-9)
        for role, name in (("matrix", "matrix"), ("embedding", "embed"), ("scalar", "scalar")):
            assert rates[role] == pytest.approx(row[f"lr_{name}"], abs=1e-9), step
    ends = {"final": dict(gpt.named_parameters()), "ema": averages.result()}
    found = {kind: weights_to_record(weights, RECORD, config) for kind, weights in ends.items()}
    for key, values in arrays(f"records/{RECORD}", f"trained_{dtype}").items():
        kind, name = key.split("/", 1)
        bank, _, index = name.rstrip("]").partition("[")
        tensor = found[kind][bank][int(index)] if index else found[kind][bank]
        error = np.linalg.norm(tensor.detach().numpy() - values)
        assert error <= most_of_weights * np.linalg.norm(values), key
