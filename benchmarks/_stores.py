"""Stores of noise to measure, made a block at a time, and files put out of the page cache."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.store import BlockResult, FeatureSpec, Roles, Store, create_store, hex_from_keys

NAME = "f/image"


def random_keys(n: int) -> NDArray[np.uint8]:
    """Return content keys, of shape ``(n, 16)``."""
    return np.random.default_rng(0).integers(0, 256, (n, 16), np.uint8)


def noise(seed: int, *shape: int) -> NDArray[np.float16]:
    """Return finite float16 numbers, made faster than a disk takes them."""
    bits = np.random.default_rng(seed).integers(0, 0x7C00, shape, np.uint16)
    return bits.view(np.float16)


def spec_of(dim: int, n_tokens: int = 0, token_dim: int = 0) -> FeatureSpec:
    """Return the spec of pooled features, with tokens beside them where there are any."""
    if not n_tokens:
        return FeatureSpec(encoder=f"stub:{dim}", modality="image", dim=dim)
    return FeatureSpec(
        encoder=f"stub:{dim}", modality="image", dim=dim, tokens="all", n_tokens=n_tokens, token_dim=token_dim
    )


def make_store(path: Path, n: int, dim: int = 8, n_tokens: int = 0, token_dim: int = 0) -> Store:
    """Make a store of ``n`` samples with features of noise."""
    store, keys = create_store(path), random_keys(n)
    features = store.require_features(NAME, spec_of(dim, n_tokens, token_dim), n)
    with features.writing() as writer:
        for task in writer.plan(keys):
            tokens = noise(task.block, len(task.rows), n_tokens, token_dim) if n_tokens else None
            writer.commit(task, BlockResult(task.rows, noise(task.block, len(task.rows), dim), tokens))
    names = pl.Series("id", range(n)).cast(pl.String)
    samples = pl.DataFrame({"id": names, "image": names, "image_key": hex_from_keys(keys)}).with_columns(
        text_key=pl.lit(None, pl.String)
    )
    store.write_samples(samples, Roles(id="id", image="image", text=None, root="."))
    return store


def chunk_files(folder: Path) -> list[Path]:
    """Return the chunk files below a folder, sorted."""
    return sorted(path for path in folder.rglob("c.*") if path.is_file())


def forget(*folders: Path) -> None:
    """Put files out of the page cache."""
    for folder in folders:
        for path in [folder] if folder.is_file() else folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
