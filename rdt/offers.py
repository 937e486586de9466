"""Reward checkpoints that a model offers: one that is asked for and not there is one line, with who has it."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from rdt.errors import UsageError

ASKED = re.compile(r"\$\{(model\.checkpoints\.[\w.]+)\}")
OPTIONAL = ("sha256",)  # null is a value there


def check(cfg: DictConfig, config_name: str) -> None:
    """UsageError where the config, not yet resolved, reads a reward's checkpoint that the chosen model has not."""
    asked = {match[1] for text in _texts(OmegaConf.to_container(cfg)) if (match := ASKED.fullmatch(text))}
    if not (missing := sorted(key for key in asked if not _offers(cfg, key))):
        return
    section = missing[0].rpartition(".")[0]
    keys = [key for key in missing if key.rpartition(".")[0] == section]
    models = GlobalHydra.instance().config_loader().get_group_options("model")
    having = " or ".join(f"model={name}" for name in models if _has(name, keys, config_name)) or "no model"
    new = "" if OmegaConf.select(cfg, section) else "+"
    raise UsageError(
        f"model={cfg.model.name} has no checkpoint for {section.rpartition('.')[2]}: {having} has one,"
        f" or give {' '.join(f'{new}{key}=...' for key in keys)}"
    )


def check_parts(method: str, without: str) -> None:
    """UsageError where the part that is to be left out is another method's."""
    owner, _, part = without.rpartition("/")
    if owner not in ("", method):
        raise UsageError(f"without={without} takes {part} from {owner}; method={method} has none: take method={owner}")


def _offers(cfg: DictConfig, key: str) -> bool:
    section, _, name = key.rpartition(".")
    known = name in (OmegaConf.select(cfg, section) or {})
    return known and (name in OPTIONAL or OmegaConf.select(cfg, key) is not None)


def _has(model: str, keys: list[str], config_name: str) -> bool:
    """Another model offers all of these; one that does not even compose offers nothing."""
    with suppress(HydraException):
        other = compose(config_name, [f"model={model}"])
        return all(_offers(other, key) for key in keys)
    return False


def _texts(tree: Any) -> Iterator[str]:
    """All texts in a container."""
    if isinstance(tree, str):
        yield tree
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _texts(branch)
