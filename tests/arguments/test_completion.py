"""Completion in the shells themselves, from scripts that start no Python."""

import shutil
import subprocess

import pytest

from plgolf.cli import main

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    capture = pytest.MonkeyPatch()
    for shell in SHELLS:
        with (folder / shell).open("w") as file:
            capture.setattr("sys.stdout", file)
            assert main(["--print_completion", shell]) == 0
    capture.undo()
    return folder


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_takes_its_script(shell, scripts):
    text = (scripts / shell).read_text()
    assert "model.gpt.num_layers" in text and "val_fraction" in text and "python" not in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", scripts / shell], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def in_bash(scripts, folder, *words):
    """What bash would offer for the last word, = being a word of its own as for readline."""
    split = [part for word in words for part in word.replace("=", "\0=\0").split("\0")]
    split = [part for at, part in enumerate(split) if part or at == len(split) - 1]
    if len(split) > 1 and split[-1] == "" and split[-2] == "=":
        split.pop()
    code = f"""
source {scripts / "bash"}
COMP_WORDS=("$@"); COMP_CWORD={len(split) - 1}
_plgolf 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code, "bash", *split], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0 and done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["fi"], ["fit"]),
        ([""], ["data", "fit", "generate", "report", "validate"]),
        (["data", "pre"], ["prepare"]),
        (["data", ""], ["download", "inspect", "prepare", "verify"]),
        (["fit", "--clock.m"], ["--clock.max_seconds"]),
        (
            ["fit", "--model.optimizer.matrix.newton_schulz_s"],
            ["--model.optimizer.matrix.newton_schulz_steps"],
        ),
        (["fit", "--trainer.fast"], ["--trainer.fast_dev_run"]),
        (["fit", "--resu"], ["--resume"]),
        (["validate", "--resu"], []),
        (["fit", "--model.gpt.compute_dtype", ""], ["auto", "bfloat16", "float32"]),
        (["fit", "--model.gpt.compute_dtype="], ["auto", "bfloat16", "float32"]),
        (["fit", "--model.gpt.compute_dtype=fl"], ["float32"]),
        (["fit", "--model.schedule", "W"], ["Warmdown"]),
        (["fit", "-c", "a.yaml", "--model.comp"], ["--model.compile"]),
        (["fit", "-c", ""], ["a.yaml", "b.yml", "folder"]),
        (["fit", "-c", "a"], ["a.yaml"]),
        (["fit", "--config=b"], ["b.yml"]),
        (["fit", "--ckpt_path", ""], ["a.yaml", "b.yml", "folder", "text.txt"]),
        (["fit", "--ckpt_path=te"], ["text.txt"]),
        (["data", "prepare", "te"], ["text.txt"]),
        (["data", "prepare", "--over"], ["--overwrite"]),
        (["data", "prepare", "--overwrite", "--mod"], ["--model_type"]),
        (["data", "prepare", "--preset", "l"], ["lossless"]),
        (["fit", "--zzz"], []),
    ],
)
def test_bash_completes(words, offered, scripts, tmp_path):
    for name in ("a.yaml", "b.yml", "text.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert in_bash(scripts, tmp_path, "plgolf", *words) == offered


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_tab_offers_only_classes_that_work(scripts, tmp_path):
    optimizers = in_bash(scripts, tmp_path, "plgolf", "fit", "--model.optimizer", "")
    assert {"MuonAdam", "AdamW"} <= set(optimizers) and not {"Muon", "LBFGS", "SparseAdam"} & set(optimizers)
    callbacks = in_bash(scripts, tmp_path, "plgolf", "fit", "--trainer.callbacks=")
    assert {"EarlyStopping", "LearningRateMonitor"} <= set(callbacks)
    # The last one needs a function.
    assert not {"TrainClock", "LearningRateFinder", "ThroughputMonitor"} & set(callbacks)


@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish")
def test_fish_completes(scripts, tmp_path):
    for line, offered in [
        ("plgolf fi", ["fit"]),
        ("plgolf data pre", ["prepare"]),
        ("plgolf fit --clock.m", ["--clock.max_seconds"]),
        ("plgolf fit --model.nonfinite s", ["skip", "stop"]),
    ]:
        code = f"source {scripts / 'fish'}; complete -C '{line}'"
        done = subprocess.run(["fish", "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert sorted(found.split("\t")[0] for found in done.stdout.splitlines()) == offered


def test_other_shells_are_refused_in_one_line(capfd):
    assert main(["--print_completion", "csh"]) == 2
    assert capfd.readouterr().err == (
        "plgolf: error: --print_completion must be one of bash, zsh, fish, got csh\n"
    )
