"""How unlike the training data a new case is: its distance, as a percentile of those of left-out training cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError

Floats = NDArray[np.float64]

N_FOLDS = 5
LEAST_GROUPS = 2 * N_FOLDS
"""Fewer groups give no distances of left-out ones that mean anything."""
MOST_COMPONENTS, MOST_ROWS = 32, 5000
LARGEST = 1e15  # of a value of a reference: squares of these fit into float32
ARRAYS = ("mean", "components", "variances", "noise", "distances", "fold")


@dataclass(frozen=True, eq=False)
class Reference:
    """Distances of left-out training rows, and how the distance of a new case is computed, fold by fold.

    The distance is Mahalanobis's, under the covariance of probabilistic principal components [1]_: along the leading
    components in units of their standard deviation, and off them in units of the rest's [2]_. It needs no training row,
    only their mean and leading components. Groups are in five folds. A row's distance is from the components of the
    other folds; a new case is compared with the rows of each fold by the same components (cross-conformal
    prediction [3]_), so that its percentile is what a training row of a new group would have.

    Attributes
    ----------
    mean : float32 array of shape (n_folds, dim)
        Mean of the rows outside each fold.
    components : float32 array of shape (n_folds, n_components, dim)
        Orthonormal.
    variances : float32 array of shape (n_folds, n_components)
    noise : float32 array of shape (n_folds,)
        Variance of each direction off the components.
    distances : float32 array of shape (n_distances,)
        Squared distance of each training row, divided by ``dim``; ascending within a fold.
    fold : int32 array of shape (n_distances,)
        The fold of each, ascending.

    References
    ----------
    .. [1] Tipping and Bishop, Probabilistic principal component analysis, JRSS B 61, 1999.
    .. [2] Lee et al., A simple unified framework for detecting out-of-distribution samples and adversarial attacks,
       NeurIPS 2018.
    .. [3] Vovk, Cross-conformal predictors, Annals of Mathematics and Artificial Intelligence 74, 2015.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: NDArray[np.float32]
    distances: NDArray[np.float32]
    fold: NDArray[np.int32]

    @property
    def dim(self) -> int:
        """Length of the features."""
        return int(self.mean.shape[1])

    def percentile(self, V: NDArray[Any]) -> Floats:
        """Return the percentage of left-out training rows that are nearer than each row, of shape ``(n,)``.

        Of rows that are like those of the training data, of new groups, 5 % are above 95.

        Parameters
        ----------
        V : array of shape (n, dim)
            Features of new rows.
        """
        nearer = np.zeros(len(V))
        for fold in range(len(self.mean)):
            of_fold = self.distances[self.fold == fold]
            found = _distance(V, self.mean[fold], self.components[fold], self.variances[fold], self.noise[fold])
            nearer += np.searchsorted(of_fold, found.astype(np.float32))
        return 100 * nearer / len(self.distances)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """Rebuild a reference from `to_arrays`.

        Raises
        ------
        InputError
            When arrays are missing, do not fit together, or hold values that no reference has.
        """
        if set(arrays) != set(ARRAYS):
            raise InputError(f"it holds {', '.join(sorted(arrays))}, but needs {', '.join(ARRAYS)}")
        if any(arrays[name].dtype.kind not in "fiu" for name in ARRAYS):
            raise InputError("its arrays are not numbers")
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            found = {name: np.asarray(arrays[name], np.float32) for name in ARRAYS[:-1]}
            fold = np.asarray(arrays["fold"], np.int32)
        mean, components, variances, noise, distances = found.values()
        shaped = mean.ndim == 2 and variances.ndim == 2 and distances.ndim == 1 and len(mean) == N_FOLDS
        if not shaped or components.shape != (N_FOLDS, variances.shape[1], mean.shape[1]) or len(distances) == 0:
            raise InputError("the shapes of its arrays do not fit together")
        if variances.shape[0] != N_FOLDS or noise.shape != (N_FOLDS,) or fold.shape != distances.shape:
            raise InputError("the shapes of its arrays do not fit together")
        sound = all(np.isfinite(values).all() for values in found.values())
        ordered = (np.diff(fold) >= 0).all() and ((np.diff(distances) >= 0) | (np.diff(fold) > 0)).all()
        sound = sound and fold[0] >= 0 and fold[-1] < N_FOLDS and all((abs(v) < LARGEST).all() for v in found.values())
        if not (sound and ordered and (variances > 0).all() and (noise > 0).all()):
            raise InputError("its values are not those of distances")
        return cls(mean, components, variances, noise, distances, fold)


def fit_reference(V: NDArray[Any], groups: NDArray[Any] | None = None, *, seed: int = 0) -> Reference | None:
    """Fit a reference to the features of training rows.

    Of more than 5,000 rows, those of a random choice of groups are used.

    Parameters
    ----------
    V : array of shape (n, dim)
        Features of the training rows.
    groups : array of shape (n,), optional
        Groups of dependent rows, such as patients.

    Returns
    -------
    Reference or None
        None for fewer than ten groups, or if all rows are the same.
    """
    rng = np.random.default_rng(seed)
    names, codes = np.unique(np.arange(len(V)) if groups is None else groups, return_inverse=True)
    place = np.empty(len(names), np.int64)
    place[rng.permutation(len(names))] = np.arange(len(names))
    of_row = place[codes]
    kept = max(LEAST_GROUPS, int(np.searchsorted(np.cumsum(np.bincount(of_row)), MOST_ROWS, "right")))
    rows = np.flatnonzero(of_row < kept)
    X, fold = np.asarray(V[rows], np.float32), of_row[rows] % N_FOLDS
    n_groups = len(np.unique(of_row[rows]))
    if n_groups < LEAST_GROUPS or not np.ptp(X, axis=0).any():
        return None
    n_components = min(MOST_COMPONENTS, n_groups // 4, X.shape[1] - 1)
    models = [_components(X[fold != number], n_components, seed) for number in range(N_FOLDS)]
    distances = np.empty(len(X), np.float32)
    for number, model in enumerate(models):
        distances[fold == number] = _distance(X[fold == number], *model)
    order = np.lexsort((distances, fold))
    mean, components, variances, noise = (np.stack(part) for part in zip(*models, strict=True))
    return Reference(mean, components, variances, noise, distances[order], fold[order].astype(np.int32))


def _distance(
    V: NDArray[Any],
    mean: NDArray[np.float32],
    components: NDArray[np.float32],
    variances: NDArray[np.float32],
    noise: NDArray[np.float32],
) -> Floats:
    """Return the squared distance of rows, divided by their number of columns, of shape ``(n,)``."""
    centred = np.asarray(V, np.float64) - mean
    along = centred @ components.T.astype(np.float64)
    off = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0)
    found: Floats = ((along**2 / variances).sum(1) + off / noise) / centred.shape[1]
    return found


def _components(X: NDArray[np.float32], n_components: int, seed: int) -> tuple[NDArray[np.float32], ...]:
    """Return the mean of rows, their leading components, the variances of these, and that of other directions."""
    from sklearn.decomposition import PCA

    found = PCA(n_components, random_state=seed).fit(X)
    least = max(float(X.var(0).mean()), 1e-12) * 1e-4  # keeps directions without any variance finite
    variances = np.maximum(found.explained_variance_, least)
    noise = max(float(found.noise_variance_), least)
    parts = (found.mean_, found.components_, variances, np.array(noise))
    return tuple(np.asarray(part, np.float32) for part in parts)
