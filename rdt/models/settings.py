"""The settings in a model folder's config files: which rdt honours, and which must have one value.

The classes of networks and autoencoders are diffusers' own, so what they compute themselves is honoured. The tables
name the rest: what a stock pipeline, and not the network, would have to act on. A setting of a scheduler that is in no
table must have its class's default. Everything else is refused by name, so nothing is ignored in silence.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from rdt.checkpoint import INDEX, read_config

SCHEDULER = "scheduler/scheduler_config.json"
NOISE = frozenset(
    {
        "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
        "rescale_betas_zero_snr",
    }
)  # fmt: skip
DIFFUSION = NOISE | {"timestep_spacing", "steps_offset", "set_alpha_to_one"}  # honoured, as all is sampled by DDIM
DIFFUSION_SCHEDULERS = (  # that a UNet's folder may name
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
FLOW = frozenset(
    {
        "shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len",
        "time_shift_type",
    }
)  # fmt: skip
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)  # of Stable Diffusion 3 and FLUX
WITHOUT_EFFECT = frozenset(  # on DDIM without clipping; skip_prk_steps leaves out PNDM's first steps
    {"skip_prk_steps", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"}
)
REQUIRED = {"clip_sample": False, "thresholding": False}  # of latents, which no bounds are known for
CHOICES = {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "steps_offset": (0, 1),
}
UNET = {  # inputs that no stock text-to-image pipeline gives, or only with further models
    "time_cond_proj_dim": None, "class_embed_type": None, "num_class_embeds": None, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "attention_type": "default",
}  # fmt: skip


def scheduler_settings(
    folder: Path, kinds: tuple[str, ...], honoured: frozenset[str], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a scheduler's settings, its class's defaults among them, and `fixed` in place of what the folder says.

    ValueError if its class is none of `kinds`, or if a setting is neither honoured nor what it must be.
    """
    config = read_config(folder / SCHEDULER)
    kind = _scheduler_class(folder, config, kinds)
    settings = _defaults(kind) | {key: value for key, value in config.items() if not key.startswith("_")}
    settings |= {key: value for key, value in fixed.items() if key in settings}
    for key, value in settings.items():
        if key not in honoured | WITHOUT_EFFECT:
            _require(folder / SCHEDULER, key, value, _must_be(key, kind), f" of the {kind}")
    return settings


def check_choices(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError if a setting of a diffusion's scheduler has a value that DDIM's steps do not exist for."""
    for key, choices in CHOICES.items():
        if settings[key] not in choices:
            raise ValueError(
                f"checkpoint {folder / SCHEDULER}: {key}={settings[key]} is not one of"
                f" {', '.join(map(str, choices))}: DDIM's steps, as diffusers takes them, do not fit other values"
            )


def require(folder: Path, name: str, kind: Any, values: Mapping[str, Any]) -> None:
    """Raise ValueError unless a component's config is of class `kind` and has these values, its defaults among them.

    A tuple holds all values that are allowed.
    """
    file = folder / name / "config.json"
    config = read_config(file)
    found = config.get("_class_name", kind.__name__)
    if found != kind.__name__:
        raise ValueError(f"checkpoint {file}: {name} is a {found}; expected a {kind.__name__}")
    defaults = _defaults(kind.__name__)
    for key, expected in values.items():
        _require(file, key, config.get(key, defaults[key]), expected)


def _require(file: Path, key: str, value: Any, expected: Any, whose: str = "") -> None:
    allowed = expected if isinstance(expected, tuple) else (expected,)
    if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed):
        wanted = " or ".join(map(_shown, allowed))
        raise ValueError(f"checkpoint {file}: {key}={_shown(value)}{whose} is not supported; expected {wanted}")


def _scheduler_class(folder: Path, config: Mapping[str, Any], kinds: tuple[str, ...]) -> str:
    """Return the scheduler's class, which the pipeline's index names, or its own config if there is no index."""
    index = read_config(folder / INDEX) if (folder / INDEX).is_file() else {}
    entry = index.get("scheduler")
    named = [entry[1] if isinstance(entry, list) and len(entry) == 2 else None, config.get("_class_name")]
    for kind in named:
        if kind is not None and kind not in kinds:
            expected = f"one of {', '.join(kinds)}" if len(kinds) > 1 else f"a {kinds[0]}"
            raise ValueError(f"checkpoint {folder / SCHEDULER}: the scheduler is {kind}; expected {expected}")
    found = next((kind for kind in named if kind is not None), None)
    if found is None:
        raise ValueError(f"checkpoint {folder / SCHEDULER} names no class of scheduler: it has no _class_name")
    return found


def _must_be(key: str, kind: str) -> Any:
    """Return the value that a setting must have: its default in this class, or in another if this one has none."""
    if key in REQUIRED:
        return REQUIRED[key]
    known = (_defaults(name) for name in (kind, *DIFFUSION_SCHEDULERS, *FLOW_SCHEDULERS))
    return next((defaults[key] for defaults in known if key in defaults), None)


def _defaults(kind: str) -> dict[str, Any]:
    """Return the settings of a class of diffusers with their defaults."""
    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _shown(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:60]
