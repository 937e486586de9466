"""Tests compressibility: the value against Pillow, tables and transform against libjpeg, the proxy against the size."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rdt.rewards.jpeg import CHROMINANCE, DCT, LUMINANCE, JpegReward, coefficients, kilobytes, proxy, quantisation_steps
from rdt.shapes.render import render
from rdt.shapes.world import random_modes, random_scene


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawings(count: int, size: int = 32) -> Tensor:
    return render(random_scene(random_modes(count, stream()), stream(1)), size)


def grainy(images: Tensor) -> Tensor:
    """Add noise to the images, of another strength for each."""
    strength = 0.03 * torch.rand(len(images), 1, 1, 1, generator=stream(2))
    return (images + strength * torch.randn(images.shape, generator=stream(3))).clamp(0, 1)


def written(image: Tensor, quality: int) -> io.BytesIO:
    file = io.BytesIO()
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file


def any_prompts(count: int) -> list[str]:
    return ["anything"] * count


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def rank_correlation(a: Tensor, b: Tensor) -> float:
    return correlation(*(x.argsort().argsort().double() for x in (a, b)))


def slope(images: Tensor, quality: int = 95) -> float:
    """Return the slope of the true size over the proxy, by least squares."""
    size, bits = kilobytes(images, quality), proxy(images, quality)
    return (torch.cov(torch.stack([bits, size]))[0, 1] / bits.var()).item()


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (33, 47), (8, 5)])
def test_the_value_is_the_size_of_the_file(quality, shape):
    images = torch.rand(3, 3, *shape, generator=stream())
    expected = torch.tensor([len(written(image, quality).getvalue()) / 1000 for image in images])
    for incompressible, sign in ((False, -1), (True, 1)):
        scores = JpegReward(quality=quality, incompressible=incompressible)(images, any_prompts(3))
        assert torch.equal(scores, sign * expected) and scores.dtype == torch.float32


def test_the_gradient_is_the_proxys_and_the_value_stays_the_true_size():
    reward, images = JpegReward(quality=95, incompressible=False), grainy(drawings(4)).requires_grad_()
    scores = reward(images, any_prompts(4))
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert torch.equal(gradient, torch.autograd.grad(-proxy(images, 95).sum(), images)[0]) and gradient.any()
    with torch.no_grad():
        assert torch.equal(scores, reward(images, any_prompts(4)))


def test_without_gradient_there_is_no_graph():
    reward, images = JpegReward(quality=95, incompressible=False), drawings(2)
    assert not reward(images, any_prompts(2)).requires_grad
    with torch.no_grad():
        assert not reward(images.requires_grad_(), any_prompts(2)).requires_grad


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 95, 100])
def test_the_tables_are_those_of_libjpeg(quality):
    tables = Image.open(written(drawings(1)[0], quality)).quantization
    for number, table in enumerate((LUMINANCE, CHROMINANCE)):
        assert quantisation_steps(table, quality).flatten().tolist() == tables[number]


def test_the_transform_is_orthonormal():
    torch.testing.assert_close(DCT @ DCT.T, torch.eye(8))


@pytest.mark.parametrize("quality", [10, 30])
def test_rounded_coefficients_are_those_of_the_file(quality):
    """Decoded by hand they give the luminance of Pillow's decoder, but for a few, as colours are rounded to bytes."""
    image = F.interpolate(torch.rand(1, 3, 6, 8, generator=stream()), (48, 64), mode="bicubic").clamp(0, 1)
    c = coefficients(image, quality)[0][0]
    made, lossless = (
        (DCT.T @ (y * quantisation_steps(LUMINANCE, quality)) @ DCT).transpose(1, 2).reshape(48, 64) + 128
        for y in (c.round(), c)
    )
    decoded = Image.open(written(image[0], quality))
    decoded.draft("YCbCr", None)  # without conversion to RGB
    theirs = torch.from_numpy(np.asarray(decoded)[..., 0].copy()).float()
    assert (made - theirs).abs().mean() < 0.4 * (lossless - theirs).abs().mean()


def test_edges_are_repeated():
    images = torch.rand(1, 3, 21, 30, generator=stream())
    whole = F.pad(images, (0, 2, 0, 11), mode="replicate")
    assert torch.equal(proxy(images, 95), proxy(whole, 95))
    assert [tuple(c.shape[1:3]) for c in coefficients(images, 95)] == [(4, 4), (2, 2), (2, 2)]


@pytest.mark.parametrize(
    "images, least",
    [
        (drawings(200), 0.95),
        (drawings(100, 64), 0.9),
        (grainy(drawings(100, 64)), 0.9),
        (grainy(drawings(100, 128)), 0.9),
    ],
    ids=["drawings of 32", "drawings of 64", "grainy 64", "grainy 128"],
)
def test_the_proxy_ranks_images_as_their_size_does(images, least):
    size, bits = kilobytes(images, 95), proxy(images, 95)
    assert correlation(bits, size) > least and rank_correlation(bits, size) > least


def test_the_proxy_is_too_small_on_drawings():
    assert 2 < slope(drawings(100)) < 3


@pytest.mark.parametrize("incompressible", [False, True])
def test_following_the_gradient_changes_the_true_size(incompressible):
    images = grainy(drawings(8))
    reward, pixels = JpegReward(quality=95, incompressible=incompressible), images.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (-reward(pixels.clamp(0, 1), any_prompts(8)).sum()).backward()
        optimizer.step()
    before, after = kilobytes(images, 95), kilobytes(pixels.detach().clamp(0, 1), 95)
    assert (after > before).all() if incompressible else (after < before).all()


def test_an_image_that_is_not_finite_has_no_size():
    images = drawings(3)
    images[1, 0, 5, 5] = torch.nan
    assert JpegReward(quality=95, incompressible=False)(images, any_prompts(3)).isfinite().tolist() == [
        True,
        False,
        True,
    ]


def test_half_precision_only_rounds_the_pixels():
    images = drawings(4)
    scores = JpegReward(quality=95, incompressible=False)(images.bfloat16(), any_prompts(4))
    assert torch.equal(scores, -kilobytes(images.bfloat16().float(), 95))


@pytest.mark.parametrize("quality", [0, 101])
def test_an_impossible_quality_is_refused(quality):
    with pytest.raises(ValueError, match=f"quality={quality} must be from 1 to 100"):
        JpegReward(quality=quality, incompressible=False)
