"""Test an encoder on a few synthetic items before it is used.

Two items must get different vectors. One item must get the same vector twice, and the same vector alone and in a batch.
The longest text that the encoder reads must be encoded. No number may be NaN. The user's cache records encoders that
have passed, by weights, settings, library versions and device, so that each is tested once.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from importlib.metadata import version
from itertools import combinations, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._reading import read_json
from headwater._schema import read_as
from headwater.embed.contents import Content, content_key
from headwater.embed.encoder import Encoded, Encoder, Probed
from headwater.embed.run import at_once
from headwater.errors import EncoderError, HeadwaterError, ImageError
from headwater.store import Modality, pair_key
from headwater.store.cache import cache_folder

FOLDER = "probed"
"""Folder of the test results in the cache."""
LARGEST_VERDICT = 4096
"""Most bytes of a test result."""
SIDE = 64
"""Width and height of a synthetic image, in pixels."""
TEXTS = ("a", "a text of more words", "the left breast, with no mass")
WORDS = ("tissue", "of", "the", "breast", "with", "no", "mass")
"""Words that are repeated to make a long text."""
DIFFERENT = 1e-6
"""The relative distance between vectors of two items must exceed this."""
SAME = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
"""Largest relative distance due to rounding, by precision."""
SAME_ON_GPU = 1e-2
"""Least tolerance on a GPU, where kernels depend on the shape of the batch and may compute in TF32."""


def require_sound(
    encoder: Encoder[Any], batch_size: int = 1, *, anew: bool = False, keep: bool = True
) -> Probed | None:
    """Test an encoder on synthetic items, unless the cache says that it has passed.

    Parameters
    ----------
    batch_size
        Number of items that a run encodes together.
    anew
        Test it regardless of the cache.
    keep
        Record in the cache that it has passed.

    Returns
    -------
    Probed or None
        None for an encoder without weights, which needs no test.

    Raises
    ------
    EncoderError
        When its vectors cannot be used; the message says what was found, and what to do.
    """
    if not encoder.probes:
        return None
    key = _key(encoder)
    file = Path(cache_folder(), FOLDER, f"{key}.json")
    kept = None if anew else _kept(file, key)
    if kept is not None and kept.batch_size >= batch_size:
        return kept
    with tempfile.TemporaryDirectory(prefix="headwater-probe-") as folder:
        for modality in sorted(encoder.modalities):
            _Trial(encoder, modality, batch_size).run(_made(modality, Path(folder)))
    found = Probed(key, batch_size)
    if keep:
        _keep(file, found)
    return found


class _Trial:
    """Encodes synthetic items of one modality, and compares their vectors."""

    def __init__(self, encoder: Encoder[Any], modality: Modality, batch_size: int) -> None:
        self.encoder, self.modality = encoder, modality
        self.n_together = at_once(encoder, modality, batch_size)
        self.dim = encoder.spec(modality, "float32").dim
        environment = _flat(encoder.environment())
        self.precision = str(environment.get("precision", "fp32"))
        self.same = SAME.get(self.precision, SAME["fp32"])
        if str(environment.get("device", "cpu")).startswith("cuda"):
            self.same = max(self.same, SAME_ON_GPU)

    def run(self, contents: Sequence[Content]) -> None:
        """Raise `EncoderError` for the first check that fails."""
        ready = [one for one in map(self._ready, contents) if one is not None]
        if not ready:
            return
        alone = [self._vectors([one])[0] for one in ready]
        self._require_different(alone)
        self._require_same_twice(alone[0], self._vectors(ready[:1])[0])
        order = list(islice(cycle(range(len(ready))), max(self.n_together, len(ready))))
        together = self._vectors([ready[i] for i in order])
        self._require_same_in_company([alone[i] for i in order], together)
        if self.modality == "text" and self.encoder.longest is not None:
            self._require_long(self.encoder.longest, ready[0], alone[0])

    def _ready(self, content: Content) -> Any:
        """Return a prepared item; None if a long prompt leaves too little room for it."""
        try:
            ready = self.encoder.prepare(self.modality, content)
        except ImageError:
            return None
        return None if self.encoder.cut(self.modality, content, ready) else ready

    def _vectors(self, batch: Sequence[Any], what: str = "") -> NDArray[np.float64]:
        """Return the vectors of prepared items, of shape ``(n, dim)``, after checking their shape and values."""
        with self._named(what or f"{len(batch)} synthetic {self.modality}{'s' if len(batch) > 1 else ''}"):
            encoded = self.encoder.encode(self.modality, batch)
        pooled = np.asarray(encoded.pooled, np.float64)
        if pooled.shape != (len(batch), self.dim):
            raise self._refusal(
                f"returns vectors of shape {pooled.shape} for {len(batch)} items, not ({len(batch)}, {self.dim}). "
                "Choose another model, or another --layer or --pooling."
            )
        if not np.isfinite(pooled).all() or not _finite(encoded):
            advice = "Pass --precision fp32." if self.precision != "fp32" else "Check whether its weights are damaged."
            raise self._refusal(
                f"returns NaN or infinity for a synthetic {self.modality} in {self.precision}. {advice}"
            )
        return pooled

    def _require_different(self, alone: Sequence[NDArray[np.float64]]) -> None:
        for one, other in combinations(alone, 2):
            if _distance(one, other) <= DIFFERENT:
                raise self._refusal(
                    f"returns the same vector for two different {self.modality}s, so its features hold no information. "
                    "Try another --pooling or --layer, or check that the weights are complete."
                )

    def _require_same_twice(self, one: NDArray[np.float64], again: NDArray[np.float64]) -> None:
        if _distance(one, again) > self.same:
            raise self._refusal(
                f"returns a different vector for one {self.modality} each time (cosine {_cosine(one, again):.3f}): "
                "something in it is random, such as masked patches or dropout. Use an encoder that is deterministic in "
                "evaluation mode."
            )

    def _require_same_in_company(self, alone: Iterable[NDArray[np.float64]], together: NDArray[np.float64]) -> None:
        for one, other in zip(alone, together, strict=True):
            if _distance(one, other) > self.same:
                raise self._refusal(
                    f"returns different vectors for one {self.modality} alone and in a batch of {len(together)} "
                    f"(cosine {_cosine(one, other):.3f}). Check that the model is in evaluation mode, and that padding "
                    "is masked."
                )

    def _require_long(self, longest: int, short: Any, alone: NDArray[np.float64]) -> None:
        words = " ".join(islice(cycle(WORDS), longest + 8))
        long = self.encoder.prepare("text", Content(content_key(words.encode()), words))
        what = f"a text of {longest} tokens"
        one = self._vectors([long], what)[0]
        self._require_same_in_company([one, alone], self._vectors([long, short], what))

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except HeadwaterError:
            raise
        except Exception as error:  # models raise many kinds
            line = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".:")
            raise self._refusal(
                f"cannot encode {what} ({type(error).__name__}: {line}). Choose another model, or a smaller "
                "--batch-size if memory is short."
            ) from error

    def _refusal(self, what: str) -> EncoderError:
        return EncoderError(f"{self.encoder.name}: {what}")


def _finite(encoded: Encoded) -> bool:
    return encoded.tokens is None or all(bool(np.isfinite(matrix).all()) for matrix in encoded.tokens)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the distance between two vectors, relative to the length of the longer one."""
    return _length(one - other) / max(_length(one), _length(other), 1e-30)


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(one @ other) / max(_length(one) * _length(other), 1e-30)


