"""Text-to-image models, one module per family; the only modules that import diffusers' pipelines."""
