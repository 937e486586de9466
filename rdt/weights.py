"""Where frozen weights come from: the bundle inside the package, the Hugging Face hub, or a path.

A source is "bundled:name", "hub:owner/name" (a folder), "hub:owner/name:file", either with @revision behind the name,
the same with "dataset:" for a data set, or a plain path. A source that cannot be had is a one-line error that says how
to get it. Files are read without running code in them.

Commands check sources before torch and huggingface_hub are loaded, so only the functions that need these import them.
"""

from __future__ import annotations

import hashlib
import string
import threading
import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

BUNDLE = Path(__file__).parent / "shapes" / "weights"
MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "*.index*.json",
    "pytorch_model*.bin",
)  # of a transformers model's folder
SCHEMES = {"hub": "model", "dataset": "dataset"}  # scheme of a source -> kind of its repository
PATIENCE = 2.5  # seconds for the hub to answer

REBUILD = "rebuild it with: python -m rdt.shapes.pretrain"
CURE = "give an existing path, bundled:<file>, hub:<owner>/<name>[@revision] or hub:<owner>/<name>:<file>"
GATED = "it is gated: accept its licence on its page, then run: hf auth login"
UNKNOWN = "the hub has no such repository, or it is private: then run hf auth login"
NO_REVISION, ABSENT = "the repository has no such revision", "the repository has no such file"
REFUSALS = (GATED, UNKNOWN, NO_REVISION, ABSENT)


class MissingCheckpoint(FileNotFoundError):
    """Report that a checkpoint is not there; the message names the file and how to get it."""


class Unanswered(MissingCheckpoint):
    """Report that a checkpoint is not in the cache and that the hub gave no answer about it."""


def locate(source: str, patterns: tuple[str, ...] | None = None) -> Path:
    """Return the local path of a source, downloaded if need be; MissingCheckpoint if it cannot be had.

    Only the files that match `patterns` are downloaded of a folder.
    """
    scheme, _, rest = source.partition(":")
    if scheme in SCHEMES:
        return fetched(Place.of(rest, SCHEMES[scheme]), patterns)
    path, cure = (BUNDLE / rest, REBUILD) if scheme == "bundled" else (Path(source), CURE)
    if not path.exists():
        raise MissingCheckpoint(f"checkpoint {source!r}: no file {path}; {cure}")
    return path


