"""The interface of heads beyond scikit-learn's: many fits at once, and saving."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from headwater._devices import Device
from headwater.heads.tokens import Ragged

Fit = tuple[NDArray[np.int64], Mapping[str, Any]]
Input = Any  # an array-like of features, or a dict of them by name
SearchSpace = Mapping[str, tuple[Any, ...]]
State = tuple[dict[str, Any], dict[str, NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Raced:
    """How a fit of `Head.race` scores its test rows.

    Attributes
    ----------
    scores
        Probabilities as of ``predict_proba``, NaN where training diverged.
    classes_
        The classes of the training rows.
    epoch
        The epoch up to which it was trained; it may have stopped before, early.
    dropped
        Whether the judge dropped it then.
    """

    scores: NDArray[np.floating[Any]]
    classes_: NDArray[Any]
    epoch: int
    dropped: bool = False


class Judge(Protocol):
    """Says which fits of `Head.race` go on. It keeps no state, so that a race may be run again on another device.

    Attributes
    ----------
    shares
        Shares of the schedule after warm-up, ascending, at which it is asked.
    """

    @property
    def shares(self) -> Sequence[float]: ...

    def __call__(self, share: float, now: Mapping[int, Raced], before: Mapping[int, Raced]) -> Collection[int]:
        """Return the numbers of the fits that go on, given how each of the remaining ones scores at a share.

        ``before`` holds how they scored when it was last asked, and perhaps others; it is empty at first.
        """
        ...


class Head(BaseEstimator):  # type: ignore[misc]
    """A small model on features that predicts class probabilities or numbers.

    A head is a scikit-learn classifier or regressor. X is a NumPy array or any array-like that has ``shape``,
    ``dtype``, ``array[rows]`` and ``blocks()``; a head over several inputs takes a dict of them.

    Attributes
    ----------
    takes_inputs
        Whether X may be a dict of inputs; other heads get concatenated inputs.
    takes_tokens
        Whether rows of an input may be matrices; other heads get one vector per row.
    least_inputs
        Least number of inputs.
    search_space
        The range of each parameter worth searching: ``("log", low, high)``, ``("uniform", low, high)``,
        ``("int", low, high)``, ``("log-int", low, high)``, ends included, or ``("choice", (value, ...))``.
    takes_texts
        Whether it has a parameter ``texts`` with a vector for each class by the images' dual encoder.
    needs_texts
        Whether a run of it must give texts.
    seeds_together
        Whether fits of several seeds are faster in one `fit_many` than one seed after the other.
    transductive
        Whether predictions of a row depend on the rows predicted together with it.
    pausable
        Whether training goes in epochs, so that `race` can drop fits before the end.
    holds_rows
        Whether a fitted head holds the training rows themselves, so that whoever has the head has these.
    """

    takes_inputs: ClassVar[bool] = False
    takes_tokens: ClassVar[bool] = False
    least_inputs: ClassVar[int] = 1
    search_space: ClassVar[SearchSpace] = {}
    takes_texts: ClassVar[bool] = False
    needs_texts: ClassVar[bool] = False
    seeds_together: ClassVar[bool] = False
    transductive: ClassVar[bool] = False
    pausable: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = False

    def fit_many(
        self, X: Input, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit copies of this head on subsets of the rows, each with its own settings.

        Parameters
        ----------
        X
            Features of shape ``(n_samples, ...)``.
        y
            Labels of shape ``(n_samples,)``, or 0/1 of shape ``(n_samples, n_labels)``; of a regressor numbers,
            ``(n_samples,)`` or ``(n_samples, n_outputs)``.
        fits
            For each fit, its training rows (int64) and the parameters that differ from this head's. Fits on the same
            rows should pass the same array object.
        groups
            Groups, of shape ``(n_samples,)``, that a head keeps whole when it holds out training rows for early
            stopping or calibration.

        Returns
        -------
        list
            A fitted head for each fit, in order.
        """
        return [clone(self).set_params(**params).fit(take(X, rows), y[rows]) for rows, params in fits]

    def race(
        self,
        X: Input,
        y: NDArray[Any],
        fits: Sequence[Fit],
        tests: Sequence[NDArray[np.int64]],
        judge: Judge,
        *,
        groups: NDArray[Any] | None = None,
    ) -> list[Raced]:
        """Train as `fit_many` does, but drop fits on the way, and return how each scores its test rows.

        The fits that remain are those of `fit_many`, up to rounding. All fits are held in memory at once, each with
        the moments of its gradients. For heads that are `pausable`.

        Parameters
        ----------
        X, y, fits, groups
            As in `fit_many`.
        tests
            Rows to score by each fit, int64.
        judge
            Says which fits go on.

        Returns
        -------
        list
            One for each fit, in order.
        """
        raise TypeError(f"{type(self).__name__} cannot pause.")

    @abstractmethod
    def fit(self, X: Input, y: NDArray[Any]) -> Self:
        """Fit on all rows."""

    @abstractmethod
    def default_grid(self) -> list[dict[str, Any]]:
        """Return the default settings to select from."""

    @abstractmethod
    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""


def on_device(head: Any, device: Device) -> Any:
    """Return a fitted head that predicts on this device, sharing its arrays; a head without devices as it is."""
    if "device" not in head.get_params() or head.device == device:
        return head
    moved = copy(head)
    moved.device = device
    return moved


def take(X: Input, rows: NDArray[np.int64]) -> Input:
    """Return the rows of an input, or of each of several."""
    if is_several(X):
        return {name: part[rows] for name, part in X.items()}
    return X[rows]


def is_several(X: Input) -> bool:
    """Whether X is a dict of inputs; a sparse matrix that is also a dict has a shape, and does not count."""
    return isinstance(X, Mapping) and not hasattr(X, "shape")


def n_rows(X: Input) -> int:
    """Return the number of rows of an input or of a dict of inputs."""
    part = next(iter(X.values())) if is_several(X) else X
    return len(part) if isinstance(part, Ragged) else int(part.shape[0])


def blocks(X: Any, rows: int = 8192) -> Iterator[tuple[slice, Any]]:
    """Yield ``(rows, values)`` over an array or array-like, in order."""
    if hasattr(X, "blocks"):
        yield from X.blocks()
        return
    for start in range(0, X.shape[0], rows):
        yield slice(start, min(start + rows, X.shape[0])), X[start : start + rows]
