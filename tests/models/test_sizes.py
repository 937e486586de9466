"""The published configs, at full size on the meta device, have every parameter and all targets of the adapter."""

import dataclasses
from typing import Any

import pytest
import torch

from rdt.policy import Adapter, Policy
from worlds import tiny_policy
from worlds.published_networks import PUBLISHED
from worlds.smallest_run import minimal


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_has_all_parameters_and_adapter_targets(name: str, tmp_path: Any) -> None:
    kind, config, parameters, layers = PUBLISHED[name]
    with torch.device("meta"):
        network = kind(**config)
        assert sum(weight.numel() for weight in network.parameters()) == parameters
        chosen = minimal(tmp_path, f"model={name}").model.lora
        parts = dataclasses.replace(tiny_policy.parts(consistency_rank=0), network=network)
        policy = Policy(parts, Adapter(chosen.rank, chosen.alpha, list(chosen.targets)))
    assert len(policy.lora()) == 2 * layers
    assert all(chosen.rank in weight.shape for weight in policy.lora().values())
