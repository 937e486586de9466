"""Reads the YAML in a run's folder and a sweep's as data, which a stranger may have written or a disk may have damaged.

rdt writes a mapping of plain values, without anchors or YAML tags, a few levels deep; a run's config.yaml has no
interpolations either. Whatever differs is refused before OmegaConf could resolve it.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rdt.errors import UsageError, flat
from rdt.targets import entries
from rdt.text import NAME, folded, read_text

ERROR = "error.txt"  # beside config.yaml: why a job of a sweep failed
MOST = 2**20  # characters of a file
DEEPEST = 40  # levels of nesting


def read_recorded(file: Path) -> DictConfig:
    """Return the config in a run's folder; UsageError, in one line that names the file, if rdt did not write it so."""
    try:
        tree = mapping(read_text(file))
        if "model" not in tree:
            raise ValueError("it has no section model")
        for key, value in entries(tree):
            if "${" in key or (isinstance(value, str) and ("${" in value or value == "???")):
                raise ValueError(f"{key}={value} is a reference; a run records values")
        return OmegaConf.create(tree)
    except (ValueError, OmegaConfBaseException) as error:
        reason = folded(flat(error).removeprefix(f"{file} "), NAME)
        raise UsageError(f"{file} is not the config of a run: {reason}") from None


def mapping(text: str) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; ValueError, with the reason, if it is none that rdt would write."""
    if len(text) > MOST:
        raise ValueError(f"it has {len(text)} characters, expected at most {MOST}")
    try:
        tree = yaml.load(text, PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(flat(error)) from None
    if not isinstance(tree, dict):
        raise ValueError(f"it holds {type(tree).__name__}, expected a mapping")
    return tree


class PlainLoader(yaml.SafeLoader):
    """Refuses aliases, with which a small file can stand for a huge one, and deep nesting; rdt writes neither."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*name), which a run does not write")
        opens = self.check_event(yaml.MappingStartEvent, yaml.SequenceStartEvent)
        self.depth += opens
        if self.depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= opens
        return node
