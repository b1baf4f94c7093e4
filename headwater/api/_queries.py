"""The vector that is searched for: of a sample, or of an image, a text or both, embedded if they are not stored.

Encoders are imported when a query must be embedded, since a sample of the store needs none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.samples.cases import Cases
from headwater.store import STORED, Features, Store, pair_key

if TYPE_CHECKING:
    from headwater.embed import Content

DEFAULT_WEIGHT = 0.5


def of_sample(cases: Cases, row: int) -> NDArray[Any]:
    """Return the stored features of a sample.

    Raises
    ------
    InputError
        When it has none; the message says why.
    """
    features, item = cases.features, cases.item_of(row)
    if item < 0 or features.status[item] != STORED:
        id = str(cases.table[cases.roles.id][row])
        why = features.failed.get(item) or (cases.store.unreadable.get(id) if item < 0 else None)
        raise InputError(f"sample {id!r} has no features in {features.name}{f': {why}' if why else ''}.")
    vector: NDArray[Any] = features.pooled[item]
    return vector


def mixed(image: NDArray[Any], text: NDArray[Any], weight: float) -> NDArray[np.float64]:
    """Return ``weight`` times the image's unit vector plus ``1 - weight`` times the text's.

    The similarity of a row to it orders rows as the weighted mean of the row's similarities to both does.

    Parameters
    ----------
    image, text : float arrays of shape (dim,)
    weight
        From 0 to 1.

    Examples
    --------
    >>> mixed(np.array([2.0, 0.0]), np.array([0.0, 1.0]), 0.75)
    array([0.75, 0.25])
    """
    one, other = (np.asarray(v, np.float64) / np.linalg.norm(np.asarray(v, np.float64)) for v in (image, text))
    return weight * one + (1 - weight) * other


def of_image(
    store: Store, features: Features, path: Path, weights: str | Path | None, device: str, trust_remote_code: bool
) -> NDArray[Any]:
    """Return the stored features of an image file, or embed it."""
    name = f"{features.name.split('/')[0]}/image"
    if features.name != name:
        _require_dual(store, name, features.name)
    from headwater.embed import Content, key_of_file

    return _of_content(
        store, store.features(name), Content(key_of_file(path), path), weights, device, trust_remote_code
    )


def of_pair(
    store: Store,
    features: Features,
    path: Path,
    text: str,
    weights: str | Path | None,
    device: str,
    trust_remote_code: bool,
) -> NDArray[Any]:
    """Return the stored features of an image-text pair, or embed it."""
    _refuse_blank(text)
    from headwater.embed import Content, content_key, key_of_file

    content = Content(pair_key(key_of_file(path), content_key(text.encode())), path, text)
    return _of_content(store, features, content, weights, device, trust_remote_code)


def _of_content(
    store: Store,
    features: Features,
    content: Content,
    weights: str | Path | None,
    device: str,
    trust_remote_code: bool,
) -> NDArray[Any]:
    """Return the stored features of a content, or embed it."""
    row = int(features.rows_of(np.frombuffer(content.key, np.uint8)[None])[0])
    if row >= 0 and features.status[row] == STORED:
        found: NDArray[Any] = features.pooled[row]
        return found
    from headwater.embed.texts import encoder_of

    encoder = encoder_of(store, features.name, weights=weights, device=device, trust_remote_code=trust_remote_code)
    modality = features.spec.modality
    embedded: NDArray[Any] = encoder.encode(modality, [encoder.prepare(modality, content)]).pooled[0]
    return embedded


def of_text(
    store: Store, features: Features, text: str, weights: str | Path | None, device: str, trust_remote_code: bool
) -> NDArray[Any]:
    """Return the stored features of a text, or embed it."""
    name = f"{features.name.split('/')[0]}/text"
    _refuse_blank(text)
    if features.name != name and name in store.feature_names():
        _require_dual(store, features.name, name)
    from headwater.embed.texts import features_of_query

    return features_of_query(store, name, text, weights=weights, device=device, trust_remote_code=trust_remote_code)


def _require_dual(store: Store, image: str, text: str) -> None:
    from headwater.embed.texts import require_dual

    require_dual(store, image, text)


def _refuse_blank(text: str) -> None:
    if not text.strip():
        raise InputError("--text is empty: pass the text to search for.")
