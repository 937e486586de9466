"""Keys of the config as the yaml files of conf/ state, limit and explain them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.config.compose import composed

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
RUN = ("iterations", "batch_size")  # keys of a run that are tuned with a method
STATEMENTS = ("name", "rules", "plan")  # keys of a method's yaml that are no hyperparameters
KEY = re.compile(r"^( *)(\w+):[^#\n]*(?:# (.+))?$", re.MULTILINE)


def settings(method: str) -> dict[str, Any]:
    """Return the length, the batch and the hyperparameters of a method as its yaml and config.yaml state them."""
    return _values(OmegaConf.merge(*map(section, [CONF / "config.yaml", *lineage(method)])))


def settings_on(method: str, model: str) -> dict[str, Any]:
    """Return the same as a run on a model composes them."""
    return _values(composed("config", f"method={method}", f"model={model}"))


def section(file: Path) -> DictConfig:
    """Return a yaml as it stands in the config, a method's keys below `method`."""
    cfg = OmegaConf.load(file)
    cfg.pop("defaults", None)
    return cfg if file.parent == CONF or "method" in cfg else OmegaConf.create({"method": cfg})


def leaves(node: dict[str, Any], prefix: str = "method.") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values, without statements and without what Hydra reads."""
    for key, value in node.items():
        if key in STATEMENTS or key.startswith("_"):
            continue
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def lineage(method: str) -> list[Path]:
    """Return a method's yaml, after the yamls of the methods that it begins from."""
    file = CONF / "method" / f"{method}.yaml"
    given = [
        entry for entry in OmegaConf.load(file).get("defaults", []) if isinstance(entry, str) and entry != "_self_"
    ]
    names = [re.sub(r"^.*/|@.*$", "", entry) for entry in given]
    return [*(older for name in names for older in lineage(name)), file]


def tuned(method: str, world: str, models: tuple[str, ...]) -> list[Path]:
    """Return the files of conf/tuned that apply to a method in a world and on some of its models."""
    folders = [CONF / "tuned" / file.stem for file in lineage(method)]
    names = [f"{world}.yaml", *(f"model/{model}.yaml" for model in models)]
    return [folder / name for folder in folders for name in names if (folder / name).is_file()]


def comments(file: Path) -> dict[str, str]:
    """Return the comments beside the keys of a yaml, by dotted key."""
    found, path = {}, []
    for indent, key, comment in KEY.findall(file.read_text(encoding="utf-8")):
        path = [*path[: len(indent) // 2], key]
        found |= {".".join(path): comment} if comment else {}
    return found


def rules(method: str) -> dict[str, str]:
    """Return what the yamls of a method and config.yaml allow, by dotted key."""
    stated = {**OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml").rules)}
    for file in lineage(method):
        own = OmegaConf.to_container(section(file).method).get("rules", {})
        stated |= {f"method.{key}": rule for key, rule in own.items()}
    return {key: re.sub(r"\$\{([\w.]+)\}", r"`\1`", rule) for key, rule in stated.items()}


def about(file: Path) -> str:
    """Return the comment at the head of a yaml."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    return f"`{file.relative_to(ROOT).as_posix()}`: {' '.join(line[2:] for line in lines if '@package' not in line)}"


def _values(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg)
    return {key: plain[key] for key in RUN if key in plain} | dict(leaves(plain.get("method", {})))
