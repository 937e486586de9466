"""Alignment methods, one LightningModule each."""
