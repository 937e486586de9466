"""The path of a training: the adapters of a run's checkpoints, each evaluated as the finished one is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from rdt.errors import UsageError
from rdt.training import digests, folder

if TYPE_CHECKING:
    from rdt.training.experiment import Experiment, Guided

    Curve = dict[str, Guided]


def chosen_checkpoints(out: Path, which: Any, last: int) -> list[Path]:
    """Return the checkpoints of a run that `checkpoints` names: all before iteration `last`, or a list of iterations.

    UsageError, with those that are there, if one of them is missing or damaged.
    """
    there = {int(path.name): path for path in folder.checkpoints(out)}
    known = ", ".join(map(str, there)) or "none"
    if which == "all":
        found = [path for iteration, path in there.items() if iteration != last]
        if not found:
            raise UsageError(
                f"checkpoints=all: run={out} has no checkpoint before its last iteration, {last} (it has {known});"
                " train with trainer.keep=null trainer.checkpoint_every=<iterations>"
            )
    else:
        listed = list(which) if OmegaConf.is_list(which) else [which]
        if missing := [one for one in listed if isinstance(one, bool) or one not in there] or ([which] * (not listed)):
            raise UsageError(f"checkpoints={which}: run={out} has no checkpoint {missing[0]}; all, or of {known}")
        found = [there[one] for one in listed]
    for path in found:
        try:
            digests.check_intact(path)
        except ValueError as error:
            raise UsageError(f"checkpoints={which}: {error}") from None
    return found


def curves(experiment: "Experiment", curve: "Curve", chosen: Sequence[Path]) -> Iterator["Curve"]:
    """Yield the curve of each checkpoint after loading its adapter; the guidance of its points names the iteration."""
    from rdt.result import label
    from rdt.training.checkpoint_reader import CheckpointReader
    from rdt.training.experiment import Guided

    method = experiment.method
    trained = {name: weight.shape for name, weight in method.named_parameters() if weight.requires_grad}
    for path in chosen:
        found = CheckpointReader(trained).load_checkpoint(path / digests.STATE)
        method.load_state_dict(found["state_dict"], strict=False)
        points = [Guided(one.described | {"iteration": int(path.name)}, one.denoiser) for one in curve.values()]
        yield {label(one.described): one for one in points}
