"""Encoders without optional dependencies: image texture, hashed n-grams, and vectors computed from the key alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._checks import whole_in
from headwater.embed.contents import Content
from headwater.embed.encoder import Encoded, Encoder
from headwater.errors import EncoderError, nearest
from headwater.store import FeatureSpec, Modality


def builtin_encoder(name: str) -> Encoder[Any]:
    """Build ``builtin:NAME``."""
    known: dict[str, type[Encoder[Any]]] = {"texture": TextureEncoder, "ngram": NgramEncoder}
    if name not in known:
        every = ("clip", *known)
        raise EncoderError(f"unknown encoder 'builtin:{name}'.{nearest(name, every)} There are: {', '.join(every)}.")
    return known[name]()


class TextureEncoder(Encoder[NDArray[np.float32]]):
    """Colour, local binary patterns and gradients at three scales; no weights, no torch.

    At 256, 128 and 64 pixels on the shorter side: mean, spread and five quantiles of each stain channel
    (haematoxylin, eosin, residual) and of hue-free lightness, and the covariances of channels; a histogram of uniform
    local binary patterns of haematoxylin and of lightness (radius 1 and 2); quantiles of gradient strength and the
    coherence of gradient direction. Meant for demonstrations and as a baseline for other encoders.

    References
    ----------
    Ojala, Pietikäinen and Mäenpää, Multiresolution gray-scale and rotation invariant texture classification with
    local binary patterns, 2002. Ruifrok and Johnston, Quantification of histochemical staining by color
    deconvolution, 2001.
    """

    name = "builtin:texture"
    modalities = frozenset[Modality]({"image"})
    threads_own_cores = True
    SIDES = (256, 128, 64)

    def __init__(self) -> None:
        self._dim = len(self._describe(np.zeros((64, 64, 3), np.uint8)))

    @property
    def resizes_to(self) -> tuple[int, int]:
        """Return the largest of the three sizes."""
        return self.SIDES[0], self.SIDES[0]

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return what defines these features."""
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            preprocessing=self.with_steps({"version": 1, "sides": list(self.SIDES)}),
            pooling="statistics",
            dim=self._dim,
            dtype=dtype,
        )

    def prepare(self, modality: Modality, content: Content) -> NDArray[np.float32]:
        """Read an image and compute its features; all the work is done here, so that it runs on several cores."""
        image = self.image_of(content)
        scale = self.SIDES[0] / min(image.size)
        longest = 4 * self.SIDES[0]  # limits very elongated images, which would otherwise become huge
        size = (min(longest, round(image.width * scale)), min(longest, round(image.height * scale)))
        return self._describe(np.asarray(image.resize(size)))

    def encode(self, modality: Modality, batch: Sequence[NDArray[np.float32]]) -> Encoded:
        """Stack the features of images."""
        return Encoded(np.stack(batch))

    def _describe(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        from skimage.color import rgb2hed
        from skimage.transform import downscale_local_mean

        image = pixels.astype(np.float32) / 255
        parts = []
        for _ in self.SIDES:
            channels = np.concatenate([rgb2hed(image).astype(np.float32), image.mean(2, keepdims=True)], axis=2)
            parts += [
                _colour(channels),
                _patterns(channels[:, :, 0]),
                _patterns(channels[:, :, 3]),
                _gradients(channels),
            ]
            image = downscale_local_mean(image, (2, 2, 1)) if min(image.shape[:2]) >= 16 else image
        return np.concatenate(parts).astype(np.float32)


def _colour(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = channels.reshape(-1, channels.shape[2])
    quantiles = np.quantile(flat, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0).ravel()
    centred = flat - flat.mean(0)
    together = (centred.T @ centred / len(flat))[np.triu_indices(flat.shape[1], 1)]
    return np.concatenate([flat.mean(0), flat.std(0), quantiles, together])


def _patterns(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    from skimage.feature import local_binary_pattern

    low, high = float(channel.min()), float(channel.max())
    grey = np.round(255 * (channel - low) / max(high - low, 1e-6)).astype(np.uint8)
    histograms = []
    for radius in (1, 2):
        codes = local_binary_pattern(grey, 8 * radius, radius, "uniform").astype(np.int64)
        histograms.append(np.bincount(codes.ravel(), minlength=8 * radius + 2) / codes.size)
    return np.concatenate(histograms)


def _gradients(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = []
    for channel in (channels[:, :, 0], channels[:, :, 3]):
        dy, dx = np.gradient(channel)
        strength = np.hypot(dx, dy)
        parts.append(np.quantile(strength, (0.1, 0.5, 0.75, 0.9, 0.99)))
        energy = max(float((dx * dx + dy * dy).sum()), 1e-12)
        parts.append(np.array([np.hypot((dx * dx - dy * dy).sum(), 2 * (dx * dy).sum()) / energy, strength.mean()]))
    return np.concatenate(parts)


class NgramEncoder(Encoder[NDArray[np.float32]]):
    """Words, pairs of words and character trigrams, hashed into signed counts; no weights, no torch.

    Each text's counts are transformed by ``log(1 + count)`` and scaled to length 1.

    References
    ----------
    Weinberger et al., Feature hashing for large scale multitask learning, 2009.
    """

    name = "builtin:ngram"
    modalities = frozenset[Modality]({"text"})
    threads_own_cores = True
    DIM = 512

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return what defines these features."""
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            preprocessing={"version": 1, "words": [1, 2], "characters": [3], "case": "lower"},
            pooling="hashed counts",
            dim=self.DIM,
            dtype=dtype,
        )

    def prepare(self, modality: Modality, content: Content) -> NDArray[np.float32]:
        """Count a text's n-grams."""
        words = re.findall(r"\w+", content.text().lower())
        grams = words + [f"{a} {b}" for a, b in pairwise(words)]
        grams += [f"#{padded[i : i + 3]}" for padded in (f" {w} " for w in words) for i in range(len(padded) - 2)]
        counts = np.zeros(self.DIM, np.float32)
        for gram in grams:
            hashed = int.from_bytes(blake2b(gram.encode(), digest_size=8).digest(), "little")
            counts[hashed % self.DIM] += 1 if hashed >> 63 else -1
        damped: NDArray[np.float32] = np.sign(counts) * np.log1p(np.abs(counts))
        return damped / max(float(np.linalg.norm(damped)), 1e-12)

    def encode(self, modality: Modality, batch: Sequence[NDArray[np.float32]]) -> Encoded:
        """Stack the counts of texts."""
        return Encoded(np.stack(batch))


class StubEncoder(Encoder[bytes]):
    """Pseudo-random vectors that depend only on the item's key, for tests, benchmarks and tutorials."""

    modalities = frozenset[Modality]({"image", "text"})

    def __init__(self, dim: str) -> None:
        length = whole_in(dim)
        if not length:
            raise EncoderError(f"stub:{dim}: write stub:DIM with the length of a vector, such as stub:64.")
        self.name, self._dim = f"stub:{dim}", length

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return what defines these features."""
        return FeatureSpec(encoder=self.name, modality=modality, pooling="key", dim=self._dim, dtype=dtype)

    def prepare(self, modality: Modality, content: Content) -> bytes:
        """Return the key; the content is not read."""
        return content.key

    def encode(self, modality: Modality, batch: Sequence[bytes]) -> Encoded:
        """Map each key to a pseudo-random number from -1 to 1 in each column."""
        words = np.frombuffer(b"".join(batch), "<u8").reshape(-1, 2)
        column = np.arange(1, self._dim + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (words[:, :1] + column) ^ (words[:, 1:] * np.uint64(0xBF58476D1CE4E5B9))
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(29)
        return Encoded(((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - 1).astype(np.float32))
