"""Count what the experiments of this folder cost: `python experiments/real/count.py [write]` prints or writes cost.md.

`write` also writes rdt/config/counted.json, from which `dry_run=true` reckons hours and memory. Hours in cost.md are
the operations of the network and the decoder in sampling, updates and the last evaluation, at 40 % of an H100's
989 TFLOP/s in bf16. GiB are their weights, the activations that an update keeps, and SQDF's buffer.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from networks import PROMPT, Cost, decoder, network
from omegaconf import DictConfig, OmegaConf

from rdt.config.compose import composed, conf_dir
from rdt.config.hardware import COUNTED, update_of
from rdt.config.plan import evaluated_images, evaluation_passes, passes_in_all
from rdt.config.work import Update
from rdt.training.silence import silence_libraries

RESULT = Path(__file__).with_name("cost.md")
NAMES = sorted(file.stem for file in Path(conf_dir(), "experiment/real").glob("[!_]*.yaml"))
SIDES = {"sd15": (512,), "sdxl": (1024,), "sd3": (512, 1024), "flux": (1024,)}  # pixels
SPEED = 0.4 * 989e12  # operations per second


def config(name: str) -> DictConfig:
    """Return the resolved config of an experiment."""
    cfg = composed("config", f"experiment=real/{name}", "logger=none", "output_dir=none")
    OmegaConf.resolve(cfg)
    return cfg


def costs(cfg: DictConfig) -> tuple[Cost, Cost]:
    """Return the costs of a run's network and of its decoder."""
    setup = cfg.model.policy.setup
    return network(cfg.model.name, setup.resolution, cfg.model.lora.rank), decoder(setup.resolution, setup.slicing)


def experiment(name: str, cfg: DictConfig) -> list[str]:
    """Return the row of an experiment: passes, GiB and hours."""
    update, n, evaluated, images = update_of(cfg), cfg.iterations, evaluation_passes(cfg), evaluated_images(cfg)
    sampled = passes_in_all(cfg).trained
    passes = [sampled, sampled + n * (update.forward + update.back), evaluated]
    row, image = costs(cfg)
    operations = (sampled + evaluated + n * update.forward) * row.forward + n * update.back * row.back
    operations += (images + n * update.decoded) * image.forward + n * update.climbed * image.back
    hours = f"{operations / SPEED / 3600:.2g}"
    return [f"`{name}`", *(f"{count:,.0f}" for count in passes), f"{held(cfg, update) / 2**30:.0f}", hours]


def held(cfg: DictConfig, update: Update) -> float:
    """Return the bytes in memory when the backward pass of a micro-batch begins."""
    row, image = costs(cfg)
    share = (cfg.micro_batch_size or cfg.batch_size) / cfg.batch_size
    buffer = cfg.method.get("capacity", 0) * (cfg.model.sampling.num_steps + 1) * 4 * row.latent
    kept = update.held * row.kept + update.climbed * image.kept
    return row.weights + image.weights + buffer + share * kept


def component(name: str, found: Cost) -> list[str]:
    """Return the row of a network or decoder."""
    operations = (f"{count / 1e12:.3g}" for count in (found.forward, found.back))
    return [name, *operations, f"{found.kept / 2**20:,.0f}", f"{found.weights / 2**30:.2f}"]


def components(configs: Iterable[DictConfig]) -> list[list[str]]:
    """Return the rows of every model at its resolution and then those of the decoder."""
    models = {f"`{c.model.name}`, {c.model.policy.setup.resolution} px": costs(c)[0] for c in configs}
    decoders = {f"decoder, {side} px": decoder(side, slicing=True) for side in (512, 1024)}
    whole = {"decoder, 512 px, `slicing=false`": decoder(512, slicing=False)}
    return [component(*one) for one in (models | decoders | whole).items()]


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def counted() -> dict[str, Any]:
    """Return what a dry run reads: the costs of every model and of the decoder, by the image's side in pixels."""
    models = {model: counted_model(model, sides) for model, sides in SIDES.items()}
    ways = {"sliced": True, "whole": False}
    decoders = {str(side): {name: figures(decoder(side, way)) for name, way in ways.items()} for side in (512, 1024)}
    return {"models": models, "autoencoder": decoder(512, True).weights // 2, "decoders": decoders}


def counted_model(model: str, sides: Iterable[int]) -> dict[str, Any]:
    """Return the weights and the costs of a model with an adapter of the rank that its yaml states."""
    rank, (tokens, width, pooled) = composed("config", f"model={model}").model.lora.rank, PROMPT[model]
    rows = {str(side): network(model, side, rank) for side in sides}
    first = next(iter(rows.values()))
    return {
        "parameters": first.weights // 2,
        "adapter": first.adapter // rank,  # trained weights per rank
        "condition": tokens * width + pooled,  # numbers
        "sides": {side: figures(row) for side, row in rows.items()},
    }


def figures(found: Cost) -> dict[str, float]:
    """Return TFLOP forward and back and MiB kept, to three digits."""
    values = {"forward": found.forward / 1e12, "back": found.back / 1e12, "kept": found.kept / 2**20}
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def text() -> str:
    """Return both tables."""
    configs = {name: config(name) for name in NAMES}
    passes = [f"passes to {purpose}" for purpose in ("sample", "train", "evaluate")]
    sections = [
        "# What the experiments cost, by count",
        "One sample's row through the network, or one image through the decoder. The backward pass needs the MiB kept\n"
        "and computes the blocks again:",
        table(["", "TFLOP forward", "TFLOP back", "MiB kept", "GiB of weights"], components(configs.values())),
        "Each experiment (`experiment=real/...`):",
        table(["", *passes, "GiB at least", "hours"], (experiment(*one) for one in configs.items())),
    ]
    return "\n\n".join(sections)


if __name__ == "__main__":
    silence_libraries()
    print(tables := text())
    if sys.argv[1:] == ["write"]:
        RESULT.write_text(f"{tables}\n", encoding="utf-8")
        COUNTED.write_text(json.dumps(counted(), indent=1) + "\n", encoding="utf-8")
