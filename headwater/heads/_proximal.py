"""Accelerated proximal gradient steps for many convex problems with an L1 penalty at once.

Step lengths, momentum and convergence are separate for each problem. Converged problems leave the batch.

References
----------
Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse problems, 2009. O'Donoghue and
Candès, Adaptive restart for accelerated gradient schemes, 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.heads._lbfgs import Minimum, Objective
from headwater.heads._rows import SharedRows

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
MAX_BACKTRACKS = 40
MOMENTA = 20  # steps of one of L-BFGS take about as long as one of these, of which more are needed


@dataclass
class _State:
    """Problems in progress: their numbers, weights, points to step from, momentum, and step lengths."""

    alive: Rows
    beta: Floats
    ahead: Floats
    momentum: Floats
    lipschitz: Floats

    def keep(self, some: NDArray[np.bool_]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[some])


def minimise_with_l1(
    smooth: Objective, rows: SharedRows, strength: Floats, *, tol: Floats, share: float, max_iter: int
) -> tuple[Minimum, Floats]:
    """Minimise ``smooth + strength ‖weights‖₁`` from 0, the L1 norm being that of weights for standardised columns.

    A problem has converged when the decrease that its subgradient promises, column by column, is at most its ``tol``
    and at most this ``share`` of its value. At most ``20 * max_iter`` steps are taken.

    Parameters
    ----------
    smooth
        The objective without the L1 penalty, over rotated weights.
    rows
        Rotates weights.
    strength, tol
        Of each problem, float64, of shape ``(P,)``.

    Returns
    -------
    Minimum
        With rotated weights.
    weights : float64 of shape (P, d)
        Those for standardised columns, exactly 0 for columns that are left out.
    """
    n, d = len(strength), rows.n_weights
    turn = np.asarray(rows.vectors, np.float64)
    end = Minimum(np.zeros((n, 1, d)), np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.bool_))
    weights, zero = np.zeros((n, d)), np.zeros((n, d))
    numbers = np.arange(n)
    first = smooth.evaluate(zero[:, None], numbers)
    curvature = np.asarray(first.curvature)[:, 0]
    now = _State(numbers, zero, zero, np.ones(n), np.maximum(curvature, 1.0))
    for iteration in range(1, MOMENTA * max_iter + 1):
        value, gradient = _at(smooth, now.ahead, turn, now.alive)
        beta, found, slope = _step(smooth, now, value, gradient, turn, strength)
        uphill = np.vecdot(now.ahead - beta, beta - now.beta) > 0
        grown = (1 + np.sqrt(1 + 4 * now.momentum**2)) / 2
        pace = np.where(uphill, 0.0, (now.momentum - 1) / grown)
        now.momentum = np.where(uphill, 1.0, grown)
        now.ahead = beta + pace[:, None] * (beta - now.beta)
        now.beta = beta
        now.lipschitz *= 0.98  # steps may grow again
        total = found + strength[now.alive] * np.abs(beta).sum(1)
        promised = _promised(beta, slope, strength[now.alive], np.maximum(curvature[now.alive], 1e-6))
        done = promised <= np.minimum(tol[now.alive], share * total)
        leaving = done | (iteration == MOMENTA * max_iter)
        which = now.alive[leaving]
        weights[which], end.value[which] = beta[leaving], total[leaving]
        end.n_iter[which], end.converged[which] = iteration, done[leaving]
        if leaving.all():
            break
        if leaving.any():
            now.keep(~leaving)
    end.theta = (weights @ turn)[:, None]
    return end, weights


def _at(smooth: Objective, beta: Floats, turn: Floats, which: Rows) -> tuple[Floats, Floats]:
    """Return value and gradient at weights for standardised columns."""
    found = smooth.evaluate((beta @ turn)[:, None], which)
    return found.value, found.gradient[:, 0] @ turn.T


def _step(
    smooth: Objective, now: _State, value: Floats, gradient: Floats, turn: Floats, strength: Floats
) -> tuple[Floats, Floats, Floats]:
    """Take a proximal step from ``now.ahead``, shortened until the quadratic model bounds the value there."""
    beta, found, slope = now.ahead.copy(), value.copy(), gradient.copy()
    left = np.arange(len(value))
    for _ in range(MAX_BACKTRACKS):
        length = 1 / now.lipschitz[left]
        moved = now.ahead[left] - length[:, None] * gradient[left]
        beta[left] = _shrunk(moved, (length * strength[now.alive[left]])[:, None])
        found[left], slope[left] = _at(smooth, beta[left], turn, now.alive[left])
        move = beta[left] - now.ahead[left]
        bound = value[left] + np.vecdot(gradient[left], move) + now.lipschitz[left] / 2 * np.vecdot(move, move)
        poor = ~(found[left] <= bound + 1e-12 * np.abs(bound))
        left = left[poor]
        if not len(left):
            break
        now.lipschitz[left] *= 2
    return beta, found, slope


def _shrunk(values: Floats, by: Floats) -> Floats:
    out: Floats = np.sign(values) * np.maximum(np.abs(values) - by, 0)
    return out


def _promised(beta: Floats, slope: Floats, strength: Floats, curvature: Floats) -> Floats:
    """Return the decrease that the least subgradient promises if columns were independent, of shape ``(p,)``."""
    by = strength[:, None]
    least = np.where(beta != 0, slope + by * np.sign(beta), _shrunk(slope, by))
    found: Floats = np.vecdot(least, least) / (2 * curvature)
    return found
