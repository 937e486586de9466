"""Gives Lightning the ranks of rdt's launcher, so that it does not search the environment for another launcher's."""

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities import rank_zero
from lightning.pytorch.utilities import rank_zero_only

from rdt import ranks


class LaunchedEnvironment(LightningEnvironment):
    """Describes the processes that rdt has started; Lightning starts none."""

    def __init__(self) -> None:
        super().__init__()
        rank_zero_only.rank = rank_zero.rank_zero_only.rank = ranks.here().rank  # both were guessed on import

    @property
    def creates_processes_externally(self) -> bool:
        """Return True, since rdt starts the processes."""
        return True

    def local_rank(self) -> int:
        return ranks.here().local

    def node_rank(self) -> int:
        return ranks.here().node

    def teardown(self) -> None:
        """Do nothing: this environment has set no variable."""
