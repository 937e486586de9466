"""All that a run logs can be read back from W&B's own file, and every job has its own W&B run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from rdt import result as results
from rdt.run import name_outputs
from rdt.training.loggers import Metrics, loggers
from rdt.training.sweep import SweepReport
from rdt.training.wandb_summary import conclude
from rdt.wandb import _mode, group_of
from worlds.smallest_run import minimal
from worlds.wandb_files import merged, records, runs


@pytest.fixture(autouse=True)
def data_folder(monkeypatch, tmp_path):
    """Let W&B write into the test's own folder, in the mode that the config names."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture(scope="module")
def read(run_folder):
    return records(run_folder)


@pytest.fixture(scope="module")
def result(run_folder):
    return results.read(run_folder)


def test_the_run_is_finished_and_described(read, run_folder):
    (run,) = read["run"]
    assert read["exit"] == [{"exit_code": 0, "runtime": pytest.approx(read["exit"][0].get("runtime", 0))}]
    assert run["job_type"] == "train" and set(run["tags"]) == {"sqdf", "hps", "shapes"}
    assert run["run_id"] == (run_folder / "wandb_id").read_text()
    assert run["config"]["update"]["method"]["name"] == "sqdf"


def test_training_is_logged_by_iteration(read, run_folder):
    rows = (run_folder / "metrics.csv").read_text().splitlines()
    logged = [r["item"] for r in read["history"] if "train/reward" in r["item"]]
    assert [item["iteration"] for item in logged] == list(range(len(rows) - 1))
    assert any(m.get("glob_name") == "*" and m["step_metric"] == "iteration" for m in read["metric"])


def test_final_scalars_are_those_of_the_result(read, result):
    summary = merged(read, "summary")
    for group, point in (("final", result.tuned), ("base", result.base)):
        for name, value in point.means().items():
            assert summary[f"{group}/{name}"] == pytest.approx(value)
    assert summary["compute/images"] == result.compute["images"]


def test_the_pictures_the_table_and_the_charts_are_logged(read, run_folder, result):
    history, (media,) = merged(read, "history"), run_folder.glob("wandb/offline-run-*/files/media")
    for key, name in {"base": "samples/base.png", "tuned": "samples/tuned.png", "picture": "front.png"}.items():
        (logged,) = media.glob(f"images/*/{key}_*.png")
        assert logged.read_bytes() == (run_folder / name).read_bytes()
    assert {"samples/base._type", "samples/tuned._type", "front/picture._type", "front/table._type"} <= set(history)
    table = json.loads(next(media.glob("table/front/table_*.json")).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row.pop("point") for row in rows] == ["base", "cfg"]
    gaps = [row.pop("hacking_gap") for row in rows]
    assert gaps[0] == 0 and merged(read, "summary")["final/hacking_gap"] == pytest.approx(gaps[1])
    assert rows == [pytest.approx(result.base.means()), pytest.approx(result.tuned.means())]
    charts = {k: v for k, v in merged(read, "config").items() if "visualize" in k}
    axes = {tuple(v["panel_config"]["fieldSettings"].values()) for v in charts.values()}
    assert axes == {("diversity/entropy", name) for name in result.base.scores if name.startswith("reward/")}


def test_the_adapter_is_an_artifact_with_its_origin_and_scores(read, run_folder, result):
    (model,) = [artifact for artifact in read["artifact"] if artifact["type"] == "model"]
    sizes = {entry["path"]: int(entry["size"]) for entry in model["manifest"]["contents"]}
    assert sizes == {path.name: path.stat().st_size for path in (run_folder / "lora").iterdir()}
    metadata = json.loads(model["metadata"])
    assert metadata["point"].pop("guidance") == "cfg"
    assert metadata.pop("point") == pytest.approx(result.tuned.means())
    assert metadata == {
        "method": "sqdf", "reward": "hps", "model": "shapes", "seed": 0, "iterations": 2,
        "base_model": "bundled:base", "rank": 2, "alpha": 2,
        "rewards": {"hps": "trained on", "gold": "unseen", "judge": "unseen"},
    }  # fmt: skip


def test_jobs_of_one_process_have_runs_of_their_own_even_after_one_failed(run_folder, tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    shutil.copytree(run_folder, whole, ignore=shutil.ignore_patterns("wandb*", "checkpoints"))
    left, kept = minimal(broken), minimal(whole)
    for logger in loggers(left, broken, {}):
        logger.log_metrics({"train/left": 1.0}, step=0)
    conclude(loggers(kept, whole, {}), kept, whole)
    first, second = records(broken), records(whole)
    assert first["run"][0]["run_id"] != second["run"][0]["run_id"]
    assert "train/left" in merged(first, "history") and "train/left" not in merged(second, "history")
    assert [len(found["artifact"]) > 0 for found in (first, second)] == [False, True]


def job(run_folder, sweep, number):
    """Return the W&B records of a finished job of a sweep, named and logged as `rdt.run -m` does."""
    out = shutil.copytree(run_folder, sweep / str(number), ignore=shutil.ignore_patterns("wandb*", "checkpoints"))
    multirun = {"overrides": {"task": [f"seed={number}"]}, "runtime": {"output_dir": str(out)}}
    cfg = minimal(out, f"seed={number}")
    name_outputs(cfg, OmegaConf.create(multirun | {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(sweep)}}))
    OmegaConf.save(cfg, out / "config.yaml")
    results.write(replace(results.read(out), seed=number), out)  # otherwise the second job is the first one's copy
    conclude(loggers(cfg, out, {}), cfg, out)
    return records(out)


