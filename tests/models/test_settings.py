"""Every setting of a model's folder that rdt accepts gives the stock pipeline's image; the others are refused by name.

The grid goes over settings of schedulers, autoencoders, networks and pipelines in all four families. The default tier
runs every refusal and one image per kind of setting; the slow tier runs all.
"""

import inspect
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from rdt.guidance import cfg
from rdt.models import flux
from rdt.models.settings import DIFFUSION, DIFFUSION_SCHEDULERS
from rdt.policy import Adapter
from rdt.rollout import Sampling, sampled
from worlds import model_checkpoints
from worlds.builders import built

PROMPTS, STEPS, SIDE = ["a circle", "two small rings"], 4, model_checkpoints.SIDE
ADAPTER = Adapter(2, 2, ["to_q"])
UNETS, FLOWS, ALL = ("sd15", "sdxl"), ("sd3", "flux"), ("sd15", "sdxl", "sd3", "flux")
FILES = {
    "scheduler": "scheduler/scheduler_config.json", "vae": "vae/config.json", "unet": "unet/config.json",
    "transformer": "transformer/config.json", "index": "model_index.json",
}  # fmt: skip
ZERO = {"rescale_betas_zero_snr": True}
TRAILING = {"timestep_spacing": "trailing"}
BETAS = [0.0005 + 0.00001 * k for k in range(1000)]
DYNAMIC = {"use_dynamic_shifting": True}
EQUAL = "equal"
Case = tuple[str, dict[str, Any], dict[str, str]]  # file, settings, family -> EQUAL or the name that is refused


def each(families: tuple[str, ...], outcome: str, **others: str) -> dict[str, str]:
    return {family: others.get(family, outcome) for family in families}


def refused(file: str, families: tuple[str, ...], settings: dict[str, Any]) -> list[Case]:
    return [(file, {key: value}, each(families, key)) for key, value in settings.items()]


def equal(file: str, families: tuple[str, ...], *settings: dict[str, Any]) -> list[Case]:
    return [(file, changed, each(families, EQUAL)) for changed in settings]


def schedules() -> list[Case]:
    """Return the settings of schedulers; two of them the stock pipeline of Stable Diffusion 1.5 sets itself."""
    return [
        *equal("scheduler", UNETS, TRAILING, {"prediction_type": "v_prediction"}, ZERO, *ACCEPTED),
        ("scheduler", {"steps_offset": 7}, each(UNETS, "steps_offset=7", sd15=EQUAL)),
        ("scheduler", {"clip_sample": True}, each(UNETS, "clip_sample=true", sd15=EQUAL)),
        ("scheduler", ZERO | TRAILING, each(UNETS, "prediction=epsilon")),
        ("scheduler", {"trained_betas": BETAS[:500]}, each(UNETS, "num_train_timesteps=1000")),
        *refused(
            "scheduler", UNETS, {"timestep_spacing": "linspace", "beta_schedule": "exp", "prediction_type": "flow"}
        ),
        *refused("scheduler", UNETS, REFUSED),
        *equal("scheduler", FLOWS, {"shift": 1.5, "use_dynamic_shifting": False}, DYNAMIC, *SHIFTED),
        *refused("scheduler", FLOWS, REFUSED_FLOW),
    ]


def components() -> list[Case]:
    """Return the settings of networks, autoencoders and pipelines."""
    return [
        *equal("unet", UNETS, *COMPUTED),
        *refused("unet", UNETS, UNREAD),
        ("unet", {"addition_embed_type": "text"}, each(UNETS, "addition_embed_type=text")),
        *equal("transformer", ("flux",), {"guidance_embeds": False}, {"axes_dims_rope": [8, 4, 4]}),
        *refused("transformer", FLOWS, {"in_channels": 36, "out_channels": 12}),
        *refused("transformer", ("flux",), {"patch_size": 2}),
        *equal("vae", ALL, {"scaling_factor": 0.5}, {"force_upcast": False}),
        ("vae", {"shift_factor": 0.3}, each(ALL, EQUAL, sd15="shift_factor=0.3", sdxl="shift_factor=0.3")),
        ("vae", {"latents_mean": MEAN, "latents_std": STD}, each(ALL, "latents_", sdxl=EQUAL)),
        ("vae", {"latents_mean": MEAN}, each(ALL, "latents_mean")),
        *refused("vae", ALL, {"in_channels": 4}),
        *equal("index", ("sdxl",), {"force_zeros_for_empty_prompt": False}),
        *refused("index", ("sdxl",), {"add_watermarker": True}),
    ]


