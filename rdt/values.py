"""What a config is given: every value there, of the type of the default it replaces, and one that is offered."""

from collections.abc import Iterator
from typing import Any

from hydra import compose
from omegaconf import DictConfig, ListConfig, OmegaConf

from rdt import offers
from rdt.errors import UsageError
from rdt.plan import leaves

CHOICES = {
    "precision": ("fp32", "bf16"),
    "reward.interpolation": ("bicubic", "bilinear"),
    "reward.format": ("png", "float32"),
    "method.look_ahead": ("consistency", "tweedie", "n_step"),
    "method.replay": ("prioritized", "uniform", "on_policy"),
    "guidance.schedule": ("linear", "power", "step", "constant"),
}

EXAMPLES = {  # of what stands in the place of a null that is the default
    "max_passes": 100_000, "micro_batch_size": 4, "method.num_steps": 10, "method.window": 2, "method.margin": 2.0,
    "guidance.scale": 3.0,
}  # fmt: skip
OPTIONAL = EXAMPLES.keys() - {
    "guidance.scale"
}  # may be null again where a setting gave a value; a scale not everywhere


def given(cfg: DictConfig, hydra_config: Any) -> None:
    """UsageError where a value is missing, is not of its type, or is one that the chosen model does not have."""
    for key in _unset(cfg):
        raise UsageError(f"{key}=??? has no default; give {key}=...")
    types(cfg, hydra_config)
    offers.check(cfg, hydra_config.job.config_name)
    offers.check_parts(cfg.method.name, hydra_config.runtime.choices.get("without") or "nothing")


def types(cfg: DictConfig, hydra_config: Any) -> None:
    """A value must have the type of the default it replaces, compared with the same groups composed bare, and be one
    of the choices where there are some; before the config is resolved, since others may hang on it."""
    groups = [o for o in hydra_config.overrides.task if o.lstrip("+~").split("=")[0] in hydra_config.runtime.choices]
    default = compose(config_name=hydra_config.job.config_name, overrides=groups)
    for key, was in leaves(default):
        found, now = _at(cfg, key)
        free = was is None or key in OPTIONAL or isinstance(was, str | ListConfig)
        was = EXAMPLES.get(key) if was is None else was
        if was is None or (now is None and (found != key or free)):
            continue
        expected = f"{_name(was)} such as {was}" if found == key else "a section"
        wrong = isinstance(was, bool) != isinstance(now, bool) or not isinstance(now, _accepted(was))
        if wrong or found != key:
            raise UsageError(f"{found}={'null' if now is None else now} is {_name(now)}, expected {expected}")
        if now not in CHOICES.get(key, [now]):
            raise UsageError(f"{key}={now} is not one of {', '.join(CHOICES[key])}")


def _at(cfg: DictConfig, key: str) -> tuple[str, Any]:
    """The value at a dotted key, or the value that replaced a section on the way there; its key comes with it."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            return ".".join(parts[:depth]), node
        node = node.get(part)
    return key, node


def _unset(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys whose value must be given and was not."""
    for key in node:
        if OmegaConf.is_missing(node, key):
            yield f"{prefix}{key}"
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _unset(node[key], f"{prefix}{key}.")


def _accepted(value: Any) -> tuple[type, ...]:
    return (int, float) if isinstance(value, float) else (type(value),)


def _name(value: Any) -> str:
    names = {bool: "a truth value", int: "an integer", float: "a number", str: "a text", ListConfig: "a list"}
    return names.get(type(value), "nothing" if value is None else "a section")
