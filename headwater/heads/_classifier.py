"""The base class of heads that classify by logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from headwater.errors import HeadError
from headwater.heads.base import Head, Input, is_several, n_rows, take
from headwater.heads.tokens import Ragged

FLOATS = (np.float32, np.float64, np.float16)


class Classifier(ClassifierMixin, Head):  # type: ignore[misc]
    """A head with one logit for two classes, one per class for more, or one per label.

    Attributes
    ----------
    classes_ : of shape (n_classes,)
        Sorted labels; ``arange(n_labels)`` for several labels.
    multilabel_ : bool
        Whether each logit belongs to a separate label.
    n_features_in_ : int
        Columns of X; over all inputs if there are several.
    """

    classes_: NDArray[Any]
    multilabel_: bool
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Input, y: Any) -> Self:
        """Fit on all rows.

        Parameters
        ----------
        X
            Features of shape ``(n_samples, d)``, or a dict of them.
        y
            Labels of shape ``(n_samples,)``, or 0/1 of shape ``(n_samples, n_labels)``.

        Raises
        ------
        HeadError
            When there is one class only, or a feature is not finite (the message names rows).
        """
        return self._fitted(X, y)

    def _fitted(self, X: Input, y: Any, rows: NDArray[np.int64] | None = None, **options: Any) -> Self:
        """Fit on some rows, or on all, with options of `fit_many`."""
        if is_plain(X):
            X, y = validated(self, X, y, multi_output=True)
        (fitted,) = self.fit_many(X, np.asarray(y), [(np.arange(n_rows(X)) if rows is None else rows, {})], **options)
        self.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
        return self

    def decision_function(self, X: Input) -> NDArray[np.floating[Any]]:
        """Return logits, of shape ``(n_samples,)`` for two classes, else ``(n_samples, n_classes)``."""
        logits = self.logits(X)
        return logits[:, 0] if logits.shape[1] == 1 and not self.multilabel_ else logits

    def predict_proba(self, X: Input) -> NDArray[np.floating[Any]]:
        """Return probabilities, of shape ``(n_samples, n_classes)``; for several labels, each label's own."""
        return probabilities(self.logits(X), self.multilabel_)

    @classmethod
    def predict_proba_many(
        cls, heads: Sequence[Self], X: Input, rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.floating[Any]]]:
        """Return ``head.predict_proba(X[rows])`` for each head with its rows."""
        return [head.predict_proba(take(X, part)) for head, part in zip(heads, rows, strict=True)]

    def predict(self, X: Input) -> NDArray[Any]:
        """Return the likeliest class of each row; for several labels, 0 or 1 for each."""
        logits = self.logits(X)
        if self.multilabel_:
            return (logits > 0).astype(np.int64)
        best = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(1)
        chosen: NDArray[Any] = self.classes_[best]
        return chosen

    def logits(self, X: Input) -> NDArray[np.floating[Any]]:
        """Return logits: one column for two classes, one per class for more, or one per label.

        Raises
        ------
        HeadError
            When X has another number of columns than in fitting.
        """
        check_is_fitted(self)
        if is_plain(X):
            X = validated(self, X, reset=False)
        width = sum(part.shape[1] for part in X.values()) if is_several(X) else X.shape[1]
        if width != self.n_features_in_:
            raise HeadError(f"X has {width} features, but this head was fitted on {self.n_features_in_}.")
        return self._logits(X)

    @abstractmethod
    def _logits(self, X: Input) -> NDArray[np.floating[Any]]: ...


def encode_labels(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """Return class numbers and sorted classes, or 0/1 and label numbers; and whether there are several labels.

    Raises
    ------
    HeadError
        When labels are measurements.
    """
    if y.ndim == 2 and y.shape[1] > 1:
        return y, np.arange(y.shape[1]), True
    y = column_or_1d(y, warn=True)
    if type_of_target(y) == "continuous":
        raise HeadError("labels are continuous numbers, but this head needs classes.")
    classes, codes = np.unique(y, return_inverse=True)
    return codes, classes, False


def require_two(present: NDArray[np.int64], classes: NDArray[Any]) -> None:
    """Raise `HeadError` unless training rows hold at least two classes."""
    if len(present) < 2:
        only = str(classes[present[0]])
        raise HeadError(f"the training rows hold one class only ({only!r}), but at least two are needed.")


def probabilities(logits: NDArray[np.floating[Any]], multilabel: bool) -> NDArray[np.floating[Any]]:
    """Return probabilities from logits: two columns for two classes, one per label for labels."""
    if multilabel or logits.shape[1] == 1:
        positive = np.exp(-np.logaddexp(0, -logits))
        return positive if multilabel else np.concatenate([1 - positive, positive], axis=1)
    exps: NDArray[np.floating[Any]] = np.exp(logits - logits.max(1, keepdims=True))
    exps /= exps.sum(1, keepdims=True)
    return exps


def validated(head: Head, *arrays: Any, **checks: Any) -> Any:
    """Validate arrays with scikit-learn; rows may be matrices if the head takes tokens."""
    return validate_data(head, *arrays, dtype=list(FLOATS), allow_nd=head.takes_tokens, **checks)


def is_plain(X: Any) -> bool:
    """Whether scikit-learn can validate X: it is no dict, array-like of blocks, or array of another library."""
    return (
        not is_several(X)
        and not isinstance(X, Ragged)
        and not hasattr(X, "blocks")
        and not (hasattr(X, "__dlpack__") and not isinstance(X, np.ndarray))
    )
