"""The hub: what the local cache has of a repository, what can be had, and one line where it is neither.

Where weights come from: the bundle inside the package, the hub, or a path; a missing file is one line.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported where tensors are read: checking what a run needs must be quick
    from torch import Tensor


PATIENCE = 2.5  # seconds for the hub to answer
SCHEMES = {"hub": "model", "dataset": "dataset"}  # of a source -> what its repository holds
GATED = "it is gated: accept its licence on its page, then run: hf auth login"
UNKNOWN = "the hub has no such repository, or it is private: then run hf auth login"
NO_REVISION, ABSENT = "the repository has no such revision", "the repository has no such file"
REFUSALS = (GATED, UNKNOWN, NO_REVISION, ABSENT)


class MissingCheckpoint(FileNotFoundError):
    """A checkpoint is not there; the message names the file and how to get it."""


class Unanswered(MissingCheckpoint):
    """It is not here, and the hub did not say whether it can be had."""


@dataclass(frozen=True)
class Place:
    """A repository, or a file in it, at a revision."""

    repo: str
    revision: str | None  # a branch, tag or commit
    file: str | None
    kind: str = "model"  # or dataset

    @staticmethod
    def of(name: str, kind: str = "model") -> Place:
        """From "owner/name", "owner/name:file", "owner/name@revision" or "owner/name@revision:file"."""
        whole, _, file = name.partition(":")
        repo, _, revision = whole.partition("@")
        return Place(repo, revision or None, file or None, kind)

    def __str__(self) -> str:
        scheme = next(scheme for scheme, kind in SCHEMES.items() if kind == self.kind)
        return f"{scheme}:{self.repo}" + f"@{self.revision}" * bool(self.revision) + f":{self.file}" * bool(self.file)

    def missing(self, reason: str) -> MissingCheckpoint:
        """What to say where it is not there."""
        kind = self.kind != "model" and f"--repo-type {self.kind}"
        words = ["hf download", self.repo, self.file, self.revision and f"--revision {self.revision}", kind]
        cure = f"where there is a network run: {' '.join(word for word in words if word)}"
        what = "checkpoint" if self.kind == "model" else "data set"
        error = MissingCheckpoint if reason in REFUSALS else Unanswered
        return error(f"{what} {str(self)!r} is not in the local cache: {reason}; {cure}")


def fetched(place: Place, patterns: tuple[str, ...] | None) -> Path:
    """The local path, downloaded where need be; of a folder only what matches `patterns`."""
    from huggingface_hub import hf_hub_download, snapshot_download

    silence = _silence(place)
    how = {
        "revision": place.revision,
        "repo_type": place.kind,
        "local_files_only": bool(silence),
        "etag_timeout": PATIENCE,
    }
    try:
        if place.file:
            return Path(hf_hub_download(place.repo, place.file, **how))
        return Path(snapshot_download(place.repo, allow_patterns=list(patterns) if patterns else None, **how))
    except Exception as error:  # the hub has a dozen unrelated error types, each several lines long
        raise place.missing(silence or reason(error)) from None


def reachable(place: Place) -> None:
    """MissingCheckpoint where the file or folder is neither in the cache nor to be had."""
    if not cached(place) and (silence := _silence(place)):
        raise place.missing(silence)


def cached(place: Place) -> bool:
    """Whether the file or folder is in the cache."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    how = {"revision": place.revision, "repo_type": place.kind}
    if place.file:
        return isinstance(try_to_load_from_cache(place.repo, place.file, **how), str)
    try:
        return bool(snapshot_download(place.repo, local_files_only=True, **how))
    except Exception:  # not in the cache, for one of a dozen reasons
        return False


def _silence(place: Place) -> str:
    """Why the hub does not give this, "" if it does. Downloads retry for 23 s, so this asks first, in a
    thread because a name lookup knows no timeout."""
    from huggingface_hub import HfApi

    def ask() -> None:
        HfApi().repo_info(place.repo, revision=place.revision, repo_type=place.kind, timeout=PATIENCE)
        HfApi().auth_check(place.repo, repo_type=place.kind)  # who reads about a gated repository may not read it

    return answered(ask)


def answered(ask: Callable[[], object]) -> str:
    """What went wrong with a question to the hub, "" where nothing did."""
    answers: list[str] = []

    def asked() -> None:
        try:
            ask()
            answers.append("")
        except Exception as error:
            answers.append(reason(error))

    asking = threading.Thread(target=asked, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return answers[0] if answers else f"no answer from the hub within {PATIENCE:g} s"


def reason(error: Exception) -> str:
    """One line; what the hub refuses with a page of text, in words of ours."""
    from huggingface_hub import errors

    known = {
        errors.GatedRepoError: GATED,
        errors.RepositoryNotFoundError: UNKNOWN,
        errors.RevisionNotFoundError: NO_REVISION,
        errors.EntryNotFoundError: ABSENT,
    }
    return next((said for kind, said in known.items() if isinstance(error, kind)), None) or first_line(error)


def first_line(error: Exception) -> str:
    """What a long message begins with, its type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


BUNDLE = Path(__file__).parent / "shapes" / "weights"


def locate(source: str, patterns: tuple[str, ...] | None = None) -> Path:
    """The local path of "bundled:name", "hub:owner/name" (a folder, only its files that match `patterns`),
    "hub:owner/name:file", either with @revision behind the name, the same of a data set with "dataset:", or a plain
    path; MissingCheckpoint if it cannot be had."""
    scheme, _, rest = source.partition(":")
    if scheme in SCHEMES:
        return fetched(Place.of(rest, SCHEMES[scheme]), patterns)
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
        except Unanswered:
            if not planned:
                raise
            asked = False


def here(source: str) -> bool:
    """Whether nothing need be fetched of a source that was checked."""
    scheme, _, rest = source.partition(":")
    return scheme not in SCHEMES or cached(Place.of(rest, SCHEMES[scheme]))


def check(source: str, asked: bool = True) -> None:
    """MissingCheckpoint where `locate` would fail, ValueError on a broken safetensors file; nothing is loaded.

    Where the hub is not to be asked, what it may have counts as found.
    """
    scheme, _, rest = source.partition(":")
    if scheme in SCHEMES:
        return reachable(Place.of(rest, SCHEMES[scheme])) if asked else None
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
        raise ValueError(f"checkpoint {path} is not a readable file of tensors: {first_line(error)}") from None
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
