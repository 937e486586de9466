"""`python -m rdt.sample run=<output_dir> prompt="a circle" n=16`: draw images of a finished run beside its base's.

`guidance=aig guidance.curve=[1,2,4]` draws one block of images per value beside the base's.
"""

import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from rdt import files, targets
from rdt.config import check
from rdt.config.compose import built_now, command_errors, conf_dir, job_errors
from rdt.errors import UsageError
from rdt.result import digest, slug
from rdt.text import lone_surrogate, printable
from rdt.training import finished

AS_TYPED = ("prompt", "run", "out")
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # by the ending of out=
QUOTED = re.compile(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", re.DOTALL)  # a text in quotation marks of Hydra's grammar


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="sample")
def main(cfg: DictConfig) -> None:
    """Draw one picture and print its path."""
    with job_errors(HydraConfig.get()), targets.permitted(finished.allowed(cfg)):
        check.values(cfg, HydraConfig.get())
        print(printable(sample(cfg)))


def sample(cfg: DictConfig) -> Path:
    """Check the config, then draw the picture and return its path."""
    if not str(cfg.prompt or "").strip():
        raise UsageError('prompt= is missing; say what to draw, as in prompt="a circle"')
    if found := lone_surrogate(str(cfg.prompt)):
        raise UsageError(f"prompt={cfg.prompt} has {found}, a byte that is not UTF-8")
    if cfg.n <= 0:
        raise UsageError(f"n={cfg.n} must be greater than 0")
    if cfg.out:
        check_out(Path(str(cfg.out)).expanduser())
    run = finished.read_finished(cfg.run, cfg.get("guidance"))
    note_unknown_words(run.cfg, str(cfg.prompt))
    out = Path(str(cfg.out)).expanduser() if cfg.out else run.folder / "samples" / f"{file_name(cfg)}.png"
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    return write_picture(run, str(cfg.prompt), cfg.n, cfg.seed, out)


def note_unknown_words(cfg: DictConfig, prompt: str) -> None:
    """Say on standard error if the run's model knows only some words and the prompt has others; it is drawn anyway."""
    if cfg.model.get("vocabulary"):
        try:
            built_now(cfg.model.vocabulary)([prompt])
        except ValueError as error:
            print(printable(f"note: {error}"), file=sys.stderr)


def check_out(out: Path) -> None:
    """Raise ValueError if the picture cannot be written to this file, whose ending decides the format."""
    if out.is_dir():
        raise UsageError(f"out={out} is a folder; give the file of the picture, such as out={out / 'picture.png'}")
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"out={out} does not end in a format of pictures; end it in one of {', '.join(FORMATS)}")
    files.check_writable("out", out.parent)


def file_name(cfg: DictConfig) -> str:
    """Return a file name for the picture; its digest differs if anything that decides the picture does."""
    whole = OmegaConf.to_container(cfg, resolve=True)
    decisive = {key: value for key, value in whole.items() if key not in ("run", "out", "hydra")}
    guided = [cfg.guidance.name] if cfg.get("guidance") else []
    return "-".join([slug(str(cfg.prompt))[:40].strip("-."), *guided, f"n{cfg.n}", f"s{cfg.seed}", digest(decisive)])


def as_typed(argument: str) -> str:
    """Return the override of an argument: prompts and paths are taken as they are, without Hydra's grammar.

    Quotation marks that enclose the whole text do not belong to it. A path may be null or refer to other keys.
    """
    key, _, text = argument.partition("=")
    if key not in AS_TYPED or QUOTED.fullmatch(text) or (key != "prompt" and (text == "null" or "${" in text)):
        return argument
    if lone_surrogate(text):  # the locale's encoding is not that of the terminal
        text = os.fsencode(text).decode("utf-8", "surrogateescape")
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # ${...} is text, and no reference to another key
    return f"{key}={QuotedString(text, Quote.single).with_quotes()}"


def write_picture(run: finished.FinishedRun, prompt: str, count: int, seed: int, out: Path) -> Path:
    """Write the picture of the base and every point of the guidance curve, and return its path."""
    from rdt.training.pictures import images, side_by_side

    experiment = run.experiment()
    curve = {name: one.denoiser for name, one in experiment.curve().items()}
    views = {"base": experiment.base} | (curve if len(curve) > 1 else {"tuned": experiment.guided()})
    blocks = {name: images(experiment, view, prompt, count, seed) for name, view in views.items()}
    with files.replacing(out) as unfinished:
        side_by_side(blocks).save(unfinished, format=FORMATS[out.suffix.lower()], quality=95)
    return out


def entry() -> None:
    """Run the command; only the arguments of a sweep (-m) are all read by Hydra's grammar."""
    if not {"-m", "--multirun"} & set(sys.argv):
        sys.argv[1:] = map(as_typed, sys.argv[1:])
    with command_errors():
        main()


if __name__ == "__main__":
    entry()
