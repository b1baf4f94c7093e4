"""Heads that compare with training rows, or with class means, without training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._backend import NUMPY, Array, Backend, computed, to_numpy
from headwater._devices import Device
from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, require_two
from headwater.heads._regressor import Regressor, as_targets
from headwater.heads._settings import require_above_0, require_one_of
from headwater.heads.base import Fit, SearchSpace, State, blocks

Floats = NDArray[np.float32]
Scaling = Literal["none", "centre", "standardize"]
QUERIES = 2048  # rows compared at once
LEAST = 1e-12  # least share of votes, so that logits are finite


class _ByCosine(Classifier):
    """A head that compares rows by cosine, after scaling by the training rows' statistics."""

    scaling: Scaling
    device: Device
    centre_: NDArray[np.float64]
    width_: NDArray[np.float64]
    kept: ClassVar[tuple[str, ...]]
    """Names of further arrays of a fitted head, without their final underscore; rows are compared with the first."""

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit copies of this head; see `Head.fit_many`. Fits that share rows share their arrays."""
        codes, classes, multilabel = encode_labels(y)
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        shared: dict[tuple[int, Scaling], tuple[NDArray[np.float64], NDArray[np.float64], Floats]] = {}
        for (rows, _), head in zip(fits, heads, strict=True):
            head._require_usable()
            key = (id(rows), head.scaling)
            if key not in shared:
                shared[key] = _prepared(X, rows, head.scaling)
            head.centre_, head.width_, unit = shared[key]
            seen = np.arange(len(classes)) if multilabel else np.unique(codes[rows])
            if not multilabel:
                require_two(seen, classes)
            truth = codes[rows] > 0 if multilabel else codes[rows][:, None] == seen
            head.classes_, head.multilabel_, head.n_features_in_ = classes[seen], multilabel, len(head.centre_)
            head._keep(unit, truth)
        return heads

    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""
        check_is_fitted(self)
        values = {"params": self.get_params(), "classes": self.classes_.tolist(), "multilabel": self.multilabel_}
        return values, {name: getattr(self, f"{name}_") for name in ("centre", "width", *self.kept)}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        head = cls(**values["params"])
        head.classes_, head.multilabel_ = np.array(values["classes"]), values["multilabel"]
        for name in ("centre", "width", *cls.kept):
            setattr(head, f"{name}_", arrays[name])
        head.n_features_in_ = len(head.centre_)
        return head

    @abstractmethod
    def _require_usable(self) -> None: ...

    @abstractmethod
    def _keep(self, unit: Floats, truth: NDArray[np.bool_]) -> None:
        """Store what is needed from unit training rows ``(n, d)`` and their class indicators ``(n, n_classes)``."""

    @abstractmethod
    def _voting(self, backend: Backend) -> Callable[[Array], Array]:
        """Return a function from unit rows to logits of classes or labels, ``(n, n_classes)``, on a backend."""

    def _logits(self, X: Any) -> NDArray[np.float64]:
        n = len(self.classes_)
        out = _compared(X, self.centre_, self.width_, getattr(self, f"{self.kept[0]}_"), n, self._voting, self.device)
        if self.multilabel_ or len(self.classes_) > 2:
            return out
        return out[:, 1:] - out[:, :1]


class KNN(_ByCosine):
    """k nearest neighbours by cosine, each voting with ``exp(cosine / temperature)``.

    Parameters
    ----------
    k
        Number of neighbours, at most the number of training rows.
    temperature
        Smaller values give more weight to the nearest.
    scaling
        Scaling before rows are normalised to length 1: ``centre`` subtracts the mean training row, ``standardize`` also
        divides columns by their standard deviations, ``none`` does nothing.
    device
        Where rows are compared: ``auto``, ``cpu`` or ``cuda``; see `headwater.heads`.

    Attributes
    ----------
    classes_, multilabel_, n_features_in_
        See `LinearProbe`.
    centre_, width_ : float64, of shape (d,)
        Subtracted mean, and divisor.
    rows_ : float32, of shape (n_train, d)
        Training rows, as unit vectors.
    truth_ : bool, of shape (n_train, n_classes)
        Class, or labels, of each.

    References
    ----------
    Wu et al., Unsupervised feature learning via non-parametric instance discrimination, 2018, section 3.4; k = 20 and
    temperature 0.07 are the usual settings for comparing self-supervised encoders.
    """

    holds_rows: ClassVar[bool] = True

    kept = ("rows", "truth")
    search_space: ClassVar[SearchSpace] = {
        "k": ("log-int", 1, 200),
        "temperature": ("log", 0.01, 1.0),
        "scaling": ("choice", ("centre", "standardize")),
    }

    def __init__(
        self,
        k: int = 20,
        *,
        temperature: float = 0.07,
        scaling: Scaling = "centre",
        device: Device = "auto",
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.scaling = scaling
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return six numbers of neighbours, from 1 to 100, by three temperatures and two scalings."""
        return [
            {"k": k, "temperature": t, "scaling": scaling}
            for scaling in ("centre", "standardize")
            for k in (1, 5, 10, 20, 50, 100)
            for t in (0.03, 0.07, 0.2)
        ]

    def _require_usable(self) -> None:
        require_above_0(self, "k", "temperature")
        require_one_of(self, scaling=Scaling, device=Device)

    def _keep(self, unit: Floats, truth: NDArray[np.bool_]) -> None:
        self.rows_, self.truth_ = unit, truth

    def _voting(self, backend: Backend) -> Callable[[Array], Array]:
        xp = backend.xp
        mean_of = _mean_of_nearest(self.rows_, self.truth_, self.k, self.temperature, backend)

        def vote(queries: Array) -> Array:
            share = xp.clip(mean_of(queries), LEAST, 1 - LEAST)
            return xp.log(share) - xp.log1p(-share) if self.multilabel_ else xp.log(share)

        return vote


