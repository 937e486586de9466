"""Count what the experiments of this folder cost: `python experiments/real/count.py [write]` prints or writes cost.md.

Hours are the operations of the network and the decoder in sampling, updates and the last evaluation, at 40 % of an
H100's 989 TFLOP/s in bf16. GiB are their weights, the activations that an update keeps, and SQDF's buffer.
"""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from networks import Cost, decoder, network
from omegaconf import DictConfig, OmegaConf

from rdt.config.compose import composed, conf_dir
from rdt.config.plan import plan
from rdt.training.silence import silence_libraries

RESULT = Path(__file__).with_name("cost.md")
NAMES = sorted(file.stem for file in Path(conf_dir(), "experiment/real").glob("[!_]*.yaml"))
SPEED = 0.4 * 989e12  # operations per second
PLANNED = re.compile(r"([\d,]+) (?:network passes|images)")


@dataclass(frozen=True)
class Update:
    """Counts the rows and images that an update computes; images include those of its share of a rollout."""

    forward: float  # rows forward, beyond those of the rollout
    back: float  # rows backward
    held: float  # rows whose activations are kept at one time, without micro-batches
    decoded: float  # images
    climbed: float  # images decoded with a gradient


def sqdf(cfg: DictConfig) -> Update:
    """Count tuned and base under guidance and a look-ahead; the gradient goes through tuned and look-ahead."""
    B = cfg.batch_size
    return Update(forward=5 * B, back=3 * B, held=3 * B, decoded=B + B / cfg.method.replay_ratio, climbed=B)


def aig(cfg: DictConfig) -> Update:
    """Count the base's last K steps for the KL, and a gradient through the rollout's two rows of each of them."""
    B, rows = cfg.batch_size, 2 * cfg.batch_size * cfg.method.K
    return Update(forward=rows, back=rows, held=rows, decoded=B, climbed=B)


def grpo(cfg: DictConfig) -> Update:
    """Count two rows per trained step of a kept sample, one with a gradient, and two of the base for a KL."""
    m, sampled = cfg.method, cfg.batch_size / cfg.method.updates_per_rollout
    kept = sampled * m.get("keep", m.group) / m.group
    rows = kept * (m.num_steps - (not m.last_step))
    return Update(forward=(4 if m.kl_coef else 2) * rows, back=rows, held=kept, decoded=sampled, climbed=0)


UPDATES: dict[str, Callable[[DictConfig], Update]] = {"sqdf": sqdf, "aig": aig, "grpo": grpo, "drift": grpo}


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
    sampled, images, evaluated = (int(count.replace(",", "")) for count in PLANNED.findall(plan(cfg)))
    update, n = UPDATES[cfg.method.name](cfg), cfg.iterations
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
