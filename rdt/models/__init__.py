"""Text-to-image models, one module each; the only importers of diffusers pipelines."""
