"""Artificial folders of runs as training leaves them, with the shapes of the baseline or of a small model."""

import csv
import json
import re
import zlib
from pathlib import Path

import numpy as np
import yaml

PROSE = (
    "The harbour master, who had counted every lantern on the quay since 1893, wrote "
    "<script>alert('no')</script> into the ledger & underlined it twice.\n"
    "\tNobody asked why; naïveté was out of fashion, and 東京 was far away 🦀.\n"
    "\"Tell them\", he said, 'that the tide has 14,159 reasons \u202eto turn'.\r\n"
)
SHAPES = {
    "attention.q_proj": (1.0, 1.0),
    "attention.k_proj": (0.5, 1.0),
    "attention.v_proj": (0.5, 1.0),
    "attention.out_proj": (1.0, 1.0),
    "mlp.up_proj": (2.0, 1.0),
    "mlp.down_proj": (1.0, 2.0),
}


def config(seed: int = 1337, lr: float = 0.02, folder: str = "run") -> dict:
    return {
        "seed_everything": seed,
        "trainer": {"default_root_dir": folder, "log_every_n_steps": 50, "callbacks": None},
        "model": {"gpt": {"dim": 512, "num_layers": 9}, "optimizer": {"init_args": {"matrix": {"lr": lr}}}},
        "clock": {"max_seconds": 600.0},
    }


def tensor(name: str, role: str, shape: list[int], rng: np.random.Generator) -> dict:
    count = int(np.prod(shape))
    quantised = count > 65_536
    return {
        "name": name,
        "role": role,
        "shape": shape,
        "num_params": count,
        "kept": "int8" if quantised else "float32" if role == "scalar" else "float16",
        "payload_bytes": count + 2 * shape[0] if quantised else 4 * count,
        "compressed_bytes": int(0.92 * count) if quantised else int(3.4 * count) + 11,
        "relative_error": float(rng.lognormal(-4.9, 0.25)) if quantised else 0.0,
        "clipped_fraction": float(rng.uniform(0, 3e-5)) if quantised else 0.0,
    }


