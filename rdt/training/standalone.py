"""Evaluates any adapter, or none, beside its base at equal noise, and records that as a run of no iterations.

The output folder has config.yaml, result.json, samples/ and the report. An evaluation that was interrupted continues:
what it measured of each chunk of prompts is kept in `partial/` until all of them are done.
"""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rdt import files, weights
from rdt.checkpoint import LORA, check_whole, lora_file
from rdt.config.recorded import read_recorded
from rdt.errors import UsageError
from rdt.result import FILE as RESULT

if TYPE_CHECKING:
    from rdt.training.experiment import Experiment

ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?(:.+)?")  # owner/name, with a revision and a file
INCIDENTAL = ("output_dir", "dry_run", "resume", "overrides", "cache")  # keys that do not decide what is measured
PARTIAL = "partial"


def adapters(cfg: DictConfig) -> list[tuple[str, float]]:
    """Return the sources of `lora` and their factors; UsageError if there is not one factor per adapter."""
    given = cfg.lora if OmegaConf.is_list(cfg.lora) else [cfg.lora] * (cfg.lora is not None)
    if odd := [one for one in given if not isinstance(one, str) or not one.strip()]:
        raise UsageError(f"lora={cfg.lora} holds {odd[0]!r}; give files, folders or hub ids, or null for the base")
    factors = [1.0] * len(given) if cfg.lora_weights is None else cfg.lora_weights
    if not OmegaConf.is_list(factors) and not isinstance(factors, list):
        factors = [factors]
    if len(factors) != len(given) or not all(_is_number(one) for one in factors):
        raise UsageError(f"lora_weights={cfg.lora_weights} is not a list of {len(given)} numbers, one per lora")
    return list(zip(given, map(float, factors), strict=True))


def adapter_file(source: str) -> Path:
    """Return the file of an adapter: a file, the one in a folder or a run's folder, or one of the hub.

    MissingCheckpoint or UsageError, with what would be right.
    """
    path = Path(source).expanduser()
    if not path.exists():
        hub = source if source.startswith("hub:") else f"hub:{source}" if ON_HUB.fullmatch(source) else None
        if hub is None:
            raise UsageError(f"lora={source} is no file, no folder and no <owner>/<name> of the hub")
        path = weights.locate(hub, ("*.safetensors",))
    try:
        return path if path.is_file() else lora_file(path)
    except ValueError as error:
        raise UsageError(f"lora={source}: {error}") from None


def make_adapters_absolute(cfg: DictConfig) -> None:
    """Replace, in a config, every local path of an adapter by the absolute one."""
    found = [source for source, _ in adapters(cfg)]
    local = [str(path.absolute()) if (path := Path(one).expanduser()).exists() else one for one in found]
    if local:
        cfg.lora = local if OmegaConf.is_list(cfg.lora) else local[0]


def check_adapters(cfg: DictConfig) -> None:
    """Raise UsageError or OSError unless every adapter is there, or might be fetched from the hub."""
    for source, _ in adapters(cfg):
        path = Path(source).expanduser()
        if not path.exists() and ON_HUB.fullmatch(source.removeprefix("hub:")):
            place = source.removeprefix("hub:")
            try:
                weights.check_source(f"hub:{place}")
            except weights.Unanswered:
                if not cfg.dry_run:
                    raise
        else:
            check_whole(adapter_file(source))


def check_rewards(cfg: DictConfig) -> None:
    """Raise UsageError unless something scores the images, and `trained_on` names what does."""
    judges = [name for name, judge in cfg.evaluation.judges.items() if judge]
    if not judges and not cfg.dry_run:  # a plan notes which files are missing
        raise UsageError(
            "no judge is left that scores the images: judges=[], or the files of none are here; name one, such as"
            " judges=[clipscore], which is fetched if need be"
        )
    if unknown := [name for name in cfg.trained_on or () if name not in judges]:
        raise UsageError(f"trained_on={cfg.trained_on} names {unknown[0]}, which is none of {', '.join(judges)}")


def check_same_evaluation(cfg: DictConfig) -> None:
    """Raise UsageError if output_dir cannot be written, or holds something else than this evaluation."""
    out = Path(cfg.output_dir)
    files.check_writable("output_dir", out)
    if cfg.resume == "never" or not (out / "config.yaml").is_file():
        return
    before, now = (_decisive(one) for one in (read_recorded(out / "config.yaml"), cfg))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"output_dir={out} holds another evaluation or run: its {key} differs; take another output_dir, or"
                " resume=never to replace it"
            )


CHECKS = (
    make_adapters_absolute,
    check_adapters,
    check_rewards,
    check_same_evaluation,
)  # of a resolved config, in this order


def is_done(cfg: DictConfig) -> bool:
    """Return whether the folder holds the whole evaluation."""
    names = ("config.yaml", RESULT, "report.html")
    return cfg.resume != "never" and all((Path(cfg.output_dir) / name).is_file() for name in names)


def label_of(cfg: DictConfig) -> str:
    """Return the name of what is evaluated, for legends: `name`, or else after the adapter or the base's folder."""
    if cfg.name:
        return str(cfg.name)
    named = [_short(source) + (f" x {factor:g}" if factor != 1 else "") for source, factor in adapters(cfg)]
    return " + ".join(named) or "untuned"


def perform(cfg: DictConfig, out: Path) -> None:
    """Evaluate the base and the adapter under every point of the guidance, and write all but the report."""
    import torch

    from rdt.training import record
    from rdt.training.progress import evaluating
    from rdt.training.silence import silence_libraries

    silence_libraries()
    began, experiment = time.time(), experiment_of(cfg)
    experiment.policy.prepare(["", *experiment.evaluator.protocol.prompts])
    begin_evaluation(cfg, out)
    for line in experiment.notices():
        print(line, flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    experiment.policy.to(device)
    curve = experiment.curve()
    views = {"base": experiment.base} | {label: one.denoiser for label, one in curve.items()}
    kept = record.KeptChunks(out / PARTIAL)
    with evaluating(experiment.evaluator, len(views), rank=0, world=1):
        done = experiment.evaluator.to(device).run(
            experiment.policy, views, experiment.base, experiment.sampling, rank=0, world=1, kept=kept
        )
    record.write_standalone(experiment, curve, done, label_of(cfg), time.time() - began, out)
    files.remove(out / PARTIAL)


def experiment_of(cfg: DictConfig) -> "Experiment":
    """Return the objects of an evaluation, with the adapter in place."""
    from rdt.training.loaded import LoadedExperiment

    experiment = LoadedExperiment(cfg)
    _ = experiment.policy, experiment.evaluator
    return experiment


def begin_evaluation(cfg: DictConfig, out: Path) -> None:
    """Write config.yaml; resume=never first removes what an earlier evaluation left."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (PARTIAL, RESULT, "report.html", "samples") if cfg.resume == "never" else ():
        files.remove(out / name)
    with files.replacing(out / "config.yaml") as unfinished:
        OmegaConf.save(cfg, unfinished, resolve=True)


def _short(source: str) -> str:
    """Return a source as legends show it: a hub id as it is, of a path the last names that say which it is."""
    path = Path(source).expanduser()
    if not path.exists():
        return source.removeprefix("hub:")
    names = [part for part in path.absolute().parts if part not in ("lora", LORA)]
    return "/".join(names[-2:]).removesuffix(".safetensors")


def _decisive(cfg: DictConfig) -> dict[str, Any]:
    whole = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in whole.items() if key not in INCIDENTAL}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
