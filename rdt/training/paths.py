"""Makes the local paths of a config absolute, so that its run can be evaluated and continued from any folder."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rdt import weights
from rdt.config.plan import FILE_KEYS, SECTIONS, leaves

COPIED = ("train_file", "held_out_file")  # keys whose values a section's path repeats
TOP = ("resume", "init_lora")  # keys of the config itself that may be paths
WORDS = ("auto", "never")  # values of `resume` that are none


def make_absolute(cfg: DictConfig) -> None:
    """Replace, in a resolved config, every local path that is relative by the absolute one."""
    found = dict(_found(cfg))
    absolute = {value: str(Path(value).expanduser().absolute()) for value in found.values()}
    for key, value in leaves(cfg):
        name = key.rpartition(".")[2]
        if isinstance(value, str) and value in absolute and (key in found or name in (*FILE_KEYS, *COPIED)):
            OmegaConf.update(cfg, key, absolute[value])


def _found(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of local paths, and the paths."""
    keys = [
        (f"{section}.{key}", value) for section in SECTIONS for key, value in leaves(OmegaConf.select(cfg, section))
    ]
    keys = [item for item in keys if item[0].rpartition(".")[2] in FILE_KEYS]
    for key, value in [*keys, *((key, OmegaConf.select(cfg, key)) for key in TOP)]:
        if isinstance(value, str) and value and value not in WORDS and _is_path(value):
            yield key, value


def _is_path(source: str) -> bool:
    return source.partition(":")[0] not in (*weights.SCHEMES, "bundled") or ":" not in source
