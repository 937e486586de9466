"""result.json comes back as it was written, with an interval for every score over prompts and none for a total."""

import json
from dataclasses import replace

import numpy as np

from rdt import result
from rdt.result import Result, measured, slug


def points():
    """Return a base, and a point that scores exactly as the base does."""
    scores = {"reward/hps": np.array([0.1, 0.3]), "kl_nats": np.array([0.0, 0.0]), "brightness": np.array([0.5, 0.5])}
    base = measured(scores, {"fidelity/fid": 2.0}, result.BASE, ["a", "b"], 4)
    return base, measured(scores, {"fidelity/fid": 2.0}, {"name": "cfg"}, ["a", "b"], 4, base.per_prompt)


def test_a_result_is_read_as_it_was_written(tmp_path):
    base, point = points()
    written = Result("sqdf", "hps", "shapes", 0, 2, base, (point,), compute={"images": 8})
    result.write(written, tmp_path)
    assert result.read(tmp_path) == written


def test_a_difference_of_exactly_0_keeps_its_interval(tmp_path):
    base, point = points()
    result.write(Result("sqdf", "hps", "shapes", 0, 2, base, (point,)), tmp_path)
    entry = json.loads((tmp_path / "result.json").read_text())["points"][0]
    assert entry["reward"]["hps"]["diff"] == {"mean": 0, "ci95": [0, 0]}
    assert entry["fidelity"]["fid"] == {"mean": 2.0}


def test_pictures_have_different_names_and_keep_them_when_points_are_added():
    _, point = points()
    guidances = [{"name": "cfg"}, {"name": "a b"}, {"name": "a-b"}, {"name": "猫"}, {"name": "犬"}, {"name": "base"},
                 {"name": "x" * 90 + "1"}, {"name": "x" * 90 + "2"}, {"name": "tuned"}]  # fmt: skip
    curve = [replace(point, guidance=guidance) for guidance in guidances]
    names = result.sample_names(curve)
    assert len({"base", *names}) == 10 and names[:2] == ["tuned", "a-b"] and max(map(len, names)) <= 80
    assert all(result.sample_names(curve[:k]) == names[:k] for k in range(1, 10))


def test_file_names_keep_the_sign_of_a_number():
    assert slug("lora_scale scale=-1") != slug("lora_scale scale=1")
    assert slug("Adam 1e-05 / 2026-11") == "adam-1e-05-2026-11"
