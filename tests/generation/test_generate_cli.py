"""``plgolf generate`` as a user meets it, on the artifact of a real run."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from plgolf import load_artifact
from plgolf.cli import main
from plgolf.data.tokenizer import ByteTokenizer

COMMAND = [sys.executable, "-m", "plgolf", "generate"]
DOCUMENTS = [f"document {i:02} of many, each of 63 bytes or so".ljust(63, ".") for i in range(120)]
NUM_VAL = 20
LETTERS = {"capture_output": True, "timeout": 120, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory, golden_recipe_file):
    """A run whose validation split is a whole number of windows: the first 20 documents."""
    folder = tmp_path_factory.mktemp("generate")
    texts = [*DOCUMENTS[: NUM_VAL - 1], DOCUMENTS[NUM_VAL - 1] + "!", *DOCUMENTS[NUM_VAL:]]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["--root", str(folder / "set"), "--val_documents", str(NUM_VAL), "--model_type", "byte"]
    assert main(["data", "prepare", str(folder / "text.jsonl"), *words]) == 0
    words = [f"--data.root={folder / 'set'}", "--data.tokenizer=null", "--model.gpt.vocab_size=260"]
    words += ["--trainer.max_steps=30", "--export.tokenizer=inside"]
    words += [f"--trainer.default_root_dir={folder / 'run'}"]
    assert main(["fit", "-c", str(golden_recipe_file), *words]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def artifact(run):
    return str(run / "model.int8.ptz")


def generate(*words, **options):
    return subprocess.run([*COMMAND, *words], **{**LETTERS, **options})


def test_the_score_of_the_validation_text_is_the_runs(run, artifact):
    result = json.loads((run / "result.json").read_text())
    score = load_artifact(artifact).score([*DOCUMENTS[: NUM_VAL - 1], DOCUMENTS[NUM_VAL - 1] + "!"])
    assert score.num_tokens == result["val_tokens"] == NUM_VAL * 64
    assert score.num_bytes == result["val_bytes"] == result["val_raw_bytes"] == NUM_VAL * 63 + 1
    assert score.bpb == pytest.approx(result["roundtrip_val_bpb"], rel=1e-6)
    assert score.nats / score.num_tokens == pytest.approx(result["roundtrip_val_loss"], rel=1e-6)
    assert 0.1 < score.bpb < 6


def test_the_tokenizer_is_inside_and_beside_and_the_ledger_shows_it(run, artifact, tmp_path):
    result = json.loads((run / "result.json").read_text())
    content = (run / "tokenizer.json").read_bytes()
    assert content == ByteTokenizer().to_bytes()
    assert 50 < result["tokenizer_bytes"] < len(content)
    alone = shutil.copy(artifact, tmp_path)
    assert load_artifact(alone).tokenizer.to_bytes() == content
    assert load_artifact(alone).seq_len == 64


@pytest.mark.slow
def test_text_is_written_as_python_gives_it(artifact):
    words = ("--artifact", artifact, "--prompt", "docu", "--max_tokens=80", "--seed=4", "--temperature=0.7")
    done = generate(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = load_artifact(artifact).generate("docu", max_tokens=80, seed=4, temperature=0.7)
    assert done.stdout.decode() == f"docu{printable(expected)}\n"
    assert generate(*words).stdout == done.stdout
    samples = generate(*words[:-2], "--seed=3", "--temperature=0.7", "--samples=2").stdout.decode()
    assert samples.startswith("--- sample 1 of 2, seed 3 ---\ndocu")
    assert samples.endswith(f"--- sample 2 of 2, seed 4 ---\n{done.stdout.decode()}")


def printable(text):
    shown = (c in "\n\t" or (c >= " " and not "\x7f" <= c < "\xa0") for c in text)
    return "".join(c if is_shown else "\ufffd" for c, is_shown in zip(text, shown, strict=True))


@pytest.mark.slow
def test_what_could_steer_a_terminal_is_not_written(artifact):
    prompt = "\x1b[2Jred\x9b31m\r\a\ttab\nline é"
    done = generate("--artifact", artifact, "--prompt", prompt, "--max_tokens=100", "--temperature=9")
    said = done.stdout.decode()
    assert said.startswith("\ufffd[2Jred\ufffd31m\ufffd\ufffd\ttab\nline é") and len(said) > 60
    assert all(c in "\n\t" or (c >= " " and not "\x7f" <= c < "\xa0") for c in said)


@pytest.mark.parametrize(
    "prompt", ["", "null", "{a: [b", "*x " * 50 + ": &y", "--top_k", "- a", "1e3", " a b ", "x" * 5000]
)
def test_a_prompt_is_taken_as_it_is(artifact, prompt, capfd):
    assert main(["generate", "--artifact", artifact, f"--prompt={prompt}", "--max_tokens=1"]) == 0
    once = capfd.readouterr().out
    assert once.startswith(prompt) and len(once) <= len(prompt) + 2
    assert main(["generate", "--prompt", prompt, "--max_tokens=1", "--artifact", artifact]) == 0
    assert capfd.readouterr().out == once


@pytest.mark.slow
def test_the_prompt_comes_from_stdin(artifact):
    words = ("--artifact", artifact, "--max_tokens=9")
    done = generate(*words, "--prompt", "-", input="two\nlines é".encode())
    assert done.returncode == 0 and done.stdout == generate(*words, "--prompt=two\nlines é").stdout
    done = generate(*words, "--prompt", "-", input=b"ab\xff")
    assert done.returncode == 2 and done.stderr == b"plgolf: error: stdin must be UTF-8, got 0xff at 2\n"


@pytest.mark.slow
def test_ctrl_c_ends_it_after_a_whole_line(artifact):
    words = ["--artifact", artifact, "--samples=100000", "--prompt=begin"]
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=LETTERS["env"]
    )
    said = process.stdout.read(100)
    process.send_signal(signal.SIGINT)
    rest, error = process.communicate(timeout=60)
    assert b"begin" in said and process.returncode == 130
    assert error == b"plgolf: interrupted\n" and (said + rest).endswith(b"\n")


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it(artifact):
    command = " ".join([*COMMAND, "--artifact", artifact, "--samples=1000", "--prompt=begin"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -c 40"], **{**LETTERS, "capture_output": True}
    )
    assert (done.returncode, done.stderr, len(done.stdout)) == (141, b"", 40)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--artifact", "none.ptz"], "none.ptz: cannot be read: No such file or directory"),
        (["--prompt=a"], "artifact"),
        (["--artifact", "ARTIFACT", "--prompt"], "--prompt must have a value"),
        (["--artifact", "ARTIFACT", "--samples=0"], "samples must be at least 1, got 0"),
        (["--artifact", "ARTIFACT", "--top_p=0"], "top_p must be above 0 and at most 1, got 0.0"),
        (["--artifact", "ARTIFACT", "--tokenizer=none.model"], "none.model: no tokenizer there"),
        (["--artifact", "ARTIFACT", "--temprature=1"], "did you mean --temperature?"),
        (["--artifact", "ARTIFACT", "--seq_len=0"], "seq_len must be from 1 to 1048576, got 0"),
    ],
)
def test_mistakes_cost_one_line(artifact, words, message, capfd):
    assert main(["generate", *(artifact if word == "ARTIFACT" else word for word in words)]) == 2
    said = capfd.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_checkpoint_is_refused_with_the_way_to_an_artifact(tmp_path, capfd):
    torch.save({"state_dict": {}}, tmp_path / "step.ckpt")
    assert main(["generate", "--artifact", str(tmp_path / "step.ckpt")]) == 2
    said = capfd.readouterr().err
    assert "step.ckpt: this is a checkpoint, and generate needs the artifact, model.int8.ptz" in said
    assert f"plgolf fit -c {tmp_path}/config.yaml --resume=auto" in said and said.count("\n") == 1


def test_help_is_fast_and_says_every_option():
    code = (
        "import sys\nfrom plgolf.cli import main\n"
        "try: main(['generate', '--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], **LETTERS)
    assert done.returncode == 0, done.stderr
    for option in ("artifact", "prompt", "max_tokens", "temperature", "top_k", "top_p", "seed", "samples"):
        assert f"--{option} " in done.stdout.decode()
