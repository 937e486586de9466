"""Counter-based randomness: a stream is named by its key, so nothing depends on batching, world size or history."""

import hashlib

import torch


def generator(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """The generator that this key names; the same key gives the same stream on any process."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
