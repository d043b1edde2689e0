"""Parts of ``gpu.sh`` that have no script of their own: checks of this device, and a short run.

    python benchmarks/gpu_checks.py dtypes|syncs [--tiny] --json FILE
    python benchmarks/gpu_checks.py train --seconds 180 --folder FOLDER [--data ROOT] [--tiny] --json FILE
    python benchmarks/gpu_checks.py collect --folder FOLDER

``dtypes``: in a bfloat16 model all modules except the head's logits give bfloat16, and so do the gradients
between blocks. ``syncs``: no step of the bare loop waits for the GPU, and most steps under the Trainer do
not. ``train``: the baseline recipe on real shards, or on the bytes of the standard library, with warm-up,
validations and export; its compiled model makes two graphs, without a break, and no third. Exits with 1 if a
check fails.
"""

import argparse
import csv
import dataclasses
import json
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import PlgolfLoop, Size, default_device, shards, size_named
from lightning.pytorch import Callback, Trainer
from rounds import machine
from shipped import data_of, fit_silently, module_of, trainer_of
from torch import Tensor
from torch._dynamo.utils import counters

from plgolf.corpus.stdlib import is_validation, stdlib_files
from plgolf.data.manifest import find_tokenizer, read_manifest
from plgolf.data.shards import write_shard
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.hardware import peak_flops
from plgolf.model import GPT
from plgolf.model.flops import train_flops_per_token

Settings = argparse.Namespace
Result = dict[str, Any]


def size_of(settings: Settings) -> Size:
    size = size_named("tiny" if settings.tiny else "baseline")
    return dataclasses.replace(size, gpt=dataclasses.replace(size.gpt, compute_dtype="bfloat16"))


def floating(values: Any) -> list[Tensor]:
    values = values if isinstance(values, tuple | list) else [values]
    return [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]


def check_dtypes(settings: Settings) -> Result:
    """Checks the dtype of every module's output, and of the gradients at the ends of blocks."""
    size, device, seen = size_of(settings), default_device(), Counter[str]()
    gpt, wrong = GPT(size.gpt).to(device), list[str]()

    def note(name: str, values: Any, expected: torch.dtype) -> None:
        for value in floating(values):
            seen[str(value.dtype)] += 1
            if value.dtype != expected:
                wrong.append(f"{name}: {value.dtype}")

    for name, module in gpt.named_modules():
        if not name or name.startswith("head"):
            continue
        module.register_forward_hook(lambda _m, _x, y, name=name: note(name, y, torch.bfloat16))
    for index, block in enumerate(gpt.blocks):
        block.register_full_backward_hook(
            lambda _m, x, y, name=f"gradients of block {index}": note(name, [*x, *y], torch.bfloat16)
        )
    gpt.head.register_forward_hook(lambda _m, _x, y: note("head", y, torch.float32))
    ids = torch.randint(size.gpt.vocab_size, (2, size.sequences, size.seq_len), device=device)
    gpt(ids[0], ids[1]).backward()
    return {"ok": not wrong and len(seen) == 2, "tensors_seen": dict(seen), "wrong": wrong}


