"""Reads the config.yaml of a run's folder as data, which a stranger may have written or a disk may have damaged.

rdt writes it resolved: a mapping of plain values, without interpolations, anchors or YAML tags, a few levels deep.
Whatever differs is refused before OmegaConf could resolve it, in one line that names the file.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rdt.errors import UsageError, flat
from rdt.targets import entries
from rdt.text import NAME, folded

MOST_BYTES = 2**20
DEEPEST = 40  # levels of nesting


def read_recorded(file: Path) -> DictConfig:
    """Return the config in a run's folder; UsageError, in one line that names the file, if rdt did not write it so."""
    try:
        tree = _plain(file)
        if not isinstance(tree, dict) or "model" not in tree:
            raise ValueError("it has no section model")
        for key, value in entries(tree):
            if "${" in key or (isinstance(value, str) and ("${" in value or value == "???")):
                raise ValueError(f"{key}={value} is a reference; a run records values")
        return OmegaConf.create(tree)
    except (ValueError, yaml.YAMLError, RecursionError, OmegaConfBaseException) as error:
        raise UsageError(f"{file} is not the config of a run: {folded(flat(error), NAME)}") from None


def _plain(file: Path) -> Any:
    """Return what a YAML file holds; ValueError if it is large, deep, not UTF-8, or refers to itself."""
    if (size := file.stat().st_size) > MOST_BYTES:
        raise ValueError(f"it has {size} bytes, expected at most {MOST_BYTES}")
    text = file.read_text(encoding="utf-8")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        opens = isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent)
        depth += opens - isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias, *{event.anchor}, which a run does not write")
    return yaml.safe_load(text)
