"""Records which hooks a run calls, in order, by wrapping the classes that take part in it.

``python tests/hook_order.py`` writes what it has recorded into docs/troubleshooting.md and keeps the remarks.
"""

import functools
import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from difflib import ndiff
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from processes import Rank
from torch import Tensor

from plgolf.cli import main
from plgolf.optim import MuonAdam
from plgolf.training import GolfModule, ShardDataModule
from plgolf.training.checkpoints.files import CheckpointFiles
from plgolf.training.command.cli import GolfCLI

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
BASES = (Callback, LightningModule, LightningDataModule)
STATES = ("state_dict", "load_state_dict")
HOOKS = {
    name for base in BASES for name in dir(base) if re.match(r"on_|.*step|setup|configure|teardown", name)
}
OTHERS = {
    GolfCLI: ("parse_arguments", "instantiate_trainer", "before_fit", "after_fit"),
    GolfModule: ("check", *HOOKS),
    ShardDataModule: (
        *("build", "check", "prepare_data", "train_dataloader", "val_dataloader", *STATES),
        *HOOKS,
    ),
    MuonAdam: ("__init__", "step", "zero_grad", "load_state_dict"),
    CSVLogger: ("log_hyperparams", "log_metrics", "save", "finalize"),
    CheckpointFiles: ("save_checkpoint", "load_checkpoint"),
    SingleDeviceStrategy: ("setup_environment", "setup", "model_to_device", "teardown"),
    Tensor: ("backward",),
}


def ours(base: type) -> Iterator[type]:
    """All classes of plgolf below a base."""
    for kind in base.__subclasses__():
        if kind.__module__.startswith("plgolf."):
            yield kind
        yield from ours(kind)


def wrap(kind: type, name: str, record: list[str], depth: list[int]) -> None:
    method = getattr(kind, name)

    @functools.wraps(method)
    def recorded(*args, **kwargs):
        record.append("  " * depth[0] + f"{kind.__name__}.{name}")
        depth[0] += 1
        try:
            return method(*args, **kwargs)
        finally:
            depth[0] -= 1

    setattr(kind, name, recorded)


def record_run(words: list[str], into: str, stop_in_step: int = 0) -> int:
    """Runs the command line in a process of its own and writes the names of the hooks it came through."""
    record: list[str] = []
    depth = [0]
    kinds = dict.fromkeys(sorted(set(ours(Callback)), key=lambda kind: kind.__name__), (*HOOKS, *STATES))
    for kind, names in {**kinds, **OTHERS}.items():
        for name in names:
            # Only what plgolf defines, except in the classes of Lightning that are named here.
            ours_defines = any(name in vars(k) for k in kind.__mro__ if k.__module__.startswith("plgolf."))
            if ours_defines or (kind not in kinds and kind not in (GolfModule, ShardDataModule)):
                wrap(kind, name, record, depth)
    if stop_in_step:
        step = GolfModule.training_step

        @functools.wraps(step)
        def with_signal(module, *args):
            if module.trainer.global_step + 1 == stop_in_step:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(module, *args)

        GolfModule.training_step = with_signal
    code = main(words)
    Path(into).write_text(json.dumps(record))
    return code


def sections(recipe: Path, folder: Path) -> dict[str, list[str]]:
    """Records four runs and cuts them into the sections of the page."""
    fit = ["fit", "-c", str(recipe), "--data.val_every_steps=1", "--data.val_max_tokens=448"]
    fit += ["--trainer.log_every_n_steps=1", "--trainer.max_steps=2"]
    root = f"--trainer.default_root_dir={folder}/run"
    runs = {
        "fit": ([*fit, root], 0, 0),
        "stop": ([*fit, f"--trainer.default_root_dir={folder}/stopped"], 1, 143),
        "resume": ([*fit, f"--trainer.default_root_dir={folder}/stopped", "--resume=auto"], 0, 0),
        "validate": (["validate", *fit[1:3], fit[4], f"--ckpt_path={folder}/run/model.int8.ptz", root], 0, 0),
    }
    records = {}
    for name, (words, stop_in_step, code) in runs.items():
        rank = Rank(record_run, words, str(folder / name), stop_in_step, folder=folder)
        assert rank.wait() == code, rank.said
        record = json.loads((folder / name).read_text())
        records[name] = [line for i, line in enumerate(record) if line != record[max(i - 1, 0)] or i == 0]
    return cut(**records)


def cut(*, fit: list[str], stop: list[str], resume: list[str], validate: list[str]) -> dict[str, list[str]]:
    """Names the parts of the records as the page does; what comes again is left out."""
    start, second = [i for i, line in enumerate(fit) if line == "TrainClock.on_train_batch_start"]
    validation = fit.index("TrainClock.on_validation_start")
    end = fit.index("GolfModule.on_validation_end", second) + 1
    start_of_resumed = resume[: resume.index("TrainClock.on_train_batch_start")]
    score = validate[: validate.index("GolfModule.on_validation_end") + 1]
    return {
        "Start of a fit": fit[:start],
        "A step of two micro-batches": fit[start:validation],
        "A validation": fit[validation:second],
        "The end": fit[end:],
        "A signal": stop[stop.index("GolfModule.training_step") :],
        "A resume": difference(fit[:start], start_of_resumed),
        "Validate": difference(fit[:start] + fit[validation:second], score),
    }


def difference(before: list[str], after: list[str]) -> list[str]:
    return [line for line in ndiff(before, after) if line[0] in "+-"]


_BLOCK = re.compile(r"^### (.+)\n(?:(?!```|#).*\n)*```text\n((?:.*\n)*?)```", re.MULTILINE)


def on_page(text: str) -> dict[str, list[tuple[str, str]]]:
    """The page's blocks by their headings: name, indented as it was recorded, and remark of each line."""
    return {
        title: [
            (name.rstrip(), remark)
            for name, _, remark in (line.partition("# ") for line in block.splitlines())
        ]
        for title, block in _BLOCK.findall(text)
    }


def rewritten(text: str, recorded: dict[str, list[str]]) -> str:
    """The page with what was recorded, and the remarks that it had."""
    before = on_page(text)

    def block(match: re.Match[str]) -> str:
        remarks = dict(before[match[1]])
        lines = [f"{name:<44}# {remarks.get(name, '')}".rstrip("# ") for name in recorded[match[1]]]
        return match[0].replace(f"```text\n{match[2]}", "\n".join(["```text", *lines, ""]))

    return _BLOCK.sub(block, text)


if __name__ == "__main__":
    from conftest import write_recipe

    with tempfile.TemporaryDirectory() as temporary:
        recorded = sections(write_recipe(Path(temporary) / "golden.yaml"), Path(temporary))
    PAGE.write_text(rewritten(PAGE.read_text(), recorded))
