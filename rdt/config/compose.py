"""What the commands share at their start: where conf/ is, and errors as one line."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.types import RunMode

from rdt.errors import one_line

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> str:
    """The config folder: beside the package in a checkout, inside it in a wheel."""
    for folder in (PACKAGE.parent / "conf", PACKAGE / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no conf/config.yaml beside or inside {PACKAGE}; reinstall rdt")


@contextmanager
def command() -> Iterator[None]:
    """Errors that inputs cause are one line and exit status 1, Hydra's among them, which it would print its own way."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with one_line():
        yield


def alone(hydra_config: Any) -> AbstractContextManager[None]:
    """A job that is the whole command ends it with its one line; in a sweep Hydra goes on to the next."""
    return one_line() if hydra_config.mode == RunMode.RUN else nullcontext()
