"""Exports at the end of a run: writes the artifact, reads it back, scores it and records the result."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger

import plgolf
from plgolf.artifact import Artifact, read_artifact, save_artifact
from plgolf.errors import RunError, UserError, at_least
from plgolf.evaluate.evaluator import Evaluator
from plgolf.files import write_atomically
from plgolf.header import ArtifactFormat
from plgolf.submission import BUDGET_BYTES, Ledger
from plgolf.submission.archive import CODE_FILE, archive_code
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.finish.provenance import Provenance
from plgolf.training.finish.result import describe_bytes, describe_run, describe_scores
from plgolf.training.finish.scoring import artifact_weights, on_rank_zero, score
from plgolf.training.logs.metrics_row import share_scored
from plgolf.training.logs.screen import say
from plgolf.training.module import GolfModule


class ArtifactExport(Callback):
    """Writes the artifact, ``code.tar.bz2`` and ``result.json`` at the end of a fit.

    The round-trip score is the score of the file on disk: its weights replace the trained ones during one
    validation on all ranks; then the trained weights are restored.

    Args:
        dir: folder to write to; by default ``trainer.default_root_dir``.
        budget_bytes: largest allowed sum of model and packed code.
        compressors: general compressors to measure on the same validation bytes, for comparison; slow on
            large splits.
        hardest_documents: number of documents, the hardest first, that ``analysis.json`` has token by token.
        tokenizer: place of the tokenizer's file: beside the artifact, or also inside it, where it counts
            against the budget.
        check_code: runs the packed code on the artifact in a process of its own, which takes some seconds.
        format: format of the artifact, such as ``plgolf.container.Container``; by default that of the
            reference program, int8 and zlib, in ``model.int8.ptz``.
        evaluators: further ways to score the file, such as ``plgolf.evaluate.Windows``; ``result.json`` has
            all of them as ``scores``, with their costs.
    """

    def __init__(
        self,
        dir: str | None = None,  # noqa: A002
        budget_bytes: int = BUDGET_BYTES,
        compressors: list[Literal["zlib", "xz"]] | None = None,
        hardest_documents: int = 8,
        tokenizer: Literal["beside", "inside"] = "beside",
        check_code: bool = True,
        format: ArtifactFormat | None = None,  # noqa: A002
        evaluators: Sequence[Evaluator] = (),
    ) -> None:
        at_least("budget_bytes", budget_bytes, 1)
        at_least("hardest_documents", hardest_documents, 0)
        self.dir = dir
        self.budget_bytes = budget_bytes
        self.compressors = compressors or []
        self.hardest_documents = hardest_documents
        self.tokenizer = tokenizer
        self.check_code = check_code
        self.format = self._prepared = format
        self.evaluators = list(evaluators)
        self.provenance = Provenance()
        self.result: dict[str, Any] = {}
        """Contents of ``result.json`` on rank 0, after it is written."""
        self._began = False
        self._metrics: list[str] = []
        """CSV files with the metrics of this run, also of its parts before it was resumed."""

    def folder(self, trainer: Trainer) -> Path:
        """Returns the folder of the files."""
        return Path(self.dir or trainer.default_root_dir)

    def path(self, trainer: Trainer) -> Path:
        """Returns the path of the artifact."""
        return self.folder(trainer) / (self.format.file_name if self.format else "model.int8.ptz")

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.result, self._metrics, self._began = {}, [], False
            if self.format:
                self.format.check(pl_module.gpt)
                self._prepare(trainer)
            if self.evaluators:
                from plgolf.training.finish.more_scores import check  # noqa: PLC0415 (packed if needed)

                check(self.evaluators, trainer.datamodule.seq_len)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            folders = [logger.log_dir for logger in trainer.loggers if isinstance(logger, CSVLogger)]
            paths = [*self._metrics, *(str(Path(folder, "metrics.csv")) for folder in folders)]
            self._metrics = list(dict.fromkeys(paths))  # A logger may overwrite its earlier file.

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        metrics = state_dict.get("metrics", [])
        if not isinstance(metrics, list) or not all(isinstance(path, str) for path in metrics):
            raise UserError("the checkpoint's metrics must be paths")
        self._metrics = metrics

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, GolfModule)
        self._began = True
        clock, data = pl_module.run.clock, trainer.datamodule  # type: ignore[attr-defined]
        path = self.path(trainer)
        with clock.phase("export"):
            self._prepare(trainer, trainer.world_size)
            saved = on_rank_zero(trainer, lambda: self._save(pl_module, data, path))
            say(f"export: wrote {path}, scoring what it holds")
            before = pl_module.run.val_score or score(trainer, pl_module)
        details = _details()
        analysis, observers = None, []
        if details:
            analysis, observers = details.start_analysis(pl_module, data, self.hardest_documents)
        with artifact_weights(trainer, pl_module, saved and saved[1]):
            with clock.phase("roundtrip"):
                after = score(trainer, pl_module, observers=observers)
            scores = {}
            if details or self.evaluators:
                from plgolf.training.finish.more_scores import score_by  # noqa: PLC0415 (packed if needed)

                scores = score_by(self.evaluators, trainer, pl_module, after)
        with clock.phase("export"):
            analysed = analysis.finish(pl_module.device) if analysis else None
            code = on_rank_zero(trainer, lambda: self._pack(saved and saved[1], data, path))
        if saved is not None and code is not None:
            stats, artifact = saved
            code_bytes = (path.parent / CODE_FILE).stat().st_size
            ledger = Ledger(path.stat().st_size, code_bytes, self.budget_bytes)
            self.result = {
                **describe_run(trainer, pl_module, self.provenance),
                **describe_scores(before, after, share_scored(trainer, after)),
                "scores": scores,
                "artifact": path.name,
                **describe_bytes(ledger, stats),
                "code": code,
                **pl_module.run.notes,
                "metrics": [_relative(Path(file), path.parent) for file in self._metrics],
            }
            if details:
                self.result |= details.describe_more(artifact, pl_module, stats.get("coder"))
                self.result["compressors_bpb"] = details.compare_compressors(trainer, self.compressors, after)
                _write(path.parent / "analysis.json", f"{json.dumps(analysed)}\n".encode())
            _write(path.parent / "result.json", f"{json.dumps(self.result, indent=2)}\n".encode())
            pl_module.run.result, pl_module.run.result_folder = self.result, path.parent
            if details:
                details.log_ledger(trainer.loggers, self.result, after.named("roundtrip"))

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Exports if a callback failed after the last step: its mistake must not cost the run."""
        over = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        failed = isinstance(exception, Exception) and not isinstance(exception, RunError)
        if trainer.state.fn != "fit" or self._began or not (over and failed):
            return
        averages = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
        if averages and trainer.validating and pl_module.run.val_score is None:
            return  # The averaged weights are swapped in; only a resumed run can tell them apart.
        say("a callback failed after the last step: exporting first, then its error follows")
        try:
            for callback in averages:  # The export is of the averages, which become the weights at the end.
                callback.on_train_end(trainer, pl_module)
            if trainer.world_size == 1:
                self.on_train_end(trainer, pl_module)
            elif trainer.is_global_zero:  # The other ranks may be anywhere, so nothing is scored.
                path, data = self.path(trainer), trainer.datamodule  # type: ignore[attr-defined]
                self._prepare(trainer, 1)
                self._pack(self._save(pl_module, data, path)[1], data, path)
                say(f"export: wrote {path}; plgolf validate scores it")
        except Exception as error:
            say(f"export: {type(error).__name__}: {error}")

    def _prepare(self, trainer: Trainer, *num_ranks: int) -> None:
        """Calibrates the format if it needs that; see ``prepared``."""
        if getattr(self.format, "calibration", None):
            from plgolf.training.finish.calibrate import prepared  # noqa: PLC0415 (few use it)

            self._prepared = prepared(self.format, trainer, *num_ranks)

    def _save(self, module: GolfModule, data: ShardDataModule, path: Path) -> tuple[dict[str, Any], Artifact]:
        """Writes the artifact and the tokenizer; returns its counters, and the artifact read back."""
        content, inside = data.tokenizer.to_bytes(), self.tokenizer == "inside"
        try:
            stats = save_artifact(
                module.gpt,
                path,
                seq_len=data.seq_len,
                tokenizer=content,
                carry_tokenizer=inside,
                format=self._prepared,
            )
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        _write(path.parent / data.tokenizer.file_name, content)
        return stats, read_artifact(path)

    def _pack(self, artifact: Artifact | None, data: ShardDataModule, path: Path) -> dict[str, Any]:
        """Writes the packed code and checks it; returns what ``result.json`` says of it."""
        assert artifact is not None
        config, file, details = self.provenance.config, path.parent / CODE_FILE, _details()
        if details is None:  # The folder of this packed code is what was submitted.
            folder = Path(plgolf.__file__).parent.parent
            files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.py")}
            _write(file, archive_code(files, config))
            return {"num_modules": len(files)}
        archive, described = details.pack_run(config)
        _write(file, archive)
        return {**described, **(details.check_code(archive, path, artifact, data) if self.check_code else {})}


def _details() -> ModuleType | None:
    """Returns the module ``details``; None if this process runs packed code, which does not have it."""
    try:
        from plgolf.training.finish import details  # noqa: PLC0415 (not packed)
    except ImportError:
        return None
    return details


def _relative(path: Path, folder: Path) -> str:
    """Returns a path relative to the folder if it lies in it, since a run's folder may be moved."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
