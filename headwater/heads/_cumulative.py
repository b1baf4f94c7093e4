"""L2-penalised cumulative logit models (proportional odds), many fits at once.

For each problem, over rows i of its row set with grades y from 0 to K - 1 and rows z of centred, scaled features::

    sum_i loss(y_i, z_i w)  +  ‖w‖² / (2 C),    P(y <= j) = σ(θ_j - z w)

With η = z w, the probability of grade j is ``σ(θ_j - η) σ(η - θ_{j-1}) (1 - exp(θ_{j-1} - θ_j))``, so that its loss is
the sum of two logistic losses and a term without η: nothing cancels in the tails. Thresholds stay in order by their
parameters: θ_0, then the logarithms δ_j of the increments ``θ_j - θ_{j-1}``.

As in `headwater.heads._logistic`, the scatter of the rows, times the mean curvature of the loss in η, preconditions
every fold and penalty. The thresholds have the Hessian of their own.

References
----------
McCullagh, Regression models for ordinal data, JRSS B 42, 1980 (the model). Pratt, Concavity of the log likelihood,
JASA 76, 1981 (it is concave in w and θ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from headwater._backend import to_numpy
from headwater.heads._lbfgs import Evaluation
from headwater.heads._logistic import Problems, solve_all
from headwater.heads._rows import Chunk, TrainingRows

Array = Any


@dataclass(frozen=True)
class GradeSolution:
    """Fitted problems in the units of X: ``P(y <= j) = σ(thresholds_j - X @ coef)``.

    ``coef`` has shape ``(P, d)`` and type float64, ``thresholds`` ``(P, K - 1)``, the others ``(P,)``. The objective is
    ``C * sum of losses + ‖w‖² / 2``.
    """

    coef: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    objective: NDArray[np.float64]
    n_iter: NDArray[np.int64]
    converged: NDArray[np.bool_]


class CumulativeObjective:
    """Value, gradient and preconditioner of problems, for `headwater.heads._lbfgs.minimise`.

    Parameters are rows ``[w, θ_0, δ_1, …]`` of length d + K - 1, in each problem's own standardised units. The targets
    of the problems are grades from 0, all of which every row set has.
    """

    def __init__(self, rows: TrainingRows, problems: Problems, dtype: Any) -> None:
        self.rows, self.problems, self.xp, self.dtype = rows, problems, rows.xp, dtype
        xp = rows.xp
        self.grades = rows.put(problems.targets[:, 0], xp.int64)
        self.k = int(problems.targets.max()) + 1
        counts = rows.inside.T.astype(np.float64) @ np.eye(self.k)[problems.targets[:, 0]]
        self._counts = rows.put(counts, xp.float64)  # of each grade in each row set
        self.eigenvalues = xp.astype(rows.eigenvalues, dtype)
        self.C = rows.put(problems.C, xp.float64)
        mine = counts[problems.set_of]
        shares = mine / mine.sum(1, keepdims=True)
        self.constant_loss = rows.put(-(mine * np.log(shares)).sum(1), xp.float64)
        below = shares.cumsum(1)[:, :-1]
        thresholds = np.log(below) - np.log1p(-below)
        self._start = np.concatenate([thresholds[:, :1], np.log(np.diff(thresholds, axis=1))], axis=1)

    def start(self) -> Array:
        """Return initial parameters: zero weights, and thresholds that fit the frequencies of the grades."""
        theta = np.zeros((len(self._start), 1, self.rows.n_weights + self.k - 1))
        theta[:, 0, self.rows.n_weights :] = self._start
        return self.rows.put(theta, self.dtype)

    def evaluate(self, theta: Array, which: Array) -> Evaluation:
        """Return value, gradient, and curvature of the problems ``which`` at ``theta``.

        The curvature, of shape ``(p, K, K)``, holds the sum of the loss's second derivatives in η, at 0, 0, and the
        Hessian of the thresholds' parameters in the other rows and columns.
        """
        xp, d, k = self.xp, self.rows.n_weights, self.k
        sets = self.problems.set_of[to_numpy(which)]
        p = len(sets)
        weights = theta[:, :, :d]
        coef, offset = self.rows.to_coef(weights, sets)
        free = xp.astype(theta[:, 0, d:], xp.float64)
        thresholds = cumulated(xp, free)
        value = self.rows.put(np.zeros(p), xp.float64)
        coef_gradient, offset_gradient = xp.zeros_like(coef), xp.zeros_like(offset)
        slopes = self.rows.put(np.zeros((p, k - 1)), xp.float64)
        bends = self.rows.put(np.zeros((p, k - 1)), xp.float64)
        shares = self.rows.map(lambda chunk: self._chunk(chunk, coef, offset, thresholds, sets), sets)
        for mine, losses, residual_X, residuals, slope, bend in shares:
            value[mine] += losses
            coef_gradient[mine] += residual_X
            offset_gradient[mine] += residuals
            slopes[mine] += slope
            bends[mine] += bend
        C = self.C[which]
        flat = xp.astype(weights[:, 0], xp.float64)
        between, slope, hessian = self._thresholds(free, slopes, bends, self._counts[sets])
        value = value + between + xp.vecdot(flat, flat) / (2 * C)
        gradient = xp.empty_like(theta)
        gradient[:, :, :d] = self.rows.to_weights(coef_gradient, offset_gradient, sets)
        gradient[:, :, :d] += weights / xp.astype(C, self.dtype)[:, None, None]
        gradient[:, 0, d:] = xp.astype(slope, self.dtype)
        curvature = self.rows.put(np.zeros((p, k, k)), xp.float64)
        curvature[:, 0, 0] = xp.sum(bends, axis=1)
        curvature[:, 1:, 1:] = hessian
        return Evaluation(value, gradient, curvature)

    def _chunk(
        self, chunk: Chunk, coef: Array, offset: Array, thresholds: Array, sets: NDArray[np.int64]
    ) -> tuple[Any, Array, Array, Array, Array, Array]:
        """Return the contribution of some rows to the losses and gradients of the problems that use them.

        The last two are the sums of the first and second derivatives in each threshold, of shape ``(p, K - 1)``.
        """
        xp = self.xp
        column = np.full(self.rows.inside.shape[1], -1)
        column[chunk.sets] = np.arange(len(chunk.sets))
        mine = np.flatnonzero(column[sets] >= 0)
        every = len(mine) == len(sets)
        some: Any = slice(None) if every else mine
        X = xp.astype(chunk.X, self.dtype, copy=False)
        inside = None if chunk.inside is None else xp.astype(chunk.inside[column[sets[mine]]], self.dtype)
        eta = coef[some][:, 0] @ X.T + offset[some]
        at = xp.astype(thresholds[some], self.dtype)
        grades = self.grades[chunk.rows]
        is_grade = xp.astype(grades[:, None] == xp.arange(self.k, device=_device(grades)), self.dtype)  # (r, K)
        end = xp.full_like(at[:, :1], float("inf"))
        # distances beyond the upper threshold of each row's grade, and below its lower one
        above = eta - xp.concat([at, end], axis=1)[:, grades]
        below = xp.concat([-end, at], axis=1)[:, grades] - eta
        loss_above, pull_above, bend_above = _logistic(xp, above, inside)
        loss_below, pull_below, bend_below = _logistic(xp, below, inside)
        residuals = pull_above - pull_below
        upper, lower = is_grade[:, :-1], is_grade[:, 1:]
        return (
            some,
            xp.sum(loss_above, axis=1, dtype=xp.float64) + xp.sum(loss_below, axis=1, dtype=xp.float64),
            (residuals @ X)[:, None, :],
            xp.sum(residuals, axis=1)[:, None],
            xp.astype(pull_below @ lower - pull_above @ upper, xp.float64),
            xp.astype(bend_above @ upper + bend_below @ lower, xp.float64),
        )

    def _thresholds(self, free: Array, slopes: Array, bends: Array, counts: Array) -> tuple[Array, Array, Array]:
        """Return the losses of the increments, ``(p,)``, and gradient and Hessian of the parameters of thresholds.

        The Hessian leaves out what vanishes at the optimum, so that it is positive definite.
        """
        xp, k = self.xp, self.k
        increments = xp.exp(free[:, 1:])
        inner = counts[:, 1:-1]
        scaled = increments / xp.expm1(xp.clip(increments, 0.0, 500.0))
        between = -xp.sum(inner * xp.log(-xp.expm1(-increments)), axis=1)
        # dθ_j / dθ_0 = 1, and dθ_j / dδ_i is the increment i for i <= j
        below = xp.tril(xp.ones((k - 1, k - 1), dtype=xp.float64, device=_device(free)))
        steps = xp.concat([xp.ones_like(free[:, :1]), increments], axis=1)
        jacobian = below * steps[:, None, :]
        own = xp.zeros_like(free)
        own[:, 1:] = inner * scaled
        slope = (slopes[:, None, :] @ jacobian)[:, 0] - own
        hessian = (jacobian.mT * bends[:, None, :]) @ jacobian
        curved = xp.zeros_like(free)
        curved[:, 1:] = inner * scaled * (scaled + increments)  # e^x x² / (e^x - 1)²
        eye = xp.eye(k - 1, dtype=xp.float64, device=_device(free))
        return between, slope, hessian + curved[:, :, None] * eye

    def precondition(self, gradient: Array, curvature: Array, which: Array) -> Array:
        """Multiply by the inverse of ``h S + I / C`` (weights) and of the thresholds' Hessian."""
        xp, d = self.xp, self.rows.n_weights
        sets = self.problems.set_of[to_numpy(which)]
        own = self.eigenvalues[sets if len(self.eigenvalues) > 1 else np.zeros_like(sets)]
        n = xp.sum(self._counts[sets], axis=1)
        bend = xp.astype(xp.maximum(curvature[:, 0, 0], 1e-6 * n), self.dtype)[:, None]
        out = xp.empty_like(gradient)
        out[:, 0, :d] = gradient[:, 0, :d] / (bend * own + xp.astype(1 / self.C[which], self.dtype)[:, None])
        hessian = curvature[:, 1:, 1:]
        floor = 1e-6 * n[:, None, None] * xp.eye(self.k - 1, dtype=xp.float64, device=_device(n))
        solved = xp.linalg.solve(hessian + floor, xp.astype(gradient[:, 0, d:], xp.float64)[:, :, None])
        out[:, 0, d:] = xp.astype(solved[:, :, 0], self.dtype)
        return out


