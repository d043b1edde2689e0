"""Runs in which layers begin to recur at a fraction of the run."""

import json

import pytest
import yaml
from golden_run import golden_data, golden_module, trainer
from runs import assert_same_end, load

from plgolf.artifact import read_artifact
from plgolf.cli import main
from plgolf.errors import UserError
from plgolf.model import GPT, GPTConfig
from plgolf.model.depth import RecurrenceConfig
from plgolf.progress import RunProgress
from plgolf.training import CompileWarmup, GolfModule
from plgolf.training.phases import set_phase

DEEP = GPTConfig(
    vocab_size=512, dim=32, num_layers=4, recurrence=RecurrenceConfig(layers="1-2", times=2, starts=0.5)
)
ONCE, TWICE = [0, 1, 2, 3], [0, 1, 2, 1, 2, 3]


def order(gpt: GPT) -> list[int]:
    return [visit.layer for visit in gpt.visits]


class Orders(CompileWarmup):
    """Notes the order of layers of each forward pass of a run, the warm-up's first."""

    def __init__(self) -> None:
        super().__init__(steps=1)
        self.seen = []

    def on_train_start(self, fit, module):
        module.gpt.register_forward_pre_hook(lambda gpt, _: self.seen.append(order(gpt)))
        super().on_train_start(fit, module)


def test_layers_recur_from_a_step_on_after_both_orders_are_warmed_up(tmp_path):
    module, orders = GolfModule(DEEP), Orders()
    data = golden_data(global_batch_tokens=8 * 32, micro_batch_sequences=8)
    fit = trainer(tmp_path, orders, max_steps=5, limit_val_batches=0)
    fit.fit(module, data)
    micro_batches = (len(orders.seen) - 2) // 5
    assert micro_batches and orders.seen[:2] == [ONCE, TWICE]
    steps = orders.seen[2::micro_batches]
    # Fractions 0, 1/5, 2/5, 3/5, 4/5 at the starts of the steps.
    assert steps == [ONCE, ONCE, ONCE, TWICE, TWICE]
    assert order(module.gpt) == TWICE


def test_a_run_without_an_end_has_no_fraction():
    module = golden_module()
    set_phase(module, RunProgress(step=1, elapsed_seconds=0.0))
    with pytest.raises(UserError, match="recurrence.starts must be 0 in a run without clock.max_seconds"):
        set_phase(GolfModule(DEEP), RunProgress(step=1, elapsed_seconds=0.0))


@pytest.mark.slow
def test_a_run_resumes_exactly_across_the_change_and_its_artifact_recurs(golden_recipe, tmp_path):
    recipe = yaml.safe_load(golden_recipe.read_text())
    recipe["model"]["gpt"]["recurrence"] = {"layers": "1-2", "times": 2, "starts": 0.5}
    golden_recipe.write_text(yaml.safe_dump(recipe))
    words = ["--trainer.max_steps=4", "--checkpoint.every_steps=1", "--checkpoint.keep=9"]
    folders = [tmp_path / name for name in ("whole", "early", "late")]
    command = ["fit", "-c", str(golden_recipe), *words]
    assert main([*command, f"--trainer.default_root_dir={folders[0]}"]) == 0
    for folder, step in zip(folders[1:], (1, 3), strict=True):
        path = folders[0] / f"step-{step:06}.ckpt"
        assert load(path).get("before_recurrence", False) is (step == 1)
        assert main([*command, f"--trainer.default_root_dir={folder}", f"--ckpt_path={path}"]) == 0
        assert_same_end(folders[0], folder, step=4)
    artifact = read_artifact(folders[0] / "model.int8.ptz")
    assert artifact.config.recurrence == RecurrenceConfig(layers="1-2", times=2, starts=0.5)
    assert len(artifact.gpt().visits) == artifact.config.num_layers + 2
    result = json.loads((folders[0] / "result.json").read_text())
    assert abs(result["roundtrip_val_bpb"] - result["val_bpb"]) < 0.05