def pinned(source: str, sha256: str | None, patterns: tuple[str, ...] | None = None) -> Path:
    """Return the local path of a source whose file has this digest; ValueError if it has another.

    The digest of a folder is that of the one file with its weights.
    """
    path = locate(source, patterns)
    if sha256 is None:
        return path
    wanted = str(sha256).lower()
    if len(wanted) != 64 or not set(wanted) <= set(string.hexdigits):
        raise ValueError(f"sha256={sha256} of checkpoint {source!r} is no digest: a digest has 64 hexadecimal digits")
    with _weight_file(path, source).open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wanted:
        raise ValueError(f"checkpoint {source!r} has sha256={found}, its config pins {wanted}: it is another file")
    return path


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or of a pickle, of which a `state_dict` is unwrapped.

    No code in the file is run. ValueError if it holds anything but tensors.
    """
    from torch import Tensor

    if not Path(path).is_file():
        raise MissingCheckpoint(f"no file {path}; {CURE}")
    checkpoint.check_whole(Path(path))
    try:
        loaded = _read(Path(path))
    except Exception as error:  # an unpickler raises errors of any type on a broken file
        safe = Path(path).suffix == ".safetensors"  # an unpickler's words are of its own working, or advise to run it
        reason = first_line(error) if safe else "neither .safetensors nor a pickle of tensors alone"
        raise ValueError(f"checkpoint {path} is not a readable file of tensors: {reason}") from None
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"checkpoint {path} holds {type(tensors).__name__}, expected a dictionary of tensors")
    return tensors


def crc32(tensors: Iterable[tuple[str, Tensor]], start: int = 0) -> str:
    """Return the CRC-32, in hexadecimal, of named tensors in the order of their names, going on from another one."""
    import torch

    crc = start
    for _, tensor in sorted(tensors, key=lambda item: item[0]):
        crc = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def pretrained(kind: Any, source: str, sha256: str | None) -> Any:
    """Return a transformers model of class `kind`, in float32, from its folder; ValueError if a weight is missing."""
    import torch

    folder = pinned(source, sha256, MODEL_FILES)
    checkpoint.check_component(folder)
    found = checkpoint.weight_files(path.name for path in folder.glob("*"))
    options = {"variant": found and found.variant, "dtype": torch.float32, "weights_only": True}
    try:
        model, info = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # of a dozen types, several lines long
        raise ValueError(f"checkpoint {source!r} is not a readable {kind.__name__}: {first_line(error)}") from None
    if missing := sorted(info["missing_keys"]):  # transformers would fill these with random numbers
        lacks = f"lacks the key {missing[0]!r} ({len(missing)} missing)"
        raise ValueError(f"checkpoint {source!r} {lacks}: it is not a {kind.__name__}")
    return model


def check_sources(sources: Iterable[str], planned: bool, left_out: Collection[str] = ()) -> None:
    """Check every source; a run that is only planned accepts that the hub does not answer, and asks it once.

    `left_out` names components of a pipeline that will not be loaded.
    """
    online = True
    for source in sources:
        try:
            check_source(source, online, left_out)
        except Unanswered:
            if not planned:
                raise
            online = False


def check_source(source: str, online: bool = True, left_out: Collection[str] = ()) -> None:
    """Raise MissingCheckpoint if `locate` would fail, ValueError on a broken file that would be loaded; load nothing.

    Sources on the hub are not checked unless `online`.
    """
    scheme, _, rest = source.partition(":")
    if scheme in SCHEMES:
        return check_reachable(Place.of(rest, SCHEMES[scheme])) if online else None
    path = locate(source)
    if path.is_dir():
        checkpoint.check_model(path, left_out)
    else:
        checkpoint.check_whole(path)


def is_local(source: str) -> bool:
    """Return whether a source that was checked needs no download."""
    scheme, _, rest = source.partition(":")
    return scheme not in SCHEMES or cached(Place.of(rest, SCHEMES[scheme]))


def to_fetch(source: str, of_weights: bool) -> str | None:
    """Return that a source on the hub is not in the local cache, and how to get it; None if it is, or is a path.

    The folder of a model counts only with a file of its weights, since its tokenizer alone may have been fetched.
    """
    scheme, _, rest = source.partition(":")
    if scheme not in SCHEMES:
        return None
    place = Place.of(rest, SCHEMES[scheme])
    if cached(place) and (place.file or not of_weights or checkpoint.tensors_in(_names(place))):
        return None
    return str(place.missing("no run has fetched it"))


@dataclass(frozen=True)
class Place:
    """Name a repository of the hub, or a file in it, at a revision."""

    repo: str
    revision: str | None  # a branch, tag or commit
    file: str | None
    kind: str = "model"  # or dataset

    @staticmethod
    def of(name: str, kind: str = "model") -> Place:
        """Parse "owner/name", "owner/name:file", "owner/name@revision" or "owner/name@revision:file"."""
        whole, _, file = name.partition(":")
        repo, _, revision = whole.partition("@")
        return Place(repo, revision or None, file or None, kind)

    def __str__(self) -> str:
        scheme = next(scheme for scheme, kind in SCHEMES.items() if kind == self.kind)
        return f"{scheme}:{self.repo}" + f"@{self.revision}" * bool(self.revision) + f":{self.file}" * bool(self.file)

    def missing(self, reason: str) -> MissingCheckpoint:
        """Return the error for a place that is not in the cache: why the hub does not give it, and what to run."""
        kind = self.kind != "model" and f"--repo-type {self.kind}"
        words = ["hf download", self.repo, self.file, self.revision and f"--revision {self.revision}", kind]
        cure = f"on a machine with a network run: {' '.join(word for word in words if word)}"
        name = "checkpoint" if self.kind == "model" else "data set"
        error = MissingCheckpoint if reason in REFUSALS else Unanswered
        return error(f"{name} {str(self)!r} is not in the local cache: {reason}; {cure}")


def fetched(place: Place, patterns: tuple[str, ...] | None) -> Path:
    """Return the local path of a file or folder of the hub, downloaded if need be; MissingCheckpoint if refused."""
    from huggingface_hub import hf_hub_download, snapshot_download

    refused = refusal(place)
    options = {
        "revision": place.revision,
        "repo_type": place.kind,
        "local_files_only": bool(refused),
        "etag_timeout": PATIENCE,
    }
    try:
        if place.file:
            return Path(hf_hub_download(place.repo, place.file, **options))
        return Path(snapshot_download(place.repo, allow_patterns=list(patterns) if patterns else None, **options))
    except Exception as error:  # the hub has a dozen unrelated error types, each several lines long
        raise place.missing(refused or hub_reason(error)) from None


def check_reachable(place: Place) -> None:
    """Raise MissingCheckpoint if a file or folder of the hub is not in the cache and the hub refuses it."""
    if not cached(place) and (refused := refusal(place)):
        raise place.missing(refused)


def cached(place: Place) -> bool:
    """Return whether a file or folder of the hub is in the local cache."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    options = {"revision": place.revision, "repo_type": place.kind}
    if place.file:
        return isinstance(try_to_load_from_cache(place.repo, place.file, **options), str)
    try:
        return bool(snapshot_download(place.repo, local_files_only=True, **options))
    except Exception:  # of a dozen types, all of which say that it is not in the cache
        return False


