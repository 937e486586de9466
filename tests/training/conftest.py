"""Copies the shared run for tests that damage it."""

import shutil

import pytest


@pytest.fixture
def copied_run(run_folder, tmp_path):
    """Return a copy of the folder of a finished run."""
    return shutil.copytree(run_folder, tmp_path / "copied", ignore=shutil.ignore_patterns("wandb"))
