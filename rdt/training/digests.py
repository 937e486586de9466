"""What a run saves is sealed: a file beside each checkpoint says whose it is and holds the digests of its files.

Nothing in a checkpoint is loaded before its digests were compared. They show damage, not forgery.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import files

SEAL, LORA_SEAL = "checkpoint.json", "digests.json"
STATE, METRICS = "run.ckpt", "metrics.csv"  # the files of a checkpoint
IDENTITY = {  # what a checkpoint and the run that continues from it must share -> its key
    "method": "method.name",
    "reward": "reward.name",
    "model": "model.name",
    "model.lora.rank": "model.lora.rank",
    "model.lora.alpha": "model.lora.alpha",
    "trainer.ema.decay": "trainer.ema.decay",
}


def sha256(file: Path) -> str:
    """Return the digest of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(checkpoint: Path, iteration: int, identity: dict[str, Any]) -> None:
    """Write the seal of a checkpoint folder whose files are complete."""
    found = {name: sha256(checkpoint / name) for name in (STATE, METRICS) if (checkpoint / name).is_file()}
    files.write_json(checkpoint / SEAL, {"iteration": iteration, "identity": identity, "sha256": found})


def seal_lora(folder: Path) -> None:
    """Write the digests of the adapters in a folder."""
    files.write_json(folder / LORA_SEAL, {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))})


def lora_digest(file: Path) -> str:
    """Return the digest that was written beside an adapter's file; ValueError if it is missing or damaged."""
    seal = file.with_name(LORA_SEAL)
    try:
        return str(json.loads(seal.read_text(encoding="utf-8"))[file.name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{seal}, the digest of the adapter, is missing or damaged") from None


def identity(cfg: DictConfig) -> dict[str, Any]:
    """Return what a checkpoint of this config must share with the run that continues from it."""
    return {name: OmegaConf.select(cfg, key) for name, key in IDENTITY.items()}


def read_seal(checkpoint: Path) -> dict[str, Any]:
    """Return the seal of a checkpoint; ValueError, which says what is wrong, if it is missing or damaged."""
    try:
        found = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        if isinstance(found["identity"], dict) and isinstance(found["sha256"], dict):
            return found | {"iteration": int(found["iteration"])}
    except FileNotFoundError:
        raise ValueError(f"{checkpoint / SEAL} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{checkpoint / SEAL} is damaged")


def is_sealed(checkpoint: Path) -> bool:
    """Return whether a checkpoint has a seal that can be read."""
    try:
        read_seal(checkpoint)
    except ValueError:
        return False
    return True


def check_intact(checkpoint: Path) -> None:
    """Raise ValueError, naming the file, unless all files of a checkpoint are as they were written."""
    digests = read_seal(checkpoint)["sha256"]
    for name in {STATE: "", **digests}:
        file = checkpoint / Path(name).name
        if not file.is_file():
            raise ValueError(f"{file} is missing")
        if sha256(file) != digests.get(name):
            raise ValueError(f"{file} is damaged: it is not what its run wrote")
