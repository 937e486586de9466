"""Where weights come from: the bundle inside the package, the hub, or a path; a missing file is one line."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported where tensors are read: checking what a run needs must be quick
    from torch import Tensor

BUNDLE = Path(__file__).parent / "shapes" / "weights"
PATIENCE = 2.5  # seconds for the hub to answer


class MissingCheckpoint(FileNotFoundError):
    """A checkpoint is not there; the message names the file and how to get it."""


def locate(source: str, patterns: tuple[str, ...] | None = None) -> Path:
    """The local path of "bundled:name", "hub:owner/name" (a folder, only its files that match `patterns`),
    "hub:owner/name:file" or a plain path; MissingCheckpoint if it cannot be had."""
    scheme, _, rest = source.partition(":")
    if scheme == "hub":
        return _hub(rest, patterns)
    path, cure = (BUNDLE / rest, _REBUILD) if scheme == "bundled" else (Path(source), _CURE)
    if not path.exists():
        raise MissingCheckpoint(f"checkpoint {source!r}: no file {path}; {cure}")
    return path


_REBUILD = "rebuild it with: python -m rdt.shapes.pretrain"
_CURE = "give an existing path, bundled:<file>, hub:<owner>/<name> or hub:<owner>/<name>:<file>"


def check(source: str) -> None:
    """MissingCheckpoint where `locate` would fail, ValueError on a broken safetensors file; nothing is loaded."""
    scheme, _, rest = source.partition(":")
    if scheme == "hub":
        return _reachable(rest)
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
        raise ValueError(f"checkpoint {path} is not a readable file of tensors: {_first_line(error)}") from None
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


def _reachable(name: str) -> None:
    """MissingCheckpoint where the hub's file or folder is neither in the cache nor to be had."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    repo, _, file = name.partition(":")
    if file and isinstance(try_to_load_from_cache(repo, file), str):
        return
    try:
        snapshot_download(repo, local_files_only=True)
    except Exception:  # not in the cache, for one of a dozen reasons
        silence = _silence(repo)
    else:
        silence = f"it has no {file} there" if file else ""
    if silence:
        raise _missing(repo, file, silence)


def _missing(repo: str, file: str, reason: str) -> MissingCheckpoint:
    name, cure = f"{repo}:{file}".rstrip(":"), f"where there is a network run: hf download {repo} {file}".strip()
    return MissingCheckpoint(f"checkpoint 'hub:{name}' is not in the local cache: {reason}; {cure}")


def _hub(name: str, patterns: tuple[str, ...] | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    repo, _, file = name.partition(":")
    silence = _silence(repo)
    cached = bool(silence)
    try:
        if file:
            return Path(hf_hub_download(repo, file, local_files_only=cached, etag_timeout=PATIENCE))
        wanted = list(patterns) if patterns else None
        return Path(snapshot_download(repo, allow_patterns=wanted, local_files_only=cached, etag_timeout=PATIENCE))
    except Exception as error:  # the hub has a dozen unrelated error types, each several lines long
        raise _missing(repo, file, silence or _first_line(error)) from None


def _silence(repo: str) -> str:
    """Why the hub does not answer about this repository, "" if it does. Downloads retry for 23 s, so this asks first,
    in a thread because a name lookup knows no timeout."""
    from huggingface_hub import HfApi

    answers: list[str] = []

    def ask() -> None:
        try:
            HfApi().model_info(repo, timeout=PATIENCE)
            answers.append("")
        except Exception as error:
            answers.append(_first_line(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return answers[0] if answers else f"no answer from the hub within {PATIENCE:g} s"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__
