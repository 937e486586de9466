"""What is refused before anything is loaded or written: every refusal is a UsageError with the key and the value.

`values` compares the composed config with its defaults and with the rules that its yamls state (rdt/config/rules.py);
`check` does that, resolves the config, and looks at the devices, the prompts and the weights that it names.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from rdt import credentials, prompts, weights
from rdt.config import compose, curve
from rdt.config.plan import leaves, missing_devices, sources
from rdt.config.rules import Rule, rules_of, type_name, without_rules
from rdt.errors import UsageError
from rdt.rewards import endpoint

CHECKPOINT = re.compile(r"\$\{(model\.checkpoints\.[\w.]+)\}")
NULLABLE = ("sha256",)  # keys of a checkpoint whose value may be null


def check_config(cfg: DictConfig, hydra_config: Any) -> None:
    """Refuse a config that cannot be run; resolve it in place and remove its rules."""
    values(cfg, hydra_config)
    check_checkpoints(cfg, hydra_config.job.config_name)
    _left_out(cfg, hydra_config.runtime.choices.get("without") or "")
    _repository(cfg, hydra_config)
    OmegaConf.resolve(cfg)
    credentials.check_recorded(OmegaConf.to_container(cfg))
    curve.points(OmegaConf.to_container(cfg.guidance))
    _devices(cfg)
    _prompts(cfg.prompts)
    left_out = ("text_encoder_3", "tokenizer_3") if OmegaConf.select(cfg, "model.policy.t5") is False else ()
    weights.check_sources((source for _, source in sources(cfg)), cfg.dry_run, left_out)


def values(cfg: DictConfig, hydra_config: Any) -> None:
    """Refuse a missing value, a value of another type than its default's, and one that breaks a rule; remove the rules.

    The config must not be resolved yet: a wrong value is named by its own key, not by those that refer to it.
    """
    for key in _missing(cfg):
        raise UsageError(f"{key}=??? has no default; give {key}=...")
    for key, value in leaves(cfg):
        if key.rpartition(".")[2] == "url" and isinstance(value, str):
            endpoint.check_url(key, value)
    rules = rules_of(cfg)
    free = {key for key, (rule, _) in rules.items() if rule.type}
    for key, default in leaves(compose.with_defaults(hydra_config)):
        _check_type(cfg, key, default, key in free)
    for key, (rule, written) in rules.items():
        _check_rule(cfg, key, rule, written)
    without_rules(cfg)


def check_checkpoints(cfg: DictConfig, config_name: str) -> None:
    """Refuse a reward whose checkpoint the chosen model does not have; the config must not be resolved yet."""
    read = {found[1] for text in _texts(OmegaConf.to_container(cfg)) if (found := CHECKPOINT.fullmatch(text))}
    section = next((key for key in sorted(read) if not _offered(cfg, key)), None)
    if section is None:
        return
    offering = [f"model={name}" for name, other in compose.with_each("model", config_name) if _offered(other, section)]
    keys = [key for key in OmegaConf.select(cfg, section) or {} if not _offered(cfg, f"{section}.{key}")]
    given = [f"{section}.{key}=..." for key in keys] or [f"+{section}.checkpoint=..."]
    raise UsageError(
        f"model={cfg.model.name} has no checkpoint for {section.rpartition('.')[2]}:"
        f" {' or '.join(offering) or 'no model'} has one, or give {' '.join(given)}"
    )


def _missing(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the keys whose value must be given and is not."""
    for key in node:
        if OmegaConf.is_missing(node, key):
            yield f"{prefix}{key}"
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _missing(node[key], f"{prefix}{key}.")


def _check_type(cfg: DictConfig, key: str, default: Any, free: bool) -> None:
    """Refuse a value of another type than its default's; if it is free, refuse only a value in place of a section.

    A section may be removed, as in ~diversity.overall.clip.
    """
    found, value = _value(cfg, key)
    if found != key and value is None:
        return
    if found == key:
        accepted = (int, float) if isinstance(default, float) else (type(default),)
        may_be_null = isinstance(default, str | ListConfig) and value is None
        same = isinstance(value, accepted) and isinstance(value, bool) == isinstance(default, bool)
        if free or default is None or may_be_null or same:
            return
    expected = f"{type_name(default)} such as {default}" if found == key else "a section"
    raise UsageError(f"{found}={_shown(value)} is {type_name(value)}, expected {expected}")


