"""Runs are found at any depth, and a folder that cannot be read is a failure with its reason."""

import json
import math

import pytest

from rdt.report.__main__ import main
from rdt.report.read import home, named_folders, read_runs, split_names
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


def found(*folders):
    return [run.path for run in read_runs(list(folders))[0]]


@pytest.mark.parametrize("name", ["kl[0.1]", "a,b", "a*", "run (1)", "lr=0.1", "[!x]", "猫"])
def test_a_folder_is_found_under_its_literal_name(tmp_path, name):
    write_run(tmp_path / name)
    write_run(tmp_path / "abc")
    (folder,) = named_folders(str(tmp_path / name))
    assert found(folder) == [tmp_path / name] and home(str(tmp_path / name)) == tmp_path / name


def test_several_paths_and_globs_are_separated_by_commas(tmp_path):
    for name in ("a,b", "c1", "c2", "d"):
        write_run(tmp_path / name)
    runs = f"{tmp_path}/c*,{tmp_path}/a,b,{tmp_path}/d/result.json"
    assert [path.name for path in named_folders(runs)] == ["c1", "c2", "a,b", "d"]
    with pytest.raises(ValueError, match=r"runs=.*/e names no folder"):
        named_folders(f"{tmp_path}/d,{tmp_path}/e,{tmp_path}/d")
    assert len(split_names(",".join(["x"] * 3000))) == 3000


def test_only_what_a_run_keeps_directly_below_itself_is_passed_over(tmp_path):
    below = [tmp_path / "exp" / name for name in ("checkpoints/run1", "lora/x/run2", "run3", "wandb/run-4", "samples")]
    for path in below:
        write_run(path)
    for name in ("checkpoints", "lora", "samples", "wandb"):
        write_run(tmp_path / "exp" / "run3" / name / "kept")
    write_run(tmp_path / "exp" / "wandb" / "offline-run-20260101_120000-abcdefgh" / "files")  # of a report
    assert sorted(found(tmp_path / "exp")) == sorted(below)


def test_links_are_followed_and_a_run_behind_one_counts_once(tmp_path):
    write_run(tmp_path / "far" / "run")
    (tmp_path / "exp").mkdir()
    for name, target in {"link": "far/run", "again": "far", "loop": "exp"}.items():
        (tmp_path / "exp" / name).symlink_to(tmp_path / target)
    assert len(found(tmp_path / "exp")) == 1 and len(found(tmp_path)) == 1


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a: [", "expected"),
        ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("[" * 5000, "nested deeper than 40 levels"),
        ("a: &x [1]\nb: *x", "alias"),
        ("- 1", "holds list, expected a mapping"),
        ('a: "\\ud83d"', "half of a character"),
        ("a: 1\0", "special characters"),
    ],
)
def test_a_config_that_cannot_be_read_has_a_reason(tmp_path, text, reason):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(text)
    (run,) = read_runs([tmp_path])[0]
    assert run.config == {} and reason in run.config_error and "\n" not in run.config_error


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"method": 3}, "method of type int, expected str"),
        ({"seed": True}, "seed of type bool, expected int"),
        ({"model": "a\ud83d"}, "half of a character"),
        ({"points": {"a": 1}}, "expected list"),
        ({"base": {"guidance": {}}}, "does not follow schema"),
        ({"points": [{"guidance": [], "prompts": 3}]}, "does not follow schema"),
    ],
)
def test_a_result_of_wrong_types_fails_its_run_alone(sweep, changes, reason):
    write_run(sweep / "bad", **changes)
    runs, (failure,) = read_runs([sweep])
    assert len(runs) == 2 and reason in failure.reason


def test_a_result_with_a_number_past_all_floats_or_nested_too_deep_is_a_failure(sweep):
    text = (sweep / "0" / "result.json").read_text()
    (sweep / "0" / "result.json").write_text(text.replace('"mean": ', '"mean": 1' + "0" * 400, 1))
    (sweep / "1" / "result.json").write_text("[" * 200_000)
    runs, failures = read_runs([sweep])
    assert not runs and len(failures) == 2
