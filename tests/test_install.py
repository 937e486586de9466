"""Every install line that this repository prints works as printed, from a checkout: the package is on no index."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from worlds import children

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"pip install -[^\n`]*?'\.\[[^\]]*\]'")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PRINTED = [
    ROOT / "README.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "experiments").rglob("*.md"),
    *(ROOT / "conf").rglob("*.yaml"),
    *(ROOT / "rdt").rglob("*.py"),
]


def lines() -> list[str]:
    """Return every distinct install line of the README, the docs, the configuration and the error messages."""
    return sorted({line for file in PRINTED for line in LINE.findall(file.read_text(encoding="utf-8"))})


def test_the_extras_that_users_install_are_printed_somewhere():
    named = {extra for line in lines() for extra in re.findall(r"\w+", line.rpartition("[")[2])}
    assert {"dashboard", "dreamsim", "parquet", "sweep"} <= named


@pytest.mark.parametrize("line", lines())
def test_an_install_line_uses_the_constraints_and_names_extras_that_exist(line):
    *command, target = shlex.split(line)
    assert command == ["pip", "install", "-c", "constraints.txt", "-e"] and (ROOT / "constraints.txt").is_file()
    assert set(target.removeprefix(".[").removesuffix("]").split(",")) <= set(PROJECT["optional-dependencies"])


def test_no_line_installs_another_project_of_the_same_name():
    other = re.compile(r"rdt\[\w+\]|pip install '?reward-diversity")
    assert not [str(file) for file in PRINTED if other.search(file.read_text(encoding="utf-8"))]


def test_pip_accepts_an_install_line_as_far_as_it_goes_without_a_network():
    """pip builds the metadata of the checkout; the last two flags leave out what it would fetch."""
    offline = ["--dry-run", "--no-index", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", "-c", "constraints.txt", *offline, ".[parquet]"]
    done = children.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"{PROJECT['name']}-{PROJECT['version']}" in done.stdout
