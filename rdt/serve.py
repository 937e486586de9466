"""`python -m rdt.serve reward=hps model=shapes port=8000`: a reward of ours behind HTTP, for `reward=remote`."""

from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rdt import weights
from rdt.config import check
from rdt.config.compose import alone, command, conf_dir
from rdt.config.plan import sources
from rdt.errors import UsageError


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="serve")
def main(cfg: DictConfig) -> None:
    """Answer until stopped."""
    with alone(HydraConfig.get()):
        check.given(cfg, HydraConfig.get())
        OmegaConf.resolve(cfg.reward)  # of the model only the checkpoints that the reward reads are wanted
        for key, source in sources(cfg):
            if key.startswith("reward."):
                weights.check(source)
        listening = server(cfg)
        host, port = listening.server_address[:2]
        print(f"reward={cfg.reward.name} answers at http://{host}:{port} until Ctrl-C", flush=True)
        listening.serve_forever()


def server(cfg: DictConfig) -> Any:
    """The server, listening; UsageError where the port is not to be had."""
    import torch
    from hydra.utils import instantiate

    from rdt.rewards.server import Server

    own = {key: value for key, value in cfg.reward.items() if key != "name"}
    reward = instantiate(own, _convert_="all").requires_grad_(False)
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return Server(reward, device, cfg.host, cfg.port)
    except OSError as error:
        raise UsageError(f"host={cfg.host} port={cfg.port} cannot be listened on: {error.strerror or error}") from None


def entry() -> None:
    """The command."""
    with command():
        main()


if __name__ == "__main__":
    entry()
