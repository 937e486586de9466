"""What is refused before anything is loaded or written, all at once, and which keys have no effect.

A run and its dry run share this check. It imports neither torch nor the code of plug-ins.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rdt import checkpoint, credentials, prompts, weights
from rdt.config import arguments, compose, curve, imports
from rdt.config.check import missing_checkpoints, refused_values, shown
from rdt.config.collisions import collisions
from rdt.config.effects import Effects
from rdt.config.hardware import misfit
from rdt.config.judges import judge_faults, settle_panel
from rdt.config.plan import leaves, missing_devices, sources
from rdt.config.rules import rule_of, stated_rules
from rdt.errors import Refused, UsageError, flat
from rdt.rewards import endpoint

Check = Callable[[DictConfig], object]
GROUPS = ("method", "reward", "model", "guidance", "prompts", "diversity", "evaluation", "logger")
EVALUATED = ("model", "guidance", "prompts", "diversity", "evaluation")
REMOTE = "rdt.rewards.remote.RemoteReward"
MIXTURE = "rdt.rewards.mixture.mixture"


def check_config(cfg: DictConfig, hydra_config: Any, *further: Check) -> list[str]:
    """Resolve the config of a run in place, settle its judges, remove its rules, and return its notes.

    A note is a line for each key that was typed and has no effect, and for each judge that is left out.
    Refused with a line for each fault. `further` checks get the resolved config and raise ValueError or OSError.
    """
    notes = _checked(cfg, hydra_config, GROUPS, (_of_a_run, CHECKS), further)
    if cfg.get("hardware") and not cfg.dry_run:  # a run is that of the machine it runs on, and records no other
        notes.append(f"hardware={cfg.hardware.name} has no effect without dry_run=true")
        with open_dict(cfg):
            del cfg.hardware
    return notes


def check_evaluation(cfg: DictConfig, hydra_config: Any, *further: Check) -> list[str]:
    """Do what `check_config` does, for the config of an evaluation that trains nothing."""
    return _checked(cfg, hydra_config, EVALUATED, (_of_a_model, WITHOUT_TRAINING), further)


Unresolved = Callable[[DictConfig, Any], Iterator[str]]
Checks = tuple[Callable[[DictConfig], Iterator[str]], ...]


def _checked(
    cfg: DictConfig, hydra_config: Any, groups: Sequence[str], checks: tuple[Unresolved, Checks],
    further: Sequence[Check],
) -> list[str]:  # fmt: skip
    """Resolve a config that needs these groups, check it before and after, and return its notes."""
    if faults := [f"{key}= is missing; {key}=... chooses one" for key in groups if not cfg.get(key)]:
        raise Refused(faults)
    words = compose.typed(hydra_config)
    effects, rules = Effects.of(cfg, words), stated_rules(cfg)
    faults = refused_values(cfg, hydra_config)
    faults += checks[0](cfg, hydra_config)
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise Refused(faults or [compose.without_key(error)]) from None
    left_out = settle_panel(cfg)
    faults += [*collisions(hydra_config), *(fault for check in checks[1] for fault in check(cfg))]
    faults += _values_of_curve(cfg, rules)
    faults += [fault for check in further for fault in _raised(check, cfg)]
    faults += arguments.unknown(cfg, words)
    if faults:
        raise Refused(list(dict.fromkeys(faults)))
    return [*effects.notes(cfg, words), *left_out]


def _of_a_model(cfg: DictConfig, hydra_config: Any) -> Iterator[str]:
    """Yield the judges that the model has no files for, while the config still shows which keys refer to which."""
    yield from missing_checkpoints(cfg, hydra_config.job.config_name)


def _of_a_run(cfg: DictConfig, hydra_config: Any) -> Iterator[str]:
    """Yield what is wrong with a run's config that still shows which keys refer to which."""
    without = hydra_config.runtime.choices.get("without") or ""
    owner, _, part = without.rpartition("/")
    if owner not in ("", cfg.method.name):
        yield f"without={without} is a part of method={owner}; method={cfg.method.name} has no {part}"
    yield from missing_checkpoints(cfg, hydra_config.job.config_name)
    yield from _repository(cfg, hydra_config)
    varied = OmegaConf.select(hydra_config, "sweeper.params") or {}
    if varied and not compose.in_sweep(hydra_config):
        words = " ".join(f"{key}={value}" for key, value in varied.items())
        yield f"sweep={hydra_config.runtime.choices.get('sweep')} runs {words}, which takes several runs: add -m"


