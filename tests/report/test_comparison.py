"""Groups of runs, their names, and their comparison."""

import json

import pytest
from report.folders import write_groups, write_run

from plgolf.errors import UserError
from plgolf.report.comparison import compare, table
from plgolf.report.groups import read_groups, settings_apart


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_groups(tmp_path_factory.mktemp("runs"), {"base": 2.02, "muon": 2.016, "wide": 2.008})


def names(groups):
    return [(group.name, len(group.runs)) for group in groups]


def test_runs_that_differ_in_seed_and_folder_are_a_group(folders):
    mixed = [folders[i] for i in (0, 3, 1, 6, 4, 2, 8, 7, 5)]
    groups = read_groups(mixed)
    assert names(groups) == [("base", 3), ("muon", 3), ("wide", 3)]
    assert settings_apart(groups) == [["model.optimizer.init_args.matrix.lr", "0.02", "0.03", "0.04"]]
    assert [group.notes for group in groups] == [[], [], []]


def test_a_name_makes_a_group_of_any_runs(folders):
    groups = read_groups([f"old={folders[0]},{folders[3]}", f"new={folders[6]}"])
    assert names(groups) == [("old", 2), ("new", 1)]
    assert "a seed occurs twice" in groups[0].notes[0]


def test_patterns_match_runs(folders):
    root = folders[0].rsplit("/", 1)[0]
    assert names(read_groups([f"{root}/wide-*", f"{root}/base-s133[78]"])) == [("wide", 3), ("base", 2)]
    assert names(read_groups([f"all={root}/base-*,{root}/wide-s1337"])) == [("all", 4)]


def test_runs_without_configurations_are_grouped_by_recipe_and_flags(tmp_path):
    for name, lr in (("a1", 0.1), ("a2", 0.1), ("b1", 0.2)):
        folder = write_run(tmp_path / name, lr=lr, seed=ord(name[1]), every=500)
        (folder / "config.yaml").unlink()
    assert names(read_groups([str(tmp_path / name) for name in ("a1", "b1", "a2")])) == [("a", 2), ("b1", 1)]


@pytest.mark.parametrize(
    ("recipes", "expected"),
    # Folders of the runs of each recipe, and names of the groups.
    [
        ([["base-s1337", "base-s1338"]], ["base"]),
        ([["base_seed1", "base_seed2"]], ["base"]),
        ([["focus-1", "focus-2"]], ["focus"]),
        ([["heads8-1", "heads8-2"]], ["heads8"]),
        ([["seed-1", "seed-2", "seed-3"]], ["baseline"]),
        ([["seed1", "seed2"], ["wide"]], ["baseline", "wide"]),
        ([["1/run", "2/run"]], ["run"]),
        ([["base/seed-1", "base/seed-2"], ["wide/seed-1", "wide/seed-2"]], ["base", "wide"]),
        ([["base/seed-1", "base/seed-2"], ["wide/seed-1"]], ["base", "wide/seed-1"]),
        ([["old/base-1", "old/base-2"], ["new/base-1", "new/base-2"]], ["old/base", "new/base"]),
        ([["s1/base", "s2/base"], ["s1/wide", "s2/wide"]], ["base", "wide"]),
        ([["a/run"], ["b/run"]], ["a/run", "b/run"]),
        ([["a/x/run"], ["b/x/run"]], ["a/x/run", "b/x/run"]),
        ([["seed-1", "seed-2"], ["seed-3", "seed-4"]], ["seed-1", "seed-3"]),
    ],
    ids=str,
)
def test_a_group_is_called_what_its_runs_share(tmp_path, recipes, expected):
    folders = [
        str(write_run(tmp_path / run, seed=seed, lr=lr + 1, every=1000, num_layers=1, overrides=[]))
        for lr, runs in enumerate(recipes)
        for seed, run in enumerate(runs)
    ]
    assert names(read_groups(folders)) == list(zip(expected, map(len, recipes), strict=True))


def test_moved_runs_are_called_by_their_present_folders(tmp_path):
    for i, name in enumerate(("first", "second")):
        write_run(tmp_path / "run", lr=i + 1, every=1000, num_layers=1).rename(tmp_path / name)
    assert names(read_groups([str(tmp_path / "first"), str(tmp_path / "second")])) == [
        ("first", 1),
        ("second", 1),
    ]


