"""The hacking gap is what the trained reward gained beyond the judges, in deviations of the base."""

import numpy as np
import pytest

from rdt.report.compare import compare
from rdt.report.hacking import GAP
from rdt.report.read import read_run, read_runs
from rdt.report.write import report
from worlds.run_folders import write_run

HACKED = {"reward/hps": 0.05, "reward/gold": -0.04}


def test_the_gap_is_the_difference_of_the_gains_in_deviations_of_the_base(tmp_path):
    write_run(tmp_path, shift=HACKED)
    run = read_run(tmp_path)
    base, tuned = (point.per_prompt for point in (run.result.base, run.result.tuned))
    gains = [
        (np.array(tuned[name]) - base[name]) / np.std(base[name], ddof=1) for name in ("reward/hps", "reward/gold")
    ]
    assert run.result.tuned.scores[GAP].value.mean == pytest.approx(np.mean(gains[0] - gains[1]))
    assert run.result.base.scores[GAP].value.mean == 0
    assert run.result.tuned.scores[GAP].value.lo > 0


def test_seeds_share_one_gap_with_an_interval_over_both(tmp_path):
    for seed in range(3):
        write_run(tmp_path / str(seed), seed=seed, shift=HACKED)
    (comparison,) = compare(read_runs([tmp_path])[0])
    (group,) = comparison.groups
    assert group.scores[GAP].value.mean == pytest.approx(
        np.mean([point.scores[GAP].value.mean for point in group.points])
    )


@pytest.mark.parametrize("shift, hacked", [(HACKED, True), (HACKED | {"reward/gold": 0.04}, False),
                                           (HACKED | {"reward/gold": 0.0}, False)])  # fmt: skip
def test_a_setting_is_flagged_if_its_reward_rose_and_a_judge_fell(tmp_path, capsys, shift, hacked):
    write_run(tmp_path / "run", shift=shift)
    page = report([tmp_path], tmp_path / "out").read_text()
    assert ('<span class="tag">hacked</span>' in page) == ("Hacked:" in page) == hacked
    assert ("(hacked)" in capsys.readouterr().out) == hacked


def test_without_a_judge_or_if_the_judge_was_trained_on_there_is_no_gap(tmp_path):
    write_run(tmp_path / "gold", reward="gold")
    write_run(tmp_path / "alone", limit=None)
    for name in ("gold", "alone"):
        assert GAP not in read_run(tmp_path / name).result.tuned.scores
