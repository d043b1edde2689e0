"""The end of a run: the artifact is written, read back from disk, scored, weighed and recorded."""

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from plgolf.artifact import load_artifact, save_artifact
from plgolf.errors import UserError
from plgolf.files import write_whole
from plgolf.metrics import BitsPerByte
from plgolf.metrics.compressors import compressor_bits_per_byte
from plgolf.quantize.int8_zlib import QuantizeStats
from plgolf.quantize.ledger import BUDGET_BYTES, Ledger, pack_code
from plgolf.training.clock import TrainClock
from plgolf.training.console import say
from plgolf.training.module import GolfModule
from plgolf.training.score import Score
from plgolf.version import __version__


@dataclass(frozen=True)
class Provenance:
    """Where a run's settings came from; the command line fills it in.

    Args:
        recipe: configuration files in order.
        overrides: settings given on the command line.
        seed: of everything random.
        config: the complete configuration as YAML.
    """

    recipe: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    seed: int | None = None
    config: str = ""


class ArtifactExport(Callback):
    """Writes ``model.int8.ptz``, ``code.tar.xz`` and ``result.json`` at the end of a fit.

    The round-trip score is of the file on disk: its weights replace the trained ones for one full
    validation on all ranks, after which the trained ones come back.

    Args:
        dir: folder to write to; by default ``trainer.default_root_dir``.
        budget_bytes: what model and packed code together may take.
        compressors: general compressors to measure on the same validation bytes; for comparison, meant for
            small validation splits.
    """

    def __init__(
        self,
        dir: str | None = None,  # noqa: A002
        budget_bytes: int = BUDGET_BYTES,
        compressors: list[Literal["zlib", "xz"]] | None = None,
    ) -> None:
        self.dir = dir
        self.budget_bytes = budget_bytes
        self.compressors = compressors or []
        self.provenance = Provenance()
        self.result: dict[str, Any] = {}
        """What ``result.json`` holds, on rank 0, once written."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, GolfModule)
        clock = TrainClock.of(trainer)
        folder = Path(self.dir or trainer.default_root_dir)
        path = folder / "model.int8.ptz"
        with clock.phase("export"):
            before = pl_module.val_score or _score(trainer, pl_module)
            stats = self._write(trainer, pl_module, path)
            say(f"export: wrote {path}, scoring what it holds")
            after = _score_file(trainer, pl_module, path)
        if trainer.is_global_zero:
            self._record(trainer, pl_module, path, before, after, stats)

    def _write(self, trainer: Trainer, module: GolfModule, path: Path) -> QuantizeStats | None:
        stats, failure = None, None
        if trainer.is_global_zero:
            try:
                stats = save_artifact(module.gpt, path)
                write_whole(path.parent / "code.tar.xz", self._code())
            except OSError as error:
                failure = f"{path}: cannot be written: {error.strerror}"
        _fail_together(trainer, failure)
        return stats

    def _code(self) -> bytes:
        config = self.provenance.config
        return pack_code({"config.yaml": config.encode()} if config else None)

    def _record(
        self,
        trainer: Trainer,
        module: GolfModule,
        path: Path,
        before: Score,
        after: Score,
        stats: QuantizeStats | None,
    ) -> None:
        ledger = Ledger(
            artifact_bytes=path.stat().st_size,
            code_bytes=(path.parent / "code.tar.xz").stat().st_size,
            budget_bytes=self.budget_bytes,
        )
        clock, steps = TrainClock.of(trainer), trainer.global_step
        self.result = {
            "recipe": self.provenance.recipe,
            "overrides": self.provenance.overrides,
            "seed": self.provenance.seed,
            "num_params": sum(p.numel() for p in module.gpt.parameters()),
            "steps": steps,
            "step_ms": 1000 * clock.elapsed_seconds / max(steps, 1),
            "train_seconds": clock.elapsed_seconds,
            "seconds": {"train": clock.elapsed_seconds, **clock.phase_seconds},
            "world_size": trainer.world_size,
            "global_batch_tokens": trainer.datamodule.global_batch_tokens,  # type: ignore[attr-defined]
            "val_loss": before.loss,
            "val_bpb": before.bpb,
            "val_bpb_raw": before.bpb_raw,
            "roundtrip_val_loss": after.loss,
            "roundtrip_val_bpb": after.bpb,
            "roundtrip_val_bpb_raw": after.bpb_raw,
            "val_tokens": after.num_tokens,
            "val_bytes": after.num_bytes,
            "val_raw_bytes": after.num_raw_bytes or None,
            "dataset": trainer.datamodule.identity(),  # type: ignore[attr-defined]
            "artifact": path.name,
            "artifact_bytes": ledger.artifact_bytes,
            "code_bytes": ledger.code_bytes,
            "total_bytes": ledger.total_bytes,
            "budget_bytes": ledger.budget_bytes,
            "within_budget": ledger.within_budget,
            "quantize": stats.as_dict() if stats else {},
            "compressors_bpb": self._compare(trainer),
            "hardware": _hardware(module.device),
            "versions": _versions(),
            "git_commit": _git_commit(),
        }
        try:
            write_whole(path.parent / "result.json", (json.dumps(self.result, indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(f"{path.parent}/result.json: cannot be written: {error.strerror}") from error
        if trainer.logger is not None:
            trainer.logger.log_metrics(
                {**after.named("roundtrip"), "export/bytes": float(ledger.total_bytes)},
                step=steps,
            )
        _say_result(self.result, path.parent)

    def _compare(self, trainer: Trainer) -> dict[str, float]:
        if not self.compressors:
            return {}
        text = trainer.datamodule.val_bytes()  # type: ignore[attr-defined]
        return compressor_bits_per_byte(text, self.compressors)


def _fail_together(trainer: Trainer, failure: str | None) -> None:
    """Raises rank 0's failure on every rank: the others would wait for it for ever."""
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise UserError(failure)


