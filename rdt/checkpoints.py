"""Where weights come from: the bundle inside the package, the hub, or a path; a missing file is one line."""

import pickle
import threading
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

BUNDLE = Path(__file__).parent / "shapes" / "weights"
PATIENCE = 3.0  # seconds for the hub to answer


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


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a pickle (a `state_dict` inside it is unwrapped); no code is ever run.
    ValueError on anything else."""
    if not Path(path).is_file():
        raise MissingCheckpoint(f"no file {path}; {_CURE}")
    try:
        loaded = _read(Path(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint {path} is not a readable file of tensors: {_first_line(error)}") from None
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"checkpoint {path} holds {type(tensors).__name__}, expected a dictionary of tensors")
    return tensors


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


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
        reason = silence or _first_line(error)
        cure = f"where there is a network run: hf download {repo} {file}".strip()
        raise MissingCheckpoint(f"checkpoint 'hub:{name}' is not in the local cache: {reason}; {cure}") from None


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
