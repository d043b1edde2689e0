"""The commands of docs/recipes.md: all are parsed, those for a CPU run, with fewer steps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import REPOSITORY, blocks, commands, write_files

from plgolf.cli import main

PAGE = REPOSITORY / "docs" / "recipes.md"
SHORT = [
    "--trainer.max_steps=2",
    "--export.compressors=null",
    "--export.check_code=false",
    "--data.corpus=null",
    "--data.val_max_tokens=2048",
    "--model.compile=false",
    "--warmup.steps=0",
]


def plgolf(*words: str, cwd: Path) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_a_command_for_every_task():
    assert len(commands(PAGE)) >= 14
    assert {words[0] for words in commands(PAGE)} == {"fit", "validate", "data", "report"}


@pytest.mark.parametrize("words", [w for w in commands(PAGE) if w[0] in ("fit", "validate")], ids=" ".join)
def test_every_command_is_one_that_the_parser_takes(words, capfd, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = [word.replace("$seed", "2") for word in words]
    with pytest.raises(SystemExit) as end:
        main([*words, "--print_config=full"])
    assert end.value.code == 0
    said = capfd.readouterr()
    assert yaml.safe_load(said.out)["model"]["gpt"]["num_layers"] > 0, said.err


def test_the_example_recipe_is_valid(tmp_path, capfd):
    [example] = [block.text for block in blocks(PAGE) if block.language == "yaml"]
    (tmp_path / "recipe.yaml").write_text(example)
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(tmp_path / "recipe.yaml"), "--print_config=full"])
    config = yaml.safe_load(capfd.readouterr().out)
    assert config["model"]["optimizer"]["init_args"]["matrix"]["lr"] == 0.01
    said = set(PAGE.read_text().split("**Groups**: ")[1].split(". ")[0].replace("`", "").split(", "))
    assert said == set(config) - {"seed_everything", "ckpt_path", "resume", "weights_only"}


@pytest.mark.slow
def test_the_commands_for_a_cpu_run(quickstart, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(quickstart, tmp_path, dirs_exist_ok=True)
    ran = 0
    for command in commands(PAGE):
        if "configs/baseline.yaml" in command or command[0] == "report":
            continue
        words = [word.replace("$seed", "2") for word in command]
        short = {"fit": SHORT, "validate": SHORT[2:], "data": []}[words[0]]
        folder = next((w.split("=")[1] for w in words if "default_root_dir" in w), "checkpoints/quickstart")
        if words[0] == "fit" and "--resume=auto" in words:
            # On from the run before this one, which had another model: as a new run.
            shutil.rmtree(tmp_path / folder)
        if "--trainer.strategy=ddp" in words:
            plgolf("-m", "plgolf", *words, *short, cwd=tmp_path)
        else:
            assert main([*words, *short]) == 0, words
        if words[0] == "fit":
            result = json.loads((tmp_path / folder / "result.json").read_text())
            assert result["steps"] == 2 and result["within_budget"], words
            budget = next((int(w.split("=")[1]) for w in words if "budget_bytes" in w), 16_000_000)
            assert result["budget_bytes"] == budget
        ran += 1
    assert ran >= 11


@pytest.mark.slow
def test_the_sweep_finds_the_best_of_its_runs(quickstart, tmp_path):
    shutil.copytree(quickstart, tmp_path, dirs_exist_ok=True)
    assert write_files(PAGE, tmp_path) == ["sweep.py"]
    assert len((tmp_path / "sweep.py").read_text().splitlines()) <= 20
    said = plgolf("sweep.py", "2", *SHORT, cwd=tmp_path)
    scores = [float(line.split()[1]) for line in said.splitlines()[:2]]
    assert said.splitlines()[-1] == f"best: checkpoints/sweep/{scores.index(min(scores))}"
