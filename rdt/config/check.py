"""What is refused before anything is loaded or written.

What a config is given: every value there, of the type of the default it replaces, and one that is offered.

Reward checkpoints that a model offers: one that is asked for and not there is one line, with who has it.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from rdt import prompts, weights
from rdt.config import curve
from rdt.config.plan import lacks, leaves, sources
from rdt.errors import UsageError
from rdt.training import constraints, folder

ASKED = re.compile(r"\$\{(model\.checkpoints\.[\w.]+)\}")
NULLABLE = ("sha256",)  # null is a value there


def check_checkpoints(cfg: DictConfig, config_name: str) -> None:
    """UsageError where the config, not yet resolved, reads a reward's checkpoint that the chosen model has not."""
    named = {match[1] for text in _texts(OmegaConf.to_container(cfg)) if (match := ASKED.fullmatch(text))}
    asked = {key for whole in named for key in _files(cfg, whole)}
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


def _files(cfg: DictConfig, key: str) -> list[str]:
    """The keys of a reward's files, where it is named as a whole; of one that no model knows, its checkpoint's."""
    node = OmegaConf.select(cfg, key)
    if isinstance(node, DictConfig):
        return [f"{key}.{name}" for name in node]
    return [f"{key}.checkpoint"] if key.count(".") == 2 else [key]


def _offers(cfg: DictConfig, key: str) -> bool:
    section, _, name = key.rpartition(".")
    known = name in (OmegaConf.select(cfg, section) or {})
    return known and (name in NULLABLE or OmegaConf.select(cfg, key) is not None)


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
    check_checkpoints(cfg, hydra_config.job.config_name)
    check_parts(cfg.method.name, hydra_config.runtime.choices.get("without") or "nothing")


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


POSITIVE = ("iterations", "max_passes", "batch_size", "micro_batch_size", "devices", "num_nodes", "model.lora.rank",
            "model.sampling.num_steps", "evaluation.prompts", "evaluation.images_per_prompt", "evaluation.batch_size",
            "evaluation.small_prompts", "trainer.checkpoint_every", "trainer.log_every", "method.replay_ratio",
            "method.capacity", "method.num_steps", "method.lr")  # fmt: skip


def check(cfg: DictConfig, hydra_config: Any) -> None:
    """Resolve the config in place; UsageError, in one line with the key and the value, where it cannot be run."""
    given(cfg, hydra_config)
    if hydra_config.mode == RunMode.MULTIRUN:
        _apart(cfg)
    OmegaConf.resolve(cfg)
    _positive(cfg)
    _possible(cfg)
    curve.modules(OmegaConf.to_container(cfg.guidance))
    _devices(cfg)
    constraints.check(cfg)
    _prompts(cfg.prompts)
    weights.check_all((source for _, source in sources(cfg)), planned=cfg.dry_run)
    folder.check(cfg, Path(cfg.output_dir))


def _positive(cfg: DictConfig) -> None:
    for key in POSITIVE:
        value = OmegaConf.select(cfg, key)
        if value is not None and not value > 0:
            raise UsageError(f"{key}={value} must be greater than 0")


def _possible(cfg: DictConfig) -> None:
    """What is asked for exists."""
    if cfg.method.get("look_ahead") == "consistency" and not cfg.model.policy.get("consistency"):
        right = "set method.look_ahead=tweedie or n_step"
        raise UsageError(f"method.look_ahead=consistency: model={cfg.model.name} has no consistency adapter; {right}")
    if cfg.push_to_hub is not None and str(cfg.push_to_hub).count("/") != 1:
        raise UsageError(f"push_to_hub={cfg.push_to_hub} is no repository; give <owner>/<name>")


def _apart(cfg: DictConfig) -> None:
    """A sweep's jobs do not push over each other."""
    if cfg.push_to_hub is not None and not OmegaConf.is_interpolation(cfg, "push_to_hub"):
        one, each = "<its output_dir>/lora", "'push_to_hub=owner/name-${seed}'"
        raise UsageError(
            f"push_to_hub={cfg.push_to_hub} would take every job of this sweep, each in place of the last; leave it out"
            f" and push the one you choose: hf upload {cfg.push_to_hub} {one}, or name one for each: {each}"
        )


def _devices(cfg: DictConfig) -> None:
    """Devices exist, or a run on more of them is only planned, and the work divides over them."""
    for lack in () if cfg.dry_run else lacks(cfg):
        raise UsageError(lack)
    world = cfg.devices * cfg.num_nodes
    if cfg.batch_size % world:
        raise UsageError(
            f"batch_size={cfg.batch_size} does not divide over {world} devices; take a multiple of {world}"
        )
    small = {"small_prompts": cfg.evaluation.small_prompts} if cfg.evaluation.every else {}
    for key, count in ({"prompts": cfg.evaluation.prompts} | small).items():
        if count < world:
            raise UsageError(f"evaluation.{key}={count} is fewer than the {world} devices; take {world} or more")


def _prompts(sets: DictConfig) -> None:
    """What the files here hold is read; of those on the hub `sources` says whether they can be had."""
    read = {}
    for section, part in _sections(sets):
        if "path" in part and not part.path.startswith("dataset:"):
            named = next((key for key, value in sets.items() if value == part.path), f"{section}.path")
            try:
                read[section] = prompts.from_file(path=part.path, key=part.get("key"))
            except (ValueError, OSError) as error:
                raise UsageError(f"prompts.{named}={error}") from None
    if read.keys() == {"train", "held_out"}:
        prompts.check_disjoint(**read)


def _sections(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Sections below a section, by dotted key."""
    for key in node:
        if isinstance(node[key], DictConfig):
            yield f"{prefix}{key}", node[key]
            yield from _sections(node[key], f"{prefix}{key}.")