def grid() -> list[Case]:
    """Return the settings of the grid, each with the outcome in every family that has the file."""
    return schedules() + components() + classes()


ACCEPTED = [
    {"prediction_type": "sample"}, {"steps_offset": 0}, {"set_alpha_to_one": True}, {"trained_betas": BETAS},
    {"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"}, {"beta_start": 0.002}, {"beta_end": 0.02},
    {"num_train_timesteps": 500}, {"skip_prk_steps": True}, {"dynamic_thresholding_ratio": 0.9},
    ZERO | TRAILING | {"prediction_type": "v_prediction"}, ZERO | TRAILING | {"prediction_type": "sample"},
    TRAILING | {"set_alpha_to_one": True}, ZERO | {"prediction_type": "v_prediction", "set_alpha_to_one": True},
]  # fmt: skip
REFUSED = {  # of schedulers that DDIM replaces
    "thresholding": True, "use_karras_sigmas": True, "use_exponential_sigmas": True, "use_beta_sigmas": True,
    "use_flow_sigmas": True, "use_lu_lambdas": True, "final_sigmas_type": "sigma_min", "sigma_min": 0.03,
    "interpolation_type": "log_linear", "timestep_type": "continuous", "solver_order": 3, "variance_type": "learned",
    "algorithm_type": "sde-dpmsolver++", "shift_terminal": 0.1, "use_dynamic_shifting": True, "no_such_setting": 1,
}  # fmt: skip
SHIFTED = [
    DYNAMIC | {"base_shift": 0.1, "max_shift": 2.0}, DYNAMIC | {"base_image_seq_len": 8, "max_image_seq_len": 99},
    DYNAMIC | {"time_shift_type": "linear"},
]  # fmt: skip
REFUSED_FLOW = {
    "shift_terminal": 0.1, "invert_sigmas": True, "use_karras_sigmas": True, "use_exponential_sigmas": True,
    "use_beta_sigmas": True, "stochastic_sampling": True, "num_train_timesteps": 500, "use_flow_sigmas": True,
    "no_such_setting": 1,
}  # fmt: skip
COMPUTED = [
    {"center_input_sample": True}, {"flip_sin_to_cos": False}, {"freq_shift": 1}, {"mid_block_scale_factor": 2.0},
    {"sample_size": [24, 16]}, {"sample_size": None}, {"norm_eps": 0.01}, {"act_fn": "gelu"},
]  # fmt: skip
UNREAD = {
    "time_cond_proj_dim": 8, "class_embed_type": "timestep", "num_class_embeds": 3, "encoder_hid_dim": 16,
    "encoder_hid_dim_type": "text_proj", "attention_type": "gated", "in_channels": 9, "out_channels": 8,
}  # fmt: skip
MEAN, STD = [0.1, -0.2, 0.3, 0.4], [1.5, 0.5, 2.0, 1.2]
FOREIGN = (
    "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler",
    "ScoreSdeVeScheduler", "IPNDMScheduler",
)  # fmt: skip


def classes() -> list[Case]:
    """Return every class of scheduler, with the noise levels of the family where it has them."""
    flow = "FlowMatchEulerDiscreteScheduler"
    cases = [("class", {"scheduler": kind}, dict.fromkeys(ALL, kind)) for kind in FOREIGN]
    cases.append(("class", {"scheduler": flow}, dict.fromkeys(UNETS, flow)))
    for kind in DIFFUSION_SCHEDULERS:
        outcomes = dict.fromkeys(UNETS, "timestep_spacing=linspace" if LINSPACE[kind] else EQUAL)
        cases.append(("class", {"scheduler": kind}, outcomes))
        cases.append(
            ("class", {"scheduler": kind} | TRAILING, dict.fromkeys(UNETS, EQUAL) | dict.fromkeys(FLOWS, kind))
        )
    return cases


def parameters(kind: str) -> dict[str, Any]:
    found = inspect.signature(getattr(diffusers, kind).__init__).parameters.values()
    return {each.name: each.default for each in found if each.name != "self"}


