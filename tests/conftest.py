"""One real run of minimal size, made once and shared: training, evaluation, record, W&B offline."""

import os
from pathlib import Path

import pytest

from worlds.smallest_run import minimal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small gain nothing from threads, and tests start processes

LONG = ("test_worker", "test_tracking", "test_launch", "test_evaluate", "test_extension", "test_conf", "test_real_runs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """The output folder of a finished run; copy it before changing anything in it."""
    from rdt.training.launch import launch

    out = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(out.parent / "wandb-data"))
        launch(minimal(out))
    return out
