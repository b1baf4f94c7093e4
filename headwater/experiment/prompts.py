"""Prompts of each class, as features of a dual encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._words import counted
from headwater.embed.texts import features_of_texts, require_dual
from headwater.errors import InputError, nearest
from headwater.heads import ClassTexts, Head, Prompts, mean_prompt, read_prompts
from headwater.runs.write import described
from headwater.store import Store

SEES = (
    "the features of all test samples together, without their labels; each sample's probabilities depend on the others"
)


@dataclass(frozen=True, eq=False)
class ClassPrompts:
    """Prompts and their vectors.

    Attributes
    ----------
    prompts
        The prompts from the file.
    vectors
        For each class, the vectors of its prompts, ordered by template first, float64, of shape ``(n_prompts, d)``.
    logit_scale
        The encoder's own logit scale.
    """

    prompts: Prompts
    vectors: dict[str, NDArray[np.float64]]
    logit_scale: float

    @property
    def texts(self) -> ClassTexts:
        """The mean prompt of each class."""
        means = np.stack([mean_prompt(part) for part in self.vectors.values()])
        return ClassTexts(means, tuple(self.vectors), self.logit_scale)

    def to_dict(self) -> dict[str, Any]:
        """Return the prompts as plain JSON values."""
        classes = {name: list(words) for name, words in self.prompts.classes.items()}
        return {"templates": list(self.prompts.templates), "classes": classes}

    def require(self, labels: Sequence[str], path: str | Path) -> None:
        """Raise `InputError` for a label that no prompt describes."""
        classes = self.prompts.classes
        for name in sorted(set(labels) - set(classes))[:1]:
            there = ", ".join(classes)
            raise InputError(
                f"--prompts {path} has no class for label {name!r}.{nearest(name, classes)} It has: {there}."
            )


def dual(features: str) -> tuple[str, str]:
    """Return the names of a dual encoder's image and text features, from its name or from either of them.

    Raises
    ------
    InputError
        When it is the name of pair features.
    """
    if features.endswith("/pair"):
        raise InputError(f"{features} are features of image-text pairs: give image features, NAME/image.")
    name = features.removesuffix("/image").removesuffix("/text")
    return f"{name}/image", f"{name}/text"


def describe(
    store: Store,
    features: str,
    path: str | Path,
    labels: Sequence[str],
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> ClassPrompts:
    """Read prompts for at least the given labels, and embed those that the store lacks.

    Raises
    ------
    InputError
        When the file is invalid, or lacks a label.
    StoreError
        When a prompt cannot be embedded, or images and texts come from different encoders.
    """
    image, text = dual(features)
    prompts = read_prompts(path)
    found = ClassPrompts(prompts, {}, 1.0)
    found.require(labels, path)
    if text in store.feature_names():
        require_dual(store, image, text)
    vectors, scale = features_of_texts(
        store, text, prompts.texts, weights=weights, device=device, trust_remote_code=trust_remote_code
    )
    ends = np.cumsum([len(prompts.texts_of(c)) for c in prompts.classes])
    return ClassPrompts(prompts, dict(zip(prompts.classes, np.split(vectors, ends[:-1]), strict=True)), scale)


def texts_for(
    store: Store,
    features: Sequence[str],
    kind: str,
    head: Head,
    path: str | Path | None,
    labels: NDArray[Any],
    say: Callable[[str], None],
) -> tuple[dict[str, ClassTexts], dict[str, Any]]:
    """Return the texts parameter of a head that takes class texts, and its entry for the config; else empty.

    Raises
    ------
    InputError
        When a head lacks prompts that it needs, or does not take them.
    """
    if not head.takes_texts:
        if path is not None:
            raise InputError(f"--prompts {path}: --head {kind} does not take prompts. Leave --prompts out.")
        return {}, {}
    if path is None and not head.needs_texts:
        return {}, {}
    if path is None:
        raise InputError(
            f"--head {kind} compares images with texts of the classes: pass --prompts FILE.toml, as for zero-shot. "
            "Without texts, use --head gda or knn."
        )
    if len(features) != 1 or not features[0].endswith("/image"):
        raise InputError(f"--head {kind} needs one set of image features of a dual encoder, such as clip/image.")
    if labels.ndim == 2:
        raise InputError(f"--head {kind} needs one class per sample, but there are several labels.")
    found = describe(store, features[0], path, labels.astype(str).tolist())
    say(f"{counted(len(set(found.prompts.texts)), 'prompt')} for {len(found.vectors)} classes")
    _, text = dual(features[0])
    kept = {**found.to_dict(), "logit_scale": found.logit_scale, "features": described(store, [text])}
    return {"texts": found.texts}, {"prompts": kept}
