"""Zero-shot classification: an image gets the class with the most similar prompts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from headwater._reading import read_regular
from headwater.errors import HeadError, InputError
from headwater.heads.base import State, blocks


@dataclass(frozen=True)
class Prompts:
    """The prompts of each class: every template filled with every descriptor.

    Attributes
    ----------
    templates
        Sentences with ``{}`` for a descriptor.
    classes
        The descriptors of each class, by label.
    """

    templates: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]

    def texts_of(self, label: str) -> list[str]:
        """Return the prompts of a class, ordered by template first.

        Examples
        --------
        >>> Prompts(("a {}", "one {}"), {"x": ("cat", "dog")}).texts_of("x")
        ['a cat', 'a dog', 'one cat', 'one dog']
        """
        return [template.replace("{}", word) for template in self.templates for word in self.classes[label]]

    @property
    def texts(self) -> list[str]:
        """All prompts, class by class."""
        return [text for label in self.classes for text in self.texts_of(label)]


def read_prompts(path: str | Path) -> Prompts:
    """Read prompts from a TOML file.

    The file holds ``templates``, a list of sentences with ``{}``, and a table ``[classes]`` with a descriptor, or a
    list of them, for each label.

    Raises
    ------
    InputError
        When the file is missing or invalid; the message says what is wrong.
    """
    path = Path(path)
    try:
        values = tomllib.loads(read_regular(path).decode())
    except FileNotFoundError as error:
        raise InputError(f"--prompts {path}: no such file.") from error
    except OSError as error:
        raise InputError(f"--prompts {path}: cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path}: not TOML ({error}).") from error
    templates = values.get("templates", ["{}"])
    classes = values.get("classes")
    if not isinstance(classes, dict) or len(classes) < 2:
        raise InputError(
            f"--prompts {path}: needs a table [classes] with a descriptor for each of at least two labels."
        )
    if not isinstance(templates, list) or not templates or not all(isinstance(t, str) and "{}" in t for t in templates):
        raise InputError(f"--prompts {path}: templates must be a list of sentences, each with {{}} in it.")
    named: dict[str, tuple[str, ...]] = {}
    for label, words in classes.items():
        listed = [words] if isinstance(words, str) else words
        if not isinstance(listed, list) or not listed or not all(isinstance(w, str) and w.strip() for w in listed):
            raise InputError(f"--prompts {path}: class {label!r} needs a descriptor, or a list of them, in quotes.")
        named[label] = tuple(listed)
    return Prompts(tuple(templates), named)


class ZeroShot(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Probabilities from the cosine to each class's mean prompt, without training.

    The features of a class's prompts are normalised to length 1, averaged, and normalised again. The probabilities of
    an image are the softmax of ``logit_scale`` times its cosines.

    Parameters
    ----------
    class_features
        float, of shape ``(n_classes, d)``.
    classes
        Labels, of shape ``(n_classes,)``.
    logit_scale
        The encoder's own logit scale; CLIP's final value is 100.

    References
    ----------
    Radford et al., Learning transferable visual models from natural language supervision, 2021, section 3.1.4.
    """

    transductive: ClassVar[bool] = False

    def __init__(self, class_features: NDArray[Any], classes: Sequence[Any], logit_scale: float = 100.0) -> None:
        self.class_features = class_features
        self.classes = classes
        self.logit_scale = logit_scale

    @property
    def classes_(self) -> NDArray[Any]:
        """Sorted labels."""
        return np.sort(np.asarray(self.classes))

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Do nothing: there is nothing to fit."""
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return class probabilities, of shape ``(n_samples, n_classes)``, in the order of ``classes_``."""
        out = cosine_logits(X, self.class_features, self.classes, self.logit_scale)
        exps: NDArray[np.float64] = np.exp(out - out.max(1, keepdims=True))
        exps /= exps.sum(1, keepdims=True)
        return exps

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each row."""
        best: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return best

    def to_state(self) -> State:
        """Return plain JSON values and arrays."""
        values = {"classes": np.asarray(self.classes).tolist(), "logit_scale": self.logit_scale}
        return values, {"class_features": np.asarray(self.class_features, np.float32)}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        return cls(arrays["class_features"], values["classes"], values["logit_scale"])


def cosine_logits(
    X: Any, class_features: NDArray[Any], classes: Sequence[Any], logit_scale: float
) -> NDArray[np.float64]:
    """Return scaled cosines of images to classes, of shape ``(n_samples, n_classes)``, columns by sorted class.

    Raises
    ------
    HeadError
        When images and class features have different dimensions.
    """
    text = np.asarray(class_features, np.float64)[np.argsort(np.asarray(classes), kind="stable")]
    if X.shape[1] != text.shape[1]:
        raise HeadError(
            f"images have {X.shape[1]} features and prompts {text.shape[1]}: they must come from one dual encoder."
        )
    out = np.empty((X.shape[0], len(text)))
    for rows, values in blocks(X):
        out[rows] = logit_scale * unit(values) @ unit(text).T
    return out


def mean_prompt(features: NDArray[Any]) -> NDArray[np.float64]:
    """Average a class's prompt features ``(n_prompts, d)``, as unit vectors, to one unit vector ``(d,)``."""
    mean: NDArray[np.float64] = unit(unit(features).mean(0)[None])[0]
    return mean


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Normalise vectors to length 1; a zero vector stays zero."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = vectors / np.where(length > 0, length, 1)
    return scaled
