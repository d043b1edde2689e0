"""Follows docs/extending.md on a copy of plgolf, and docs/own_classes.md in its own folder."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_recipe
from pages import REPOSITORY, blocks, commands, write_files

from plgolf.artifact import read_artifact
from plgolf.errors import UserError

PAGE = REPOSITORY / "docs" / "extending.md"
OWN = REPOSITORY / "docs" / "own_classes.md"
OVERLAY = "configs/parts/head_gain.yaml"


def run(*words: str, cwd: Path, code: int = 0) -> str:
    """Runs Python in the copy's folder; returns its output."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{cwd}:{REPOSITORY}"}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of plgolf with the additions of the page."""
    folder = tmp_path_factory.mktemp("extended")
    left_out = shutil.ignore_patterns("__pycache__")
    for name in ("plgolf", "configs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=left_out)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    (folder / "tests" / "model").mkdir(parents=True)
    for name in ("lively.py", "test_architecture.py", "model/test_parts.py"):
        shutil.copy(REPOSITORY / "tests" / name, folder / "tests" / name)
    patches = [block.text for block in blocks(PAGE) if block.language == "diff"]
    assert patches
    for patch in patches:
        done = subprocess.run(["git", "apply", "-"], cwd=folder, input=patch, text=True, capture_output=True)
        assert done.returncode == 0, f"the page's change does not apply: {done.stderr}"
    written = write_files(PAGE, folder)
    assert {"plgolf/model/parts/head_gain.py", OVERLAY} <= set(written)
    return folder


def test_the_technique_can_be_added_and_set(copy):
    code = (
        "from plgolf import GPT, GPTConfig; from plgolf.config import config_from_dict, config_to_dict\n"
        "on = config_from_dict(GPTConfig, {'parts': {'head_gain': {'layers': 'last 4'}}})\n"
        "print(on.parts.head_gain.layers, GPTConfig().parts.head_gain)\n"
        "assert config_from_dict(GPTConfig, config_to_dict(on)) == on\n"
    )
    assert run("-c", code, cwd=copy).split() == ["last", "4", "None"]


@pytest.mark.slow
def test_the_pages_own_tests_and_the_house_rules_pass(copy):
    chosen = ["-m", "", "-k", "head_gain or every_part or test_architecture"]
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, "tests", cwd=copy).splitlines()[-1]
    # Each test of the contract, one of the table, and those of the house.
    assert int(said.split()[0]) >= 11 + 1 + 6 and "failed" not in said
    paths = [block.path for block in blocks(PAGE) if block.language == "python"]
    for words in (["check"], ["format", "--check"]):
        run("-m", "ruff", *words, *paths, cwd=copy)


@pytest.mark.slow
def test_a_run_with_the_technique_learns_and_its_artifact_scores_the_same(copy, tmp_path):
    recipe = ["-c", str(write_recipe(tmp_path / "golden.yaml")), "-c", OVERLAY, "--trainer.max_steps=30"]
    folder = tmp_path / "run"
    run("-m", "plgolf", "fit", *recipe, f"--trainer.default_root_dir={folder}", cwd=copy)
    with (folder / "logs/version_0/metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 30 and sum(losses[-5:]) / 5 < losses[0] - 0.5
    result = json.loads((folder / "result.json").read_text())
    # The architecture comes from the file, not from the command line.
    words = ["validate", *recipe[:2], f"--ckpt_path={folder}/model.int8.ptz"]
    said = run("-m", "plgolf", *words, cwd=copy)
    assert float(said.split("val/bpb ")[1].split()[0]) == pytest.approx(result["roundtrip_val_bpb"], abs=1e-6)
    # plgolf without the part refuses the file instead of ignoring the part.
    with pytest.raises(UserError, match="head_gain is not a setting of PartsConfig"):
        read_artifact(folder / "model.int8.ptz")


@pytest.mark.slow
def test_classes_outside_of_plgolf_train_log_and_resume(quickstart, tmp_path):
    shutil.copytree(quickstart, tmp_path, dirs_exist_ok=True)
    assert set(write_files(OWN, tmp_path)) == {"mine.py", "mine.yaml", "run.py"}
    [fit] = commands(OWN)
    short = [
        "--clock.max_seconds=null",
        "--export.compressors=null",
        "--export.check_code=false",
        "--data.corpus=null",
        "--data.val_max_tokens=2048",
        "--model.compile=false",
        "--warmup.steps=0",
        "--resume=auto",
    ]
    for steps in (3, 4):
        run("-m", "plgolf", *fit, *short, f"--trainer.max_steps={steps}", cwd=tmp_path)
    events = list((tmp_path / "checkpoints/mine").rglob("events.out.tfevents.*"))
    assert len(events) == 2 and b"embedding/norm" in events[0].read_bytes()
    assert json.loads((tmp_path / "checkpoints/mine/result.json").read_text())["steps"] == 4
    run("run.py", cwd=tmp_path)
    assert json.loads((tmp_path / "checkpoints/backwards/result.json").read_text())["steps"] == 20
