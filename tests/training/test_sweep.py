"""A sweep continues where the same command was interrupted, runs no job twice, and lists the jobs that failed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rdt import result
from rdt.training import lock
from rdt.training.launch import work
from rdt.training.sweep import FINISHED, interrupted
from worlds.children import PATIENCE, until
from worlds.smallest_run import OVERRIDES, minimal

ROOT = Path(__file__).resolve().parents[2]


def hydra_config(where, task, hydra=()):
    return OmegaConf.create({"sweep": {"dir": str(where)}, "overrides": {"task": list(task), "hydra": list(hydra)}})


def begun(root, name, task, hydra=()):
    """Return the folder of a sweep as Hydra leaves it."""
    (root / name).mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"hydra": hydra_config(root / name, task, hydra)}), root / name / "multirun.yaml")
    return root / name


def test_the_newest_unfinished_sweep_of_the_same_command_is_found(tmp_path):
    begun(tmp_path, "2026-01-01/a", ["seed=0,1"])
    newest = begun(tmp_path, "2026-01-02/a", ["seed=0,1"], ["hydra.sweep.dir=elsewhere"])
    begun(tmp_path, "2026-01-03/a", ["seed=0,2"])
    begun(tmp_path, "2026-01-04/a", ["seed=0,1"], ["hydra/launcher=joblib"])
    now = hydra_config(tmp_path / "2026-01-05" / "b", ["seed=0,1"])
    assert interrupted(now) == newest
    with lock.held("hydra.sweep.dir", newest):  # it is running
        assert interrupted(now) == tmp_path / "2026-01-01" / "a"
    (newest / FINISHED).touch()
    assert interrupted(now) == tmp_path / "2026-01-01" / "a"
    (tmp_path / "2026-01-03" / "a" / "multirun.yaml").write_text("a: [")
    assert interrupted(now) == tmp_path / "2026-01-01" / "a"
    assert interrupted(hydra_config(tmp_path / "2026-01-05" / "b", ["seed=3"])) is None


def test_overrides_are_compared_as_they_were_typed(tmp_path):
    typed = ["push_to_hub=me/x-${seed}", "seed=0,1"]  # a reference is not resolved
    older = begun(tmp_path, "2026-01-01/a", typed)
    assert interrupted(hydra_config(tmp_path / "2026-01-05" / "b", typed)) == older


@pytest.mark.parametrize("damage", ["", "[" * 5000, "hydra: &x {}\nb: *x", "hydra: 1", "hydra: {overrides: {task: 1}}"])
def test_a_sweep_whose_record_is_damaged_is_left_alone(tmp_path, damage):
    folder = begun(tmp_path, "2026-01-01/a", ["seed=0,1"])
    (folder / "multirun.yaml").write_text(damage)
    assert interrupted(hydra_config(tmp_path / "2026-01-05" / "b", ["seed=0,1"])) is None


def sweep(cwd, *arguments):
    """Return the started process of a sweep, which has its own process group."""
    command = [sys.executable, "-m", "rdt.run", "-m", *OVERRIDES, "logger=csv", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, stdout=-1, stderr=-1, start_new_session=True)


def test_jobs_of_several_methods_share_the_sweeps_folder(tmp_path):
    out, _ = sweep(tmp_path, "method=draft,sqdf", "dry_run=true").communicate(timeout=PATIENCE)
    places = [Path(line.partition("=")[2]) for line in out.splitlines() if line.startswith("output_dir=")]
    assert [place.name for place in places] == ["0", "1"] and len({place.parent for place in places}) == 1


@pytest.mark.slow
def test_a_killed_sweep_continues_and_runs_no_job_twice(tmp_path):
    """Its jobs have the results of an uninterrupted sweep; the report says why one job cannot run."""
    arguments = ("method.lr=0.01,0,0.02", "method.replay_ratio=2")
    killed = sweep(tmp_path, *arguments)
    until(lambda: list(tmp_path.glob("multirun/*/*/0/report.html")) or killed.poll() is not None)
    assert killed.poll() is None, killed.communicate()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=PATIENCE)
    first = next(tmp_path.glob("multirun/*/*/0/result.json"))
    before = first.read_bytes()
    out, err = sweep(tmp_path, *arguments).communicate(timeout=PATIENCE)
    assert "continues" in out and "finished" in out and "method.lr=0 must be greater than 0" in err
    (where,) = tmp_path.glob("multirun/*/*")  # no second folder
    assert first.read_bytes() == before and not (where / FINISHED).exists()
    assert "method.lr=0 must be greater than 0" in (where / "report.html").read_text()
    work(minimal(tmp_path / "alone", "logger=csv", "method.lr=0.02", "method.replay_ratio=2"))
    last, alone = result.read(where / "2"), result.read(tmp_path / "alone")
    assert last.points == alone.points and last.base == alone.base


@pytest.mark.slow
def test_a_signal_ends_the_whole_sweep_and_its_command_continues_it(tmp_path):
    arguments = ("seed=0,1,2", "method.replay_ratio=2", "iterations=6", "trainer.checkpoint_every=1")
    stopped = sweep(tmp_path, *arguments)
    until(lambda: list(tmp_path.glob("multirun/*/*/1/checkpoints/000001")) or stopped.poll() is not None)
    assert stopped.poll() is None, stopped.communicate()
    stopped.send_signal(signal.SIGTERM)
    out, err = stopped.communicate(timeout=PATIENCE)
    (where,) = tmp_path.glob("multirun/*/*")
    assert stopped.returncode == 1 and err.count("error: ") == 1 and "its command continues it" in err, err
    assert not (where / "2").exists() and not (where / "1" / "error.txt").exists()
    out, err = sweep(tmp_path, *arguments).communicate(timeout=PATIENCE)
    assert "continues" in out and f"finished {where / '0'}" in out and (where / FINISHED).exists(), err
