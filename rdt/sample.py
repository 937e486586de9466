"""`python -m rdt.sample run=<output_dir> prompt="a circle" n=16`: look at a saved run beside its base.

With `guidance=aig guidance.curve=[1,2,4]` there is one block of images per value beside the base's.
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rdt.config import check
from rdt.config.compose import command_errors, conf_dir, job_errors
from rdt.errors import UsageError
from rdt.report.text import slug
from rdt.training import folder


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="sample")
def main(cfg: DictConfig) -> None:
    """One picture."""
    with job_errors(HydraConfig.get()):
        check.values(cfg, HydraConfig.get())
        print(sample(cfg))


def sample(cfg: DictConfig) -> Path:
    """Check, then draw; the path of the picture."""
    if cfg.prompt is None:
        raise UsageError('prompt= is missing; say what to draw, as in prompt="a circle"')
    if cfg.n <= 0:
        raise UsageError(f"n={cfg.n} must be greater than 0")
    run = folder.read(cfg.run, cfg.get("guidance"))
    out = Path(str(cfg.out)).expanduser() if cfg.out else run.folder / "samples" / f"{name(cfg)}.png"
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    return draw(run, str(cfg.prompt), cfg.n, cfg.seed, out)


def name(cfg: DictConfig) -> str:
    """A file name of what is drawn."""
    guided = f" {cfg.guidance.name}" if cfg.get("guidance") else ""
    return slug(f"{cfg.prompt}{guided} s{cfg.seed}")


def draw(run: folder.Saved, prompt: str, count: int, seed: int, out: Path) -> Path:
    """Write the picture of the base and of every point of the guidance."""
    from rdt.training.pictures import images, sheet
    from rdt.training.record import save_image

    experiment = run.experiment()
    curve = {name: one.denoiser for name, one in experiment.curve().items()}
    views = {"base": experiment.base} | (curve if len(curve) > 1 else {"tuned": experiment.guided()})
    blocks = {name: images(experiment, view, prompt, count, seed) for name, view in views.items()}
    save_image(sheet(blocks), out)
    return out


def entry() -> None:
    """The command."""
    with command_errors():
        main()


if __name__ == "__main__":
    entry()
