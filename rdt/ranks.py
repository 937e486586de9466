"""Which process of a run this one is. Only the launcher of rdt sets it: variables of other launchers are ignored."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """Hold the place of a process among the processes of its run."""

    rank: int = 0  # among all processes
    local: int = 0  # among those of this machine
    node: int = 0  # of the machine among the run's machines
    world: int = 1  # number of processes


_here = Ranks()


def here() -> Ranks:
    """Return the place of this process; the only one of its run unless `take` was called."""
    return _here


def take(place: Ranks) -> None:
    """Set the place of this process."""
    global _here
    _here = place