class KNNRegressor(Regressor):
    """The mean target of the k nearest neighbours by cosine, with weights ``exp(cosine / temperature)``.

    Parameters
    ----------
    k, temperature, scaling, device
        See `KNN`.

    Attributes
    ----------
    centre_, width_, rows_
        See `KNN`.
    targets_ : float64, of shape (n_train, n_outputs)
        Targets of the training rows.
    several_, n_features_in_
        Whether targets have two dimensions; number of columns of X.
    """

    holds_rows: ClassVar[bool] = True

    search_space: ClassVar[SearchSpace] = KNN.search_space

    def __init__(
        self,
        k: int = 20,
        *,
        temperature: float = 0.07,
        scaling: Scaling = "centre",
        device: Device = "auto",
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.scaling = scaling
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return the grid of `KNN`: six numbers of neighbours by three temperatures and two scalings."""
        return KNN().default_grid()

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit copies of this head; see `Head.fit_many`. Fits that share rows share their arrays."""
        targets, several = as_targets(y)
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        shared: dict[tuple[int, Scaling], tuple[NDArray[np.float64], NDArray[np.float64], Floats]] = {}
        for (rows, _), head in zip(fits, heads, strict=True):
            require_above_0(head, "k", "temperature")
            require_one_of(head, scaling=Scaling, device=Device)
            key = (id(rows), head.scaling)
            if key not in shared:
                shared[key] = _prepared(X, rows, head.scaling)
            head.centre_, head.width_, head.rows_ = shared[key]
            head.targets_, head.several_, head.n_features_in_ = targets[rows], several, len(head.centre_)
        return heads

    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""
        check_is_fitted(self)
        arrays = {"centre": self.centre_, "width": self.width_, "rows": self.rows_, "targets": self.targets_}
        return {"params": self.get_params(), "several": self.several_}, arrays

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        head = cls(**values["params"])
        head.centre_, head.width_, head.rows_ = arrays["centre"], arrays["width"], arrays["rows"]
        head.targets_, head.several_, head.n_features_in_ = arrays["targets"], values["several"], len(head.centre_)
        return head

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        def voting(backend: Backend) -> Callable[[Array], Array]:
            return _mean_of_nearest(self.rows_, self.targets_, self.k, self.temperature, backend)

        return _compared(X, self.centre_, self.width_, self.rows_, self.targets_.shape[1], voting, self.device)


class Prototypes(_ByCosine):
    """Nearest class mean by cosine, for few labelled rows.

    The logit of a class is the cosine to its mean divided by ``temperature``; of a label, the difference of the cosines
    to the means of the rows with and without it.

    Parameters
    ----------
    temperature
        Smaller values give more confident probabilities.
    scaling
        Scaling before rows are normalised to length 1: ``centre`` subtracts the mean training row, ``standardize`` also
        divides columns by their standard deviations, ``none`` does nothing.
    device
        Where rows are compared: ``auto``, ``cpu`` or ``cuda``; see `headwater.heads`.

    Attributes
    ----------
    classes_, multilabel_, n_features_in_
        See `LinearProbe`.
    centre_, width_ : float64, of shape (d,)
        Subtracted mean, and divisor.
    prototypes_ : float32, of shape (n_classes, d), or (2, n_labels, d)
        Mean directions, as unit vectors; for labels, of the rows without and with each label.

    References
    ----------
    Wang et al., SimpleShot: revisiting nearest-neighbor classification for few-shot learning, 2019, with centring and
    L2 normalisation; docs/heads.md lists the differences.
    """

    kept = ("prototypes",)
    search_space: ClassVar[SearchSpace] = {
        "temperature": ("log", 0.005, 2.0),
        "scaling": ("choice", ("centre", "standardize")),
    }

    def __init__(self, temperature: float = 0.1, *, scaling: Scaling = "centre", device: Device = "auto") -> None:
        self.temperature = temperature
        self.scaling = scaling
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return nine temperatures, evenly spaced on a log scale from 0.01 to 1, by two scalings."""
        return [
            {"temperature": float(t), "scaling": scaling}
            for scaling in ("centre", "standardize")
            for t in np.logspace(-2, 0, 9)
        ]

    def _require_usable(self) -> None:
        require_above_0(self, "temperature")
        require_one_of(self, scaling=Scaling, device=Device)

    def _keep(self, unit: Floats, truth: NDArray[np.bool_]) -> None:
        sides = np.stack([~truth, truth]) if self.multilabel_ else truth
        sums = np.swapaxes(sides, -1, -2).astype(np.float64) @ unit
        self.prototypes_ = unit_rows(sums).astype(np.float32)

    def _voting(self, backend: Backend) -> Callable[[Array], Array]:
        means = backend.put(self.prototypes_, backend.xp.float64)

        def vote(queries: Array) -> Array:
            cosine = queries @ means.mT if self.multilabel_ else queries @ means.T
            return (cosine[1] - cosine[0] if self.multilabel_ else cosine) / self.temperature

        return vote


def _compared(
    X: Any,
    centre: NDArray[np.float64],
    width: NDArray[np.float64],
    known: Floats,
    n_outputs: int,
    voting: Callable[[Backend], Callable[[Array], Array]],
    device: Device,
) -> NDArray[np.float64]:
    """Scale rows of X to unit vectors, compare them with the ``known`` ones, and return votes ``(n, n_outputs)``."""

    def voted(backend: Backend) -> NDArray[np.float64]:
        xp, vote = backend.xp, voting(backend)
        mean, std = backend.put(centre), backend.put(width)
        out = np.empty((X.shape[0], n_outputs))
        for rows, values in blocks(X):
            for start in range(0, len(values), QUERIES):
                some = xp.astype(backend.put(values[start : start + QUERIES]), xp.float64)
                found = to_numpy(vote(unit_rows((some - mean) / std, xp)))
                out[rows.start + start : rows.start + start + len(found)] = found
        return out

    work = 2.0 * X.shape[0] * known.size
    return computed(voted, device, work=work, what="comparisons with training rows", X=X)


def _mean_of_nearest(
    rows: Floats, targets: NDArray[Any], k: int, temperature: float, backend: Backend
) -> Callable[[Array], Array]:
    """Return a function from unit rows to the weighted mean target of their k nearest, of shape ``(n, n_outputs)``."""
    xp = backend.xp
    known, values = backend.put(rows, xp.float64), backend.put(targets, xp.float64)
    k = min(k, len(rows))

    def mean_of(queries: Array) -> Array:
        near, nearest = _largest(queries @ known.T, k, backend)
        weight = xp.exp((near - xp.max(near, axis=1, keepdims=True)) / temperature)
        weight /= xp.sum(weight, axis=1, keepdims=True)
        return xp.sum(weight[:, :, None] * values[nearest], axis=1)

    return mean_of


def _largest(values: Array, k: int, backend: Backend) -> tuple[Array, Array]:
    """Return the k largest values of each row, and their columns, in any order."""
    if not backend.is_numpy:  # the array API has no such function
        import torch

        return tuple(torch.topk(values, k, dim=1, sorted=False))  # type: ignore[return-value]
    columns = np.argpartition(-values, k - 1, axis=1)[:, :k]
    return np.take_along_axis(values, columns, axis=1), columns


def unit_rows(values: Array, xp: Any = NUMPY.xp) -> Array:
    """Normalise rows to length 1; a zero row stays zero."""
    length = xp.linalg.vector_norm(values, axis=-1, keepdims=True)
    return values / xp.where(length > 0, length, xp.ones_like(length))


def finite_rows(X: Any, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a copy of some rows, float64; raise `HeadError` with the numbers of non-finite rows."""
    values = np.array(to_numpy(X[rows]), np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {rows[bad[:5]].tolist()}.")
    return values


def _prepared(
    X: Any, rows: NDArray[np.int64], scaling: Scaling
) -> tuple[NDArray[np.float64], NDArray[np.float64], Floats]:
    """Return the subtracted mean, the divisor, and the scaled training rows as unit vectors."""
    values = finite_rows(X, rows)
    mean, width = np.zeros(values.shape[1]), np.ones(values.shape[1])
    if scaling != "none":
        mean = values.mean(0)
        values -= mean
    if scaling == "standardize":
        std = np.sqrt((values * values).mean(0))
        width = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # 1 for a column that is constant up to rounding
    return mean, width, unit_rows(values / width).astype(np.float32)
