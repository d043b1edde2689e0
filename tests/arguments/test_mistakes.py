"""A mistake gives one line with the key, the rule, the value, and what was probably meant."""

from pathlib import Path

import pytest

from plgolf.cli import main
from plgolf.training.command.cli import GolfCLI

FLAGS = [
    (
        ["--trainer.max_step=3"],
        "plgolf fit has no setting trainer.max_step (did you mean --trainer.max_steps?)",
    ),
    (["--max_seconds=3"], "plgolf fit has no setting max_seconds (did you mean --clock.max_seconds?)"),
    (["--num_layers", "3"], "plgolf fit has no setting num_layers (did you mean --model.gpt.num_layers?)"),
    (["--data.max_seconds=3"], "(did you mean --clock.max_seconds?)"),
    (["--zzz"], "plgolf fit has no setting zzz; plgolf fit --help lists all settings"),
    (["--data.vocab_size=3"], "data.vocab_size must be given as model.gpt.vocab_size"),
    (
        ["--model.gpt.compute_dtype=bf16"],
        "model.gpt.compute_dtype must be bfloat16, float32 or auto, got bf16 (did you mean bfloat16?)",
    ),
    (["--model.nonfinite=halt"], "model.nonfinite must be stop or skip, got halt"),
    (["--model.gpt.dim=many"], "model.gpt.dim must be a whole number, such as 512, got many"),
    (["--clock.max_seconds=abc"], "clock.max_seconds must be a number or null, got abc"),
    (["--model.compile=maybe"], "model.compile must be true or false, got maybe"),
    (["--data.corpus=stdlb"], "data.corpus must be stdlib or null, got stdlb (did you mean stdlib?)"),
    (
        ["--export.compressors=[zlb]"],
        "must be a list of zlib or xz or null, got [zlb] (did you mean zlib?)",
    ),
    (["--model.gpt=7"], "model.gpt must hold settings by name, got 7"),
    (
        ["--model.optimizer=MuonAdm"],
        "must name a subclass of Optimizer, got MuonAdm (did you mean MuonAdam?)",
    ),
    (
        ["--model.optimizer=plgolf.optim.MuonAdm"],
        "got plgolf.optim.MuonAdm: plgolf.optim has no MuonAdm (did you mean plgolf.optim.MuonAdam?)",
    ),
    (
        ["--model.optimizer=plgof.optim.MuonAdam"],
        "got plgof.optim.MuonAdam: there is no module plgof.optim (did you mean MuonAdam?)",
    ),
    (
        ["--model.schedule=collections.OrderedDict"],
        "must name a subclass of Schedule, got collections.OrderedDict (known: Constant",
    ),
    (
        ["--model.optimizer.matrx.lr=3"],
        "MuonAdam has no setting model.optimizer.matrx.lr (did you mean model.optimizer.matrix.lr?)",
    ),
    (
        ["--model.optimizer.init_args={matrix: {lr: x}}"],
        "model.optimizer.matrix.lr must be a number, such as 0.02, got x",
    ),
    (["--model.optimizer.matrix.lr=x"], "model.optimizer.matrix.lr must be a number, such as 0.02, got x"),
    (
        ["--model.schedule.step=3"],
        "Warmdown has no setting model.schedule.step (did you mean model.schedule.steps?)",
    ),
    (["--model.schedule.steps=3.5"], "model.schedule.steps must be a whole number, such as 3000, got 3.5"),
    (["--trainer.callbacks+=LearningRateMonito"], "(did you mean LearningRateMonitor?)"),
    (["--trainer.callbacks+=EarlyStopping"], "trainer.callbacks.monitor must be given for EarlyStopping"),
    (
        ["--trainer.callbacks=ThroughputMonitor"],
        "batch_size_fn of ThroughputMonitor must be a function, which can be set in Python only",
    ),
    (
        ["--trainer.callbacks=SaveConfigCallback"],
        "trainer.callbacks must be another class, got SaveConfigCallback, which only Python can make",
    ),
    (["-c"], "-c must have a value"),
    (["-c", "quickstart"], "quickstart: no such file (-c) (did you mean configs/quickstart.yaml?)"),
    (["-c", "config/baseline.yaml"], "(did you mean configs/baseline.yaml?)"),
    (["-c", "configs/quikstart.yaml"], "(did you mean configs/quickstart.yaml?)"),
    (["-c", "one_gpu.yaml"], "(did you mean configs/hardware/one_gpu.yaml?)"),
    (["configs/quickstart.yaml"], "must follow -c (did you mean -c configs/quickstart.yaml?)"),
    (
        ["--print_config=ful"],
        "--print_config must be alone or with =full, in a command with recipes, got --print_config=ful",
    ),
]
FILES = [
    (
        "model: {gpt: {num_layer: 3}}",
        "x.yaml: plgolf fit has no setting model.gpt.num_layer (did you mean model",
    ),
    (
        "gpt: {num_layers: 3}",
        "plgolf fit has no setting gpt.num_layers (did you mean model.gpt.num_layers?)",
    ),
    ("max_seconds: 3", "x.yaml: plgolf fit has no setting max_seconds (did you mean clock.max_seconds?)"),
    (
        "data: {max_seconds: 3}",
        "plgolf fit has no setting data.max_seconds (did you mean clock.max_seconds?)",
    ),
    ("clok: {max_seconds: 3}", "(did you mean clock.max_seconds?)"),
    ("fit: {model: {gpt: {dim: 3}}}", "(did you mean model.gpt.dim?)"),
    ("data: {vocab_size: 3}", "x.yaml: data.vocab_size must be given as model.gpt.vocab_size"),
    ("model: 3", "x.yaml: model must hold settings by name, got 3"),
    ("model:\ntrainer: {max_steps: 3}", "x.yaml: model must hold settings by name, got null"),
    ("model: {gpt: {head: [1]}}", "x.yaml: model.gpt.head must hold settings by name, got [1]"),
    ("model: {gpt: {dim: x}}", "model.gpt.dim must be a whole number, such as 512, got x"),
    ("model: {gpt: {compute_dtype: bf16}}", "(did you mean bfloat16?)"),
    (
        "model: {optimizer: {class_path: plgolf.optm.MuonAdam}}",
        "no module plgolf.optm (did you mean MuonAdam?)",
    ),
    (
        "model: {optimizer: {class_path: MuonAdam, init_args: {matrix: {lrr: 1}}}}",
        "MuonAdam has no setting model.optimizer.matrix.lrr (did you mean model.optimizer.matrix.lr?)",
    ),
    (
        "model: {optimizer: {class_path: MuonAdam, init_args: {matrix: {lr: x}}}}",
        "model.optimizer.matrix.lr must be a number, such as 0.02, got x",
    ),
    (
        "model: {optimizer: {class_path: MuonAdam, init_args: [1]}}",
        "model.optimizer.init_args must hold settings by name, got [1]",
    ),
    (
        "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitr: x}}]}",
        "EarlyStopping has no setting trainer.callbacks.monitr (did you mean trainer.callbacks.monitor?)",
    ),
    (
        "trainer: {strategy: {class_path: lightning.pytorch.strategies.DDPStrateg}}",
        "(did you mean lightning.pytorch.strategies.DDPStrategy?)",
    ),
]
OTHERS = [
    (["validate", "--resume=auto"], "plgolf validate has no setting resume, only plgolf fit has it"),
    (
        ["-c", "configs/quickstart.yaml", "fit"],
        "the first word must be one of fit, validate, generate, report, data, got -c",
    ),
    (["data", "prepare", "x"], "root must be given"),
    (
        ["data", "prepare", "x", "--root=r", "--vocab_siz", "9"],
        "plgolf data prepare has no setting vocab_siz (did you mean --vocab_size?)",
    ),
    (["data", "prepare", "x", "--root=r", "--preset=losless"], "(did you mean lossless?)"),
    (
        ["data", "verify", "x", "--print_config"],
        "--print_config must be alone or with =full, in a command with recipes",
    ),
]


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    configs = tmp_path / "configs" / "hardware"
    configs.mkdir(parents=True)
    for name in ("quickstart.yaml", "baseline.yaml", "hardware/one_gpu.yaml"):
        (tmp_path / "configs" / name).write_text("seed_everything: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GolfCLI, "instantiate_classes", lambda _: pytest.fail("constructs"))

    def refused(*words):
        assert main(list(words)) == 2
        out, error = capfd.readouterr()
        assert not out and error.startswith("plgolf: error: ") and error.count("\n") == 1
        assert "<class" not in error and "Namespace" not in error and "typing." not in error
        return error

    return refused


@pytest.mark.parametrize(("words", "message"), [(["fit", *words], said) for words, said in FLAGS] + OTHERS)
def test_a_wrong_flag_gives_one_line(words, message, refused):
    assert message in refused(*words)


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_wrong_recipe_gives_one_line(text, message, refused):
    Path("x.yaml").write_text(text)
    assert message in refused("fit", "-c", "x.yaml")
