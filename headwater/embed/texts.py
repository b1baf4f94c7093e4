"""Features of texts outside the manifest: prompts and queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.embed import Content, Encoder, fill, keys_of, load_again, unique_texts
from headwater.errors import StoreError, StoreNotFound, nearest
from headwater.store import Features, FeatureSpec, Store

DEFAULT_LOGIT_SCALE = 100.0
STORED = 1  # as status says


def encoder_of(
    store: Store, name: str, *, weights: str | Path | None, device: str, trust_remote_code: bool
) -> Encoder[Any]:
    """Load the encoder that made the features ``name``, and check that its spec is the same.

    Raises
    ------
    StoreError
        When the loaded encoder has another spec; the message names the fields that differ.
    """
    features = store.features(name)
    spec = features.spec
    environments = list(features.environments().values())
    last = environments[-1] if environments else {}
    adapter = last.get("adapter_file") if spec.adapter is not None else None
    if not isinstance(adapter, str | None):
        raise StoreError(f"{store.location}: {name}: the recorded adapter is not a path ({adapter!r}).")
    encoder = load_again(
        spec,
        weights=weights or last.get("weights_file"),
        adapter=adapter,
        device=device,
        trust_remote_code=trust_remote_code,
        named_by=f"the store {store.location}",
    )
    own = encoder.spec(spec.modality, spec.dtype).with_tokens_as(spec.tokens_dtype).with_tiles(spec.tiles)
    spec.require_same(own, f"{store.location}: {name}")
    return encoder


def features_of_texts(
    store: Store, name: str, texts: Sequence[str], *, weights: str | Path | None, device: str, trust_remote_code: bool
) -> tuple[NDArray[np.float64], float]:
    """Return the features of texts, of shape ``(n, dim)``, and the encoder's logit scale.

    Texts that are missing in the features ``name`` are embedded and stored there.

    Raises
    ------
    StoreError
        When a text could not be embedded, or the encoder does not encode texts.
    """
    contents, place = unique_texts(texts)
    features, rows = embed_texts(
        store, name, contents, weights=weights, device=device, trust_remote_code=trust_remote_code
    )
    scale = features.spec.logit_scale
    return features.pooled[rows[place]].astype(np.float64), DEFAULT_LOGIT_SCALE if scale is None else scale


def embed_texts(
    store: Store,
    name: str,
    contents: Sequence[Content],
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> tuple[Features, NDArray[np.int64]]:
    """Embed and store the texts that the features ``name`` lack; return the features, and the row of each text.

    Raises
    ------
    StoreError
        When a text could not be embedded, or the encoder does not encode texts.
    """
    features = store.features(name) if name in store.feature_names() else None
    rows = np.full(len(contents), -1) if features is None else _rows_of(features, contents)
    if features is None or (rows < 0).any():
        encoder = _text_encoder(store, name, weights=weights, device=device, trust_remote_code=trust_remote_code)
        spec: FeatureSpec = encoder.spec("text", "float16" if features is None else features.spec.dtype)
        spec = spec if features is None else spec.with_tokens_as(features.spec.tokens_dtype)
        # The block size also suits the samples' own texts, in case they are embedded later.
        features = store.require_features(name, spec, max(len(contents), len(store.samples)))
        fill(features, encoder, contents)
        features = features.refresh()
        rows = _rows_of(features, contents)
    failed = [contents[int(i)].source for i in np.flatnonzero(rows < 0)]
    if failed:
        raise StoreError(f"{name}: {len(failed)} texts could not be embedded, for example {failed[0]!r}.")
    return features, rows


def features_of_query(
    store: Store, name: str, text: str, *, weights: str | Path | None, device: str, trust_remote_code: bool
) -> NDArray[np.floating[Any]]:
    """Return the features of one text, of shape ``(dim,)``, without storing them."""
    contents, _ = unique_texts([text])
    if name in store.feature_names():
        features = store.features(name)
        (row,) = _rows_of(features, contents)
        if row >= 0:
            stored: NDArray[np.floating[Any]] = features.pooled[int(row)]
            return stored
    encoder = _text_encoder(store, name, weights=weights, device=device, trust_remote_code=trust_remote_code)
    embedded: NDArray[np.floating[Any]] = encoder.encode("text", [encoder.prepare("text", contents[0])]).pooled[0]
    return embedded


def require_dual(store: Store, image: str, text: str) -> None:
    """Raise `StoreError` unless the same encoder made both feature sets.

    Imported features count as made by the same encoder if they share a name, since their files do not say so.
    """
    one, other = store.features(image).spec, store.features(text).spec
    same: tuple[str, ...] = ("encoder", "weights", "adapter", "layer", "pooling", "dim")
    imported = all(spec.encoder.startswith("imported:") for spec in (one, other))
    if imported and image.split("/")[0] == text.split("/")[0]:
        same = ("dim",)
    if set(same) & set(one.differences(other)):
        raise StoreError(
            f"{store.location}: {image} was made by {one.encoder}, but {text} by {other.encoder}. Texts and images can "
            "only be compared if one dual encoder made both."
        )


def _rows_of(features: Features, contents: Sequence[Content]) -> NDArray[np.int64]:
    """Return the row of each item; -1 if it is not stored."""
    rows = features.rows_of(keys_of(contents))
    rows[rows >= 0] = np.where(features.status[rows[rows >= 0]] == STORED, rows[rows >= 0], -1)
    return rows


def _text_encoder(
    store: Store, name: str, *, weights: str | Path | None, device: str, trust_remote_code: bool
) -> Encoder[Any]:
    """Load the dual encoder that made ``NAME/text`` or, if there is none, ``NAME/image``."""
    base = name.removesuffix("/text")
    made = [n for n in (name, f"{base}/image") if n in store.feature_names()]
    if not made:
        names = sorted({n.split("/")[0] for n in store.feature_names()})
        raise StoreNotFound(
            f"{store.location}: there are no features {base!r}.{nearest(base, names)} There are: {', '.join(names)}."
        )
    encoder = encoder_of(store, made[0], weights=weights, device=device, trust_remote_code=trust_remote_code)
    if "text" not in encoder.modalities:
        raise StoreError(
            f"{encoder.name}, which made {made[0]}, does not encode texts. Texts and images can only be compared with "
            "features of a dual encoder."
        )
    return encoder
