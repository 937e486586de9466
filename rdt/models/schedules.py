"""The process of a model's folder, with the times and noise levels that its scheduler's config states.

A UNet's scheduler is a sampler, which DDIM replaces, as `DDIMScheduler.from_config` does in diffusers: noise schedule,
prediction, spacing of the times and the last noise level are those of the folder. A setting that the folder does not
have is its class's default, or DDIM's; no class but DDIM's relatives clips latents.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from rdt.errors import flat
from rdt.models.settings import (
    DIFFUSION,
    DIFFUSION_SCHEDULERS,
    FLOW,
    FLOW_SCHEDULERS,
    NOISE,
    SCHEDULER,
    check_choices,
    scheduler_settings,
)
from rdt.process import Diffusion, Flow

DDIM = {key: value for key, value in DDIMScheduler().config.items() if key in DIFFUSION}
GRIDS = ("even", "published")  # the times of a flow: evenly spaced to 0, or, before the last step, to the smallest time


def diffusion(folder: Path, fixed: Mapping[str, Any]) -> Diffusion:
    """Return the process of a diffusion model; `fixed` holds the settings that its stock pipeline sets itself."""
    settings = DDIM | scheduler_settings(folder, DIFFUSION_SCHEDULERS, DIFFUSION, fixed)
    check_choices(folder, settings)
    try:
        alphas = DDIMScheduler(**{key: settings[key] for key in NOISE}).alphas_cumprod
        process = Diffusion(
            alphas_cumprod=alphas,
            prediction=settings["prediction_type"],
            set_alpha_to_one=settings["set_alpha_to_one"],
            steps_offset=settings["steps_offset"],
            spacing=settings["timestep_spacing"],
        )
        process.times(1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint {folder / SCHEDULER} gives no noise schedule: {flat(error)[:200]}") from None
    if len(alphas) != settings["num_train_timesteps"]:
        stated = f"num_train_timesteps={settings['num_train_timesteps']}"
        raise ValueError(f"checkpoint {folder / SCHEDULER}: {stated} differs from its {len(alphas)} trained_betas")
    return process


def flow_settings(folder: Path, grid: str) -> dict[str, Any]:
    """Return the settings of a flow's scheduler; ValueError if some are not supported, or if the grid is unknown."""
    if grid not in GRIDS:
        raise ValueError(f"grid={grid} is not one of {', '.join(GRIDS)}")
    settings = scheduler_settings(folder, FLOW_SCHEDULERS, FLOW, {})
    try:
        _shift(settings, 1)
        _flow_scheduler(settings)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"checkpoint {folder / SCHEDULER} gives no times: {flat(error)[:200]}") from None
    return settings


def flow(settings: Mapping[str, Any], patches: int, sampler: str, grid: str) -> Flow:
    """Return the flow of images of so many patches, with the shift that its scheduler's settings state."""
    last = _flow_scheduler(settings).sigma_min if grid == "published" else None
    return Flow(shift=_shift(settings, patches), sampler=sampler, last=last)


def _flow_scheduler(settings: Mapping[str, Any]) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{key: settings[key] for key in FLOW})


def _shift(settings: Mapping[str, Any], patches: int) -> float:
    """Return the shift of the times: if it is dynamic, mu or exp(mu), with mu linear in the number of patches."""
    if not settings["use_dynamic_shifting"]:
        return settings["shift"]
    longest, shortest = settings["max_image_seq_len"], settings["base_image_seq_len"]
    share = (patches - shortest) / (longest - shortest)
    mu = settings["base_shift"] + share * (settings["max_shift"] - settings["base_shift"])
    return math.exp(mu) if settings["time_shift_type"] == "exponential" else mu
