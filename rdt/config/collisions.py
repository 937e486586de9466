"""Metrics of several `diversity=` choices that would silently take each other's place.

Hydra merges the choices of a list. If two of them fill one key with different values, the later one wins, and a
statistic of the first would be computed on the features of the second.
"""

from collections.abc import Iterator
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from rdt.config import compose

SECTIONS = ("embedders", "measures", "fidelity", "overall")
GROUP = "diversity"


def collisions(hydra_config: Any) -> Iterator[str]:
    """Yield each key that two of the listed choices of metrics fill with different values."""
    filled: dict[str, tuple[str, Any]] = {}
    names = _listed(compose.typed(hydra_config))
    for name in names:
        for key, value in _values(name, hydra_config).items():
            owner, before = filled.setdefault(key, (name, value))
            if before != value:
                yield (
                    f"{GROUP}=[{','.join(names)}]: {owner} and {name} both fill {key}, with {before} and {value};"
                    " give the metrics of one of them another key"
                )


def _listed(words: list[str]) -> list[str]:
    """Return the choices that the command line lists; fewer than two cannot collide."""
    parsed = [OverridesParser.create().parse_override(word) for word in words if word.startswith(f"{GROUP}=[")]
    chosen = parsed[-1].value() if parsed else []
    return [str(name) for name in chosen] if isinstance(chosen, list) and len(chosen) > 1 else []


def _values(name: str, hydra_config: Any) -> dict[str, Any]:
    """Return what a choice alone puts at which dotted key, references as they are written."""
    others = [word for word in compose.typed(hydra_config) if word.startswith("model=")]
    try:
        alone = hydra.compose(hydra_config.job.config_name, [*others, f"{GROUP}=[{name}]"])
    except HydraException:
        return {}  # the whole config would not have been composed either
    sections = {section: alone.diversity.get(section) or {} for section in SECTIONS}
    return dict(_flat(OmegaConf.to_container(OmegaConf.create(sections)), f"{GROUP}."))


def _flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
