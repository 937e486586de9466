"""Run folders that several tests of the report read."""

import pytest

from worlds.run_folders import write_run


@pytest.fixture
def sweep(tmp_path):
    write_run(tmp_path / "0", "sqdf", 0)
    write_run(tmp_path / "1", "draft", 0, {"reward/hps": 0.05, "reward/gold": -0.02, "diversity/entropy": -0.4})
    return tmp_path
