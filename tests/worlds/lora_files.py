"""Random LoRAs as diffusers writes them, for tiny checkpoints of every model family."""

import diffusers
import torch
from peft import LoraConfig, get_peft_model_state_dict


def component(family):
    """Return the name of the network in a family's pipeline."""
    return "unet" if family in ("sd15", "sdxl") else "transformer"


def network_of(folder):
    """Return the stock pipeline of a folder, and its network."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    return pipe, getattr(pipe, "unet", None) or pipe.transformer


def saved(family, folder, into, seed=1, **options):
    """Write a random LoRA of rank 4 as diffusers does; return its file, its weights in peft's names and its config."""
    torch.manual_seed(seed)
    pipe, network = network_of(folder)
    config = LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False, **options)
    network.add_adapter(config)
    layers = {key: 0.3 * value.detach() for key, value in get_peft_model_state_dict(network).items()}
    name = component(family)
    known = {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": config.to_dict()}
    type(pipe).save_lora_weights(into, **known)
    return into / "pytorch_lora_weights.safetensors", layers, config
