"""The stages of the pretraining run in the order of STAGES; a finished stage is restored from its checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from rdt.files import replacing
from rdt.shapes import tokenizer
from rdt.shapes.pretrain import acceptance, autoencoder, base, oracle, preference, text


@dataclass(frozen=True)
class Paths:
    """Holds the folders of the weights to start from, if any, of the stages' checkpoints and of the bundle."""

    start: Path | None
    work: Path
    out: Path
    seed: int

    def starting(self, model: str) -> Path | None:
        """Return the folder of the weights that a model, `base` or `flow`, starts from."""
        return self.start and self.start / model


def train_oracle(paths: Paths) -> None:
    """Write oracle.safetensors."""
    trained = oracle.train(paths.work, paths.seed)
    paths.out.mkdir(parents=True, exist_ok=True)
    with replacing(paths.out / "oracle.safetensors") as unfinished:
        save_file({k: v.half().contiguous() for k, v in trained.state_dict().items()}, unfinished)


def train_autoencoder(paths: Paths) -> None:
    """Train the autoencoder, whose encoder is final after this stage; only a checkpoint is written."""
    _autoencoder(paths)


def train_base(paths: Paths) -> None:
    """Write base/, an ordinary folder of diffusers."""
    words, vae, start = _tokenizer(paths), _autoencoder(paths), paths.starting("base")
    encoder, pool = text.train(start, words, paths.work, paths.seed), base.encode_pool(vae, paths.work, paths.seed)
    network = base.train(start, encoder, text.PromptTable(words), pool, paths.work, paths.seed)
    save_base(paths, network, encoder, vae, words)


def finish_decoder(paths: Paths) -> None:
    """Write base/vae/ again, with the finished decoder."""
    vae = autoencoder.refine_decoder(_autoencoder(paths), paths.work, paths.seed)
    vae.half().save_pretrained(paths.out / "base" / "vae")


def train_consistency(paths: Paths) -> None:
    """Write consistency/pytorch_lora_weights.safetensors."""
    from rdt.shapes.pretrain import consistency

    pool = base.encode_pool(_autoencoder(paths), paths.work, paths.seed)
    policy = consistency.train(paths.out / "base", pool, paths.work, paths.seed)
    policy.half().save_lora(paths.out / "consistency")
    (paths.out / "consistency" / "pytorch_lora_weights_kohya.safetensors").unlink()  # a copy that nothing reads


def train_flow(paths: Paths) -> None:
    """Write flow/, distilled from base/."""
    from rdt.shapes.pretrain import flow

    words, folder = _tokenizer(paths), paths.out / "base"
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    teacher, pool = flow.Teacher(encoder, unet), base.encode_pool(_autoencoder(paths), paths.work, paths.seed)
    start, prompts = paths.starting("flow"), text.PromptTable(words)
    flow.save_flow(flow.train(start, teacher, prompts, pool, paths.work, paths.seed), paths.out / "flow")


def train_preferences(paths: Paths) -> None:
    """Write hps.safetensors and judge.safetensors in the layout of the published HPS file."""
    for name in ("hps", "judge"):
        preference.export(preference.train(name, paths.work, paths.seed), paths.out / f"{name}.safetensors")


def save_base(
    paths: Paths, network: UNet2DConditionModel, encoder: CLIPTextModel, vae: AutoencoderKL, words: CLIPTokenizer
) -> None:
    """Write the Stable Diffusion folder in half precision."""
    StableDiffusionPipeline(
        vae=_half(vae),
        text_encoder=_half(encoder),
        tokenizer=words,
        unet=_half(network),
        scheduler=base.ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(paths.out / "base")


def check_bundle(paths: Paths) -> None:
    """Print the acceptance table."""
    acceptance.print_table(paths.out, paths.work, paths.seed)


def _autoencoder(paths: Paths) -> AutoencoderKL:
    return autoencoder.train(paths.starting("base"), paths.work, paths.seed)


def _half(module: nn.Module) -> nn.Module:
    return module.to(torch.float16)


def _tokenizer(paths: Paths) -> CLIPTokenizer:
    """Return the tokenizer to start from, or one saved beside the checkpoints so that a resumed stage sees its ids."""
    folder = paths.start / "base" / "tokenizer" if paths.start else paths.work / "tokenizer"
    if not folder.exists():
        tokenizer.build().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


STAGES: dict[str, Callable[[Paths], None]] = {
    "oracle": train_oracle,
    "autoencoder": train_autoencoder,
    "base": train_base,
    "decoder": finish_decoder,
    "consistency": train_consistency,
    "flow": train_flow,
    "preferences": train_preferences,
    "acceptance": check_bundle,
}
