"""Compressibility: the size of an image's JPEG file, DDPO's reward without a model (Black et al. 2305.13301).

The value is the true size in kB (1000 bytes, headers included) of the file that Pillow writes. Its gradient is that of

    sum over coefficients c of 1/2 log2(1 + c^2) / 8000 kB,

where c are the 8 x 8 DCT coefficients of the YCbCr planes, with colour at half resolution, in units of JPEG's
quantisation steps: a number of size c takes about half the logarithm of 1 + c^2 bits. The sum leaves out rounding,
headers, and the differences and runs that the true code exploits. On flat drawings it is 2 to 3 times too small, but
it ranks images as their true size does.
"""

import io
import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rdt.rewards.base import Reward, blank

# quantisation tables K.1 and K.2 of ITU-T T.81
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
DCT = torch.tensor(
    [[math.cos(math.pi * (2 * n + 1) * k / 16) / (2 if k else 8**0.5) for n in range(8)] for k in range(8)]
)  # orthonormal


class JpegReward(Reward):
    """Scores minus the file's kB, or plus if `incompressible`; images may have any size."""

    reads_prompts = False

    def __init__(self, *, quality: int, incompressible: bool) -> None:
        super().__init__()
        if not 1 <= quality <= 100:
            raise ValueError(f"quality={quality} must be from 1 to 100")
        self.quality, self.sign = quality, 1.0 if incompressible else -1.0

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the signed true sizes, (B,), with the gradient of the proxy; the prompts are not read."""
        size = blank(kilobytes(images, self.quality), images)
        if torch.is_grad_enabled() and images.requires_grad:
            bits = proxy(images, self.quality)
            size = size + (bits - bits.detach())  # adds exactly 0
        return self.sign * size


@torch.no_grad()
def kilobytes(images: Tensor, quality: int) -> Tensor:
    """Return the true size of each image's file in kB, (B,) float32, without gradient."""
    pixels = (images.float().nan_to_num().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return torch.tensor([_written(Image.fromarray(picture), quality) / 1000 for picture in pixels]).to(images.device)


def proxy(images: Tensor, quality: int) -> Tensor:
    """Return the estimated size of each image in kB, (B,); differentiable."""
    bits = [torch.log2(1 + c.square()).flatten(1).sum(1) / 2 for c in coefficients(images, quality)]
    return torch.stack(bits).sum(0) / 8000


def coefficients(images: Tensor, quality: int) -> list[Tensor]:
    """Return the DCT coefficients of Y, Cb and Cr in quantisation steps, (B, rows, columns, 8, 8) each.

    Edges are repeated to fill the last blocks.
    """
    h, w = images.shape[-2:]
    padded = F.pad(images.float(), (0, -w % 16, 0, -h % 16), mode="replicate")
    y, cb, cr = torch.einsum("kc,bchw->kbhw", images.new_tensor(YCBCR, dtype=torch.float), 255 * padded)
    planes = (y - 128, LUMINANCE), (F.avg_pool2d(cb, 2), CHROMINANCE), (F.avg_pool2d(cr, 2), CHROMINANCE)
    return [_blocks(plane) / quantisation_steps(table, quality).to(images.device) for plane, table in planes]


def quantisation_steps(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Return the quantisation steps (8, 8) that libjpeg derives from a standard table."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255).float()


def _blocks(plane: Tensor) -> Tensor:
    """Transform a plane (B, H, W) block by block, (B, H / 8, W / 8, 8, 8)."""
    dct = DCT.to(plane)
    return dct @ plane.unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).transpose(2, 3) @ dct.T


def _written(picture: Image.Image, quality: int) -> int:
    """Return the number of bytes of the picture's JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)  # Pillow's own colour resolution is 4:2:0
    return file.tell()
