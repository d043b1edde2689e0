"""``plgolf validate``: what it takes from the file, what it refuses, and scores of a part of the split."""

import json
import re
import shutil
from pathlib import Path

import pytest
from golden_data import GOLDEN, TOKENIZER
from sentencepiece import SentencePieceTrainer

from plgolf.artifact import load_gpt
from plgolf.cli import main
from plgolf.data.manifest import hash_file
from plgolf.data.shards import ShardReader, find_shards
from plgolf.data.stream import ValidationSplit
from plgolf.data.tokenizer import load_tokenizer
from plgolf.evaluate import Windows, evaluate, split_targets

FILES = ("run/model.int8.ptz", "run/step-000002.ckpt")
WHOLE_SPLIT = ("--export.hardest_documents=0", "--trainer.max_steps=2")


@pytest.fixture(scope="module")
def run(golden_recipe_file, tmp_path_factory) -> Path:
    """A folder with a run of two steps at sequence length 64, and its recipe."""
    folder = tmp_path_factory.mktemp("validate")
    shutil.copy(golden_recipe_file, folder / "golden.yaml")
    words = [f"--trainer.default_root_dir={folder / 'run'}", *WHOLE_SPLIT]
    assert main(["fit", "-c", str(golden_recipe_file), *words]) == 0
    return folder


@pytest.fixture
def validate(run, monkeypatch, capfd):
    """Runs the command in the run's folder on a CPU; returns the exit code and what was printed."""
    monkeypatch.chdir(run)

    def validated(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(["validate", "--trainer.accelerator=cpu", *words])
        said = capfd.readouterr()
        return code, said.out + said.err

    return validated


def shown_bpb(said: str) -> float:
    return float(said.split("val/bpb ")[1].split(maxsplit=1)[0])


def without_a_recipe(file: str) -> list[str]:
    return [f"--data.root={GOLDEN / 'tied'}", f"--data.tokenizer={TOKENIZER}", f"--ckpt_path={file}"]


@pytest.mark.parametrize("file", FILES)
def test_validate_without_a_recipe_uses_the_sequence_length_of_the_file(file, validate):
    with_recipe = validate("-c", "golden.yaml", f"--ckpt_path={file}")
    without = validate(*without_a_recipe(file))
    assert with_recipe[0] == without[0] == 0, without
    assert shown_bpb(with_recipe[1]) == shown_bpb(without[1])


@pytest.mark.parametrize("file", FILES)
def test_a_flag_or_a_recipe_sets_another_sequence_length(file, validate, run):
    (run / "short.yaml").write_text("data: {seq_len: 32}\n")
    by_flag = validate(*without_a_recipe(file), "--data.seq_len=32")
    by_recipe = validate(*without_a_recipe(file), "-c", "short.yaml")
    own = validate(*without_a_recipe(file))
    assert shown_bpb(by_flag[1]) == shown_bpb(by_recipe[1]) != shown_bpb(own[1])


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory) -> Path:
    """A tokenizer of as many pieces as the golden one, trained on another text."""
    prefix = tmp_path_factory.mktemp("tokenizer") / "other"
    texts = sorted(Path(__file__).parent.glob("*.py"))
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for path in texts for line in path.read_text().splitlines()]),
        model_prefix=str(prefix),
        vocab_size=512,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.mark.parametrize("file", FILES)
def test_validate_refuses_another_tokenizer_with_both_hashes(file, validate, other_tokenizer):
    words = ["-c", "golden.yaml", f"--ckpt_path={file}", f"--data.tokenizer={other_tokenizer}"]
    code, said = validate(*words)
    assert code == 2
    assert said.startswith(f"plgolf: error: {file}: ") and len(said.splitlines()) == 1
    assert hash_file(TOKENIZER) in said and hash_file(other_tokenizer) in said
    assert "--checkpoint.allow_changed=[data.tokenizer]" in said
    code, said = validate(*words, "--checkpoint.allow_changed=[data.tokenizer]")
    assert code == 0
    assert "val/bpb" in said


@pytest.mark.parametrize("file", FILES)
def test_validate_refuses_a_flag_that_contradicts_the_file(file, validate):
    """The file decides the architecture, whatever a recipe says; a flag is a request that would be lost."""
    code, said = validate("-c", "golden.yaml", f"--ckpt_path={file}", "--model.gpt.num_layers=2")
    assert code == 2
    assert said.startswith("plgolf: error: model.gpt.num_layers must be left alone, ")
    assert validate("-c", "golden.yaml", f"--ckpt_path={file}", "--model.gpt.vocab_size=512")[0] == 0


def test_validate_writes_no_file(validate, run):
    before = sorted(run.rglob("*"))
    assert validate("-c", "golden.yaml", f"--ckpt_path={FILES[0]}", "--trainer.default_root_dir=run")[0] == 0
    assert validate("-c", "golden.yaml", f"--ckpt_path={FILES[1]}", "--trainer.default_root_dir=new")[0] == 0
    assert sorted(run.rglob("*")) == before


def test_validate_calls_the_score_of_some_batches_partial(validate):
    words = ["-c", "golden.yaml", f"--ckpt_path={FILES[0]}"]
    assert "partial" not in validate(*words)[1]
    said = validate(*words, "--trainer.limit_val_batches=1")[1]
    assert re.search(r"val/bpb [0-9]", said) is None
    assert "val/bpb (partial) " in said
    assert "of the split" in said


