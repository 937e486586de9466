"""Seeds of one setting form a group, and only groups measured alike are compared."""

import json
import shutil

import numpy as np
import pytest
import yaml

from rdt import result
from rdt.pareto import Interval
from rdt.report.compare import compare
from rdt.report.read import read_runs
from rdt.report.write import report
from worlds.run_folders import FRONTIER, write_run


def test_seeds_form_a_group_with_their_mean(tmp_path):
    results = [write_run(tmp_path / str(seed), seed=seed, overrides=["method.kl_coef=0.3"]) for seed in range(3)]
    write_run(tmp_path / "other", seed=0, overrides=["method.kl_coef=1"])
    (comparison,) = compare(read_runs([tmp_path])[0])
    assert [(group.setting, len(group.points)) for group in comparison.groups] == [("kl_coef 0.3", 3), ("kl_coef 1", 1)]
    gold = comparison.groups[0].scores["reward/gold"]
    assert gold.value.mean == pytest.approx(np.mean([r["points"][0]["reward"]["gold"]["mean"] for r in results]))
    assert gold.diff.mean == pytest.approx(np.mean([r["points"][0]["reward"]["gold"]["diff"]["mean"] for r in results]))
    assert gold.value.lo < gold.value.mean < gold.value.hi


def test_a_copy_of_a_run_counts_once_and_is_named(tmp_path, capsys):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed)
    (alone,) = compare(read_runs([tmp_path])[0])
    shutil.copytree(tmp_path / "0", tmp_path / "copy of 0")
    (comparison,) = compare(read_runs([tmp_path])[0])
    assert comparison.groups[0].scores == alone.groups[0].scores and comparison.base == alone.base
    assert [run.path.name for run in comparison.runs] == ["0", "1"]
    report([tmp_path], tmp_path / "out")
    line = f"{tmp_path / 'copy of 0'} is a copy of {tmp_path / '0'}: it counts once"
    assert line in capsys.readouterr().out and line in (tmp_path / "out" / "report.html").read_text()


def test_a_seed_that_was_run_twice_counts_once(tmp_path):
    for name, seed, tags in (("0", 0, "[a]"), ("1", 1, "[a]"), ("2", 0, "[b]")):
        write_run(tmp_path / name, seed=seed, overrides=[f"tags={tags}"], compute={"images": len(tags) * int(name)})
    (comparison,) = compare(read_runs([tmp_path])[0])
    assert [(group.setting, len(group.points)) for group in comparison.groups] == [("", 2)]
    (repeat,) = comparison.repeats
    assert repeat.line == f"{tmp_path / '2'} has the setting and the seed of {tmp_path / '0'}: it counts once"


def test_a_copy_s_further_points_count(tmp_path):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", label="aig")
    first, second = (result.read(tmp_path / name) for name in "01")
    result.write(first.with_point(second.points[0]), tmp_path / "0")
    (comparison,) = compare(read_runs([tmp_path / "1", tmp_path / "0"])[0])
    assert [(group.setting, len(group.points)) for group in comparison.groups] == [("aig", 1), ("cfg", 1)]
    report([tmp_path], tmp_path / "out")
    write_run(tmp_path / "2", label="aig")
    (comparison,) = compare(read_runs([tmp_path / "0", tmp_path / "2"])[0])
    assert [run.path.name for run in comparison.runs] == ["0"] and len(comparison.repeats) == 1


def test_equal_measurements_without_values_by_prompt_keep_their_interval(tmp_path):
    for seed in range(3):
        write_run(tmp_path / str(seed), seed=seed)
        path = tmp_path / str(seed) / "result.json"
        record = json.loads(path.read_text())
        for point in (record["base"], *record["points"]):
            point["per_prompt"], point["reward"]["hps"] = {}, {"mean": 0.2, "ci95": [0.1, 0.3]}
        path.write_text(json.dumps(record))
    (comparison,) = compare(read_runs([tmp_path])[0])
    for scores in (comparison.base, comparison.groups[0].scores):
        assert scores["reward/hps"].value == Interval(0.2, 0.1, 0.3)


def test_seeds_are_recognised_without_recorded_overrides(tmp_path):
    for seed, kl in ((0, 0.3), (1, 0.3), (0, 1.0)):
        folder = tmp_path / f"{seed}-{kl}"
        write_run(folder, seed=seed)
        config = {"seed": seed, "output_dir": str(folder), "method": {"kl_coef": kl}, "logger": {"name": f"s{seed}"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (comparison,) = compare(read_runs([tmp_path])[0])
    assert [(group.setting, len(group.points)) for group in comparison.groups] == [
        ("kl_coef 0.3", 2),
        ("kl_coef 1.0", 1),
    ]


def test_runs_of_two_models_are_two_comparisons(sweep):
    write_run(sweep / "sd", model="sd15")
    assert [comparison.model for comparison in compare(read_runs([sweep])[0])] == ["shapes", "sd15"]
    assert report([sweep], sweep).is_file()


def test_a_front_on_the_limit_has_its_hypervolume_and_no_gap(tmp_path):
    for index, entry in enumerate(FRONTIER[::2]):
        shift = {"reward/gold": entry["gold"] - 0.8, "diversity/entropy": entry["entropy_sampled"] - 0.95}
        write_run(tmp_path / str(index), shift=shift, overrides=[f"method.kl_coef={index}"])
    runs = read_runs([tmp_path])[0]
    (found,) = compare(runs)[0].limit_shares()
    assert (found.method, found.reward) == ("sqdf", "reward/gold")
    assert found.share == pytest.approx(1, abs=0.12)  # 15 steps below a smooth curve, and noisy means
    assert found.gap == pytest.approx(0, abs=0.05)


def drawn(folder):
    """Return the rewards and the diversity that a figure of the runs below a folder draws."""
    (comparison,) = compare(read_runs([folder])[0])
    return comparison.rewards, comparison.diversity


def test_the_limit_names_the_reward_and_the_diversity_that_are_drawn(tmp_path):
    write_run(tmp_path / "0", limit={"reward": "gold", "diversity": "vendi"})
    assert drawn(tmp_path) == (("reward/hps", "reward/gold"), "diversity/vendi")


def test_without_a_limit_the_first_judge_and_the_first_diversity_are_drawn(tmp_path):
    write_run(tmp_path / "0", limit=None)
    assert drawn(tmp_path) == (("reward/hps",), "diversity/entropy")
    config = {"evaluation": {"judges": {"hps": {}, "gold": {}}}}  # hps is what the run was trained on
    (tmp_path / "0" / "config.yaml").write_text(yaml.safe_dump(config))
    assert drawn(tmp_path) == (("reward/hps", "reward/gold"), "diversity/entropy")


def test_the_limit_s_reward_is_drawn_once_if_it_was_trained_on(tmp_path):
    write_run(tmp_path / "0", reward="gold")
    assert drawn(tmp_path) == (("reward/gold",), "diversity/entropy")


def test_a_judge_is_called_a_judge_in_the_figure(tmp_path):
    write_run(tmp_path / "0", limit=None)
    config = {"evaluation": {"judges": {"gold": {}}}}
    (tmp_path / "0" / "config.yaml").write_text(yaml.safe_dump(config))
    report([tmp_path], tmp_path / "out")
    picture = (tmp_path / "out" / "front.svg").read_text()
    assert "what is optimised" in picture and "a judge" in picture and "what is wanted" not in picture
