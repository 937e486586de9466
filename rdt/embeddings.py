"""Conditions of prompts, kept on disk: text encoders, larger than some networks, are loaded for new prompts alone."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rdt.checkpoints import load_tensors
from rdt.cond import Cond

Encode = Callable[[list[str]], Cond]


class Embeddings:
    """The conditions in a folder, one file a prompt; what is not there is made by the encoders that `load` brings."""

    def __init__(self, folder: Path, load: Callable[[], Encode]) -> None:
        self.folder, self._load = folder, load

    def __call__(self, prompts: list[str]) -> Cond:
        self.prepare(prompts)
        found = [load_tensors(self._file(prompt)) for prompt in prompts]
        return Cond.cat(*(Cond(tensors["embeds"], tensors.get("pooled")) for tensors in found))

    def prepare(self, prompts: Sequence[str]) -> None:
        """Make all that is missing and let the encoders go; the processes of a run each begin at another prompt."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if not self._file(prompt).is_file()]
        if not missing:
            return
        encode = self._load()
        first = len(missing) * int(os.environ.get("RANK", 0)) // int(os.environ.get("WORLD_SIZE", 1))
        for prompt in missing[first:] + missing[:first]:
            if not self._file(prompt).is_file():
                self._write(prompt, encode([prompt]))  # alone: in company the last bits depend on who else is new

    def _write(self, prompt: str, cond: Cond) -> None:
        """Under a temporary name, then renamed."""
        tensors: dict[str, Tensor | None] = {"embeds": cond.embeds, "pooled": cond.pooled}
        present = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._file(prompt).with_suffix(f".{os.getpid()}.tmp")
        save_file(present, temporary)
        temporary.replace(self._file(prompt))

    def _file(self, prompt: str) -> Path:
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.safetensors"


def identity(folder: Path, *settings: object) -> str:
    """What a prompt's condition hangs on: the files of the text encoders and tokenizers in a model's folder, which is
    named by its commit where it comes from the hub, and settings."""
    files = sorted(file for part in ("text_encoder*", "tokenizer*") for file in folder.glob(f"{part}/*"))
    known = [(file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((folder.resolve().as_posix(), known, settings)).encode()).hexdigest()[:16]
