"""The adapter of a run, read back from the file that stock diffusers reads."""

from pathlib import Path

from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor

from rdt.checkpoints import load_tensors

COMPONENTS = ("unet.", "transformer.")  # what diffusers calls the network of a pipeline


def read_lora(file: Path) -> dict[str, Tensor]:
    """The adapter in peft's names, as `Policy.load_lora` takes it; ValueError on a file of anything else."""
    weights = {key: value for key, value in load_tensors(file).items() if not key.endswith(".alpha")}
    foreign = [key for key in weights if not key.startswith(COMPONENTS)]
    if foreign or not weights:
        raise ValueError(f"checkpoint {file} is not a LoRA in diffusers' format: {(foreign or ['no tensor'])[0]}")
    return convert_unet_state_dict_to_peft({key.partition(".")[2]: value for key, value in weights.items()})
