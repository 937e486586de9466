"""Processes have the times of the schedulers that the published models are sampled with."""

from pathlib import Path

import numpy
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from rdt.models import flux, schedules
from rdt.process import Flow
from worlds import model_checkpoints

STEPS = (1, 4, 28, 50)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in model_checkpoints.MAKERS.items()}


def flow(folder: Path, patches: int, grid: str) -> Flow:
    return schedules.flow(schedules.flow_settings(folder, grid), patches, "sde", grid)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_diffusion_has_ddims_steps_and_alphas(name: str, folders: dict[str, Path]) -> None:
    process, scheduler = (
        schedules.diffusion(folders[name], {}),
        DDIMScheduler.from_pretrained(folders[name] / "scheduler"),
    )
    assert scheduler.config.steps_offset == 1 and not scheduler.config.set_alpha_to_one
    for count in STEPS:
        scheduler.set_timesteps(count)
        assert process.times(count)[:-1].equal(scheduler.timesteps)
    one, zero, t = torch.ones(1, 1), torch.zeros(1, 1), scheduler.timesteps[7]
    assert process.perturb(one, zero, t).item() == pytest.approx(scheduler.alphas_cumprod[t].sqrt().item(), rel=1e-6)
    assert process.perturb(one, zero, torch.tensor(-1)) == pytest.approx(scheduler.final_alpha_cumprod.sqrt().item())


@pytest.mark.parametrize("count", STEPS)
def test_sd3_has_its_shift_and_the_published_grid(count: int, folders: dict[str, Path]) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folders["sd3"] / "scheduler")
    scheduler.set_timesteps(count)
    assert scheduler.config.shift == 3
    torch.testing.assert_close(flow(folders["sd3"], 16, "published").times(count), scheduler.sigmas)
    even = flow(folders["sd3"], 16, "even").times(count)
    scheduler.set_timesteps(sigmas=numpy.linspace(1, 1 / count, count))
    torch.testing.assert_close(even, scheduler.sigmas)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_flux_shifts_by_the_number_of_patches(side: int, folders: dict[str, Path]) -> None:
    scheduler, patches = FlowMatchEulerDiscreteScheduler.from_pretrained(folders["flux"] / "scheduler"), side**2 // 4
    for count in STEPS:
        scheduler.set_timesteps(sigmas=numpy.linspace(1, 1 / count, count), mu=calculate_shift(patches))
        process = flow(folders["flux"], patches, "even")
        torch.testing.assert_close(process.times(count), scheduler.sigmas)


def test_patches_equal_those_of_the_stock_pipeline_and_are_inverted() -> None:
    x = torch.randn(2, 16, 8, 12)
    expected = flux.FluxPipeline._pack_latents(x, 2, 16, 8, 12)
    assert flux.packed(x).equal(expected) and flux.unpacked(expected, x.shape).equal(x)
    ids = flux.FluxPipeline._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32)
    assert flux.patch_ids(x).equal(ids)


def test_an_unknown_grid_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="grid=log is not one of even, published"):
        flow(folders["sd3"], 16, "log")
