"""What report.html and the tables know of a run folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdt.result import Point, Result


@dataclass(frozen=True)
class Run:
    """One readable run folder."""

    path: Path
    method: str
    reward: str
    model: str
    seed: int
    iterations: int
    base: Point
    points: tuple[Point, ...]
    limit: dict[str, Any] | None
    compute: dict[str, Any]
    versions: dict[str, Any]
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(path: Path, result: Result, config_text: str, config: dict[str, Any]) -> "Run":
        """Return the run of a folder's result and config."""
        shared = {name: getattr(result, name) for name in Run.__dataclass_fields__ if hasattr(result, name)}
        return Run(path=path, config_text=config_text, config=config, **shared)


@dataclass(frozen=True)
class Failure:
    """A run folder without a usable result, and the reason in one line."""

    path: Path
    reason: str