def _length(vector: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(vector))


def _made(modality: Modality, folder: Path) -> list[Content]:
    """Make distinct items: images differ in colour, contrast and structure, texts in words and length."""
    texts = [Content(content_key(text.encode()), text) for text in TEXTS]
    if modality == "text":
        return texts
    images = []
    for number, pixels in enumerate(_made_pixels()):
        file = folder / f"{number}.png"
        Image.fromarray(pixels).save(file)
        images.append(Content(content_key(file.read_bytes()), file))
    if modality == "image":
        return images
    pairs = [(images[0], texts[0]), (images[0], texts[1]), (images[1], texts[0])]
    return [Content(pair_key(image.key, text.key), image.source, text.text()) for image, text in pairs]


def _made_pixels() -> list[NDArray[np.uint8]]:
    """Return images of shape ``(SIDE, SIDE, 3)``: patches of colour, a gradient, and dark stripes."""
    random = np.random.default_rng(0)
    patches = np.kron(random.integers(0, 256, (8, 8, 3)), np.ones((SIDE // 8, SIDE // 8, 1)))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    gradient = np.stack([255 * columns / (SIDE - 1), 200 * rows / (SIDE - 1), 120 - rows], 2)
    stripes = np.stack([90 * ((rows + columns) // 4 % 2), 20 + columns / 2, 60 * (rows // 8 % 2)], 2)
    return [image.astype(np.uint8) for image in (patches, gradient, stripes)]


def _key(encoder: Encoder[Any]) -> str:
    """Return a digest of everything that decides how an encoder computes on this machine."""
    known = {
        "headwater": version("headwater"),
        "features": {m: encoder.spec(m, "float32").to_dict() for m in sorted(encoder.modalities)},
        "environment": encoder.environment(),
        "architecture": encoder.architecture(),
    }
    return blake2b(json.dumps(known, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _flat(environment: Any) -> dict[str, Any]:
    """Return the environment of an encoder; of a joined encoder, that of its last part."""
    nested = [value for value in environment.values() if isinstance(value, dict)]
    return {key: value for part in (*nested, environment) for key, value in part.items()}


def _kept(file: Path, key: str) -> Probed | None:
    """Return the test result in a file; None unless it says that this very encoder has passed."""
    try:
        found = read_as(Probed, read_json(file, most=LARGEST_VERDICT, follow=False))
    except (OSError, ValueError):
        return None
    return found if found.key == key else None


def _keep(file: Path, found: Probed) -> None:
    """Write a test result; if the cache cannot be written, the encoder is tested again next time."""
    beside = file.with_name(f"{uuid.uuid4().hex}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(json.dumps(asdict(found)) + "\n")
            os.replace(beside, file)  # noqa: PTH105  (readers see a whole file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError:
        return
