"""Features of texts that are not in the manifest: prompts and queries."""

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
    """Load the encoder that made the features ``name``, and make sure that it is the same.

    Raises
    ------
    StoreError
        When what was loaded is not what made these features; the message names what differs.
    """
    features = store.features(name)
    spec = features.spec
    environments = list(features.environments().values())
    last = environments[-1] if environments else {}
    adapter = last.get("adapter_file") if spec.adapter is not None else None
    if not isinstance(adapter, str | None):
        raise StoreError(f"{store.location}: {name}: the adapter that was recorded is no path ({adapter!r}).")
    encoder = load_again(
        spec,
        weights=weights or last.get("weights_file"),
        adapter=adapter,
        device=device,
        trust_remote_code=trust_remote_code,
        named_by=f"the store {store.location}",
    )
    own = encoder.spec(spec.modality, spec.dtype).with_tokens_as(spec.tokens_dtype)
    spec.require_same(own, f"{store.location}: {name}")
    return encoder


def features_of_texts(
    store: Store, name: str, texts: Sequence[str], *, weights: str | Path | None, device: str, trust_remote_code: bool
) -> tuple[NDArray[np.float64], float]:
    """Return the features of texts, of shape ``(n, dim)``, and the encoder's logit scale.

    Texts that the features ``name`` lack are embedded and stored there.

    Raises
    ------
    StoreError
        When a text could not be embedded, or the encoder has no text side.
    """
    contents, place = unique_texts(texts)
    features = store.features(name) if name in store.feature_names() else None
    rows = np.full(len(contents), -1) if features is None else _rows_of(features, contents)
    if features is None or (rows < 0).any():
        encoder = _text_encoder(store, name, weights=weights, device=device, trust_remote_code=trust_remote_code)
        spec: FeatureSpec = encoder.spec("text", "float16" if features is None else features.spec.dtype)
        spec = spec if features is None else spec.with_tokens_as(features.spec.tokens_dtype)
        # Blocks of a size that suits the samples' own texts, should they follow.
        features = store.require_features(name, spec, max(len(contents), len(store.samples)))
        fill(features, encoder, contents)
        features = features.refresh()
        rows = _rows_of(features, contents)
    failed = [contents[i].source for i in np.flatnonzero(rows < 0)]
    if failed:
        raise StoreError(f"{name}: {len(failed)} texts could not be embedded, such as {failed[0]!r}.")
    scale = features.spec.logit_scale
    return features.pooled[rows[place]].astype(np.float64), DEFAULT_LOGIT_SCALE if scale is None else scale


def features_of_query(
    store: Store, name: str, text: str, *, weights: str | Path | None, device: str, trust_remote_code: bool
) -> NDArray[np.floating[Any]]:
    """Return the features of one text, of shape ``(dim,)``; what is asked once is not stored."""
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
    """Raise `StoreError` unless one encoder made both feature sets.

    Of imported ones that is what their common name says: their files differ, and do not tell.
    """
    one, other = store.features(image).spec, store.features(text).spec
    same: tuple[str, ...] = ("encoder", "weights", "adapter", "layer", "pooling", "dim")
    imported = all(spec.encoder.startswith("imported:") for spec in (one, other))
    if imported and image.split("/")[0] == text.split("/")[0]:
        same = ("dim",)
    if set(same) & set(one.differences(other)):
        raise StoreError(
            f"{store.location}: {image} is by {one.encoder} and {text} by {other.encoder}: words and images can be "
            "compared in one dual encoder only."
        )


def _rows_of(features: Features, contents: Sequence[Content]) -> NDArray[np.int64]:
    """Return the row of each item, -1 for one that is not stored."""
    rows = features.rows_of(keys_of(contents))
    rows[rows >= 0] = np.where(features.status[rows[rows >= 0]] == STORED, rows[rows >= 0], -1)
    return rows


def _text_encoder(
    store: Store, name: str, *, weights: str | Path | None, device: str, trust_remote_code: bool
) -> Encoder[Any]:
    """Load the dual encoder that made ``NAME/text`` or, failing that, ``NAME/image``."""
    base = name.removesuffix("/text")
    made = [n for n in (name, f"{base}/image") if n in store.feature_names()]
    if not made:
        names = sorted({n.split("/")[0] for n in store.feature_names()})
        raise StoreNotFound(
            f"{store.location}: no features called {base!r}.{nearest(base, names)} There are: {', '.join(names)}."
        )
    encoder = encoder_of(store, made[0], weights=weights, device=device, trust_remote_code=trust_remote_code)
    if "text" not in encoder.modalities:
        raise StoreError(
            f"{encoder.name}, which made {made[0]}, has no text side: words and images can be compared in a dual "
            "encoder only."
        )
    return encoder