LINSPACE = {kind: parameters(kind).get("timestep_spacing") == "linspace" for kind in DIFFUSION_SCHEDULERS}
CASES = [(file, settings, family, end) for file, settings, ends in grid() for family, end in ends.items()]
OUTCOMES: dict[str, int] = {}  # what the tests of this process found


def label(case: tuple[str, dict[str, Any], str, str]) -> str:
    file, settings, family, _ = case
    return f"{family}-{file}-" + "-".join(f"{key}={str(value)[:20]}" for key, value in settings.items())


def tier() -> list[Any]:
    """Return the cases; an image of which the default tier has one of the same kind is slow."""
    seen, found = set(), []
    for case in CASES:
        kind = (case[0], case[2] if case[0] == "scheduler" else "")
        repeated = case[3] == EQUAL and kind in seen
        seen |= {kind} if case[3] == EQUAL else set()
        found.append(pytest.param(*case, id=label(case), marks=[pytest.mark.slow] if repeated else []))
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in model_checkpoints.MAKERS.items()}


@pytest.fixture(scope="module", autouse=True)
def counts() -> Any:
    """Print how many cases were accepted, all of them equal to the stock pipeline, and how many were refused."""
    yield
    print("settings:", ", ".join(f"{count} {outcome}" for outcome, count in sorted(OUTCOMES.items())))


def changed(folder: Path, file: str, settings: dict[str, Any]) -> None:
    """Write settings into a config file of a folder, or another class of scheduler with its own defaults."""
    if file == "class":
        return rescheduled(folder, settings)
    path = folder / FILES[file]
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rescheduled(folder: Path, settings: dict[str, Any]) -> None:
    path, index = folder / FILES["scheduler"], folder / FILES["index"]
    kind, before = settings["scheduler"], json.loads(path.read_text())
    own = parameters(kind)
    kept = {key: value for key, value in before.items() if key.startswith("beta_") and key in own}
    chosen = {key: value for key, value in ({"clip_sample": False} | settings).items() if key in own}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some convert tensors as numpy 1 did
        getattr(diffusers, kind)(**kept | chosen).save_pretrained(path.parent)
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", kind]}))


def stock(family: str, folder: Path) -> Any:
    """Return the stock pipeline; a UNet's with DDIM, which clips only if the folder's own class would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the settings that it sets itself
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    if family in UNETS:
        names, config = parameters("DDIMScheduler"), dict(pipe.scheduler.config)
        stated = {key: value for key, value in config.items() if key in names}
        pipe.scheduler = diffusers.DDIMScheduler(**{"clip_sample": False} | stated)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(family: str, pipe: Any, x: Tensor) -> Tensor:
    own = {"max_sequence_length": 24} if family in FLOWS else {}
    return pipe(
        PROMPTS, height=SIDE, width=SIDE, latents=flux.packed(x) if family == "flux" else x, output_type="pt",
        num_inference_steps=STEPS, guidance_scale=3.5 if family == "flux" else 5.0, **own,
    ).images  # fmt: skip


@pytest.mark.parametrize(("file", "settings", "family", "outcome"), tier())
def test_a_setting_gives_the_stock_pipelines_image_or_is_refused_by_name(
    file: str, settings: dict[str, Any], family: str, outcome: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "model"))
    changed(folder, file, settings)
    if outcome != EQUAL:
        with pytest.raises(ValueError, match=r"^checkpoint ") as caught:
            built(family, folder, ADAPTER)
        assert outcome in str(caught.value) and "\n" not in str(caught.value)
        OUTCOMES["refused"] = OUTCOMES.get("refused", 0) + 1
        return
    policy = built(family, folder, ADAPTER)
    noise = policy.noise(0, "test", range(len(PROMPTS)))
    guided = cfg(policy.base, policy.encode([""]), 1.0 if family == "flux" else 5.0)
    with torch.no_grad():
        found = policy.decode(sampled(policy, guided, PROMPTS, noise, Sampling(STEPS, 0.0, 1.0)).clean)
        expected = images(family, stock(family, folder), noise.initial())
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    OUTCOMES["accepted and equal"] = OUTCOMES.get("accepted and equal", 0) + 1


def test_the_grid_goes_over_every_setting_of_every_scheduler_that_is_honoured() -> None:
    tried = {key for file, settings, _ in grid() if file in ("scheduler", "class") for key in settings}
    assert tried >= DIFFUSION
