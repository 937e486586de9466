"""Makes one real run of minimal size, which all tests share, and orders the tests."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from worlds.smallest_run import minimal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small gain nothing from threads, and tests run in parallel

settings.register_profile("rdt", deadline=None, derandomize=True, database=None)  # the same inputs on every machine
settings.load_profile("rdt")

LONG = (
    "test_resume", "test_wandb", "test_launch", "test_evaluate", "test_extension", "test_choices", "test_real_runs",
    "test_credentials", "test_commands",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that parallel processes end at about the same time."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture
def answered(monkeypatch, capsys):
    """Return a function that calls a command's entry with words: (exit status, stdout, stderr)."""

    def answer(entry, *words):
        monkeypatch.setattr(sys, "argv", ["rdt", *words])
        try:
            status = entry() or 0
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return answer


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """Return the output folder of a finished run; copy it before changing anything in it."""
    from rdt.training.launch import launch

    out = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(out.parent / "wandb-data"))
        launch(minimal(out))
    return out
