"""Which rewards judge a run beside the one that it trains on: those that are named, and a panel of what is at hand.

`evaluation.panel` holds rewards by name, as `judges=[published]` gives them. An entry becomes a judge unless the run
trains on it or a file of it has yet to be fetched.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from rdt import weights
from rdt.config.plan import FILE_KEYS, leaves

ASIDE = ("name", "scale", "offset", "weight", "mean", "std", "interpolation", "checkpointing", "rules")
# keys of a reward that do not say which published score it is
WEIGHTS = ("checkpoint", "backbone")  # keys of sources that hold weights, not a tokenizer


def settle_panel(cfg: DictConfig) -> list[str]:
    """Make judges of the panel of a resolved config, in place, and return a line for each entry that has no files."""
    panel = cfg.evaluation.get("panel") or {}
    missing = {name: fault for name, judge in panel.items() if (fault := _absent(judge))}
    trained = trained_on(cfg)
    with open_dict(cfg):
        judges = {name: judge for name, judge in panel.items() if name not in (*missing, *trained)}
        same = [name for name, judge in judges.items() if any(map(score_keys(judge).__eq__, trained.values()))]
        cfg.evaluation.pop("panel", None)
        cfg.evaluation.judges = {name: one for name, one in judges.items() if name not in same} | dict(
            cfg.evaluation.get("judges") or {}
        )
    return [f"judge {name} is left out: {fault}" for name, fault in missing.items() if name not in trained]


def trained_on(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """Return, by name, the score keys of the reward that a run trains on and of the parts of a mixture."""
    if not cfg.get("reward"):  # of an evaluation of some adapter
        return {}
    parts = cfg.reward.get("parts") or {}
    rewards = {cfg.reward.name: cfg.reward} | dict(parts)
    return {name: score_keys(reward) for name, reward in rewards.items() if isinstance(reward, DictConfig)}


def seen_judges(cfg: DictConfig) -> list[str]:
    """Return the names of the judges that are the reward that a run trains on, under whatever name."""
    trained = list(trained_on(cfg).values())
    judges = {name: judge for name, judge in cfg.evaluation.judges.items() if judge}
    return [name for name, judge in judges.items() if score_keys(judge) in trained]


def compared_judge(cfg: DictConfig) -> str | None:
    """Return the judge whose gain `constraint.gap` compares with the reward's; None if every judge is trained on."""
    seen = (*trained_on(cfg), *seen_judges(cfg))
    unseen = [name for name, judge in cfg.evaluation.judges.items() if judge and name not in seen]
    return cfg.constraint.judge or next(iter(unseen), None)


def score_keys(reward: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a reward that say which score it is."""
    plain = OmegaConf.to_container(reward) if isinstance(reward, DictConfig) else dict(reward)
    return {key: value for key, value in plain.items() if key not in ASIDE}


def judge_faults(cfg: DictConfig) -> Iterator[str]:
    """Yield judges that are not configured as a reward is, or that have the name of another reward that is trained on.

    The config must be resolved.
    """
    trained = trained_on(cfg)
    for name, judge in (cfg.evaluation.judges or {}).items():
        key = f"evaluation.judges.{name}"
        if judge is not None and not (isinstance(judge, DictConfig) and "_target_" in judge):
            given = judge if isinstance(judge, str) else "<reward>"
            yield f"{key}={judge} is no reward; +reward@{key}={given} adds one, and judges=[{given}] replaces all"
        elif judge is not None and name in trained and score_keys(judge) != trained[name]:
            yield (
                f"{key} is another reward than the {name} that is trained on; give the judge another name:"
                f" +reward@evaluation.judges.<name>=..."
            )


def _absent(judge: DictConfig) -> str | None:
    """Return which file of a reward has yet to be fetched and how; None if all are here or are local paths."""
    for key, source in leaves(judge):
        name = key.rpartition(".")[2]
        if name in FILE_KEYS and isinstance(source, str) and (fault := weights.to_fetch(source, name in WEIGHTS)):
            return fault
    return None
