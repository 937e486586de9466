"""The launchers of sweeps on clusters run the jobs of a sweep to their end, as Hydra's own launcher does."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rdt import result
from rdt.training.launch import work
from rdt.training.sweep import FINISHED
from worlds import children
from worlds.smallest_run import OVERRIDES, minimal

ROOT = Path(__file__).resolve().parents[2]
SWEEP = (*OVERRIDES, "logger=csv", "method=draft")
LAUNCHERS = {  # by the plug-in hydra-<name>-launcher, with what two jobs on this machine need
    "joblib": ("joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("submitit_local", "hydra.launcher.cpus_per_task=1"),
    "ray": ("ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"),
}


@pytest.mark.slow
@pytest.mark.parametrize("package", LAUNCHERS)
def test_two_jobs_end_as_they_do_alone(package, tmp_path):
    """Both jobs run in processes of the launcher, and the report is drawn over both."""
    if find_spec(f"hydra_plugins.hydra_{package}_launcher") is None:
        pytest.skip(f"hydra-{package}-launcher is not installed; pip install -c constraints.txt -e '.[dev]'")
    name, *options = LAUNCHERS[package]
    command = [sys.executable, "-m", "rdt.run", "-m", *SWEEP, "seed=0,1", f"hydra/launcher={name}", *options]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    own |= {"HOME": str(tmp_path)} if package == "ray" else {}  # it writes there
    done = children.run(
        [*command, f"hydra.sweep.dir={tmp_path}/sweep"], cwd=tmp_path, env=os.environ | own, timeout=3600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = tmp_path / "sweep"
    assert (sweep / FINISHED).exists() and (sweep / "report.html").is_file()
    work(minimal(tmp_path / "alone", "logger=csv", "method=draft", "seed=1"))
    first, second, alone = (result.read(folder) for folder in (sweep / "0", sweep / "1", tmp_path / "alone"))
    assert second.points == alone.points != first.points and second.base == alone.base
