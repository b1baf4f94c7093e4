"""A rotated matrix for each row set, for fits with fewer rows than columns.

The weights of such a fit lie in the span of its rows. Each row set is rotated into this smaller space, in which the
scatter is diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._backend import Backend, to_numpy
from headwater.heads._rows.base import Array, Chunk, TrainingRows, floored, positive_std


class RotatedRows(TrainingRows):
    """A separate matrix for each row set, in the span of its rows.

    With Z the standardised rows of a set, ``Z Zᵀ = U Λ Uᵀ``; its matrix is ``Y = U Λ^½``, and weights w for Y
    correspond to weights ``Zᵀ Y Λ⁻¹ w`` of the same norm for Z. Parameters are as for `SharedRows`.
    """

    def __init__(
        self, X: Any, row_sets: Sequence[NDArray[np.int64]], backend: Backend, *, scale: bool, n_threads: int
    ) -> None:
        super().__init__(X, row_sets, backend, n_threads)
        xp = self.xp
        self.row_sets = [np.sort(rows) for rows in row_sets]
        self.n_weights = max(len(rows) for rows in row_sets)
        used = np.flatnonzero(self.inside.any(1))
        self._place_of = np.empty(len(self.inside), np.int64)
        self._place_of[used] = np.arange(len(used))
        self._matrix = self._load(used)
        self._scaled = scale
        with np.errstate(invalid="ignore", over="ignore"):
            self._require_finite(xp.sum(xp.astype(self._matrix, xp.float64), axis=0))
        self._values = self.put(np.zeros((len(row_sets), self.n_weights)), xp.float64)
        self._chunks = [self._rotate(s) for s in range(len(row_sets))]
        n = self.put(np.array([[len(rows)] for rows in row_sets]))
        self.eigenvalues = floored(xp, self._values / n)

    def chunks(self) -> Iterator[Chunk]:
        """Yield one chunk per row set."""
        yield from self._chunks

    @property
    def float(self) -> Any:
        """The working type; the matrices are small enough for float64."""
        return self.xp.float64

    def to_coef(self, weights: Array, sets: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return the weights unchanged, since chunks hold rotated rows."""
        return weights, self.xp.zeros_like(weights[:, :, 0])

    def to_weights(self, coef: Array, offset: Array, sets: NDArray[np.int64]) -> Array:
        """Transpose of `to_coef`."""
        return coef

    def to_features(
        self, theta: NDArray[np.float64], set_of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotate weights back, and undo each set's scaling."""
        p, k, _ = theta.shape
        coef, intercept = np.empty((p, k, self._matrix.shape[1])), theta[:, :, -1].copy()
        for s in np.unique(set_of):
            mine = np.flatnonzero(set_of == s)
            Z, mean, std = (to_numpy(part) for part in self._standardised(int(s)))
            Y, values = to_numpy(self._chunks[s].X).astype(np.float64), to_numpy(self._values[s])
            inverse = np.where(values > 0, 1 / np.where(values > 0, values, 1), 0)
            weights = (theta[mine, :, :-1] * inverse).reshape(-1, len(values)) @ Y.T @ Z
            coef[mine] = (weights / std).reshape(len(mine), k, -1)
            intercept[mine] -= coef[mine] @ mean
        return coef, intercept

    def _standardised(self, s: int) -> tuple[Array, Array, Array]:
        """Return a set's rows in float64, centred and scaled, and their means and standard deviations."""
        xp = self.xp
        index = self.put(self._place_of[self.row_sets[s]], xp.int64)
        Z = xp.astype(self._matrix[index], xp.float64)
        mean = xp.mean(Z, axis=0)
        Z = Z - mean
        variance = xp.mean(Z * Z, axis=0)
        std = positive_std(xp, variance, mean) if self._scaled else xp.ones_like(mean)
        return Z / std, mean, std

    def _rotate(self, s: int) -> Chunk:
        xp = self.xp
        Z, _, _ = self._standardised(s)
        values, vectors = xp.linalg.eigh(Z @ Z.T)
        values = xp.where(values > 1e-12 * values[-1], values, xp.zeros_like(values))
        Y = self.put(np.zeros((Z.shape[0], self.n_weights)))
        Y[:, : Z.shape[0]] = xp.astype(vectors * xp.sqrt(values), self.float)
        self._values[s, : Z.shape[0]] = values
        return Chunk(Y, self.row_sets[s], np.array([s]), None)