def _names(place: Place) -> list[str]:
    """Return the names of the files in a cached folder of the hub."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(place.repo, revision=place.revision, repo_type=place.kind, local_files_only=True)
    return [path.name for path in Path(folder).iterdir()]


def refusal(place: Place) -> str | None:
    """Return why the hub would refuse this download; None if it would not.

    This check runs before a download, because a download without a network retries for 23 s.
    """
    from huggingface_hub import HfApi

    def ask() -> None:
        HfApi().repo_info(place.repo, revision=place.revision, repo_type=place.kind, timeout=PATIENCE)
        HfApi().auth_check(place.repo, repo_type=place.kind)  # a gated repository shows its info to everyone

    return failure(ask)


def listing(source: str) -> list[str] | None:
    """Return the names of the files of a repository on the hub; None if the source is a path or the hub is silent."""
    from huggingface_hub import HfApi

    scheme, _, rest = source.partition(":")
    if scheme not in SCHEMES:
        return None
    place = Place.of(rest, SCHEMES[scheme])
    names: list[str] = []

    def ask() -> None:
        options = {"revision": place.revision, "repo_type": place.kind, "timeout": PATIENCE}
        names.extend(file.rfilename for file in HfApi().repo_info(place.repo, **options).siblings or ())

    return None if failure(ask) else names


def failure(call: Callable[[], object]) -> str | None:
    """Return why a call to the hub failed, or that it took too long; None if it succeeded.

    The call runs in a thread, because a name lookup has no timeout.
    """
    outcome: list[str | None] = []

    def attempt() -> None:
        try:
            call()
            outcome.append(None)
        except Exception as error:
            outcome.append(hub_reason(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return outcome[0] if outcome else f"no answer from the hub within {PATIENCE:g} s"


def hub_reason(error: Exception) -> str:
    """Return one line for an error of the hub, which explains its refusals in a page of text."""
    from huggingface_hub import errors

    known = {
        errors.GatedRepoError: GATED,
        errors.RepositoryNotFoundError: UNKNOWN,
        errors.RevisionNotFoundError: NO_REVISION,
        errors.EntryNotFoundError: ABSENT,
    }
    return next((line for kind, line in known.items() if isinstance(error, kind)), None) or first_line(error)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 160 characters; its type if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def _weight_file(path: Path, source: str) -> Path:
    """Return the file itself, or the one file of a folder that transformers would read."""
    names = () if path.is_file() else checkpoint.weights_in(path).names
    if len(names) > 1:
        raise ValueError(f"sha256 pins one file, and checkpoint {source!r} has its weights in {len(names)}")
    return path / names[0] if names else path


def _read(path: Path) -> object:
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")
