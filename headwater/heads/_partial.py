"""Cox's partial likelihood with a ridge or elastic net penalty, many fits at once.

For each problem, over the rows of its set, with Efron's treatment of ties::

    -log partial likelihood(W)  +  ((1 - l1_ratio) / 2 ‖W‖² + l1_ratio ‖W‖₁) / C

where W applies to standardised rows. Sums over risk sets are cumulative sums over rows in descending order of time, for
all problems on the same rows together, in float64. Products with the features are those of the logistic solver, in
float32 until the end.

The Hessian of a problem is about ``m S``, where S is the scatter of the standardised rows, and m the sum over events of
``1 - sum p²``, with p the share of each row in its risk set: the expected covariance of rows drawn with these shares.
It preconditions L-BFGS as in the logistic solver. With an L1 penalty, `headwater.heads._proximal` goes on from the
solution with as strong a ridge penalty.

References
----------
Cox, Regression models and life-tables, JRSS B 34, 1972. Efron, The efficiency of Cox's likelihood function for censored
data, JASA 72, 1977. Simon, Friedman, Hastie and Tibshirani, Regularization paths for Cox's proportional hazards model
via coordinate descent, Journal of Statistical Software 39, 2011.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater._survival import RiskSets
from headwater.heads._lbfgs import Evaluation, Minimum, minimise
from headwater.heads._proximal import Model, minimise_with_l1
from headwater.heads._rows import Chunk, SharedRows, TrainingRows

Array = NDArray[Any]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

FLOAT32_TOL = 1e-6  # relative to the loss of equal risks; float32 cannot resolve smaller decreases
SHARE = 1e-5  # relative to the objective, which for well separated rows falls far below that loss
MOST_RISKS = 1 << 25  # risks of rows (problems times rows) in memory at once
AT_ONCE = 1 << 18  # the same for one sum over risk sets, which should stay in the cache


@dataclass(frozen=True)
class Problems:
    """P problems to solve.

    Attributes
    ----------
    set_of
        The row set of each problem, int64, of shape ``(P,)``.
    C
        Inverse penalty of each, float64, of shape ``(P,)``.
    l1_ratio
        The share of the L1 penalty, from 0 to 1.
    """

    set_of: Rows
    C: Floats
    l1_ratio: float = 0.0

    def some(self, which: Any) -> Problems:
        """Return some of the problems."""
        return replace(self, set_of=self.set_of[which], C=self.C[which])


class Baseline(NamedTuple):
    """The cumulative hazard of a row with log hazard 0: its values at the distinct times of events, ``(n_times,)``."""

    times: Floats
    hazard: Floats


@dataclass(frozen=True)
class Solution:
    """Fitted problems: the log hazard of a row is ``X @ coef + intercept``, 0 for the mean training row.

    ``coef`` has shape ``(P, d)`` and type float64; the others have one entry for each problem.
    """

    coef: Floats
    intercept: Floats
    objective: Floats
    n_iter: Rows
    converged: NDArray[np.bool_]
    baselines: list[Baseline]


class PartialLikelihood:
    """Value, gradient and preconditioner of `Problems`, for `minimise`; without their L1 penalty.

    Parameters are weights of shape ``(P, 1, n_weights)`` in the units of ``rows``.
    """

    def __init__(self, rows: TrainingRows, problems: Problems, sets: list[RiskSets], dtype: Any) -> None:
        self.xp: Any = rows.xp
        self.rows, self.problems, self.sets, self.dtype = rows, problems, sets, dtype
        self.eigenvalues = np.asarray(rows.eigenvalues, dtype)
        self.penalty = (1 - problems.l1_ratio) / problems.C
        used = np.flatnonzero(rows.inside.any(1))
        self._n_used = len(used)
        self._place = np.zeros(len(rows.inside), np.int64)
        self._place[used] = np.arange(len(used))
        self._columns = [self._place[np.flatnonzero(rows.inside[:, s])[found.order]] for s, found in enumerate(sets)]
        of_sets = np.array([np.log(len(found.order) - found.first - _of_ties(found)).sum() for found in sets])
        self.equal_loss: Floats = of_sets[problems.set_of]

    def start(self) -> Array:
        """Return weights of 0."""
        return np.zeros((len(self.problems.C), 1, self.rows.n_weights), self.dtype)

    def evaluate(self, theta: Array, which: Rows) -> Evaluation:
        """Return value, gradient and the scale m of the Hessian of the problems ``which`` at ``theta``."""
        sets = self.problems.set_of[which]
        coef, _ = self.rows.to_coef(theta, sets)
        risk = self._risks(coef, sets)
        value, spread = np.empty(len(which)), np.empty(len(which))
        parts = list(self._parts(sets))

        def sums(some: slice) -> None:
            for s, mine in parts[some]:
                value[mine], pull, spread[mine] = _sums(self.sets[s], risk[mine][:, self._columns[s]])
                risk[mine] = 0
                risk[mine[:, None], self._columns[s]] = pull

        self.rows._share(sums, len(parts))
        pulled = np.zeros_like(coef)
        residuals = risk.astype(self.dtype, copy=False)
        for mine, part in self.rows.map(lambda chunk: self._pulled(chunk, residuals, sets), sets):
            pulled[mine, 0] += part
        penalty = self.penalty[which]
        gradient = self.rows.to_weights(pulled, np.zeros_like(pulled[:, :, 0]), sets)
        gradient = gradient + penalty.astype(self.dtype)[:, None, None] * theta
        value = value + penalty / 2 * np.vecdot(theta[:, 0], theta[:, 0]).astype(np.float64)
        return Evaluation(value, gradient, spread[:, None])

    def precondition(self, gradient: Array, curvature: Array, which: Array) -> Array:
        """Multiply by the inverse of ``m S`` plus the penalty."""
        sets = self.problems.set_of[which]
        own = self.eigenvalues[sets if len(self.eigenvalues) > 1 else np.zeros_like(sets)]
        spread = np.maximum(curvature, 1e-6 * len(self.eigenvalues[0])).astype(self.dtype)
        scaled: Array = gradient / (spread * own + self.penalty[which].astype(self.dtype)[:, None])[:, None]
        return scaled

    def baselines(self, theta: Array) -> list[Baseline]:
        """Return the cumulative baseline hazard of each problem; with ties, the sum of Efron's increments."""
        problems = self.problems
        coef, offset = self.rows.to_coef(theta, problems.set_of)
        risk = self._risks(coef, problems.set_of) + offset
        out = []
        for p, s in enumerate(problems.set_of.tolist()):
            sets = self.sets[s]
            of_rows = risk[p, self._columns[s]][None]
            top = of_rows.max()
            total = np.maximum(sets.totals(np.exp(of_rows - top)), np.finfo(np.float64).tiny)[0]
            hazard = np.cumsum(np.exp(-top - np.log(total)))
            last = np.searchsorted(sets.tied, np.arange(len(sets.times)), side="right") - 1
            out.append(Baseline(sets.times, hazard[last]))
        return out

    def _risks(self, coef: Array, sets: Rows) -> Floats:
        """Return the log hazard of each used row, float64, of shape ``(p, n_used)``; 0 for rows outside a set."""
        risk = np.zeros((len(sets), self._n_used))
        for mine, places, part in self.rows.map(lambda chunk: self._of_chunk(chunk, coef, sets), sets):
            risk[mine[:, None], places] = part
        return risk

    def _of_chunk(self, chunk: Chunk, coef: Array, sets: Rows) -> tuple[Rows, Rows, Array]:
        mine = np.flatnonzero(np.isin(sets, chunk.sets))
        X = chunk.X.astype(self.dtype, copy=False)
        return mine, self._place[chunk.rows], coef[mine, 0] @ X.T

    def _pulled(self, chunk: Chunk, residuals: Array, sets: Rows) -> tuple[Rows, Array]:
        mine = np.flatnonzero(np.isin(sets, chunk.sets))
        X = chunk.X.astype(self.dtype, copy=False)
        return mine, residuals[mine[:, None], self._place[chunk.rows]] @ X

    def _parts(self, sets: Rows) -> Iterator[tuple[int, Rows]]:
        """Yield problems on the same rows, as many as may be summed at once."""
        for s in np.unique(sets).tolist():
            mine = np.flatnonzero(sets == s)
            n = max(1, AT_ONCE // len(self._columns[s]))
            for start in range(0, len(mine), n):
                yield s, mine[start : start + n]


def _of_ties(sets: RiskSets) -> Floats:
    """Return what ties take from the number at risk at each event."""
    found: Floats = sets.share * np.bincount(sets.tied)[sets.tied]
    return found


def _sums(sets: RiskSets, risk: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the loss of problems, its derivative by the risk of each row, and the scale of the Hessian.

    ``risk`` has shape ``(p, n)``, rows in the order of time, and so has the derivative.
    """
    risk = risk - risk.max(1, keepdims=True)
    weight = np.exp(risk)
    total = np.maximum(sets.totals(weight), 1e-300)
    loss = np.log(total).sum(1) - risk[:, sets.events].sum(1)
    inverse = 1 / total
    until = np.concatenate([np.zeros((len(risk), 1)), np.cumsum(inverse, axis=1)], axis=1)
    share = until[:, sets.before]
    if sets.share.any():
        share[:, sets.events] -= sets.tie_sums(sets.share * inverse)
    pull = weight * share
    squares = np.cumsum((weight * weight)[:, ::-1], axis=1)[:, ::-1][:, sets.first]
    spread = np.maximum(1 - squares * inverse * inverse, 0).sum(1)
    pull[:, sets.events] -= 1
    return loss, pull, spread


def solve(rows: TrainingRows, problems: Problems, sets: list[RiskSets], *, tol: float, max_iter: int) -> Solution:
    """Solve all problems, first in float32, then the unsolved ones in float64.

    A problem is solved when the predicted decrease of another step is at most ``tol`` times the loss of equal risks,
    and at most `SHARE` of its objective.

    Parameters
    ----------
    rows
        The training rows; `SharedRows` if there is an L1 penalty.
    sets
        The risk sets of each row set, of its rows in ascending order of their numbers.
    """
    step = max(1, MOST_RISKS // max(1, int(rows.inside.any(1).sum())))
    parts = []
    for start in range(0, len(problems.C), step):
        part = problems.some(slice(start, start + step))
        end, kept = _solve_part(rows, part, sets, tol, max_iter)
        final = PartialLikelihood(rows, part, sets, np.float64)
        theta = end.theta.astype(np.float64)
        padded = np.concatenate([theta, np.zeros_like(theta[:, :, :1])], axis=2)
        coef, intercept = rows.to_features(padded, part.set_of)
        if kept is not None:
            coef[:, 0][~kept] = 0  # not only up to the rounding of the rotation
        objective = np.asarray(end.value) * part.C
        parts.append(
            Solution(coef[:, 0], intercept[:, 0], objective, end.n_iter, end.converged, final.baselines(theta))
        )
    names = ("coef", "intercept", "objective", "n_iter", "converged")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Solution(**joined, baselines=[one for part in parts for one in part.baselines])


def _solve_part(
    rows: TrainingRows, problems: Problems, sets: list[RiskSets], tol: float, max_iter: int
) -> tuple[Minimum, NDArray[np.bool_] | None]:
    """Return the solution, and with an L1 penalty which columns have a weight."""
    if problems.l1_ratio > 0:
        return _solve_with_l1(rows, problems, sets, tol, max_iter)
    share = tol if rows.float == np.float64 else max(tol, FLOAT32_TOL)
    first = PartialLikelihood(rows, problems, sets, rows.float)
    end = minimise(first, first.start(), tol=share * first.equal_loss, share=SHARE, max_iter=max_iter)
    if rows.float == np.float64:
        return end, None
    left = np.flatnonzero(~end.converged | (tol < FLOAT32_TOL))
    if len(left):
        objective = PartialLikelihood(rows, problems.some(left), sets, np.float64)
        again = minimise(
            objective,
            end.theta[left].astype(np.float64),
            tol=tol * objective.equal_loss,
            share=SHARE,
            max_iter=max_iter,
        )
        end.theta = end.theta.astype(np.float64)
        end.theta[left] = again.theta
        end.value[left], end.converged[left] = again.value, again.converged
        end.n_iter[left] += again.n_iter
    return end, None


def _solve_with_l1(
    rows: TrainingRows, problems: Problems, sets: list[RiskSets], tol: float, max_iter: int
) -> tuple[Minimum, NDArray[np.bool_]]:
    """Solve problems with an L1 penalty, in float32 and then the unsolved ones in float64; return the columns kept."""
    if not isinstance(rows, SharedRows):
        raise TypeError("an L1 penalty needs rows that are not rotated")  # a bug, not a user's mistake
    ridge, _ = _solve_part(rows, replace(problems, l1_ratio=0.0), sets, 1e-4, max_iter)
    kind = rows.float
    first = _model(rows, problems, sets, kind)
    start = ridge.theta[:, 0].astype(kind) @ first.turn.T
    every = np.arange(len(start))
    nothing, something = (first.at(beta, every)[0] for beta in (np.zeros_like(start), start))
    start[nothing <= something] = 0
    equal_loss = PartialLikelihood(rows, problems, sets, kind).equal_loss
    end, weights = minimise_with_l1(
        first, start, tol=max(tol, FLOAT32_TOL) * equal_loss, share=SHARE, max_iter=max_iter
    )
    end.theta, weights = end.theta.astype(np.float64), weights.astype(np.float64)
    left = np.flatnonzero(~end.converged | (tol < FLOAT32_TOL))
    if len(left):
        exact = _model(rows, problems.some(left), sets, np.float64)
        found, weights[left] = minimise_with_l1(
            exact, weights[left], tol=tol * equal_loss[left], share=SHARE, max_iter=max_iter
        )
        end.theta[left], end.value[left], end.converged[left] = found.theta, found.value, found.converged
        end.n_iter[left] += found.n_iter
    return end, weights != 0


def _model(rows: SharedRows, problems: Problems, sets: list[RiskSets], dtype: Any) -> Model:
    turn = np.asarray(rows.vectors, dtype)
    exact = turn.astype(np.float64)
    scatter = (exact * np.asarray(rows.eigenvalues, np.float64)[0]) @ exact.T
    smooth = PartialLikelihood(rows, problems, sets, dtype)
    return Model(smooth, turn, scatter, smooth.penalty, problems.l1_ratio / problems.C)
