"""HPSv3 (Ma et al. 2508.03789) for server.py, in the environment that its authors' package wants: pip install hpsv3.

A score is the mean of the preference that the model predicts; it fetches MizzenAI/HPSv3, 7 B parameters, at the start.
"""

from os.path import join
from tempfile import TemporaryDirectory

import torch
from hpsv3 import HPSv3RewardInferencer

inferencer = HPSv3RewardInferencer(device="cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def score(images, prompts, metadata):
    """Return the scores of images, about 0 to 15."""
    with TemporaryDirectory() as folder:
        paths = [join(folder, f"{k}.png") for k in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            image.save(path)
        return [found[0].item() for found in inferencer.reward(prompts=prompts, image_paths=paths)]
