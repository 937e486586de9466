"""Run folders found and read; a folder that cannot be read becomes a Failure that says why."""

import glob
import os
from pathlib import Path
from typing import Any

import yaml

from rdt import result
from rdt.report.records import Failure, Run

ERROR = "error.txt"  # why a sweep's job failed, as rdt.training.folder leaves it
PRUNED = {"wandb", "checkpoints", "lora", "samples"}


def matches(pattern: str) -> list[Path]:
    """The folders that a path or glob names; ValueError where there is none."""
    found = [Path(name) for name in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]
    folders = [path if path.is_dir() else path.parent for path in found if path.is_dir() or path.name == "result.json"]
    if not folders:
        raise ValueError(f"runs={pattern} names no folder")
    return folders


def home(pattern: str) -> Path:
    """The folder itself, or the deepest one that a glob fixes."""
    path = Path(pattern).expanduser()
    while glob.has_magic(str(path)) or not path.is_dir():
        path = path.parent
    return path


def run_folders(sources: list[Path]) -> list[Path]:
    """Every run folder at or below the sources, each once, in order of path."""
    found: dict[Path, Path] = {}
    for source in sources:
        for folder, folders, files in os.walk(source):
            here = Path(folder)
            if {"result.json", "config.yaml", ERROR} & set(files):
                found.setdefault(here.resolve(), here)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in PRUNED)
    return [found[key] for key in sorted(found)]


def read_runs(sources: list[Path]) -> tuple[list[Run], list[Failure]]:
    """All runs at or below the sources, and all folders that hide none."""
    runs, failures = [], []
    for folder in run_folders(sources):
        try:
            runs.append(read_run(folder))
        except (OSError, ValueError) as error:
            failures.append(Failure(folder, " ".join(str(error).split())))
    return runs, failures


def read_run(folder: Path) -> Run:
    """The record of one folder; ValueError, in one line, where result.json is missing, corrupt or not finite."""
    if (folder / ERROR).is_file():
        raise ValueError((folder / ERROR).read_text("utf-8", errors="replace"))
    text, config = _config(folder / "config.yaml")
    return Run.of(folder, result.read(folder), text, config)


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of config.yaml and what it says; empty where there is none or it is no mapping."""
    if not path.is_file():
        return "", {}
    text = path.read_text("utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        config = None
    return text, config if isinstance(config, dict) else {}
