"""Where weights come from: the bundle inside the package, the hub, or a path; a missing file is one line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rdt import hub
from rdt.hub import MissingCheckpoint as MissingCheckpoint

if TYPE_CHECKING:  # torch is imported where tensors are read: checking what a run needs must be quick
    from torch import Tensor

BUNDLE = Path(__file__).parent / "shapes" / "weights"


def locate(source: str, patterns: tuple[str, ...] | None = None) -> Path:
    """The local path of "bundled:name", "hub:owner/name" (a folder, only its files that match `patterns`),
    "hub:owner/name:file", either with @revision behind the name, the same of a data set with "dataset:", or a plain
    path; MissingCheckpoint if it cannot be had."""
    scheme, _, rest = source.partition(":")
    if scheme in hub.SCHEMES:
        return hub.fetched(hub.Place.of(rest, hub.SCHEMES[scheme]), patterns)
    path, cure = (BUNDLE / rest, _REBUILD) if scheme == "bundled" else (Path(source), _CURE)
    if not path.exists():
        raise MissingCheckpoint(f"checkpoint {source!r}: no file {path}; {cure}")
    return path


_REBUILD = "rebuild it with: python -m rdt.shapes.pretrain"
_CURE = "give an existing path, bundled:<file>, hub:<owner>/<name>[@revision] or hub:<owner>/<name>:<file>"


def check_all(sources: Iterable[str], planned: bool) -> None:
    """As `check`; a plan needs no answer from the hub, which is then asked no more."""
    asked = True
    for source in sources:
        try:
            check(source, asked)
        except hub.Unanswered:
            if not planned:
                raise
            asked = False


def here(source: str) -> bool:
    """Whether nothing need be fetched of a source that was checked."""
    scheme, _, rest = source.partition(":")
    return scheme not in hub.SCHEMES or hub.cached(hub.Place.of(rest, hub.SCHEMES[scheme]))


def check(source: str, asked: bool = True) -> None:
    """MissingCheckpoint where `locate` would fail, ValueError on a broken safetensors file; nothing is loaded.

    Where the hub is not to be asked, what it may have counts as found.
    """
    scheme, _, rest = source.partition(":")
    if scheme in hub.SCHEMES:
        return hub.reachable(hub.Place.of(rest, hub.SCHEMES[scheme])) if asked else None
    path = locate(source)
    for file in path.rglob("*.safetensors") if path.is_dir() else [path]:
        if file.suffix == ".safetensors":
            _check_header(file)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a pickle (a `state_dict` inside it is unwrapped); no code is ever run.
    ValueError on anything else."""
    from torch import Tensor

    if not Path(path).is_file():
        raise MissingCheckpoint(f"no file {path}; {_CURE}")
    try:
        loaded = _read(Path(path))
    except Exception as error:  # what garbage makes an unpickler raise knows no bounds
        raise ValueError(f"checkpoint {path} is not a readable file of tensors: {hub.first_line(error)}") from None
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"checkpoint {path} holds {type(tensors).__name__}, expected a dictionary of tensors")
    return tensors


def _read(path: Path) -> object:
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def _check_header(file: Path) -> None:
    """The format: eight bytes of length, so much JSON with every tensor's place, the tensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length)) if length <= size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise ValueError(f"checkpoint {file} is not a readable file of tensors: {size} bytes without a header")
    end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    if size != 8 + length + end:
        raise ValueError(f"checkpoint {file} is not a readable file of tensors: {size} bytes of {8 + length + end}")
