"""What is refused before anything is loaded or written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rdt import budgets, checkpoints, curve, folder, prompt_sets, values
from rdt.errors import UsageError
from rdt.plan import lacks, sources

POSITIVE = ("iterations", "max_passes", "batch_size", "micro_batch_size", "devices", "num_nodes", "model.lora.rank",
            "model.sampling.num_steps", "evaluation.prompts", "evaluation.images_per_prompt", "evaluation.batch_size",
            "evaluation.small_prompts", "trainer.checkpoint_every", "trainer.log_every", "method.replay_ratio",
            "method.capacity", "method.num_steps", "method.lr")  # fmt: skip


def check(cfg: DictConfig, hydra_config: Any) -> None:
    """Resolve the config in place; UsageError, in one line with the key and the value, where it cannot be run."""
    values.given(cfg, hydra_config)
    if hydra_config.mode == RunMode.MULTIRUN:
        _apart(cfg)
    OmegaConf.resolve(cfg)
    _positive(cfg)
    _possible(cfg)
    curve.modules(OmegaConf.to_container(cfg.guidance))
    _devices(cfg)
    budgets.check(cfg)
    _prompts(cfg.prompts)
    checkpoints.check_all((source for _, source in sources(cfg)), planned=cfg.dry_run)
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
                read[section] = prompt_sets.from_file(path=part.path, key=part.get("key"))
            except (ValueError, OSError) as error:
                raise UsageError(f"prompts.{named}={error}") from None
    if read.keys() == {"train", "held_out"}:
        prompt_sets.apart(**read)


def _sections(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Sections below a section, by dotted key."""
    for key in node:
        if isinstance(node[key], DictConfig):
            yield f"{prefix}{key}", node[key]
            yield from _sections(node[key], f"{prefix}{key}.")