class CountSyncs(Callback):
    """Counts the operations that wait for the GPU in each step, and where they are called.

    Args:
        first: step after which counting starts.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.by_step: list[int] = []
        self.unread: list[int] = []
        """Counts of the steps after which ranks shared nothing, so that nothing needed to wait."""
        self.places = Counter[str]()
        self._noted: list[warnings.WarningMessage] | None = None
        self._catching = warnings.catch_warnings(record=True)

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step < self.first:
            return
        if self._noted is None:
            self._noted = self._catching.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            self._step = trainer.global_step
        elif trainer.global_step > self._step:
            self._step = trainer.global_step
            found = [w for w in self._noted if "synchroniz" in str(w.message)]
            self.by_step.append(len(found))
            if module.run.statistics._unread:
                self.unread.append(len(found))
            self.places.update(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in found)
            self._noted.clear()

    def on_train_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._catching.__exit__(None, None, None)


def check_syncs(settings: Settings) -> Result:
    """Makes CUDA raise an error where the bare loop waits, and counts waits under the Trainer."""
    device = default_device()
    if device.type != "cuda":
        return {"ok": True, "skipped": "there is no GPU to wait for"}
    size = size_of(settings).with_vocabulary(ByteTokenizer.vocab_size)
    # Waits do not depend on the amount of work.
    size = dataclasses.replace(size, seq_len=min(size.seq_len, 512), accumulation=2)
    with shards(None, vocab_size=size.gpt.vocab_size, tokens=2**22) as root:
        loop = PlgolfLoop(GPT(size.gpt), size, root, device=device, dtype=torch.bfloat16, compiled=False)
        for _ in range(3):
            loop.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        raised = None
        try:
            for _ in range(10):
                loop.step()
        except RuntimeError:
            raised = traceback.format_exc().splitlines()[-6:]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        count = CountSyncs(first=60)
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(Path(folder), count, max_steps=200)
            fit_silently(trainer, module_of(size), data_of(size, root, val_max_tokens=size.seq_len))
    return {
        "ok": raised is None and len(count.unread) > len(count.by_step) / 2 and not any(count.unread),
        "bare_loop_raised": raised,
        "trainer_syncs": sum(count.by_step),
        "trainer_unread_steps": len(count.unread),
        "trainer_syncs_in_unread_steps": sum(count.unread),
        "trainer_by_step": count.by_step,
        "trainer_places": dict(count.places.most_common(12)),
    }


def losses_of(folder: Path) -> list[tuple[int, float]]:
    with next(folder.glob("logs/*/metrics.csv")).open() as file:
        return [
            (int(row["step"]), float(row["train/loss"]))
            for row in csv.DictReader(file)
            if row.get("train/loss")
        ]


def stdlib_in_bytes(root: Path) -> Path:
    """Writes shards of the standard library as bytes: training a tokenizer needs more packages."""
    tokenizer, streams = ByteTokenizer(), {"train": [np.zeros(0, np.uint16)], "val": [np.zeros(0, np.uint16)]}
    for file in stdlib_files():
        ids = tokenizer.encode(file.path.read_text(errors="replace"))
        document = np.concatenate([[tokenizer.bos_id], ids]).astype(np.uint16)
        streams["val" if is_validation(file.name) else "train"].append(document)
    root.mkdir(parents=True, exist_ok=True)
    for split, documents in streams.items():
        write_shard(root / f"stdlib_{split}_000000.bin", np.concatenate(documents))
    (root / tokenizer.file_name).write_bytes(tokenizer.to_bytes())
    return root


def train(settings: Settings) -> Result:
    """Trains the recipe for a while, exports and scores; counts the compiled graphs."""
    size, folder = size_of(settings), settings.folder / "run"
    root = settings.data or stdlib_in_bytes(settings.folder / "stdlib")
    data = data_of(
        size,
        root,
        tokenizer=settings.tokenizer,
        val_every_steps=10 if settings.tiny else 100,  # So that steps follow a validation.
        val_max_tokens=(20 * size.sequences + 1) * size.seq_len,  # So that the last batch is padded.
    )
    size = size.with_vocabulary(find_tokenizer(root, read_manifest(root), data.tokenizer_path).vocab_size)
    data.vocab_size = size.gpt.vocab_size
    torch._logging.set_logs(recompiles=True, graph_breaks=True)  # To the log of this part.
    compiled = not settings.eager
    trainer = trainer_of(folder, max_seconds=settings.seconds, warmup_steps=5 if compiled else 0, export=True)
    sys.stderr.write(fit_silently(trainer, module_of(size, compiled=compiled), data))
    device, clock, steps = default_device(), trainer.lightning_module.run.clock, trainer.global_step
    result = json.loads((folder / "result.json").read_text())
    speed, peak = steps * size.step_tokens / clock.elapsed_seconds, peak_flops(device)
    used = speed * train_flops_per_token(size.gpt, size.seq_len)
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    return {
        "ok": result["within_budget"]
        and result["val_bpb"] < 8
        and graphs == (2 if compiled else 0)
        and not breaks,
        "graphs": graphs,
        "graph_breaks": breaks,
        "steps": steps,
        "seconds": clock.elapsed_seconds,
        "step_ms": 1e3 * clock.elapsed_seconds / max(steps, 1),
        "tokens_per_second": speed,
        "flops_utilisation": used / peak if peak else None,
        "peak_mib": torch.cuda.max_memory_allocated() >> 20 if device.type == "cuda" else None,
        "phase_seconds": clock.phase_seconds,
        "losses": losses_of(folder),
        "result": {key: value for key, value in result.items() if isinstance(value, int | float | str)},
    }


def collect(settings: Settings) -> Result:
    """Joins the JSON of all parts and prints the most important numbers."""
    parts, folder = dict[str, Any](), settings.folder
    for log in sorted(folder.glob("*.log")):
        file = log.with_suffix(".json")
        if file.exists():
            parts[log.stem] = json.loads(file.read_text())
        else:
            parts[log.stem] = {"ok": False, "said": log.read_text(errors="replace").splitlines()[-8:]}
    (folder / "gpu.json").write_text(json.dumps({"machine": machine(), "parts": parts}, indent=1) + "\n")
    for name in ("dtypes", "syncs", "train"):
        part = {key: value for key, value in parts.get(name, {}).items() if not isinstance(value, list)}
        print(f"{name}: {part}")
    for name, row in parts.get("step", {}).get("variants", {}).items():
        print(f"{name}: {_speed(row)}")
    if steps := parts.get("overhead", {}).get("wall_ms_per_step"):
        ms = {name: steps[name]["median"] for name in ("shipped", "by_hand", "bare")}
        more = steps["overhead"]["over_bare"]["median"]
        print(f"the Trainer: {ms} ms, {more:+.2f} to bare in turn")
    for shape in parts.get("attention", {}).get("shapes", {}).values():
        for name, row in shape.get("bfloat16", {}).items():
            if "errors" in row:
                both, error = row["forward_backward"], max(row["errors"].values())
                print(f"attention, {name}: {both['ms']['median']:.2f} ms both ways, error {error:.1e}")
    failed = sorted(name for name, part in parts.items() if part.get("ok") is False)
    return {"ok": not failed, "failed": failed}


def _speed(row: dict[str, Any]) -> str:
    said = [f"{row['ms']['median']:.1f} ms", f"{row['tokens_per_second']['median']:,.0f} tokens/s"]
    if "flops_utilisation" in row:
        said.append(f"utilisation {row['flops_utilisation']['median']:.1%}")
    if "peak_mib" in row:
        said.append(f"peak {row['peak_mib']:,} MiB")
    said += [f"{ratio['median']:.2f} x {to}" for to, ratio in row["times_as_fast_as"].items()]
    return ", ".join(said)


PARTS = {
    "dtypes": check_dtypes,
    "syncs": check_syncs,
    "train": train,
    "collect": collect,
}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("part", choices=PARTS)
    arguments.add_argument("--tiny", action="store_true", help="a model for tests")
    arguments.add_argument("--folder", type=Path, default=None, help="folder of a run, or of the parts' JSON")
    arguments.add_argument("--data", type=Path, default=None, help="folder of real shards")
    arguments.add_argument(
        "--tokenizer", default=None, help="tokenizer of those shards, if it is not in their folder"
    )
    arguments.add_argument("--eager", action="store_true", help="train without the compiler")
    arguments.add_argument("--seconds", type=float, default=180, help="seconds of training")
    arguments.add_argument("--json", type=Path, default=None)
    settings = arguments.parse_args()
    result = PARTS[settings.part](settings)
    text = json.dumps(result, indent=1, default=str)
    print(text)
    if settings.json:
        settings.json.write_text(text + "\n")
    sys.exit(not result["ok"])


if __name__ == "__main__":
    main()
