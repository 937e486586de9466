"""Files of a stranger that would create a file, the marker, if any of their code ran."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import torch


class Payload:
    """Creates the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


def raw_pickle(file: Path, marker: Path) -> None:
    """Write a plain pickle."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({"weight": Payload(marker)}))


def torch_file(file: Path, marker: Path) -> None:
    """Write torch's zip archive with a tensor and a payload."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.zeros(2), "payload": Payload(marker)}, file)


def module(file: Path, marker: Path, *names: str) -> None:
    """Write a Python module that creates the marker on import and defines classes of these names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["from pathlib import Path", f"Path({str(marker)!r}).touch()"]
    file.write_text("\n".join([*lines, *(f"class {name}: pass" for name in names)]), encoding="utf-8")


def added(file: Path, **entries: object) -> None:
    """Add entries to a JSON file."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(known | entries), encoding="utf-8")
