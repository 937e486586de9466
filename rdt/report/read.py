"""Finds run folders and reads them. A folder without a usable result becomes a Failure that states the reason."""

import glob
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rdt import result
from rdt.result import Result

ERROR = "error.txt"  # `rdt.training.folder` writes here why a job of a sweep failed
PRUNED = {"wandb", "checkpoints", "lora", "samples"}  # folders of a run that hold no other run


@dataclass(frozen=True)
class Run:
    """Holds what a run folder recorded."""

    path: Path
    result: Result
    config_text: str = ""  # config.yaml as it was written; empty if there is none
    config: dict[str, Any] = field(default_factory=dict)

    def setting(self, key: str) -> Any:
        """Return the config's value at a dotted key, None if it has no such key."""
        value: Any = self.config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def overrides(self) -> list[str] | None:
        """The overrides that the user typed; None if config.yaml does not record them."""
        typed = self.setting("overrides")
        typed = shlex.split(typed) if isinstance(typed, str) else typed
        return [str(item) for item in typed] if isinstance(typed, list) else None

    @property
    def command(self) -> str:
        """The command line that repeats the run."""
        typed, known = self.overrides or [], self.result
        chosen = {"method": known.method, "reward": known.reward, "model": known.model, "seed": known.seed}
        if self.overrides is None:
            chosen["iterations"] = known.iterations
        given = {override_key(word) for word in typed}
        words = [f"{key}={value}" for key, value in chosen.items() if key not in given]
        return shlex.join(["python", "-m", "rdt.run", *words, *typed])

    @property
    def judges(self) -> list[str]:
        """The names of the rewards that were evaluated and not trained on."""
        judges = self.setting("evaluation.judges")
        return [name for name in judges if name != self.result.reward] if isinstance(judges, dict) else []


@dataclass(frozen=True)
class Failure:
    """Names a run folder without a usable result, and the reason in one line."""

    path: Path
    reason: str


def override_key(override: str) -> str:
    """Return the key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def matches(pattern: str) -> list[Path]:
    """Return the folders that a path or glob names; ValueError if there is none."""
    found = [Path(name) for name in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]
    folders = [path if path.is_dir() else path.parent for path in found if path.is_dir() or path.name == result.FILE]
    if not folders:
        raise ValueError(f"runs={pattern} names no folder")
    return folders


def home(pattern: str) -> Path:
    """Return the folder that a path names, or the deepest folder above the wildcards of a glob."""
    path = Path(pattern).expanduser()
    while glob.has_magic(str(path)) or not path.is_dir():
        path = path.parent
    return path


def run_folders(sources: list[Path]) -> list[Path]:
    """Return every run folder at or below the sources, each once, in order of path."""
    found: dict[Path, Path] = {}
    for source in sources:
        for folder, folders, files in os.walk(source):
            here = Path(folder)
            if {result.FILE, "config.yaml", ERROR} & set(files):
                found.setdefault(here.resolve(), here)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in PRUNED)
    return [found[key] for key in sorted(found)]


def read_runs(sources: list[Path]) -> tuple[list[Run], list[Failure]]:
    """Return all runs at or below the sources, and the folders that could not be read."""
    runs, failures = [], []
    for folder in run_folders(sources):
        try:
            runs.append(read_run(folder))
        except (OSError, ValueError) as error:
            failures.append(Failure(folder, " ".join(str(error).split())))
    return runs, failures


def read_run(folder: Path) -> Run:
    """Return the run of a folder; ValueError, in one line, if it failed or its result.json cannot be used."""
    if (folder / ERROR).is_file():
        raise ValueError((folder / ERROR).read_text("utf-8", errors="replace"))
    return Run(folder, result.read(folder), *_config(folder / "config.yaml"))


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of config.yaml and its values; both are empty if there is no file, the values if it is broken."""
    if not path.is_file():
        return "", {}
    text = path.read_text("utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        config = None
    return text, config if isinstance(config, dict) else {}