def tensors(dim: int, num_layers: int, vocab_size: int, rng: np.random.Generator) -> list[dict]:
    found = [
        tensor("skip_weights", "scalar", [num_layers // 2, dim], rng),
        tensor("embedding.weight", "embedding", [vocab_size, dim], rng),
    ]
    for i in range(num_layers):
        found.append(tensor(f"blocks.{i}.residual_mix", "scalar", [2, dim], rng))
        found.append(tensor(f"blocks.{i}.attention_scale", "scalar", [dim], rng))
        found.append(tensor(f"blocks.{i}.mlp_scale", "scalar", [dim], rng))
        for name, (rows, columns) in SHAPES.items():
            shape = [int(rows * dim), int(columns * dim)]
            found.append(tensor(f"blocks.{i}.{name}.weight", "matrix", shape, rng))
    return found


def logged(
    rng: np.random.Generator, steps: int, every: int, val_every: int, loss: float, step_ms: float
) -> list[dict]:
    """Returns rows as CSVLogger writes them; the first is step ``every``."""
    rows, seconds = [], 0.0
    for step in range(every, steps + 1, every):
        took = step_ms * float(rng.lognormal(0, 0.03))
        seconds += took * every / 1000
        left = 1 - step / steps
        level = loss + 5.0 * (1 + step / 8) ** -0.62 + 0.09 * min(left / 0.3, 1)
        rows.append(
            {
                "step": step,
                "train/loss": level + float(rng.normal(0, 0.035)),
                "train/gradient_norm": 0.4 + 2 * step**-0.5 + abs(float(rng.normal(0, 0.03))),
                "train/seconds": seconds,
                "train/step_ms": took,
                "train/lr_factor": min(left / 0.3, 1.0),
                "train/momentum": 0.92 + 0.07 * min(step / 1500, 1),
            }
        )
        if step % val_every == 0 or step + every > steps:
            rows.append(
                {"step": step, "val/loss": level, "val/bpb": level * 0.5955, "train/seconds": seconds}
            )
    return rows


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def analysis(rng: np.random.Generator, loss: float) -> dict:
    positions, first = [], 0
    while first < 4096:
        last = max(first + 3, 2 * first - 1) if first else 3
        nats = loss + 2.4 * (first + 2) ** -0.55
        positions.append({"first": first, "last": min(last, 4095), "loss": nats, "bpb": nats * 0.5955})
        first = last + 1
    pieces = re.findall(r"\s?\w{1,6}|\s|[^\w\s]", PROSE * 2)
    documents = [
        {
            "shown_from": 0,
            "start_token": 40_961 * i,
            "num_tokens": 1200 if i == 0 else len(pieces),
            "num_bytes": 2 * len(PROSE.encode()),
            "bpb": 3.4 - 0.3 * i,
            "tokens": [
                ["" if piece == "🦀" else piece, float(rng.gamma(1.1, 2.2 - 0.2 * i))]
                for piece in pieces[:300]
            ],
        }
        for i in range(4)
    ]
    return {"format": 1, "seq_len": 4096, "positions": positions, "documents": documents}


def write_run(
    folder: Path,
    *,
    seed: int = 1337,
    loss: float = 2.02,
    lr: float = 0.02,
    steps: int = 9092,
    every: int = 50,
    val_every: int = 1000,
    step_ms: float = 66.0,
    dim: int = 512,
    num_layers: int = 9,
    tokenizer_bytes: int = 0,
    code_bytes: int = 47_759,
    is_finished: bool = True,
    splits: tuple[int, ...] = (),
    **changes: object,
) -> Path:
    """Writes the folder of a run in today's format, with seconds, tensors and an analysis.

    Args:
        folder: folder to make.
        loss: loss at the end of the run, before the noise of the seed.
        is_finished: writes ``result.json`` and ``analysis.json``.
        splits: steps at which the run was resumed; each file continues past the beginning of the next one.
        changes: other values of ``result.json``.
    """
    rng = np.random.default_rng(seed)
    loss += float(rng.normal(0, 0.0006))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(seed, lr, str(folder))))
    rows = logged(rng, steps, every, val_every, loss, step_ms)
    begins = [0, *splits]
    files = []
    for i, begin in enumerate(begins):
        # A run stops some rows after its checkpoint; the resumed run repeats them.
        end = begins[i + 1] + 3 * every if i + 1 < len(begins) else steps
        path = folder / "logs" / f"version_{i}" / "metrics.csv"
        again = 1.0 if i + 1 == len(begins) else 1.25
        part = [dict(row) for row in rows if begin < row["step"] <= end]
        for row in part:
            if i + 1 < len(begins) and row["step"] > begins[i + 1] and "train/loss" in row:
                row["train/loss"] *= again
        write_csv(path, part)
        files.append(path.relative_to(folder).as_posix())
    if not is_finished:
        return folder
    table = tensors(dim, num_layers, 1024, rng)
    last = next(row for row in reversed(rows) if "val/loss" in row)
    artifact_bytes = int(0.99 * sum(t["compressed_bytes"] for t in table)) + tokenizer_bytes
    times = rng.lognormal(np.log(step_ms), 0.02, steps)
    times[rng.integers(0, steps, 6)] *= 3.0
    counts, edges = np.histogram(times, bins=np.geomspace(times.min(), times.max() * 1.001, 61))
    points = {"min": 0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1}
    result = {
        "recipe": ["configs/baseline.yaml"],
        "overrides": [f"--model.optimizer.init_args.matrix.lr={lr}"],
        "seed": seed,
        "run_name": folder.name,
        "num_params": sum(t["num_params"] for t in table),
        "steps": steps,
        "step_ms": float(times.mean()),
        "train_seconds": float(times.sum() / 1000),
        "seconds": {"train": float(times.sum() / 1000), "warmup": 31.0, "validate": 22.0, "export": 9.0},
        "world_size": 8,
        "global_batch_tokens": 393_216,
        "val_loss": last["val/loss"],
        "val_bpb": last["val/bpb"],
        "val_bpb_raw": None,
        "roundtrip_val_loss": last["val/loss"] + 0.0059,
        "roundtrip_val_bpb": (last["val/loss"] + 0.0059) * 0.5955,
        "roundtrip_val_bpb_raw": None,
        "val_tokens": 62_021_632,
        "val_bytes": 151_080_363,
        "val_raw_bytes": None,
        "dataset": {"root": "data/x", "manifest_sha256": None},
        "artifact": "model.int8.ptz",
        "artifact_bytes": artifact_bytes,
        "tokenizer_bytes": tokenizer_bytes,
        "code_bytes": code_bytes,
        "total_bytes": artifact_bytes + code_bytes,
        "budget_bytes": 16_000_000,
        "within_budget": artifact_bytes + code_bytes <= 16_000_000,
        "quantize": {},
        "compressors_bpb": {},
        "hardware": "NVIDIA H100 80GB HBM3",
        "versions": {"plgolf": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6"},
        "git_commit": format(zlib.crc32(b"commit"), "08x") * 5,
        "metrics": files,
        "step_ms_quantiles": {name: float(np.quantile(times, point)) for name, point in points.items()},
        "step_ms_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "tensors": table,
    }
    (folder / "result.json").write_text(json.dumps({**result, **changes}, indent=2))
    (folder / "analysis.json").write_text(json.dumps(analysis(rng, loss)))
    return folder


def write_groups(
    root: Path, losses: dict[str, float], seeds: tuple[int, ...] = (1337, 1338, 1339)
) -> list[str]:
    """Writes a group of seeds for each loss, each group with its own learning rate."""
    return [
        str(write_run(root / f"{name}-s{seed}", seed=seed, loss=loss, lr=0.02 + 0.01 * i, every=200))
        for i, (name, loss) in enumerate(losses.items())
        for seed in seeds
    ]