def _check_rule(cfg: DictConfig, key: str, rule: Rule, written: str) -> None:
    """Refuse a value that breaks its rule, and a choice without the key that it needs."""
    value = OmegaConf.select(cfg, key)
    if refusal := rule.refusal(value, written):
        raise UsageError(f"{key}={_shown(value)} {refusal}")
    needed = rule.choices.get(str(value))
    if needed and OmegaConf.select(cfg, needed) is None:
        others = " or ".join(choice for choice in rule.choices if choice != str(value))
        raise UsageError(f"{key}={value} needs {needed}, which is not set; set {key}={others}")


def _value(cfg: DictConfig, key: str) -> tuple[str, Any]:
    """Return the value at a dotted key, or the value that stands in place of a section on the way, with its key."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            return ".".join(parts[:depth]), node
        node = node.get(part)
    return key, node


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _offered(cfg: DictConfig, key: str) -> bool:
    """Return whether the model has this checkpoint, or this entry of a checkpoint."""
    value = OmegaConf.select(cfg, key)
    if isinstance(value, DictConfig):
        return all(_offered(cfg, f"{key}.{name}") for name in value)
    section, _, name = key.rpartition(".")
    return value is not None or (name in NULLABLE and name in (OmegaConf.select(cfg, section) or {}))


def _texts(tree: Any) -> Iterator[str]:
    """Yield all texts in a container."""
    if isinstance(tree, str):
        yield tree
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _texts(branch)


def _left_out(cfg: DictConfig, without: str) -> None:
    """Refuse to leave out a part of another method."""
    owner, _, part = without.rpartition("/")
    if owner not in ("", cfg.method.name):
        raise UsageError(f"without={without} is a part of method={owner}; method={cfg.method.name} has no {part}")


def _repository(cfg: DictConfig, hydra_config: Any) -> None:
    """Refuse a name that is no repository, and one name for all jobs of a sweep."""
    name = cfg.push_to_hub
    if name is None:
        return
    if str(name).count("/") != 1:
        raise UsageError(f"push_to_hub={name} is not a repository; give <owner>/<name>")
    if compose.in_sweep(hydra_config) and not OmegaConf.is_interpolation(cfg, "push_to_hub"):
        raise UsageError(
            f"push_to_hub={name} would receive every job of this sweep, each in place of the last; leave it out and"
            f" push the job that you choose: hf upload {name} <its output_dir>/lora, or name one repository per job:"
            " 'push_to_hub=owner/name-${seed}'"
        )


def _devices(cfg: DictConfig) -> None:
    """Refuse devices that are not here, unless the run is only planned, and work that does not divide over them."""
    for missing in () if cfg.dry_run else missing_devices(cfg):
        raise UsageError(missing)
    world = cfg.devices * cfg.num_nodes
    if cfg.batch_size % world:
        raise UsageError(
            f"batch_size={cfg.batch_size} does not divide over {world} devices; take a multiple of {world}"
        )
    for key in ("prompts", "small_prompts") if cfg.evaluation.every else ("prompts",):
        if cfg.evaluation[key] < world:
            raise UsageError(
                f"evaluation.{key}={cfg.evaluation[key]} is fewer than the {world} devices; take {world} or more"
            )


def _prompts(sets: DictConfig) -> None:
    """Refuse local prompt files that cannot be read; `sources` names the data sets on the hub."""
    read = {}
    for section, part in _sections(sets):
        if "path" in part and not part.path.startswith("dataset:"):
            typed = next((key for key, value in sets.items() if value == part.path), f"{section}.path")
            try:
                read[section] = prompts.from_file(path=part.path, key=part.get("key"))
            except (ValueError, OSError) as error:
                raise UsageError(f"prompts.{typed}={error}") from None
    if read.keys() == {"train", "held_out"}:
        prompts.check_disjoint(**read)


def _sections(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield the sections below a section, with their dotted keys."""
    for key in node:
        if isinstance(node[key], DictConfig):
            yield f"{prefix}{key}", node[key]
            yield from _sections(node[key], f"{prefix}{key}.")
