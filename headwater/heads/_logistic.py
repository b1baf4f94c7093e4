"""L2-penalised logistic regression, many fits at once.

For each problem, over rows i of its row set with labels y and rows z of centred, scaled features::

    sum_i w_i loss(y_i, z_i W + b)  +  ‖W‖² / (2 C)

which is scikit-learn's objective (``C * sum of losses + ‖W‖² / 2``, intercept unpenalised) divided by C. The weight w_i
is the weight of the row times the weight of its class in the problem.

The Hessian of a problem is about ``M ⊗ S + I / C``, where S is the scatter of the standardised rows that all problems
share, and M the mean covariance of the predicted class indicators, p (1 - p) for two classes and diag(p) - p pᵀ for
more. One eigendecomposition of S and small ones of M therefore precondition every fold and penalty. L-BFGS corrects the
remaining error.

Solutions on the same rows change smoothly along log C. For a fine grid of penalties, some are solved first, and the
others start from a spline through those solutions, from which they need a step or two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from headwater._backend import to_numpy
from headwater.heads._lbfgs import Evaluation, Minimum, Objective, minimise
from headwater.heads._rows import Chunk, TrainingRows

Array = Any

FLOAT32_TOL = 1e-6  # relative to the loss of constant predictions; float32 cannot resolve smaller decreases
SHARE = 1e-5  # relative to the objective, which for separable rows falls below 1e-6 of the constant loss
KNOT_SPACING = 1.0  # decades of C between penalties that are solved first
MIN_COLUMNS = 64  # with fewer columns, another pass over the rows costs more than the second stage saves


@dataclass(frozen=True)
class Problems:
    """P problems to solve, with ``n_outputs`` columns each.

    Attributes
    ----------
    set_of
        The row set of each problem, int64, of shape ``(P,)``.
    C
        Inverse penalty of each, float64, of shape ``(P,)``.
    target_of
        The column of ``targets`` of each, int64, of shape ``(P,)``.
    targets
        Two classes (``n_outputs`` 1): signs ±1, of shape ``(n_samples, n_targets)``. More: class numbers, of shape
        ``(n_samples, 1)``.
    n_outputs
        1 for two classes, else the number of classes.
    class_weight
        Weight of each class, float64, of shape ``(P, n_classes)``; None for 1.
    sample_weight
        Weight of each row of X, float64, of shape ``(n_samples,)``; None for 1.
    """

    set_of: NDArray[np.int64]
    C: NDArray[np.float64]
    target_of: NDArray[np.int64]
    targets: NDArray[Any]
    n_outputs: int
    class_weight: NDArray[np.float64] | None = None
    sample_weight: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Solution:
    """Fitted problems in the units of X: ``logits = X @ coef.T + intercept``.

    ``coef`` has shape ``(P, k, d)`` and type float64, ``intercept`` ``(P, k)``, the others ``(P,)``. ``objective`` is
    scikit-learn's.
    """

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    objective: NDArray[np.float64]
    n_iter: NDArray[np.int64]
    converged: NDArray[np.bool_]


class LogisticObjective:
    """Value, gradient and preconditioner of `Problems`, for `minimise`.

    Parameters are rows ``[W, b]`` of length d + 1, in each problem's own standardised units.
    """

    def __init__(self, rows: TrainingRows, problems: Problems, dtype: Any) -> None:
        self.rows, self.problems, self.xp, self.dtype = rows, problems, rows.xp, dtype
        xp = rows.xp
        self.eigenvalues = xp.astype(rows.eigenvalues, dtype)
        self.n_rows = rows.put(rows.inside.sum(0), xp.float64)
        self.C = rows.put(problems.C, xp.float64)
        self._constant, loss = _constant_predictions(problems, rows.inside)
        self._class_weight, self._sample_weight = (
            None if weight is None else rows.put(weight, dtype)
            for weight in (problems.class_weight, problems.sample_weight)
        )
        self.constant_loss = rows.put(loss, xp.float64)
        self.targets = rows.put(problems.targets.T, xp.float32 if problems.n_outputs == 1 else xp.int64)

    def start(self) -> Array:
        """Return initial parameters: zero weights, and intercepts that fit the class frequencies."""
        p, k = self._constant.shape
        theta = np.zeros((p, k, self.rows.n_weights + 1))
        theta[:, :, -1] = self._constant
        return self.rows.put(theta, self.dtype)

    def evaluate(self, theta: Array, which: Array) -> Evaluation:
        """Return value, gradient and the mean indicator covariance M of the problems ``which`` at ``theta``."""
        xp = self.xp
        p, k, _ = theta.shape
        which_np = to_numpy(which)
        sets = self.problems.set_of[which_np]
        weights = theta[:, :, :-1]
        coef, offset = self.rows.to_coef(weights, sets)
        offset = offset + theta[:, :, -1]
        value = self.rows.put(np.zeros(p), xp.float64)
        coef_gradient = xp.zeros_like(coef)
        offset_gradient = xp.zeros_like(offset)
        covariance = self.rows.put(np.zeros((p, k, k)), xp.float64)
        shares = self.rows.map(lambda chunk: self._chunk(chunk, coef, offset, which_np, sets), sets)
        for mine, losses, residual_X, residuals, spread in shares:
            value[mine] += losses
            coef_gradient[mine] += residual_X
            offset_gradient[mine] += residuals
            covariance[mine] += spread
        C = self.C[which]
        value = value + _squared(xp, weights) / (2 * C)
        gradient = xp.empty_like(theta)
        gradient[:, :, :-1] = self.rows.to_weights(coef_gradient, offset_gradient, sets)
        gradient[:, :, :-1] += weights / xp.astype(C, self.dtype)[:, None, None]
        gradient[:, :, -1] = offset_gradient
        return Evaluation(value, gradient, covariance / self.n_rows[sets][:, None, None])

    def _chunk(
        self, chunk: Chunk, coef: Array, offset: Array, which: NDArray[np.int64], sets: NDArray[np.int64]
    ) -> tuple[Any, Array, Array, Array, Array]:
        """Return the contribution of some rows to the losses and gradients of the problems that use them."""
        xp, k = self.xp, self.problems.n_outputs
        column = np.full(self.rows.inside.shape[1], -1)
        column[chunk.sets] = np.arange(len(chunk.sets))
        mine = np.flatnonzero(column[sets] >= 0)
        every = len(mine) == len(sets)
        d = coef.shape[2]
        W = (coef if every else coef[mine]).reshape(-1, d)
        b = offset if every else offset[mine]
        X = xp.astype(chunk.X, self.dtype, copy=False)
        inside = None if chunk.inside is None else xp.astype(chunk.inside[column[sets[mine]]], self.dtype)
        targets = self.targets[:, chunk.rows]
        logits = (W @ X.T).reshape(-1, k, len(chunk.rows)) + b[:, :, None]
        if k == 1:
            signs = targets if len(targets) == 1 else targets[self.problems.target_of[which[mine]]]
            weight = self._weight(inside, which[mine], signs > 0, chunk.rows)
            losses, residuals, spread = _binary(xp, logits[:, 0], signs, weight)
        else:
            weight = self._weight(inside, which[mine], targets[0], chunk.rows)
            losses, residuals, spread = _multinomial(xp, logits, targets[0], weight)
        return (
            slice(None) if every else mine,
            losses,
            (residuals.reshape(-1, len(chunk.rows)) @ X).reshape(-1, k, d),
            xp.sum(residuals, axis=2),
            spread,
        )

    def _weight(
        self, inside: Array | None, which: NDArray[np.int64], labels: Array, rows: NDArray[np.int64]
    ) -> Array | None:
        """Return the weights of rows in problems, of shape ``(p, r)``; None if all are 1.

        ``labels`` are class numbers, of shape ``(r,)``, or whether a row has the second class, ``(p or 1, r)``.
        """
        weight = inside
        if self._class_weight is not None:
            table = self._class_weight[which]
            own = table[:, labels] if labels.ndim == 1 else self.xp.where(labels, table[:, 1:], table[:, :1])
            weight = own if weight is None else weight * own
        if self._sample_weight is not None:
            own = self._sample_weight[rows][None]
            weight = own + self.rows.put(np.zeros((len(which), 1)), self.dtype) if weight is None else weight * own
        return weight

    def precondition(self, gradient: Array, curvature: Array, which: Array) -> Array:
        """Multiply by the inverse of ``n M ⊗ S + I / C`` (weights) and of ``n M`` (intercepts)."""
        xp = self.xp
        sets = self.problems.set_of[to_numpy(which)]
        k = gradient.shape[1]
        if k > 1:
            spread, classes = xp.linalg.eigh(curvature)
            classes = xp.astype(classes, self.dtype)
            gradient = classes.mT @ gradient
        else:
            spread = curvature[:, :, 0]
        spread = xp.maximum(spread, xp.full_like(spread, 1e-6)) * self.n_rows[sets][:, None]
        own = self.eigenvalues[sets if len(self.eigenvalues) > 1 else np.zeros_like(sets)]
        spread = xp.astype(spread, self.dtype)[:, :, None]
        out = xp.empty_like(gradient)
        out[:, :, :-1] = gradient[:, :, :-1] / (
            spread * own[:, None, :] + xp.astype(1 / self.C[which], self.dtype)[:, None, None]
        )
        out[:, :, -1:] = gradient[:, :, -1:] / spread
        return classes @ out if k > 1 else out


def _constant_predictions(
    problems: Problems, inside: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the intercepts ``(P, k)`` that predict each problem's class frequencies, and the losses ``(P,)``."""
    p, k = len(problems.C), problems.n_outputs
    logits, loss = np.empty((p, k)), np.empty(p)
    for s in np.unique(problems.set_of):
        here = problems.targets[inside[:, s]]
        each = np.ones(len(here)) if problems.sample_weight is None else problems.sample_weight[inside[:, s]]
        mine = np.flatnonzero(problems.set_of == s)
        if k == 1:
            positive = (each @ (here > 0))[problems.target_of[mine]]
            mass = np.stack([each.sum() - positive, positive], axis=1)
        else:
            mass = np.bincount(here[:, 0].astype(np.int64), each, minlength=k)[None].repeat(len(mine), 0)
        if problems.class_weight is not None:
            mass = mass * problems.class_weight[mine]
        total = mass.sum(1, keepdims=True)
        shares = np.maximum(mass / total, np.finfo(np.float64).tiny)  # a class may have weight 0
        logits[mine] = np.log(shares[:, 1:]) - np.log(shares[:, :1]) if k == 1 else _centred(np.log(shares))
        loss[mine] = -(mass * np.log(shares)).sum(1)
    return logits, loss


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = values - values.mean(1, keepdims=True)
    return out


