"""One float32 matrix of standardised rows for all fits.

Each fit's own centring and scaling is folded into its weights, so that folds need no copies. Rows are ordered by the
fits that use them, so that a chunk of rows is multiplied only with those fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._backend import Backend, to_numpy
from headwater.heads._rows.base import Array, Chunk, TrainingRows, floored, positive_std
from headwater.heads.base import blocks


class SharedRows(TrainingRows):
    """One working matrix for all row sets.

    Parameters
    ----------
    X
        Features of shape ``(n_samples, d)``: an array of NumPy or of another array-API library, or an array-like
        with ``blocks()``.
    row_sets
        Row numbers, one array per set.
    backend
        Where to compute; that of ``X``, if it is an array of another library than NumPy.
    scale
        Whether columns are divided by their standard deviations besides being centred.
    max_bytes
        If the working matrix would be larger, rows are streamed from ``X`` in each pass.
    n_threads
        Threads that process chunks (for NumPy; other libraries have their own).
    """

    def __init__(
        self,
        X: Any,
        row_sets: Sequence[NDArray[np.int64]],
        backend: Backend,
        *,
        scale: bool,
        max_bytes: int,
        n_threads: int,
    ) -> None:
        super().__init__(X, row_sets, backend, n_threads)
        self.n_weights = int(X.shape[1])
        self.used = np.flatnonzero(self.inside.any(1))
        self.order = self.used[np.lexsort(self.inside[self.used].T[::-1])]
        self._scaled = scale
        in_memory = len(self.order) * self.n_weights * 4 <= max_bytes
        self._chunks = list(self._cut(self._load(self.order))) if in_memory else None
        self._measure()
        if self._chunks is not None:
            for _ in self.map(self._standardise):
                pass
        values, self._vectors = self._decompose()
        self.eigenvalues = floored(self.xp, values[None])

    @property
    def vectors(self) -> Array:
        """Eigenvectors, ``(d, n_weights)``: weights for standardised columns times these are the solver's weights."""
        return self._vectors

    def chunks(self) -> Iterator[Chunk]:
        """Yield all used rows, a chunk at a time."""
        if self._chunks is not None:
            yield from self._chunks
            return
        for rows, values in blocks(self.source):
            chosen = self._used(rows)
            for start in range(0, len(chosen), self.sizes.chunk):
                part = chosen[start : start + self.sizes.chunk]
                picked = self.put(values[part - rows.start])
                yield self._chunk((picked - self.center) / self.width, part)

    def _standardise(self, chunk: Chunk) -> None:
        X = chunk.X
        X -= self.center
        X /= self.width

    def to_coef(self, weights: Array, sets: NDArray[np.int64]) -> tuple[Array, Array]:
        """Rotate back, and fold in each set's centring and scaling."""
        xp, dtype = self.xp, weights.dtype
        vectors = xp.astype(self._vectors, dtype, copy=False)
        coef, offset = xp.empty_like(weights), xp.zeros_like(weights[:, :, 0])

        def turn(some: slice) -> None:
            W = (weights[some].reshape(-1, weights.shape[2]) @ vectors.T).reshape(weights[some].shape)
            scale, shift = self._fold(sets[some], dtype)
            coef[some] = W * scale
            offset[some] = xp.sum(W * shift, axis=2)

        self._share(turn, len(sets))
        return coef, offset

    def to_weights(self, coef: Array, offset: Array, sets: NDArray[np.int64]) -> Array:
        """Transpose of `to_coef`."""
        xp, dtype = self.xp, coef.dtype
        vectors = xp.astype(self._vectors, dtype, copy=False)
        weights = xp.empty_like(coef)

        def turn(some: slice) -> None:
            scale, shift = self._fold(sets[some], dtype)
            W = coef[some] * scale + offset[some][:, :, None] * shift
            weights[some] = (W.reshape(-1, coef.shape[2]) @ vectors).reshape(W.shape)

        self._share(turn, len(sets))
        return weights

    def _fold(self, sets: NDArray[np.int64], dtype: Any) -> tuple[Array, Array]:
        """Return each set's scale of weights for the shared rows, and its centre in them."""
        scale, shift = (self.xp.astype(part[sets][:, None], dtype, copy=False) for part in (self._scale, self._shift))
        return scale, shift

    def to_features(
        self, theta: NDArray[np.float64], set_of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Undo the rotation, each set's scaling and the shared one."""
        scale, shift = (to_numpy(part).astype(np.float64)[set_of][:, None] for part in (self._scale, self._shift))
        center, width = (to_numpy(part).astype(np.float64) for part in (self.center, self.width))
        weights = theta[:, :, :-1] @ to_numpy(self._vectors).astype(np.float64).T
        coef = weights * scale / width
        return coef, theta[:, :, -1] + (weights * shift).sum(2) - (coef * center).sum(2)

    def _decompose(self) -> tuple[Array, Array]:
        """Decompose the scatter of all used rows, which approximates that of each set."""
        d = self.n_weights
        scatter = self.put(np.zeros((d, d)))
        for part in self.map(lambda chunk: chunk.X.T @ chunk.X):
            scatter += part
        values, vectors = self.xp.linalg.eigh(scatter / len(self.order))
        return values, vectors

    def _cut(self, X: Array) -> Iterator[Chunk]:
        """Divide the working matrix into chunks, if possible where the row sets change."""
        inside = self.inside[self.order]
        changes = np.flatnonzero((inside[1:] != inside[:-1]).any(1)) + 1
        start = 0
        while start < len(inside):
            stop = min(start + self.sizes.chunk, len(inside))
            good = changes[(changes >= start + self.sizes.least) & (changes < stop)]
            stop = int(good[-1]) if len(good) else stop
            yield self._chunk(X[start:stop], self.order[start:stop])
            start = stop

    def _chunk(self, X: Array, rows: NDArray[np.int64]) -> Chunk:
        inside = self.inside[rows]
        sets = np.flatnonzero(inside.any(0))
        inside = inside[:, sets]
        return Chunk(X, rows, sets, None if inside.all() else self.put(inside.T))

    # Moments

    def _measure(self) -> None:
        """Compute means and standard deviations of columns over all used rows, and over each set, in one pass."""
        xp = self.xp
        shape = (self.inside.shape[1] + 1, self.n_weights)  # the last row is for all used rows
        total, square = self.put(np.zeros(shape), xp.float64), self.put(np.zeros(shape), xp.float64)
        zero = self.put(np.zeros(self.n_weights))
        self.center, self.width = zero, zero + 1  # chunks are not standardised yet
        # subtracting one row first avoids cancellation in columns with a large mean
        shift = xp.astype(self._load(self.used[:1])[0], xp.float64)

        def moments(chunk: Chunk) -> tuple[NDArray[np.int64], Array, Array]:
            every = self.put(np.ones((1, len(chunk.rows))), xp.float64)
            inside = every if chunk.inside is None else xp.concat([xp.astype(chunk.inside, xp.float64), every])
            sums = squares = 0.0
            for start in range(0, len(chunk.rows), self.sizes.moments):
                some = slice(start, start + self.sizes.moments)
                X = xp.astype(chunk.X[some], xp.float64) - shift
                sums = sums + inside[:, some] @ X
                X *= X
                squares = squares + inside[:, some] @ X
            return chunk.sets, sums, squares

        with np.errstate(invalid="ignore", over="ignore"):  # non-finite values show in the moments
            for sets, part, squares in self.map(moments):
                which = np.append(sets, len(total) - 1)
                total[which] += part
                square[which] += squares
            n = self.put(np.append(self.inside.sum(0), len(self.used))[:, None], xp.float64)
            mean = total / n
            std = positive_std(xp, square / n - mean * mean, mean)
        self._require_finite(mean[-1] + std[-1])
        if not self._scaled:
            std = xp.ones_like(std)
        self.center = xp.astype(mean[-1] + shift, self.float)
        self.width = xp.astype(std[-1], self.float)
        self._scale = xp.astype(std[-1] / std[:-1], self.float)
        self._shift = xp.astype((mean[-1] - mean[:-1]) / std[:-1], self.float)
