"""Evaluates the embedded model with the metrics of real models, by tiny CLIP and DINOv2 checkpoints."""

import json
import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rdt import evaluate
from rdt.config.plan import plan, sources
from rdt.diversity import Diversity, vendi
from rdt.embedders.vision import clip, dinov2
from rdt.evaluation import Evaluator, PairedSampler, Protocol
from rdt.fidelity import Overall, cmmd, coverage, fid
from rdt.rollout import Sampling
from rdt.training import finished
from rdt.training.experiment import Experiment
from rdt.training.launch import work
from worlds import children, feature_checkpoints, tiny_policy
from worlds.smallest_run import minimal

T, IMAGES = 3, 4
SAMPLING = Sampling(T, 1.0, 1.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return {
        "clip": str(feature_checkpoints.clip_folder(root / "clip")),
        "dino": str(feature_checkpoints.dinov2_folder(root / "dino")),
    }


def given(folders):
    """Return overrides for diversity=real on these checkpoints, small enough for eight images."""
    return (
        "diversity=real",
        f"diversity.embedders.clip.checkpoint={folders['clip']}",
        f"diversity.embedders.clip_336.checkpoint={folders['clip']}",
        f"diversity.embedders.dino.checkpoint={folders['dino']}",
        "evaluation.images_per_prompt=4",
        "diversity.overall.clip.diversity.clip_tce.k=3",
    )


def evaluator(folders, batch_size=8):
    """Return an evaluator of two prompts with four images each, under measures of every kind."""
    embedder = clip(checkpoint=folders["clip"])
    protocol = Protocol(tiny_policy.PROMPTS[:2], IMAGES, 0, batch_size, seed=0, grid=(1, 2))
    overall = Overall(
        embedder=dinov2(checkpoint=folders["dino"]), diversity={}, fidelity={"fid": fid, "coverage": coverage_of_three}
    )
    return Evaluator(
        protocol,
        {"bright": tiny_policy.Brightness()},
        [Diversity(embedder=embedder, statistics={"vendi": vendi})],
        [],
        [overall, Overall(embedder=embedder, diversity={}, fidelity={"cmmd": cmmd})],
    )


def coverage_of_three(images, base):
    return coverage(images, base, k=3)


def run(policy, folders, names=("base", "tuned"), **how):
    views = {name: getattr(policy, name) for name in names}
    base = views.get("base", policy.base)  # every access gives a new bound method
    return evaluator(folders, **how).run(policy, views, base, SAMPLING, rank=0, world=1)


def test_points_are_compared_with_the_bases_images(folders):
    """The images are sampled a second time, outside the evaluator."""
    policy = tiny_policy.policy()
    done = run(policy, folders)
    assert done["base"].totals == {}
    assert set(done["tuned"].totals) == {"fidelity/fid", "fidelity/coverage", "fidelity/cmmd"}
    embedder, features = dinov2(checkpoint=folders["dino"]), {}
    for name in ("base", "tuned"):
        sampler = PairedSampler(evaluator(folders).protocol, policy, policy.base, SAMPLING)
        latents = sampler.samples(getattr(policy, name), range(2))[0].flatten(0, 1)
        features[name] = embedder(policy.decode(latents))
    assert done["tuned"].totals["fidelity/fid"] == pytest.approx(
        float(fid(features["tuned"], features["base"])), rel=1e-3
    )
    assert done["tuned"].summary().keys() >= {"reward/bright", "diversity/vendi", "fidelity/fid"}


def test_totals_depend_on_neither_batch_size_nor_other_denoisers(folders):
    policy = tiny_policy.policy()
    together = run(policy, folders)["tuned"].totals
    assert run(policy, folders, names=("tuned",))["tuned"].totals == together  # the base is sampled anyway
    for name, value in run(policy, folders, batch_size=3)["tuned"].totals.items():
        assert value == pytest.approx(together[name], rel=1e-3, abs=1e-6), name


def test_a_policy_that_equals_the_base_has_distance_zero(folders):
    policy = tiny_policy.policy(trained=False)
    totals = run(policy, folders)["tuned"].totals
    assert totals["fidelity/coverage"] == 1
    assert totals["fidelity/fid"] == pytest.approx(0, abs=1e-6)
    assert totals["fidelity/cmmd"] == pytest.approx(0, abs=1e-6)


def test_a_real_config_names_each_checkpoint_once_and_plans(folders, tmp_path):
    cfg = minimal(tmp_path / "out", *given(folders))
    named = dict(sources(cfg))
    assert named["diversity.embedders.dino.checkpoint"] == folders["dino"]
    assert sum(value == folders["dino"] for value in named.values()) == 1
    assert "diversity.embedders.clip.checkpoint" in plan(cfg)


@pytest.mark.parametrize("choice", ["clip", "dino", "inception", "lpips", "dreamsim", "real"])
def test_measures_of_a_choice_have_different_names(choice, tmp_path):
    """Two measures of one name would overwrite each other in result.json."""
    kind = minimal(tmp_path / "out", f"diversity={choice}").diversity
    alone = [name for measure in kind.measures.values() for name in measure.statistics]
    with_base = [
        name for measure in kind.overall.values() for part in ("diversity", "fidelity") for name in measure[part]
    ]
    assert len({*alone, *with_base}) == len([*alone, *with_base]) > 0
    assert "embedder" in kind  # DRIFT's embedding
    for group in (*kind.measures.values(), *kind.overall.values()):
        for part in ("statistics", "diversity", "fidelity"):
            for statistic in OmegaConf.to_container(group).get(part, {}).values():
                assert callable(instantiate(statistic))


def test_too_few_images_are_refused_before_training(folders, tmp_path):
    cfg = minimal(tmp_path / "out", *given(folders), "diversity.overall.clip.diversity.clip_tce.k=20")
    with pytest.raises(ValueError, match="k=20 eigenvalues of the covariance of n=8"):
        _ = Experiment(cfg).evaluator


@pytest.mark.slow
def test_a_run_records_the_metrics_and_evaluate_gives_the_same(folders, tmp_path):
    out = tmp_path / "out"
    cfg = minimal(
        out, *given(folders), "method=drift", "batch_size=8", "logger=csv"
    )  # DRIFT trains on these features too
    work(cfg)
    result = json.loads((out / "result.json").read_text())
    point, base = result["points"][0], result["base"]
    assert {"dino_vendi", "dino_pairwise", "clip_vendi", "clip_pairwise", "clip_tce"} == set(point["diversity"])
    assert {"dino_fid", "dino_kid", "dino_precision", "dino_recall", "dino_density", "dino_coverage", "cmmd"} == set(
        point["fidelity"]
    )
    assert base["fidelity"] == {} and set(base["diversity"]) == set(point["diversity"])
    assert all(math.isfinite(value["mean"]) for value in point["fidelity"].values())
    run = finished.read_finished(out, None)
    evaluate.extend(run)
    again = json.loads((out / "result.json").read_text())["points"][0]["fidelity"]
    for name, value in point["fidelity"].items():
        assert again[name]["mean"] == pytest.approx(value["mean"], rel=1e-3, abs=1e-6), name


def test_features_of_all_ranks_are_gathered_in_prompt_order():
    from rdt.evaluation import Measured

    rows = torch.arange(24.0).view(4, 3, 2)
    gathered = Measured(1)
    for index in (2, 0, 3, 1):
        gathered.add(index, {}, [rows[index]])
    (features,) = gathered.all_features(rows.device)
    assert features.equal(rows.flatten(0, 1))


def on_rank(rank, folders, store, queue):
    """Evaluate on one of two ranks that share the prompts."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    policy = tiny_policy.policy()
    views = {"base": policy.base, "tuned": policy.tuned}
    done = evaluator(folders).run(policy, views, views["base"], SAMPLING, rank, 2)
    queue.put((rank, done["tuned"].totals))
    torch.distributed.destroy_process_group()


def test_totals_do_not_depend_on_the_number_of_ranks(folders, tmp_path):
    fork = torch.multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    processes = [fork.Process(target=on_rank, args=(rank, folders, tmp_path / "store", queue)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(children.PATIENCE)
    totals = dict(queue.get() for process in processes if process.exitcode == 0)
    alone = run(tiny_policy.policy(), folders)["tuned"].totals
    for rank in range(2):
        for name, value in totals[rank].items():
            assert value == pytest.approx(alone[name], rel=1e-3, abs=1e-6), (rank, name)