def _squared(xp: Any, weights: Array) -> Array:
    """Return each problem's squared norm, float64, of shape ``(p,)``."""
    flat = weights.reshape(weights.shape[0], -1)
    return xp.astype(xp.vecdot(flat, flat), xp.float64)


def _binary(xp: Any, logits: Array, signs: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Return loss sums (float64), residuals dloss/dlogit, and sums of p (1 - p), of shape ``(p, 1, 1)``.

    ``logits`` and ``weight`` have shape ``(p, r)``, and the residuals ``(p, 1, r)``.
    """
    margin = logits * signs
    loss = xp.log1p(xp.exp(-xp.abs(margin))) - xp.minimum(margin, xp.zeros_like(margin))
    wrong = xp.exp(-(margin + loss))  # probability of the other class, exact in both tails
    spread = wrong * (1 - wrong)
    if weight is not None:
        loss, wrong, spread = loss * weight, wrong * weight, spread * weight
    spread = xp.astype(xp.sum(spread, axis=1), xp.float64)[:, None, None]
    return xp.sum(loss, axis=1, dtype=xp.float64), (-signs * wrong)[:, None, :], spread


def _multinomial(xp: Any, logits: Array, labels: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Return loss sums (float64), residuals and sums of diag(p) - p pᵀ, of shape ``(p, k, k)``.

    ``logits`` and the residuals have shape ``(p, k, r)``, ``weight`` has ``(p, r)``. Rows are contiguous in memory, so
    that sums over classes are sums of long vectors.
    """
    k = logits.shape[1]
    logits = logits - xp.max(logits, axis=1, keepdims=True)
    own = xp.astype(xp.arange(k, device=_device(labels))[:, None] == labels, logits.dtype)
    probabilities = xp.exp(logits)
    total = xp.sum(probabilities, axis=1)
    loss = xp.log(total) - xp.sum(logits * own, axis=1)
    probabilities /= total[:, None, :]
    residuals = probabilities - own
    counted = probabilities
    if weight is not None:
        loss = loss * weight
        residuals *= weight[:, None, :]
        counted = probabilities * weight[:, None, :]
    spread = xp.eye(k, dtype=logits.dtype, device=_device(labels)) * xp.sum(counted, axis=2)[:, None, :]
    spread = xp.astype(spread - counted @ probabilities.mT, xp.float64)
    return xp.sum(loss, axis=1, dtype=xp.float64), residuals, spread


def _device(array: Array) -> Any:
    return getattr(array, "device", None)


def solve(rows: TrainingRows, problems: Problems, *, tol: float, max_iter: int, max_columns: int = 1024) -> Solution:
    """Solve all problems; see `solve_all`."""
    end = solve_all(rows, problems, LogisticObjective, tol=tol, max_iter=max_iter, max_columns=max_columns)
    coef, intercept = rows.to_features(end.theta, problems.set_of)
    return Solution(coef, intercept, end.value * problems.C, end.n_iter, end.converged)


class PenalisedLoss(Objective, Protocol):
    """Penalised losses of some problems, each with a start and the loss of predicting the class frequencies."""

    constant_loss: Array

    def start(self) -> Array:
        """Return initial parameters."""
        ...


Build = Callable[[TrainingRows, Any, Any], PenalisedLoss]
"""Makes the objective of some problems on rows, in a float type."""


def solve_all(
    rows: TrainingRows, problems: Problems, build: Build, *, tol: float, max_iter: int, max_columns: int = 1024
) -> Minimum:
    """Minimise all problems, first in float32, then the unsolved ones in float64; return NumPy arrays.

    A problem is solved when the predicted decrease of another step is at most ``tol`` times the loss of predicting the
    class frequencies for all rows, and at most `SHARE` of its objective, which is small for weak penalties on separable
    rows.

    ``max_columns`` limits the columns that are computed together, and thereby the memory.
    """
    step = max(1, max_columns // problems.n_outputs)
    starts = range(0, len(problems.C), step)
    # Some matrix libraries raise this flag for finite numbers, by what stands beside small arrays in memory.
    with np.errstate(invalid="ignore"):
        ends = [_solve_part(rows, _some(problems, slice(at, at + step)), build, tol, max_iter) for at in starts]
    return Minimum(
        theta=np.concatenate([to_numpy(end.theta).astype(np.float64) for end in ends]),
        value=np.concatenate([to_numpy(end.value) for end in ends]),
        n_iter=np.concatenate([to_numpy(end.n_iter) for end in ends]),
        converged=np.concatenate([to_numpy(end.converged) for end in ends]),
    )


def _solve_part(rows: TrainingRows, problems: Problems, build: Build, tol: float, max_iter: int) -> Minimum:
    xp = rows.xp
    share = tol if rows.float == xp.float64 else max(tol, FLOAT32_TOL)
    knots, others, spline = _path(problems)
    first = build(rows, _some(problems, knots), rows.float)
    end = minimise(first, first.start(), tol=share * first.constant_loss, share=SHARE, max_iter=max_iter)
    if len(others):
        guess = rows.put(spline) @ end.theta.reshape(len(knots), -1)
        second = build(rows, _some(problems, others), rows.float)
        start = guess.reshape(-1, *end.theta.shape[1:])
        rest = minimise(second, start, tol=share * second.constant_loss, share=SHARE, max_iter=max_iter)
        order = rows.put(np.argsort(np.concatenate([knots, others])), xp.int64)
        end = Minimum(*(xp.concat(pair)[order] for pair in zip(vars(end).values(), vars(rest).values(), strict=True)))
    if rows.float == xp.float64:
        return end
    left = np.flatnonzero(~to_numpy(end.converged) | (tol < FLOAT32_TOL))
    if len(left):
        objective = build(rows, _some(problems, left), xp.float64)
        start = xp.astype(end.theta[left], xp.float64)
        again = minimise(objective, start, tol=tol * objective.constant_loss, share=SHARE, max_iter=max_iter)
        end.theta = xp.astype(end.theta, xp.float64)
        end.theta[left] = again.theta
        end.value[left], end.converged[left] = again.value, again.converged
        end.n_iter[left] += again.n_iter
    return end


def _path(problems: Problems) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Choose problems to solve first, and how to interpolate initial solutions of the others.

    Returns
    -------
    knots, others : numbers of problems, int64, of shapes (n,) and (P - n,)
    spline : of shape (P - n, n)
        Multiplied by the parameters of the knots, it interpolates those of the others along log C.
    """
    p = len(problems.C)
    log_C = np.log10(problems.C)
    is_knot = np.ones(p, bool)
    spline = np.zeros((p, p))
    for mine in _families(problems) if p * problems.n_outputs >= MIN_COLUMNS else ():
        path, first = np.unique(log_C[mine], return_index=True)
        at = _spaced(path)
        if len(at) == 1:
            continue
        knots = mine[first[at]]
        is_knot[mine] = False
        is_knot[knots] = True
        ends = "not-a-knot" if len(at) > 3 else "natural"
        spline[np.ix_(mine, knots)] = CubicSpline(path[at], np.eye(len(at)), bc_type=ends)(log_C[mine])
    knots, others = np.flatnonzero(is_knot), np.flatnonzero(~is_knot)
    return knots, others, spline[np.ix_(others, knots)]


def _families(problems: Problems) -> list[NDArray[np.int64]]:
    """Return families of problems that differ only in C, by their numbers."""
    same: list[NDArray[Any]] = [problems.set_of[:, None], problems.target_of[:, None]]
    if problems.class_weight is not None:
        same.append(problems.class_weight)
    _, family, sizes = np.unique(np.hstack(same), axis=0, return_inverse=True, return_counts=True)
    return np.split(np.argsort(family.reshape(-1), kind="stable"), np.cumsum(sizes)[:-1])


def _spaced(path: NDArray[np.float64]) -> list[int]:
    """Choose the fewest of some ascending numbers, with both ends, that leave no gap above `KNOT_SPACING`."""
    at = [0]
    while at[-1] < len(path) - 1:
        within = int(np.searchsorted(path, path[at[-1]] + KNOT_SPACING, side="right")) - 1
        at.append(max(within, at[-1] + 1))
    return at


def _some(problems: Problems, which: Any) -> Problems:
    weight = problems.class_weight
    return replace(
        problems,
        set_of=problems.set_of[which],
        C=problems.C[which],
        target_of=problems.target_of[which],
        class_weight=None if weight is None else weight[which],
    )