def _score(trainer: Trainer, module: GolfModule) -> Score:
    """Validates on all ranks with the weights as they are, outside Lightning's loops."""
    metric = BitsPerByte().to(module.device)
    was_training = module.training
    module.eval()
    module.on_validation_epoch_start()
    loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
    limits = trainer.num_val_batches  # A user's limit_val_batches, by loader; empty if none was loaded.
    with torch.no_grad():
        for batch in islice(loader, int(limits[0]) if limits else len(loader)):
            module.add_score(trainer.strategy.batch_to_device(batch), metric)
    module.train(was_training)
    return Score.of(metric)


def _score_file(trainer: Trainer, module: GolfModule, path: Path) -> Score:
    """Scores the weights in a file that rank 0 can read, then brings the trained ones back."""
    trained = {name: tensor.clone() for name, tensor in module.gpt.state_dict().items()}
    failure = None
    if trainer.is_global_zero:
        try:
            module.gpt.load_state_dict(load_artifact(path).state_dict())
        except UserError as error:
            failure = str(error)
    _fail_together(trainer, failure)
    if trainer.world_size > 1:
        # Another machine may not see the file: rank 0's reading is everyone's.
        for tensor in module.gpt.state_dict().values():
            dist.broadcast(tensor, src=0)
    try:
        return _score(trainer, module)
    finally:
        module.gpt.load_state_dict(trained)


def _say_result(result: Mapping[str, Any], folder: Path) -> None:
    say("")
    say(f"val/bpb          {result['val_bpb']:.4f}   (val/loss {result['val_loss']:.4f})")
    say(
        f"round-trip bpb   {result['roundtrip_val_bpb']:.4f}   (val/loss {result['roundtrip_val_loss']:.4f}, "
        "of the file on disk)"
    )
    if result["val_raw_bytes"] not in (None, result["val_bytes"]):
        say(
            f"per raw byte     {result['roundtrip_val_bpb_raw']:.4f}   (the tokens count for "
            f"{result['val_bytes']:,} bytes, the text had {result['val_raw_bytes']:,})"
        )
    for name, bpb in result["compressors_bpb"].items():
        say(f"{name + ' -9':<16} {bpb:.4f}   on the same {result['val_bytes']:,} bytes")
    say(f"model            {result['artifact_bytes']:>12,} bytes")
    say(f"code             {result['code_bytes']:>12,} bytes")
    verdict = "within" if result["within_budget"] else "OVER"
    say(
        f"total            {result['total_bytes']:>12,} bytes, {verdict} the budget of "
        f"{result['budget_bytes']:,}"
    )
    say(f"steps            {result['steps']:>12,} in {result['train_seconds']:.1f} s of training")
    say(f"written to       {folder}/{{model.int8.ptz,code.tar.xz,result.json}}")


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    packages = ("torch", "lightning", "torchmetrics", "sentencepiece", "numpy")
    return {
        "plgolf": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
