"""The autoencoder stage trains a VAE with a downsampling factor of 4 and 8 latent channels, then its decoder alone."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.render import SIZE, render
from rdt.shapes.world import random_modes, random_scene

PLAN = Plan("vae", steps=3600, lr=1e-3, ema=0.998)
DECODER_PLAN = Plan("decoder", steps=3000, lr=1e-3, ema=0.998)
BATCH = 64
LATENT_NOISE = 0.05  # standard deviation of the error of sampled latents, whose variance is 1


def train(start: Path | None, work: Path, seed: int) -> AutoencoderKL:
    """Return the trained autoencoder, its scaling factor set so that latents have unit variance.

    Training starts from the weights in the folder `start`, or from random ones.
    """
    torch.manual_seed(seed)
    vae = untrained_autoencoder()
    if start:
        vae.load_state_dict(AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32).state_dict())

    def loss(generator: torch.Generator) -> Tensor:
        images = 2 * random_images(BATCH, generator) - 1
        posterior = vae.encode(images).latent_dist
        spread = posterior.std + latent_error(vae, generator)
        noise = torch.randn(posterior.mean.shape, generator=generator)
        restored = vae.decode(posterior.mean + spread * noise).sample
        return distance(restored, images) + 1e-4 * posterior.kl().mean() / 64

    fit(PLAN, vae, loss, work, seed)
    with torch.no_grad():
        latents = vae.encode(2 * random_images(1024, torch.Generator().manual_seed(seed)) - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def untrained_autoencoder() -> AutoencoderKL:
    """Return the autoencoder with random weights."""
    return AutoencoderKL(
        sample_size=SIZE,
        latent_channels=8,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


def refine_decoder(vae: AutoencoderKL, work: Path, seed: int) -> AutoencoderKL:
    """Train the decoder further, with the encoder frozen, on latents with a small error; return the autoencoder."""
    torch.manual_seed(seed)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)

    def loss(generator: torch.Generator) -> Tensor:
        images = 2 * random_images(BATCH, generator) - 1
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
        spread = latent_error(vae, generator)
        noise = torch.randn(latents.shape, generator=generator)
        return distance(vae.decode(latents + spread * noise).sample, images)

    return fit(DECODER_PLAN, vae, loss, work, seed)


def latent_error(vae: AutoencoderKL, generator: torch.Generator) -> Tensor:
    """Return a random standard deviation (BATCH, 1, 1, 1) of the error of sampled latents, at most LATENT_NOISE."""
    return LATENT_NOISE / vae.config.scaling_factor * torch.rand(BATCH, 1, 1, 1, generator=generator)


def distance(restored: Tensor, images: Tensor) -> Tensor:
    """Return the mean error of images (N, 3, S, S), absolute and squared, and that of their edges, a scalar.

    Without the edges, a soft edge and a crisp one are nearly the same image.
    """
    error = restored - images
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + edges / 2


def random_images(count: int, generator: torch.Generator) -> Tensor:
    """Return renders (count, 3, 32, 32) in [0, 1], uniform over modes, jitter and finish."""
    return render(random_scene(random_modes(count, generator), generator))
