"""Keys of the config as the yaml files of conf/ state and explain them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
KEY = re.compile(r"^( *)(\w+):[^#\n]*(?:# (.+))?$", re.MULTILINE)


def settings(*files: Path) -> dict[str, Any]:
    """Length, batch and the method's keys; a later file's word counts, and a file's before its parents'."""
    merged = OmegaConf.merge(*(parts(file) for each in files for file in lineage(each)))
    plain = OmegaConf.to_container(merged)
    run = {key: plain[key] for key in ("iterations", "batch_size") if key in plain}
    return run | dict(leaves(plain.get("method", {})))


def parts(file: Path) -> DictConfig:
    """A yaml as it stands in the config, a method's own keys below `method`."""
    cfg = OmegaConf.load(file)
    cfg.pop("defaults", None)
    return cfg if file.parent.name != "method" or "method" in cfg else OmegaConf.create({"method": cfg})


def leaves(node: dict[str, Any], prefix: str = "method.") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, but for the name, the module that is made of them, and classes."""
    for key, value in node.items():
        if isinstance(value, dict) and key != "module":
            yield from leaves(value, f"{prefix}{key}.")
        elif key not in ("name", "module") and not key.startswith("_"):
            yield f"{prefix}{key}", value


def lineage(file: Path) -> list[Path]:
    """A method's or a setting's yaml after those it begins from."""
    given = OmegaConf.load(file).get("defaults", []) if file.parent != CONF else []
    names = [re.sub(r"^.*/|@.*$", "", entry) for entry in given if isinstance(entry, str) and entry != "_self_"]
    return [*(older for name in names for older in lineage(file.with_name(f"{name}.yaml"))), file]


def comments(file: Path) -> dict[str, str]:
    """What a yaml says beside its keys, by dotted key."""
    said, path = {}, []
    for indent, key, word in KEY.findall(file.read_text(encoding="utf-8")):
        path = [*path[: len(indent) // 2], key]
        said |= {".".join(path): word} if word else {}
    return said


def about(file: Path) -> str:
    """What a yaml says of itself, at its head."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    return f"`{file.relative_to(ROOT).as_posix()}`: {' '.join(line[2:] for line in lines if '@package' not in line)}"
