"""A run that was interrupted ends as the one that was not: to the bit."""

import pytest
from runs import assert_same_end, fit, rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_one(world_size, dtype, golden_recipe, tmp_path):
    words = (f"--model.gpt.compute_dtype={dtype}", "--data.val_every_steps=3", "--checkpoint.keep=100")
    words = (*words, "--checkpoint.every_steps=1", "--trainer.max_steps=7")
    fit(golden_recipe, world_size, *words, folder=tmp_path / "whole")
    for step in (1, 3, 6):
        path = tmp_path / "whole" / f"step-{step:06}.ckpt"
        fit(golden_recipe, world_size, *words, f"--ckpt_path={path}", folder=tmp_path / f"from{step}")
        assert_same_end(tmp_path / "whole", tmp_path / f"from{step}", 7)
        # What was logged after it is logged again, the validation that was due at its step as well.
        whole, resumed = rows(tmp_path / "whole"), rows(tmp_path / f"from{step}")
        assert resumed == [row for row in whole if row[0] > step or (row[0] == step and row[1] == "val/bpb")]
