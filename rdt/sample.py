"""`python -m rdt.sample run=<output_dir> prompt="a circle" n=16`: draw images of a finished run beside its base's.

`guidance=aig guidance.curve=[1,2,4]` draws one block of images per value beside the base's.
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rdt import targets
from rdt.config import check
from rdt.config.compose import command_errors, conf_dir, job_errors
from rdt.errors import UsageError
from rdt.result import slug
from rdt.training import finished


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="sample")
def main(cfg: DictConfig) -> None:
    """Draw one picture and print its path."""
    with job_errors(HydraConfig.get()), targets.permitted(finished.allowed(cfg)):
        check.values(cfg, HydraConfig.get())
        print(sample(cfg))


def sample(cfg: DictConfig) -> Path:
    """Check the config, then draw the picture and return its path."""
    if cfg.prompt is None:
        raise UsageError('prompt= is missing; say what to draw, as in prompt="a circle"')
    if cfg.n <= 0:
        raise UsageError(f"n={cfg.n} must be greater than 0")
    run = finished.read_finished(cfg.run, cfg.get("guidance"))
    out = Path(str(cfg.out)).expanduser() if cfg.out else run.folder / "samples" / f"{file_name(cfg)}.png"
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    return write_picture(run, str(cfg.prompt), cfg.n, cfg.seed, out)


def file_name(cfg: DictConfig) -> str:
    """Return a file name for the picture."""
    guided = f" {cfg.guidance.name}" if cfg.get("guidance") else ""
    return slug(f"{cfg.prompt}{guided} s{cfg.seed}")


def write_picture(run: finished.FinishedRun, prompt: str, count: int, seed: int, out: Path) -> Path:
    """Write the picture of the base and every point of the guidance curve, and return its path."""
    from rdt.training.pictures import images, side_by_side
    from rdt.training.record import save_image

    experiment = run.experiment()
    curve = {name: one.denoiser for name, one in experiment.curve().items()}
    views = {"base": experiment.base} | (curve if len(curve) > 1 else {"tuned": experiment.guided()})
    blocks = {name: images(experiment, view, prompt, count, seed) for name, view in views.items()}
    save_image(side_by_side(blocks), out)
    return out


def entry() -> None:
    """Run the command."""
    with command_errors():
        main()


if __name__ == "__main__":
    entry()
