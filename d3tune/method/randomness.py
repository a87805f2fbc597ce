"""Random streams: one seed, one named stream, one generator, so that no draw disturbs another."""

import hashlib

import torch


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the seed and the stream's names alone.

    Args:
        seed: the training's seed.
        names: what the stream is for, e.g. ``"evaluation", 300``.
        device: where the numbers are drawn.
    """
    text = "/".join(map(str, (seed, *names)))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
