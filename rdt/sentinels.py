"""Plain statistics of images that move when a reward is hacked, though neither rewards nor diversity show it.

Each is a mean over images (n, 3, H, W) in [0, 1]. Luma is 0.299 R + 0.587 G + 0.114 B.

    brightness      mean of all pixels
    edge_density    share of pixels whose Sobel gradient of luma exceeds 0.1 per pixel
    colour_entropy  entropy of an image's colours in 8 x 8 x 8 bins, over ln 512: 0 for one colour, 1 for all equally
    dark            share of pixels with luma below 0.1
    saturated       share of pixels with (max - min) / max above 0.9, of those whose max is above 0.1
    high_frequency  share of the energy of luma, less its mean, at more than half of the Nyquist frequency
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SENTINELS = ("brightness", "edge_density", "colour_entropy", "dark", "saturated", "high_frequency")
DARK, EDGE, VIVID, LIT = 0.1, 0.1, 0.9, 0.1  # thresholds
BINS = 8  # per channel
LUMA = (0.299, 0.587, 0.114)
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))  # over 8: the slope per pixel


@torch.no_grad()
def sentinels(images: Tensor) -> dict[str, float]:
    """Return the statistics of the images (n, 3, H, W) in [0, 1], by name."""
    x = images.float()
    luma = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1)
    return {
        "brightness": images.mean().item(),
        "edge_density": (_slope(luma) > EDGE).float().mean().item(),
        "colour_entropy": _colour_entropy(x).mean().item(),
        "dark": (luma < DARK).float().mean().item(),
        "saturated": _saturated(x).item(),
        "high_frequency": _high_frequency(luma).mean().item(),
    }


def _slope(luma: Tensor) -> Tensor:
    """Return the length of the gradient (n, H, W) per pixel; the border repeats its pixels."""
    across = luma.new_tensor(SOBEL) / 8
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, torch.stack([across, across.T])[:, None]).square().sum(1).sqrt()


def _colour_entropy(x: Tensor) -> Tensor:
    """Return the normalised entropy (n,) of the colours of each image."""
    bins = (x * BINS).long().clamp(0, BINS - 1)
    index = ((bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2]).flatten(1)
    counts = torch.zeros(len(x), BINS**3, device=x.device).scatter_add_(1, index, torch.ones_like(index, dtype=x.dtype))
    share = counts / index.shape[1]
    return -torch.xlogy(share, share).sum(1) / math.log(BINS**3)


def _saturated(x: Tensor) -> Tensor:
    """Return the share () of vivid pixels among those that are lit; 0 if none is."""
    high, low = x.amax(1), x.amin(1)
    lit = high > LIT
    return ((high - low > VIVID * high) & lit).sum() / lit.sum().clamp_min(1)


def _high_frequency(luma: Tensor) -> Tensor:
    """Return the share (n,) of energy above half of the Nyquist frequency; 0 for a constant image."""
    height, width = luma.shape[-2:]
    energy = torch.fft.fft2(luma - luma.mean((1, 2), keepdim=True)).abs().square()
    rows, columns = (torch.fft.fftfreq(size, device=luma.device) for size in (height, width))
    high = (rows[:, None].square() + columns.square()).sqrt() > 0.25  # cycles per pixel; Nyquist's is 0.5
    return (energy * high).sum((1, 2)) / energy.sum((1, 2)).clamp_min(1e-12)
