"""Serves a reward over HTTP for `reward=remote`: `python -m rdt.serve reward=hps model=shapes port=8000`."""

from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rdt import targets, weights
from rdt.config import check
from rdt.config.compose import command_errors, conf_dir, job_errors
from rdt.config.plan import sources
from rdt.errors import UsageError
from rdt.rewards.endpoint import TOKEN, is_loopback, token


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="serve")
def main(cfg: DictConfig) -> None:
    """Answer requests until interrupted."""
    hydra_config = HydraConfig.get()
    with job_errors(hydra_config):
        check.values(cfg, hydra_config)
        secret = token_of(cfg.host)
        check.check_checkpoints(cfg, hydra_config.job.config_name)
        OmegaConf.resolve(cfg.reward)  # the rest of the model's config is not needed
        for key, source in sources(cfg):
            if key.startswith("reward."):
                weights.check_source(source)
        listening = server(cfg, secret)
        print(f"reward={cfg.reward.name} answers at {listening.url} until Ctrl-C", flush=True)
        listening.run()


def token_of(host: str) -> str | None:
    """Return the token that requests must have; UsageError if other machines reach the host and there is none."""
    secret = token()
    if secret is None and not is_loopback(host):
        raise UsageError(
            f"host={host} accepts connections from other machines, which wants a token: set {TOKEN} in the environment,"
            " here and where reward=remote runs, or leave host=127.0.0.1 and forward the port by ssh"
        )
    return secret


def server(cfg: DictConfig, secret: str | None = None) -> Any:
    """Return the listening server; UsageError if the address cannot be used."""
    import torch

    from rdt.rewards.server import Server
    from rdt.rewards.wire import Limits
    from rdt.training.experiment import built

    with targets.permitted(targets.named_in(cfg.reward)):
        reward = built(cfg.reward, "name").requires_grad_(False)
    reward.key = f"reward={cfg.reward.name}"
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return Server(reward, device, (cfg.host, cfg.port), secret, Limits(**cfg.limits))
    except OSError as error:
        raise UsageError(f"cannot listen on host={cfg.host} port={cfg.port}: {error.strerror or error}") from None


def entry() -> None:
    """Run the command."""
    with command_errors():
        main()


if __name__ == "__main__":
    entry()
