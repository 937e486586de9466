"""This package holds the alignment methods, one LightningModule per file."""