def test_a_name_given_by_hand_is_never_used_twice(tmp_path):
    folders = [
        write_run(tmp_path / name, lr=lr, every=1000, num_layers=1) for name, lr in (("a", 1), ("b", 2))
    ]
    assert names(read_groups([f"b={folders[0]}", str(folders[1])])) == [("b", 1), ("b (2)", 1)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{0}", "{0}"], "must be given once"),
        (["{root}/none-*"], "matches no folder"),
        (["{root}/none"], "no such folder"),
        (["x="], "must be NAME=FOLDER,FOLDER"),
        (["=x"], "must be NAME=FOLDER,FOLDER"),
    ],
)
def test_mistakes_are_one_line(folders, words, said):
    root = folders[0].rsplit("/", 1)[0]
    with pytest.raises(UserError, match=said):
        read_groups([word.format(folders[0], root=root) for word in words])


def test_the_bar_requires_more_than_the_margin(folders):
    reference, muon, wide = compare(read_groups(folders))
    assert (reference.verdict, reference.improvement, reference.better) == ("reference", None, None)
    # Surely better, but not by 0.005 nats.
    assert muon.improvement == pytest.approx(0.004, abs=1e-9)
    assert muon.better.p < 0.01 < muon.required.p and muon.verdict == "fail"
    assert wide.improvement == pytest.approx(0.012, abs=1e-9)
    assert wide.required.p < 0.01 and wide.bar == "pass"


def test_a_worse_group_fails(folders):
    _, base = compare(read_groups([*folders[6:], *folders[:3]]))
    assert base.improvement < -0.01 and base.better.p > 0.99 and base.verdict == "fail"


def test_a_mean_above_the_margin_may_be_chance(tmp_path):
    words = [str(write_run(tmp_path / f"a{s}", seed=s, every=500)) for s in (1, 2)]
    for seed, loss in ((1, 2.060), (2, 2.088)):
        folder = write_run(tmp_path / f"b{seed}", seed=seed, lr=0.5, every=500)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "roundtrip_val_loss": loss}))
        words.append(str(folder))
    _, row = compare(read_groups(words))
    assert row.improvement > 0.005 and row.required.p > 0.01 and row.verdict == "fail"


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"val_tokens": 5}, "not judged (scored on other validation tokens)"),
        ({"budget_bytes": 1000}, "fail (over the byte budget)"),
    ],
)
def test_a_group_on_other_tokens_or_over_budget_does_not_pass(tmp_path, changes, verdict):
    base = [str(write_run(tmp_path / f"a{s}", seed=s, every=500)) for s in (1, 2, 3)]
    new = [
        str(write_run(tmp_path / f"b{s}", seed=s, lr=1, loss=1.9, every=500, **changes)) for s in (1, 2, 3)
    ]
    assert compare(read_groups(base + new))[1].bar == verdict


def test_groups_too_small_or_without_spread_are_not_judged(folders, tmp_path):
    one = compare(read_groups([folders[0], folders[6]]))
    assert one[1].bar == "not judged (needs at least 2 seeds)"
    assert one[1].better is None and one[1].improvement == pytest.approx(0.012)
    assert table(one)[1][3] == "-"
    copies = [
        str(write_run(tmp_path / f"{lr}-{i}", lr=lr, every=500, roundtrip_val_loss=2.0))
        for lr in (1, 2)
        for i in (1, 2)
    ]
    assert compare(read_groups(copies))[1].bar == "not judged (all seeds of a group gave the same loss)"


def test_unfinished_runs_are_left_out_with_a_note(folders, tmp_path):
    unfinished = write_run(tmp_path / "base-s9", seed=9, steps=500, is_finished=False)
    groups = read_groups([*folders[:3], str(unfinished), *folders[6:]])
    assert names(groups)[0] == ("base", 4)
    assert "1 of 4 runs have not finished or have no finite loss" in groups[0].notes[0]
    assert table(compare(groups))[1][1] == "3" and compare(groups)[1].verdict == "pass"
    alone = read_groups([folders[0], str(write_run(tmp_path / "x", lr=9, steps=500, is_finished=False))])
    assert compare(alone)[1].bar == "not judged (no finished run)"


def test_a_run_with_a_nan_loss_is_left_out_with_a_note(folders, tmp_path):
    diverged = write_run(tmp_path / "base-s9", seed=9, every=500, roundtrip_val_loss=float("nan"))
    groups = read_groups([*folders[:3], str(diverged), *folders[6:]])
    assert "1 of 4 runs have not finished or have no finite loss" in groups[0].notes[0]
    assert table(compare(groups))[1][:3] == table(compare(read_groups([*folders[:3], *folders[6:]])))[1][:3]