def cumulated(xp: Any, free: Array) -> Array:
    """Return thresholds from their parameters ``[θ_0, δ_1, …]``, of shape ``(p, K - 1)``."""
    wrapped = array_namespace(free)  # NumPy itself has no cumulative_sum before 2.1
    return wrapped.cumulative_sum(xp.concat([free[:, :1], xp.exp(free[:, 1:])], axis=1), axis=1)


def _logistic(xp: Any, z: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Return log(1 + e^z), its first and its second derivative, times the weights; all are 0 at minus infinity."""
    small = xp.exp(-xp.abs(z))
    loss = xp.log1p(small) + xp.maximum(z, xp.zeros_like(z))
    first = xp.where(z > 0, xp.ones_like(z), small) / (1 + small)
    second = small / (1 + small) ** 2
    return (loss, first, second) if weight is None else (loss * weight, first * weight, second * weight)


def _device(array: Array) -> Any:
    return getattr(array, "device", None)


def solve_grades(rows: TrainingRows, problems: Problems, *, tol: float, max_iter: int) -> GradeSolution:
    """Solve all problems, each with the grades ``problems.targets`` from 0, of shape ``(n_samples, 1)``."""
    end = solve_all(rows, problems, CumulativeObjective, tol=tol, max_iter=max_iter)
    d = rows.n_weights
    weights = np.concatenate([end.theta[:, :, :d], np.zeros((len(end.theta), 1, 1))], axis=2)
    coef, offset = rows.to_features(weights, problems.set_of)
    thresholds = cumulated(np, end.theta[:, 0, d:]) - offset
    return GradeSolution(coef[:, 0], thresholds, end.value * problems.C, end.n_iter, end.converged)
