"""Text vectors of classes, for heads that combine them with labelled images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, require_two
from headwater.heads.base import Fit, State
from headwater.heads.neighbours import finite_rows, unit_rows

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassTexts:
    """A vector for each class, by the text encoder of a dual encoder.

    It is a single value, so that a head with it as a parameter can be cloned, compared and printed like any other.

    Attributes
    ----------
    features
        Float, of shape ``(n_classes, d)``, from `mean_prompt`.
    classes
        Labels, in the order of the rows; compared with samples' labels as strings.
    logit_scale
        The encoder's own logit scale; CLIP's final value is 100.
    """

    features: NDArray[np.floating[Any]]
    classes: tuple[str, ...]
    logit_scale: float = 100.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClassTexts):
            return NotImplemented
        same = (self.classes, self.logit_scale) == (other.classes, other.logit_scale)
        return same and np.array_equal(self.features, other.features)

    def __hash__(self) -> int:
        return hash((self.classes, self.logit_scale, np.asarray(self.features).tobytes()))

    def __repr__(self) -> str:
        return f"ClassTexts of {', '.join(self.classes)}"

    def of(self, classes: NDArray[Any]) -> Floats:
        """Return unit vectors of some classes, of shape ``(len(classes), d)``.

        Raises
        ------
        HeadError
            When a class has no vector.
        """
        place = {name: i for i, name in enumerate(self.classes)}
        for name in classes.tolist():
            if str(name) not in place:
                raise HeadError(f"no text describes class {str(name)!r}. There are: {', '.join(self.classes)}.")
        rows = [place[str(name)] for name in classes.tolist()]
        found: NDArray[np.float64] = unit_rows(np.asarray(self.features, np.float64)[rows])
        return found


class WithTexts(Classifier):
    """A head that keeps labelled images and text vectors of their classes, and compares by cosine.

    Attributes
    ----------
    texts
        Vectors of the classes; None to use images only.
    classes_, n_features_in_
        See `LinearProbe`; only the classes of the training rows.
    keys_ : float32, of shape (n_train, d)
        Training rows, as unit vectors.
    codes_ : int64, of shape (n_train,)
        The class of each, as an index into ``classes_``.
    text_ : float64, of shape (n_classes, d)
        Unit vectors of the classes times the logit scale; zeros without texts.
    """

    holds_rows: ClassVar[bool] = True
    takes_texts: ClassVar[bool] = True
    needs_texts: ClassVar[bool] = True
    texts: ClassTexts | None
    keys_: NDArray[np.float32]
    codes_: NDArray[np.int64]
    text_: Floats

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        return tags

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit copies of this head; see `Head.fit_many`. Fits that share rows share their arrays."""
        codes, classes, multilabel = encode_labels(y)
        if multilabel:
            raise HeadError(f"{type(self).__name__} needs one class per sample, but there are several labels.")
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        shared: dict[int, tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = {}
        for (rows, _), head in zip(fits, heads, strict=True):
            head._require_usable()
            if id(rows) not in shared:
                seen, place = np.unique(codes[rows], return_inverse=True)
                require_two(seen, classes)
                shared[id(rows)] = unit_rows(finite_rows(X, rows)).astype(np.float32), place.astype(np.int64), seen
            head.keys_, head.codes_, seen = shared[id(rows)]
            head.classes_, head.multilabel_, head.n_features_in_ = classes[seen], False, head.keys_.shape[1]
            head.text_ = scaled_texts(head.texts, head.classes_, head.n_features_in_)
            head._train()
        return heads

    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""
        check_is_fitted(self)
        params, texts = self.get_params(), self.texts
        values = {
            "params": {name: value for name, value in params.items() if name != "texts"},
            "classes": self.classes_.tolist(),
            "texts": None if texts is None else {"classes": list(texts.classes), "logit_scale": texts.logit_scale},
        }
        arrays: dict[str, NDArray[Any]] = {"keys": self.keys_, "codes": self.codes_}
        if texts is not None:
            arrays["class_features"] = np.asarray(texts.features)
        return values, arrays

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        texts, of = None, values["texts"]
        if of is not None:
            texts = ClassTexts(arrays["class_features"], tuple(of["classes"]), of["logit_scale"])
        head = cls(**values["params"], texts=texts)
        head.classes_, head.multilabel_ = np.array(values["classes"]), False
        head.keys_, head.codes_ = arrays["keys"], arrays["codes"]
        head.n_features_in_ = head.keys_.shape[1]
        head.text_ = scaled_texts(texts, head.classes_, head.n_features_in_)
        return head

    @abstractmethod
    def _require_usable(self) -> None: ...

    @abstractmethod
    def _train(self) -> None:
        """Finish fitting after the training rows are stored."""


def scaled_texts(texts: ClassTexts | None, classes: NDArray[Any], width: int) -> Floats:
    """Return unit vectors of some classes times the logit scale, ``(n_classes, width)``; zeros without texts.

    Raises
    ------
    HeadError
        When a class has no vector, or vectors have another width.
    """
    if texts is None:
        return np.zeros((len(classes), width))
    if texts.features.shape[1] != width:
        raise HeadError(
            f"images have {width} features and texts {texts.features.shape[1]}: they must come from one dual encoder."
        )
    return texts.logit_scale * texts.of(classes)
