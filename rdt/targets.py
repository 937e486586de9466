"""What a config may name as `_target_`, and the one function that makes objects of such a config.

A `_target_` runs what it names. The config of `rdt run` is composed in front of the user, so all that it names is the
user's own word. A config.yaml read from a folder is data, which a stranger may have written: of its targets, only those
that rdt's own conf/ names are built, and those that the user types as `allow=[module.Class]`. Both rest on `permitted`,
without which nothing but conf/'s own targets can be built.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rdt.errors import UsageError
from rdt.text import NAME, printable

PACKAGE = Path(__file__).resolve().parent
TARGET = "_target_"
NAMED = re.compile(rf"{TARGET}: *([\w.]+)")
ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WORDS = ("overrides", "tags", "logger")  # sections of a config of which no object is built
DOCUMENTED = {"rdt.fidelity.log_spectral_distance"}  # named by docs/ alone
UNSAFE = {  # conf/ names these, but they must be typed before a folder's config may use them
    "rdt.embedders.dreamsim.dreamsim",  # another package loads its weights, in its own way
    "rdt.training.sweep.SweepReport",  # a part of the command, not of a run
}

_permitted: ContextVar[frozenset[str]] = ContextVar("permitted", default=frozenset())


def conf_dir() -> str:
    """Return the config folder: beside the package in a checkout, inside it in a wheel."""
    for folder in (PACKAGE.parent / "conf", PACKAGE / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no conf/config.yaml beside or inside {PACKAGE}; reinstall rdt")


def options(group: str) -> list[str]:
    """Return the names that a group of conf/ offers; those that begin with an underscore belong to others."""
    folder = Path(conf_dir()) / group
    files = sorted(file.relative_to(folder).with_suffix("") for file in folder.rglob("*.yaml"))
    return [name.as_posix() for name in files if not name.name.startswith("_") and name.parts[0] != "checkpoints"]


@cache
def own_targets() -> frozenset[str]:
    """Return the targets that need no permission: those that the package's conf/ names."""
    texts = (file.read_text(encoding="utf-8") for file in Path(conf_dir()).rglob("*.yaml"))
    lines = (line.partition("#")[0] for text in texts for line in text.splitlines())
    found = {name for line in lines for name in NAMED.findall(line) if name.startswith("rdt.")}
    return frozenset(found | DOCUMENTED) - UNSAFE


@contextmanager
def permitted(names: Iterable[str]) -> Iterator[None]:
    """Allow what the user of this command named: targets, and addresses of other machines."""
    token = _permitted.set(_permitted.get() | frozenset(map(str, names)))
    try:
        yield
    finally:
        _permitted.reset(token)


def named_in(tree: Any) -> list[str]:
    """Return every target in a container of dictionaries and lists."""
    return [str(value) for key, value in entries(tree) if _is_target(key)]


def check_targets(tree: Any, where: object) -> None:
    """Raise UsageError for the targets in a container that nobody permitted; nothing is imported or built."""
    targets = {key: value for key, value in entries(tree) if _is_target(key)}
    allowed = own_targets() | _permitted.get()
    refused = {key: value for key, value in targets.items() if not isinstance(value, str) or value not in allowed}
    if not refused:
        return
    key, value = next(iter(refused.items()))
    if not isinstance(value, str):
        raise UsageError(f"{where}: {_shown(key)} is {type(value).__name__}, expected the name of a class or function")
    names = ",".join(dict.fromkeys(_shown(name) for name in refused.values()))
    raise UsageError(
        f"{where}: {_shown(key)}={_shown(value)} is not among rdt's own parts and would run as code;"
        f" if you trust it, type allow=[{names}]"
    )


def check_addresses(tree: Mapping[str, Any], where: object) -> None:
    """Raise UsageError if a config would contact a server, other than on this machine, that nobody permitted."""
    parts = {key: value for key, value in tree.items() if key not in WORDS}
    for key, value in entries(parts):
        if not isinstance(value, str) or not ADDRESS.match(value):
            continue
        if value not in _permitted.get() and _host(value) not in LOOPBACK:
            raise UsageError(
                f"{where}: {_shown(key)}={_shown(value)} is the address of another machine, which would receive images;"
                f" if you trust it, type allow=[{_shown(value)}]"
            )


def instantiate(config: Mapping[str, Any], partial: bool = False) -> Any:
    """Return the object of a resolved config, or its constructor if `partial`; UsageError if it may not be built."""
    from hydra.utils import instantiate as build

    check_targets(config, "config")
    return build(dict(config), _convert_="all", **({"_partial_": True} if partial else {}))


def entries(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key and its value in a container of dictionaries and lists, sections before their parts."""
    if isinstance(tree, Mapping):
        pairs: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        pairs = enumerate(tree)
    else:
        return
    for key, value in pairs:
        yield f"{prefix}{key}", value
        yield from entries(value, f"{prefix}{key}.")


def _is_target(key: str) -> bool:
    return key.rpartition(".")[2] == TARGET


def _host(address: str) -> str | None:
    try:
        return urlsplit(address.strip()).hostname
    except ValueError:
        return None


def _shown(value: Any) -> str:
    """Return a stranger's words for a message."""
    return printable(value, NAME)