@pytest.mark.slow
def test_jobs_of_a_sweep_and_its_pareto_run_are_one_group(run_folder, tmp_path, monkeypatch, result):
    sweep = tmp_path / "sweep"
    jobs = [job(run_folder, sweep, number) for number in (0, 1)]
    monkeypatch.setattr(SweepReport, "folder", sweep)
    SweepReport.draw()
    front = records(sweep)
    described = [found["run"][0] for found in (*jobs, front)]
    assert len({run["run_id"] for run in described}) == 3 and {run["run_group"] for run in described} == {str(sweep)}
    assert [run["job_type"] for run in described] == ["train", "train", "pareto"]
    history, (media,) = merged(front, "history"), sweep.glob("wandb/offline-run-*/files/media")
    assert next(media.glob("images/pareto/front_*.png")).read_bytes() == (sweep / "front.png").read_bytes()
    assert {"pareto/front._type", "pareto/table._type", "pareto/samples._type"} <= set(history)
    assert history["pareto/samples.captions"][0] == "base" and len(list(media.glob("images/pareto/samples_*"))) == 2
    table = json.loads(next(media.glob("table/pareto/table_*.json")).read_text())
    base, *points = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {name: base[name] for name in result.base.means()} == pytest.approx(result.base.means())
    assert {name: points[0][name] for name in result.tuned.means()} == pytest.approx(result.tuned.means())
    assert len(points) == len(result.points) * 2 and all(point["on front of reward/hps"] for point in points)
    charts = [value for key, value in merged(front, "config").items() if "visualize" in key]
    axes = {tuple(chart["panel_config"]["fieldSettings"].values()) for chart in charts}
    assert axes == {("diversity/entropy", "reward/hps"), ("diversity/entropy", "reward/gold")}
    SweepReport.draw()  # again: it continues the same W&B run
    assert {found["run"][0]["run_id"] for found in runs(sweep)} == {described[-1]["run_id"]}


def test_a_sweep_that_wandb_refuses_gets_its_report_and_a_warning(run_folder, tmp_path, monkeypatch, capsys):
    sweep = tmp_path / "sweep"
    out = shutil.copytree(run_folder, sweep / "0", ignore=shutil.ignore_patterns("wandb", "checkpoints"))
    OmegaConf.save(minimal(out, "logger=wandb", "logger.wandb.mode=online"), out / "config.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(SweepReport, "folder", sweep)
    SweepReport.draw()
    out, warned = capsys.readouterr()
    assert f"report   {sweep / 'report.html'}" in out and (sweep / "report.html").is_file()
    assert warned.startswith("warning: logger.wandb: ") and warned.count("\n") == 1


def test_a_sweep_without_wandb_has_no_pareto_run(run_folder, tmp_path, monkeypatch):
    shutil.copytree(run_folder, tmp_path / "0", ignore=shutil.ignore_patterns("wandb*", "checkpoints"))
    monkeypatch.setattr(SweepReport, "folder", tmp_path)
    SweepReport.draw()
    assert (tmp_path / "report.html").is_file() and not (tmp_path / "wandb").exists()


def test_other_loggers_need_no_wandb(tmp_path):
    cfg = minimal(tmp_path, "logger=csv")
    assert [type(logger) for logger in loggers(cfg, tmp_path, {})] == [Metrics]
    assert not (tmp_path / "wandb").exists()


def test_a_missing_account_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"^logger\.wandb: [^\n]*logger=csv") as refused:
        loggers(minimal(tmp_path / "out", "logger=wandb"), tmp_path / "out", {})
    assert "\n" not in str(refused.value)


def test_the_environments_silence_wins_over_the_chosen_mode(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for demanded, chosen, mode in [
        ("offline", "online", "offline"), ("disabled", "online", "disabled"), ("dryrun", None, "offline"),
        ("online", "offline", "offline"), ("", "online", "online"), ("", None, "online"),
    ]:  # fmt: skip
        monkeypatch.setenv("WANDB_MODE", demanded)
        assert _mode(chosen) == mode, (demanded, chosen)
    assert "WANDB_MODE=offline of the environment wins over logger.wandb.mode=online" in capsys.readouterr().out


def test_a_long_group_is_shortened_and_stays_its_own(tmp_path):
    short, one, other = (Path(f"/sweeps/{name}") for name in ("a", "b" * 200 + "/x", "c" * 200 + "/x"))
    assert group_of(short) == "/sweeps/a"
    assert len(group_of(one)) == 128 and group_of(one).endswith("/x") and group_of(one) != group_of(other)
