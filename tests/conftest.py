"""Settings of all tests."""

import signal
from pathlib import Path

import pytest
import yaml
from golden_data import GOLDEN, TOKENIZER, meta
from hypothesis import settings

# Shells start background jobs with SIGINT ignored, and the processes that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

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
