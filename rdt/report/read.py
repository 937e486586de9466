"""Finds run folders and reads them. A folder without a usable result becomes a Failure that states the reason."""

import glob
import json
import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rdt import result
from rdt.config.keys import override_key
from rdt.config.recorded import ERROR, mapping
from rdt.report.hacking import is_hacked, with_gaps
from rdt.result import Result, Score
from rdt.text import NAME, folded, lone_surrogate

FILES = {result.FILE, "config.yaml", ERROR}  # a folder with one of them is a run's
OWN = {"wandb", "checkpoints", "lora", "samples"}  # folders directly below a run's, which hold no other run
COMMAS = 10  # parts between commas that one folder's name may have
WANDB_RUN = re.compile(r"(offline-)?run-\d{8}_\d{6}-")  # W&B's folder of a run, which has a config.yaml too


@dataclass(frozen=True)
class Run:
    """Holds what a run folder recorded."""

    path: Path
    result: Result
    config_text: str = ""  # config.yaml as it was written; empty if there is none
    config: dict[str, Any] = field(default_factory=dict)
    config_error: str = ""  # why config.yaml has no values, if it is there

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
        trained = self.result.trained_on or (self.result.reward,)
        return [name for name in judges if name not in trained] if isinstance(judges, dict) else []

    def hacked(self, scores: dict[str, Score]) -> bool:
        """Return whether scores of this run, or of several seeds of it, gained on the reward and lost on a judge."""
        return is_hacked(self.result, scores, self.judges)


@dataclass(frozen=True)
class Failure:
    """Names a run folder without a usable result, and the reason in one line."""

    path: Path
    reason: str


def named_folders(runs: str) -> list[Path]:
    """Return the folders that a value of runs= names: one path or glob, or several separated by commas.

    What is there under the very name comes first, commas and brackets included. ValueError if nothing has a name.
    """
    return [folder for name in split_names(runs) for folder in _matches(name)]


def split_names(runs: str) -> list[str]:
    """Return the paths and globs of a value of runs=; a comma that is part of a folder's name separates nothing."""
    parts, names = runs.split(","), []
    while parts:
        joined = [",".join(parts[:count]) for count in range(1, 1 + min(len(parts), COMMAS))]
        there = next((name for name in reversed(joined) if os.path.exists(os.path.expanduser(name))), None)
        name = there or next((name for name in joined if _globbed(name)), parts[0])
        names.append(name)
        parts = parts[1 + name.count(",") :]
    return names


def home(pattern: str) -> Path:
    """Return the folder that a path names, or the deepest folder above the wildcards of a glob."""
    path = Path(pattern).expanduser()
    while not path.is_dir():
        path = path.parent
    return path


def run_folders(sources: list[Path]) -> list[Path]:
    """Return every run folder at or below the sources, each once, in order of path.

    Symbolic links are followed. Passed over are hidden folders, what a run keeps directly below itself, and W&B's own.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        seen: set[Path] = set()
        for folder, folders, files in os.walk(source, followlinks=True):
            here, known = Path(folder), Path(folder).resolve()
            if known in seen:  # a link led back here
                folders[:] = []
                continue
            seen.add(known)
            is_run = bool(FILES & set(files))
            if is_run:
                found.setdefault(known, here)
            folders[:] = sorted(name for name in folders if not _is_passed_over(name, is_run))
    return [found[key] for key in sorted(found)]


def _matches(name: str) -> list[Path]:
    """Return the folders that a path or glob names; ValueError if there is none."""
    path = Path(name).expanduser()
    found = [path] if name and os.path.exists(path) else _globbed(name)
    folders = [path if path.is_dir() else path.parent for path in found if path.is_dir() or path.name == result.FILE]
    if not folders:
        raise ValueError(f"runs={name} names no folder")
    return folders


def _globbed(pattern: str) -> list[Path]:
    """Return what a glob matches, in order."""
    return [Path(name) for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]


def _is_passed_over(name: str, in_run: bool) -> bool:
    return name.startswith(".") or (in_run and name in OWN) or bool(WANDB_RUN.match(name))


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
    run = Run(folder, result.read(folder), *_config(folder / "config.yaml"))
    return replace(run, result=with_gaps(run.result, run.judges))


def _config(path: Path) -> tuple[str, dict[str, Any], str]:
    """Return the text of config.yaml, its values and, if these cannot be read, the reason; all empty without a file."""
    if not path.is_file():
        return "", {}, ""
    text = path.read_text("utf-8", errors="replace")
    try:
        config = mapping(text)
        found = lone_surrogate(json.dumps(config, ensure_ascii=False, skipkeys=True, default=str))
    except ValueError as error:
        return text, {}, folded(error, NAME)
    return (text, {}, f"it has {found}, half of a character") if found else (text, config, "")
