"""Runs are found at any depth, and a folder that cannot be read is a failure with its reason."""

import json
import math

import pytest

from rdt.report.__main__ import main
from rdt.report.read import read_runs
from rdt.training import folder
from worlds.html_page import HtmlPage
from worlds.run_folders import write_run


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("result.json", '{"schema": 2, "met', "corrupt"),
        ("result.json", '{"schema": 3}', "schema 3"),
        ("result.json", '{"schema": 2, "method": "sqdf"}', "lacks reward"),
        ("result.json", "[]", "schema None"),
        ("config.yaml", "seed: 1\n", "no result.json"),
    ],
)
def test_a_failed_run_is_listed_beside_the_others(sweep, capsys, name, content, reason):
    (sweep / "broken").mkdir()
    (sweep / "broken" / name).write_text(content)
    assert main([f"runs={sweep}"]) == 0
    assert reason in capsys.readouterr().out
    words = "".join(HtmlPage((sweep / "report.html").read_text()).words)
    assert "1 failed" in words and reason in words and "sqdf" in words and "draft" in words


def test_a_number_that_is_not_finite_fails_its_run(sweep):
    result = json.loads((sweep / "0" / "result.json").read_text())
    result["points"][0]["reward"]["hps"]["mean"] = math.nan
    (sweep / "0" / "result.json").write_text(json.dumps(result))
    runs, failures = read_runs([sweep])
    assert [run.result.method for run in runs] == ["draft"]
    assert "points[0] reward/hps is nan" in failures[0].reason


def test_a_job_that_failed_before_its_config_was_written_is_a_failure(sweep):
    folder.fail(sweep / "2", "method.lr=0 must be greater than 0")
    (failure,) = read_runs([sweep])[1]
    assert (failure.path.name, failure.reason) == ("2", "method.lr=0 must be greater than 0")


def test_runs_are_found_once_at_any_depth(sweep):
    write_run(sweep / "deep" / "er" / "run")
    write_run(sweep / "0" / "checkpoints" / "kept")  # not a run of its own
    runs, failures = read_runs([sweep, sweep / "0", sweep / "deep"])
    assert len(runs) == 3 and not failures


def test_the_command_repeats_the_run(tmp_path):
    write_run(tmp_path / "typed", seed=3, overrides=["prompts.file=my prompts.txt"])
    write_run(tmp_path / "untyped", seed=4)
    (tmp_path / "untyped" / "config.yaml").unlink()
    typed, untyped = (run.command for run in read_runs([tmp_path])[0])
    assert typed == "python -m rdt.run reward=hps model=shapes method=sqdf seed=3 'prompts.file=my prompts.txt'"
    assert untyped == "python -m rdt.run method=sqdf reward=hps model=shapes seed=4 iterations=60"