def _repository(cfg: DictConfig, hydra_config: Any) -> Iterator[str]:
    """Yield that a name is no repository, or that all jobs of a sweep would share one."""
    name = cfg.push_to_hub
    if name is None:
        return
    if name.count("/") != 1:
        yield f"push_to_hub={name} is not a repository; give <owner>/<name>"
    elif compose.in_sweep(hydra_config) and not OmegaConf.is_interpolation(cfg, "push_to_hub"):
        yield (
            f"push_to_hub={name} would receive every job of this sweep, each in place of the last; leave it out and"
            f" push the job that you choose: hf upload {name} <its output_dir>/lora, or name one repository per job:"
            " 'push_to_hub=owner/name-${seed}'"
        )


def _curve(cfg: DictConfig) -> Iterator[str]:
    """Yield what is wrong with the guidance's curve."""
    yield from _raised(lambda cfg: curve.points(OmegaConf.to_container(cfg.guidance)), cfg)


def _values_of_curve(cfg: DictConfig, rules: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of the guidance's curve that break the rule of the key which it varies."""
    guidance = OmegaConf.to_container(cfg.guidance)
    if not guidance.get("curve") or list(_curve(cfg)):
        return
    name = curve.knob_of(guidance)
    rule, written = rule_of(cfg, rules.get(f"guidance.{name}", "a number"))
    for value in guidance["curve"]:
        if refusal := rule.refusal(value, written):
            yield f"guidance.curve={guidance['curve']} holds {value}: guidance.{name} {refusal}"


def _devices(cfg: DictConfig) -> Iterator[str]:
    """Yield the devices that are not here, unless the run is only planned, and work that does not divide over them."""
    if not cfg.dry_run and (missing := list(missing_devices(cfg))):
        yield from missing
        return
    world = cfg.devices * cfg.num_nodes
    if cfg.batch_size % world:
        yield f"batch_size={cfg.batch_size} does not divide over {world} devices; take a multiple of {world}"
    for key in ("prompts", "small_prompts") if cfg.evaluation.every else ("prompts",):
        if cfg.evaluation[key] < world:
            yield f"evaluation.{key}={cfg.evaluation[key]} is fewer than the {world} devices; take {world} or more"


def _fits(cfg: DictConfig) -> Iterator[str]:
    """Yield that a planned run does not fit into the memory of the hardware that was chosen."""
    if cfg.dry_run and not list(_devices(cfg)):
        yield from misfit(cfg)


def _gradient(cfg: DictConfig) -> Iterator[str]:
    """Yield that a method climbs the gradient of a reward that has none, as far as their classes declare it."""
    if imports.class_constant(str(cfg.method.get("_target_")), "needs_gradient") is not True:
        return
    parts = (cfg.reward.get("parts") or {}) if cfg.reward.get("_target_") == MIXTURE else {}
    rewards = {f"reward={cfg.reward.name}": cfg.reward} | {f"reward.parts.{name}": part for name, part in parts.items()}
    for key, reward in rewards.items():
        target = reward.get("_target_") if isinstance(reward, DictConfig) else None
        if target and imports.class_constant(str(target), "differentiable") is False:
            yield (
                f"method={cfg.method.name} climbs the reward's gradient, and {key} has none; take a differentiable"
                " reward such as hps, or a method that needs none: tilt, nft, awm, ddpo, grpo, gardo, diverse_grpo,"
                " drift, bbo"
            )


def _measures(cfg: DictConfig) -> Iterator[str]:
    """Yield measures that are not configured as such, that share a name, or that need more images."""
    each = cfg.evaluation.images_per_prompt
    images = each * cfg.evaluation.prompts
    owners: dict[str, str] = {}
    for key, name, kind, statistic in _statistics(cfg.diversity):
        owner = owners.setdefault(f"{kind}/{name}", key)
        if owner != key:
            yield f"{key} and {owner} both measure {name}; give one of them another name"
        if key.startswith("diversity.measures") and each < 2:
            yield f"evaluation.images_per_prompt={each}: {key} compares the images of a prompt; take 2 or more"
        k = statistic.get("k") if isinstance(statistic, DictConfig) else None
        if isinstance(k, int) and k >= images:
            yield f"{key}.{name}.k={k} needs more than {k} images, and evaluation.prompts={cfg.evaluation.prompts}" + (
                f" of evaluation.images_per_prompt={each} are {images}"
            )


def _grid(cfg: DictConfig) -> Iterator[str]:
    """Yield that a grid which was typed has more rows or columns than there are images; a default is cut to fit."""
    rows, columns = cfg.evaluation.grid
    typed = {word.replace(" ", "") for word in cfg.get("overrides") or ()}
    for count, of, key in ((rows, "rows", "prompts"), (columns, "columns", "images_per_prompt")):
        if f"evaluation.grid=[{rows},{columns}]" in typed and count > cfg.evaluation[key]:
            fewer = f"evaluation.{key}={cfg.evaluation[key]} fill no more"
            yield f"evaluation.grid=[{rows},{columns}] has {count} {of}; {fewer}"


def _statistics(diversity: DictConfig) -> Iterator[tuple[str, str, str, Any]]:
    """Yield for every named statistic the key of its measure, its name, its kind and its config."""
    for section, kinds in (
        ("measures", {"statistics": "diversity"}),
        ("overall", dict.fromkeys(("diversity", "fidelity"))),
    ):
        for name, measure in (diversity.get(section) or {}).items():
            for group, kind in kinds.items() if isinstance(measure, DictConfig) else ():
                for statistic, config in (measure.get(group) or {}).items():
                    yield f"diversity.{section}.{name}", statistic, kind or group, config


def _secrets(cfg: DictConfig) -> Iterator[str]:
    """Yield that the config holds what looks like a credential, without the value; else scorers' URLs that are none."""
    faults = list(_raised(credentials.check_recorded, OmegaConf.to_container(cfg)))
    yield from faults or _urls(cfg)


def _urls(cfg: DictConfig) -> Iterator[str]:
    """Yield the addresses of remote scorers that are no URLs of HTTP."""
    for key, url in leaves(cfg):
        section, _, name = key.rpartition(".")
        if name == "url" and OmegaConf.select(cfg, f"{section}._target_") == REMOTE:
            yield from _raised(partial(endpoint.check_url, key), url)


def _targets(cfg: DictConfig) -> Iterator[str]:
    """Yield what cannot be imported."""
    yield from imports.faults(OmegaConf.to_container(cfg))


def _trains(cfg: DictConfig) -> Iterator[str]:
    """Yield that a prompt set has nothing to train on."""
    if "train" not in cfg.prompts:
        yield f"prompts={cfg.prompts.name} has no training prompts; it serves rdt.evaluate model=... lora=..."


def _prompts(cfg: DictConfig) -> Iterator[str]:
    """Yield local prompt files that cannot be read, prompts of both splits, and prompts that the model does not know.

    `sources` names the data sets on the hub, which are not read here.
    """
    parts = dict(_sections(cfg.prompts))
    local = {name: part.path for name, part in parts.items() if part.get("path") and not _remote(part.path)}
    faults = [fault for name, path in local.items() for fault in _unreadable(cfg.prompts, name, path, parts[name])]
    yield from faults
    paths = [part.path for part in parts.values() if "path" in part]
    unread = any(map(_remote, paths)) or (None in paths and "published" not in cfg.prompts)
    if faults or unread or not all(map(_packaged, parts.values())):
        return
    try:
        sets = {name: compose.built_now(cfg.prompts[name]) for name in ("train", "held_out") if name in cfg.prompts}
        prompts.check_disjoint(sets.get("train", ()), sets["held_out"])
    except (ValueError, OSError, UsageError) as error:
        yield f"prompts: {flat(error)}" if not isinstance(error, UsageError) else flat(error)
        return
    yield from _unknown_words(cfg, sets)
    if len(sets["held_out"]) < cfg.devices * cfg.num_nodes <= cfg.evaluation.prompts:
        yield f"prompts: {len(sets['held_out'])} are held out, fewer than the {cfg.devices * cfg.num_nodes} devices"


def _unknown_words(cfg: DictConfig, sets: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the first prompt of each set that is outside of what the model's world draws, if it states that."""
    if cfg.model.get("vocabulary"):
        check = compose.built_now(cfg.model.vocabulary)
        for name, found in sets.items():
            yield from (f"prompts.{name}: {fault}" for fault in _raised(check, list(found)))


def _unreadable(section: DictConfig, name: str, path: str, part: DictConfig) -> Iterator[str]:
    """Yield why a prompt file cannot be read, under the key that names it."""
    typed = next((key for key, value in section.items() if value == path), f"{name}.path")
    try:
        prompts.from_file(path=path, key=part.get("key"))
    except (ValueError, OSError) as error:
        yield f"prompts.{typed}={flat(error)}"


def _sources(cfg: DictConfig) -> Iterator[str]:
    """Yield the files and repositories that are not there; a dry run accepts that the hub does not answer."""
    online = True
    left_out = ("text_encoder_3", "tokenizer_3") if OmegaConf.select(cfg, "model.policy.t5") is False else ()
    for key, source in sources(cfg):
        if key.startswith("prompts.") and not _remote(source):
            continue  # a local prompt file is read, in `_prompts`
        try:
            weights.check_source(source, online, left_out)
        except weights.Unanswered as error:
            online = False
            yield from () if cfg.dry_run else [flat(error)]
        except (ValueError, OSError) as error:
            yield flat(error)
        except (TypeError, AttributeError):
            yield f"{key}={shown(source)} is not a file, a folder or a repository"


def _init_lora(cfg: DictConfig) -> Iterator[str]:
    """Yield that the LoRA to start from cannot be read, or has another rank than the adapter."""
    source, online = cfg.init_lora, not cfg.dry_run
    if source is None:
        return
    try:
        if _remote(source):
            weights.check_source(source, online)
            return
        file = weights.locate(source)
        found = checkpoint.lora_ranks(checkpoint.lora_file(file) if file.is_dir() else file)
    except (ValueError, OSError) as error:
        yield f"init_lora={source}: {flat(error)}"
        return
    if found and found != {cfg.model.lora.rank}:
        ranks = " and ".join(map(str, sorted(found)))
        cure = f"; take model.lora.rank={ranks}" if len(found) == 1 else ""
        yield f"init_lora={source} has rank {ranks}, model.lora.rank={cfg.model.lora.rank}{cure}"


CHECKS: Checks = (
    _secrets, _curve, _devices, _fits, _grid, _gradient, _measures, judge_faults, _targets, _trains, _prompts, _sources,
    _init_lora,
)  # fmt: skip
WITHOUT_TRAINING: Checks = (_secrets, _curve, _grid, _measures, judge_faults, _targets, _prompts, _sources)


def _raised(check: Callable[[Any], object], value: Any) -> Iterator[str]:
    """Yield what a check says that raises its fault."""
    try:
        check(value)
    except Refused as error:
        yield from error.faults
    except (ValueError, OSError) as error:
        yield flat(error)


def _remote(path: Any) -> bool:
    return isinstance(path, str) and path.startswith(tuple(f"{scheme}:" for scheme in weights.SCHEMES))


def _packaged(part: DictConfig) -> bool:
    """Return whether a part of a prompt set runs this package's code alone."""
    return str(part.get("_target_", "rdt.")).startswith("rdt.")


def _sections(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield the sections below a section, with their dotted keys."""
    for key in node:
        if isinstance(node[key], DictConfig):
            yield f"{prefix}{key}", node[key]
            yield from _sections(node[key], f"{prefix}{key}.")
