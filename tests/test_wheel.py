"""The wheel holds all that a run needs: away from the checkout it finds its config and its weights."""

import os
import sys
from pathlib import Path

import pytest

from worlds import children

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel, install it without a network into an empty folder, and return the folder."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    built = children.run([sys.executable, "-c", BUILD, dist], cwd=ROOT, check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site]
    children.run([*pip, dist / built.stdout.split()[-1]], check=True)
    return site


def test_a_wheel_installed_elsewhere_plans_a_run(installed, tmp_path):
    script = "import rdt, sys; sys.stderr.write(rdt.__file__); from rdt.cli import main; main()"
    done = children.run(
        [sys.executable, "-c", script, "run", "dry_run=true"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == str(installed / "rdt" / "__init__.py")
    assert "method=sqdf reward=hps model=shapes" in done.stdout and not list(tmp_path.iterdir())


def test_a_wheel_holds_config_and_weights_and_pages_and_the_command(installed):
    assert (installed / "rdt" / "conf" / "config.yaml").is_file()
    for file in [*(ROOT / "rdt" / "shapes" / "weights").rglob("*"), *ROOT.glob("rdt/*/page.*")]:
        copy = installed / file.relative_to(ROOT)
        assert file.is_dir() or copy.read_bytes() == file.read_bytes(), file
    (entry,) = installed.glob("reward_diversity-*.dist-info/entry_points.txt")
    assert "rdt = rdt.cli:main" in entry.read_text()
