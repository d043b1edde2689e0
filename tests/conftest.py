"""Settings of all tests."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from golden_data import GOLDEN, TOKENIZER, meta
from hypothesis import settings

from plgolf.cli import main

# Background jobs ignore SIGINT, and under nohup SIGHUP: processes that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# One thread for each process: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# A machine that others share is slow at times; a test that hangs meets pytest-timeout.
settings.register_profile("plgolf", deadline=None)
settings.load_profile("plgolf")


@pytest.fixture
def golden_recipe(tmp_path) -> Path:
    """The golden model as a recipe: tiny, float32, on the golden shards."""
    return write_recipe(tmp_path / "golden.yaml")


@pytest.fixture(scope="session")
def golden_recipe_file(tmp_path_factory) -> Path:
    """The same for runs that several tests share."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "golden.yaml")


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory) -> Path:
    """A folder as the quickstart leaves it, with fewer texts and steps: configs, a dataset, an artifact."""
    folder, repository = tmp_path_factory.mktemp("quickstart"), Path(__file__).parent.parent
    shutil.copytree(repository / "configs", folder / "configs")
    (folder / "books").mkdir()
    for source in sorted((repository / "plgolf").rglob("*.py")):
        (folder / "books" / f"{'-'.join(source.parts[-2:])}.txt").write_text(source.read_text())
    (folder / "some.txt").write_text("def main():\n    return 0\n" * 20)
    before = Path.cwd()
    os.chdir(folder)
    try:
        prepare = ["prepare", "books/*.txt", "--root", "data/quickstart", "--val_documents", "15"]
        assert main(["data", *prepare]) == 0
        short = [
            "--data.corpus=null",
            "--trainer.max_steps=2",
            "--export.compressors=null",
            "--export.check_code=false",
            "--model.compile=false",
            "--warmup.steps=0",
        ]
        assert main(["fit", "-c", "configs/quickstart.yaml", *short]) == 0
    finally:
        os.chdir(before)
    return folder


def write_recipe(path: Path) -> Path:
    config = meta("tied")["config"]
    recipe = {
        "seed_everything": 7,
        "model": {
            "gpt": {
                "vocab_size": config["vocab_size"],
                "dim": config["model_dim"],
                "num_layers": config["num_layers"],
                "compute_dtype": "float32",
                "attention": {"num_heads": 4, "num_kv_heads": 2},
            },
            "optimizer": {
                "class_path": "plgolf.optim.MuonAdam",
                "init_args": {"matrix": {"newton_schulz_dtype": "float32"}},
            },
            "schedule": {"class_path": "plgolf.optim.Warmdown", "init_args": {"steps": 4}},
        },
        "data": {
            "root": str(GOLDEN / "tied"),
            "tokenizer": str(TOKENIZER),
            "seq_len": 64,
            "global_batch_tokens": 1024,
            "micro_batch_sequences": 8,
            "val_batch_sequences": 7,
            "val_every_steps": 0,
        },
        # It takes a process of its own: tests/submission does it.
        "export": {"check_code": False},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 10,
            "log_every_n_steps": 1,
            "default_root_dir": "run",
        },
    }
    path.write_text(yaml.safe_dump(recipe))
    return path
