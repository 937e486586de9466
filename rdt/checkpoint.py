"""Which files of a checkpoint's folder are loaded, and whether they are whole; nothing here loads a tensor.

diffusers names a component's weights diffusion_pytorch_model.safetensors or .bin, transformers model.safetensors or
pytorch_model.bin, each perhaps in shards, each perhaps with a variant's name in it, such as fp16.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|(?:pytorch_)?model)(?:\.([a-z]\w*))?(?:-\d{5}-of-\d{5})?(?:\.([a-z]\w*))?"
    r"\.(safetensors|bin)"
)
TENSORS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".msgpack", ".h5", ".gguf")  # hold weights
VARIANTS = (None, "fp32", "fp16", "bf16")  # the first that a folder has is loaded
INDEX = "model_index.json"  # a diffusers pipeline's list of its components
UNREAD = ("safety_checker", "feature_extractor", "image_encoder")  # components of a pipeline that are never loaded
LORA = "pytorch_lora_weights.safetensors"  # as diffusers names it
DOWN = re.compile(r"\.(?:lora_A|lora\.down|lora_down)\.(?:\w+\.)?weight$")  # has as many rows as the rank
AGAIN = "if its download broke off, repeat it: hf download continues where it stopped"
POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class WeightFiles:
    """Name the weight files of one component that are loaded."""

    names: tuple[str, ...]
    variant: str | None
    safe: bool  # safetensors, which cannot hold code; else .bin, which is loaded with weights_only


def weight_files(names: Iterable[str]) -> WeightFiles | None:
    """Return the weights that are loaded among the names of a component's files; None if there are none.

    Weights without a variant come first, as in diffusers; of these, safetensors.
    """
    found: dict[tuple[str | None, str], list[str]] = {}
    for name in sorted(names):
        if match := WEIGHTS.fullmatch(name):
            found.setdefault((match[1] or match[2], match[3]), []).append(name)
    kinds = ((variant, end) for variant in VARIANTS for end in ("safetensors", "bin"))
    chosen = next((kind for kind in kinds if kind in found), None)
    return chosen and WeightFiles(tuple(found[chosen]), chosen[0], chosen[1] == "safetensors")


def weights_in(folder: Path) -> WeightFiles:
    """Return the weights that are loaded from a component's folder; ValueError, with what it has, if there are none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = weight_files(names)
    if found is None:
        has = f"it has {', '.join(other)}" if (other := tensors_in(names)) else "it has none"
        raise ValueError(
            f"checkpoint {folder} has no weights in safetensors or .bin, plain or {_variants()}: {has}; {AGAIN}"
        )
    return found


def tensors_in(names: Iterable[str]) -> list[str]:
    """Return the first of the names that are of files with weights in them, of any format."""
    return sorted(name for name in names if name.endswith(TENSORS))[:4]


def check_model(folder: Path, left_out: Collection[str] = ()) -> None:
    """Raise ValueError if a file that is loaded from a model's folder is not whole; other files are not read.

    `left_out` names components of a pipeline that are not loaded.
    """
    for component in _components(folder, left_out):
        check_component(component)


def check_component(folder: Path) -> None:
    """Raise ValueError if a file that is loaded from a component's folder is not whole."""
    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    loaded = weight_files(names)
    for name in sorted(names):
        if (loaded and name in loaded.names) or not name.endswith(TENSORS):
            check_whole(folder / name)


def check_whole(file: Path) -> None:
    """Raise ValueError if a file is a Git LFS pointer, or a safetensors file that is not whole."""
    with file.open("rb") as stream:
        start = stream.read(len(POINTER))
    if start == POINTER:
        cure = "run git lfs pull in its repository, or download the file itself"
        raise ValueError(f"checkpoint {file} is a Git LFS pointer, a text that stands for the file; {cure}")
    if file.suffix == ".safetensors":
        _check_header(file)


def read_config(file: Path) -> dict[str, Any]:
    """Return the mapping that a config file holds; ValueError, with the file's name, if it holds none."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"checkpoint {file.parent} has no {file.name}") from None
    except (ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"checkpoint {file} is not readable JSON: {reason}") from None
    if not isinstance(config, dict):
        raise ValueError(f"checkpoint {file} holds {type(config).__name__}, expected a mapping of settings")
    return config


def _components(folder: Path, left_out: Collection[str]) -> Iterator[Path]:
    """Yield the folders that weights and configs are loaded from: a pipeline's components, or the folder itself."""
    if (folder / INDEX).is_file():
        check_whole(folder / INDEX)
        for name, entry in read_config(folder / INDEX).items():
            if isinstance(entry, list) and entry[:1] != [None] and name not in (*UNREAD, *left_out):
                yield folder / name
    elif (folder / "config.json").is_file() or weight_files(path.name for path in folder.iterdir()):
        yield folder
    else:
        yield from sorted(path for path in folder.iterdir() if any(path.glob("*config.json")))


def _variants() -> str:
    return ", ".join(variant for variant in VARIANTS if variant)


def lora_file(folder: Path) -> Path:
    """Return the LoRA in a folder, which may be a finished run's; ValueError if none or several could be meant."""
    for file in (folder / LORA, folder / "lora" / LORA):
        if file.is_file():
            return file
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(found) != 1:
        raise ValueError(f"expected {LORA} or one .safetensors file in it, and it has {', '.join(found[:5]) or 'none'}")
    return folder / found[0]


def lora_ranks(file: Path) -> set[int]:
    """Return the ranks of the modules of a LoRA in a safetensors file, by its header alone; none for other files."""
    if file.suffix != ".safetensors":
        return set()
    check_whole(file)
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {entry["shape"][0] for name, entry in header.items() if DOWN.search(name) and entry.get("shape")}


def _check_header(file: Path) -> None:
    """Raise ValueError unless a safetensors file is whole: 8 bytes (the header's length), JSON header, tensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length) if length <= size else b"")
            spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
            end = 8 + length + max((int(span[1]) for span in spans), default=0)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            end = None
    if end is None:
        raise ValueError(f"checkpoint {file} is not a readable file of tensors: {size} bytes without a header")
    if size != end:
        raise ValueError(f"checkpoint {file} is not a readable file of tensors: {size} bytes of {end}; {AGAIN}")
