"""Trains without logs, checkpoints or evaluations, so that a benchmark measures the iterations alone."""

import lightning as L

from rdt.training.experiment import Experiment


def fit(experiment: Experiment, *callbacks: L.Callback) -> None:
    """Run all iterations of an experiment on one device."""
    L.Trainer(
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, callbacks=list(callbacks),
    ).fit(experiment.method, experiment.data)  # fmt: skip