@pytest.mark.parametrize("limit", ["--trainer.limit_val_batches=1", "--data.val_max_tokens=128"])
@pytest.mark.parametrize("style", ["lines", "reference"])
def test_fit_marks_a_partial_score(limit, style, golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = [*WHOLE_SPLIT, f"--console={style}", "--data.val_every_steps=1"]
    assert main(["fit", "-c", golden_recipe.name, *words, limit]) == 0
    said = capfd.readouterr().out
    result = json.loads(Path("run/result.json").read_text())
    assert 0 < result["val_share"] < 1
    assert result["val_share"] == result["val_tokens"] / whole_split_tokens()
    lines = [line for line in said.splitlines() if "bpb" in line]
    assert lines
    assert all("partial" in line for line in lines), said
    assert main(["report", "run"]) == 0
    page = Path("run/report.html").read_text()
    assert "of the validation split scored: partial" in page


def test_fit_says_nothing_of_parts_where_the_whole_split_is_scored(run):
    result = json.loads((run / "run" / "result.json").read_text())
    assert result["val_share"] == 1


def whole_split_tokens() -> int:
    available = ShardReader(find_shards(GOLDEN / "tied", "val")).num_tokens - 1
    return available // 64 * 64


def score_of(file: Path, windows: Windows, seq_len: int = 64) -> float:
    reader = ShardReader(find_shards(GOLDEN / "tied", "val"), vocab_size=512)
    split = ValidationSplit(reader, seq_len=seq_len, batch_sequences=3)
    return evaluate(windows, load_gpt(file), split_targets(split, load_tokenizer(TOKENIZER))).bpb


@pytest.mark.parametrize(
    ("flags", "windows"),
    [
        (["--evaluator.stride=24"], Windows(stride=24)),
        (["--evaluator.seq_len=96"], Windows(96)),
        (["--evaluator.seq_len=96", "--evaluator.stride=40"], Windows(96, 40)),
    ],
)
def test_validate_scores_by_an_evaluator_and_says_what_it_costs(flags, windows, validate, run):
    code, said = validate(*without_a_recipe(FILES[0]), *flags)
    assert code == 0, said
    assert shown_bpb(said) == pytest.approx(score_of(run / FILES[0], windows), abs=1e-7)
    times = float(said.split(f"{windows.name} ({windows.kind}) computes ")[1].split()[0])
    assert times == pytest.approx((windows.seq_len or 64) / (windows.stride or windows.seq_len), rel=0.1)


def test_validate_by_an_evaluator_keeps_to_a_limit_of_batches(validate):
    words = [*without_a_recipe(FILES[0]), "--evaluator.stride=24", "--data.val_batch_sequences=5"]
    code, said = validate(*words, "--trainer.limit_val_batches=1")
    assert code == 0, said
    assert "val/bpb (partial) " in said
    assert "scored 320 tokens" in said


def test_a_stride_longer_than_a_window_is_refused_at_once(validate):
    code, said = validate(*without_a_recipe(FILES[0]), "--evaluator.stride=65")
    assert code == 2
    assert said == "plgolf: error: evaluator.stride must be at most the 64 tokens of a window, got 65\n"


EVALUATORS = "--export.evaluators=[{class_path: plgolf.evaluate.Windows, init_args: {stride: %s}}]"


def test_fit_scores_the_file_by_every_evaluator_it_is_given(golden_recipe_file, tmp_path, capfd):
    words = [f"--trainer.default_root_dir={tmp_path}", *WHOLE_SPLIT, EVALUATORS % 24]
    assert main(["fit", "-c", str(golden_recipe_file), *words]) == 0
    said = capfd.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    scores = result["scores"]
    assert list(scores) == ["plain", "stride_24"]
    plain, sliding = scores.values()
    assert (plain["class"], sliding["class"]) == ("plain", "windowed")
    assert plain["val_bpb"] == result["roundtrip_val_bpb"]
    assert plain["val_loss"] == result["roundtrip_val_loss"]
    assert sliding["val_bpb"] == pytest.approx(score_of(tmp_path / "model.int8.ptz", Windows(stride=24)))
    assert sliding["val_bpb"] < plain["val_bpb"]
    for score in (plain, sliding):
        assert (score["val_tokens"], score["val_bytes"]) == (result["val_tokens"], result["val_bytes"])
        assert score["seconds"] > 0
    assert plain["computed_per_token"] == 1 < sliding["computed_per_token"] < 64 / 24
    assert f"stride_24 (windowed) computes {sliding['computed_per_token']:.1f} times the tokens" in said
    assert f"{sliding['val_bpb']:.4f}" in said
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert f"<b>{sliding['val_bpb']:.4f}</b><span>bits per byte by stride_24: 2." in page


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        (EVALUATORS % 65, "export.evaluators.0.stride must be at most the 64 tokens of a window, got 65"),
        (EVALUATORS % 0, "export.evaluators.0.stride must be at least 1, got 0"),
        (
            "--export.evaluators=[{class_path: plgolf.evaluate.Windows}]",
            "export.evaluators must have different names, got plain, plain",
        ),
        ("--export.evaluators=[{class_path: plgolf.optim.Warmdown}]", "export.evaluators"),
    ],
)
def test_evaluators_that_cannot_work_are_refused_before_the_first_step(
    evaluators, message, golden_recipe_file, tmp_path, capfd
):
    words = [f"--trainer.default_root_dir={tmp_path}", evaluators]
    assert main(["fit", "-c", str(golden_recipe_file), *words]) == 2
    said = capfd.readouterr().err
    assert message in said and len(said.splitlines()) == 1, said
    assert list(tmp_path.iterdir()) == []
