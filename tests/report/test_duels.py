"""Methods are compared over common resamples of prompts and seeds."""

import csv

from rdt.report.compare import compare
from rdt.report.duels import method_pairs
from rdt.report.read import read_runs
from rdt.report.write import report
from worlds.run_folders import write_run


def test_a_method_that_keeps_more_diversity_at_equal_reward_is_better(tmp_path, monkeypatch):
    """Two of three methods reach the same point, which the third reaches with less diversity, in every seed."""
    monkeypatch.setattr("rdt.report.duels.RESAMPLES", 200)
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", "sqdf", seed, {"reward/hps": 0.05, "diversity/entropy": -0.05})
        write_run(tmp_path / f"b{seed}", "draft", seed, {"reward/hps": 0.05, "diversity/entropy": -0.4})
        write_run(tmp_path / f"c{seed}", "refl", seed, {"reward/hps": 0.05, "diversity/entropy": -0.05})
    comparison = compare(read_runs([tmp_path])[0])[0]
    found = {(d.first, d.second): d.difference for d in method_pairs(comparison) if d.reward == "reward/hps"}
    assert {pair: one.verdict for pair, one in found.items()} == {
        ("draft", "refl"): "worse", ("draft", "sqdf"): "worse", ("refl", "sqdf"): "not told apart",
    }  # fmt: skip
    assert found["draft", "sqdf"].larger == 0 and found["draft", "sqdf"].diversity.hi < 0
    page = report([tmp_path], tmp_path / "out").read_text()
    assert "Fronts against each other" in page and "not told apart" in page
    rows = list(csv.DictReader((tmp_path / "out" / "duels.csv").read_text().splitlines()))
    assert [row["verdict"] for row in rows if row["in"] == "reward/hps"] == ["worse", "worse", "not told apart"]


def test_one_seed_judges_no_method(tmp_path):
    write_run(tmp_path / "a", "sqdf", 0, {"reward/hps": 0.05, "diversity/entropy": -0.05})
    write_run(tmp_path / "b", "draft", 0, {"reward/hps": 0.05, "diversity/entropy": -0.4})
    page = report([tmp_path], tmp_path / "out").read_text()
    (comparison,) = compare(read_runs([tmp_path])[0])
    (pair,) = (pair for pair in method_pairs(comparison) if pair.reward == "reward/hps")
    assert (pair.difference.verdict, pair.verdict) == ("worse", "behind on these prompts (one seed)")
    assert "behind on these prompts (one seed)" in page and "<td>worse</td>" not in page
    rows = list(csv.DictReader((tmp_path / "out" / "duels.csv").read_text().splitlines()))
    assert {row["seeds"] for row in rows} == {"1"} and "worse" not in {row["verdict"] for row in rows}
    assert "one seed: over prompts only" in (tmp_path / "out" / "front.svg").read_text()
