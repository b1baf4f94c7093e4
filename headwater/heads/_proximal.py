"""Many convex problems with an L1 penalty at once: proximal gradient steps, and Newton steps of the weights in use.

A proximal step decides which weights are 0. Between two of them, the weights that are not 0 take a step that an
approximate Hessian gives, within their signs. Step lengths and convergence are separate for each problem. Converged
problems leave the batch.

References
----------
Wright, Nowak and Figueiredo, Sparse reconstruction by separable approximation, IEEE Transactions on Signal Processing
57, 2009: proximal steps of Barzilai and Borwein's length, accepted if the value falls below the largest of the last
few. Wright, Accelerated block-coordinate relaxation for regularized optimization, SIAM Journal on Optimization 22,
2012: second-order steps on the weights in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.heads._lbfgs import Minimum, Objective

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
MAX_BACKTRACKS = 40
MAX_SHORTENED = 4  # Newton steps that are tried, each half the last
REMEMBERED = 3  # values, the largest of which a proximal step must undercut
SUFFICIENT = 1e-4


@dataclass(frozen=True)
class Model:
    """What the search knows of the smooth part of P problems.

    Attributes
    ----------
    smooth
        The objective without the L1 penalty, over rotated weights of shape ``(P, 1, d)``.
    turn : of shape (d, d)
        Weights for standardised columns times this are rotated weights.
    scatter : float64 of shape (d, d)
        The mean scatter of standardised rows: the Hessian is about this times the curvature, plus the ridge penalty.
    ridge, strength : float64 of shape (P,)
        The ridge penalty of each problem, which ``smooth`` contains, and its L1 penalty.
    """

    smooth: Objective
    turn: Floats
    scatter: Floats
    ridge: Floats
    strength: Floats

    def at(self, beta: Floats, which: Rows) -> tuple[Floats, Floats, Floats]:
        """Return the whole value, and gradient and curvature of the smooth part."""
        found = self.smooth.evaluate((beta @ self.turn)[:, None], which)
        total = found.value + self.strength[which] * np.abs(beta).sum(1)
        return total, found.gradient[:, 0] @ self.turn.T, found.curvature[:, 0]


@dataclass
class _State:
    """Problems in progress: numbers, weights, values, gradients, curvatures, recent values, inverse step lengths."""

    alive: Rows
    beta: Floats
    total: Floats
    slope: Floats
    curvature: Floats
    recent: Floats
    inverse: Floats

    def keep(self, some: NDArray[np.bool_]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[some])


def minimise_with_l1(
    model: Model, start: Floats, *, tol: Floats, share: float, max_iter: int
) -> tuple[Minimum, Floats]:
    """Minimise ``smooth + strength ‖weights‖₁``, the L1 norm being that of weights for standardised columns.

    A problem has converged when the decrease that the approximate Hessian promises is at most its ``tol`` and at most
    this ``share`` of its value.

    Parameters
    ----------
    start : of shape (P, d)
        Weights to start from.
    tol : float64 of shape (P,)
    max_iter
        Most pairs of a Newton step and a proximal step.

    Returns
    -------
    Minimum
        With rotated weights.
    weights : of shape (P, d)
        Those for standardised columns, exactly 0 for columns that are left out.
    """
    n = len(start)
    end = Minimum(np.zeros_like(start)[:, None], np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.bool_))
    weights, everyone = start.copy(), np.arange(n)
    total, slope, curvature = model.at(start, everyone)
    recent = np.tile(total[:, None], REMEMBERED)
    now = _State(everyone, start.copy(), total, slope, curvature, recent, np.maximum(curvature, 1.0))
    for iteration in range(max_iter + 1):
        directions, promised = _newton(model, now)
        done = promised <= np.minimum(tol[now.alive], share * now.total)
        leaving = done | (iteration == max_iter)
        if iteration < max_iter and not done.all():
            _search(model, now, directions, ~done)
            now.recent[:, iteration % REMEMBERED] = now.total
            leaving |= _proximal(model, now, ~done) & ~done
        which = now.alive[leaving]
        weights[which], end.value[which] = now.beta[leaving], now.total[leaving]
        end.n_iter[which], end.converged[which] = iteration, done[leaving]
        if leaving.all():
            break
        if leaving.any():
            now.keep(~leaving)
    end.theta = (weights @ model.turn)[:, None]
    return end, weights


def _newton(model: Model, now: _State) -> tuple[Floats, Floats]:
    """Return the approximate Newton step of the weights in use, and the decrease that all weights promise."""
    from scipy.linalg import cho_factor, cho_solve

    directions, promised = np.zeros_like(now.beta), np.zeros(len(now.beta))
    for i, p in enumerate(now.alive.tolist()):
        used = np.flatnonzero(now.beta[i])
        strength, curvature = model.strength[p], max(float(now.curvature[i]), 1e-6)
        idle = np.maximum(np.abs(np.delete(now.slope[i], used).astype(np.float64)) - strength, 0)
        promised[i] = idle @ idle / (2 * (curvature + model.ridge[p]))
        if not len(used):
            continue
        pull = now.slope[i, used].astype(np.float64) + strength * np.sign(now.beta[i, used])
        hessian = curvature * model.scatter[np.ix_(used, used)]
        hessian[np.diag_indices(len(used))] += model.ridge[p] + 1e-5 * curvature
        step = cho_solve(cho_factor(hessian, lower=True, overwrite_a=True, check_finite=False), pull)
        directions[i, used] = -step
        promised[i] += pull @ step / 2
    return directions, promised


def _search(model: Model, now: _State, directions: Floats, some: NDArray[np.bool_]) -> None:
    """Take the Newton steps that lower values, shortened where necessary; weights stop at 0 rather than change sign."""
    left = np.flatnonzero(some & (directions != 0).any(1))
    length = 1.0
    for _ in range(MAX_SHORTENED):
        if not len(left):
            return
        trial = now.beta[left] + now.beta.dtype.type(length) * directions[left]
        trial[trial * now.beta[left] < 0] = 0
        total, slope, curvature = model.at(trial, now.alive[left])
        good = total < now.total[left]
        taken = left[good]
        now.beta[taken], now.total[taken] = trial[good], total[good]
        now.slope[taken], now.curvature[taken] = slope[good], curvature[good]
        left, length = left[~good], length / 2


def _proximal(model: Model, now: _State, some: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take a proximal step, shortened until the value is low enough; return which problems found none."""
    dtype = now.beta.dtype
    left = np.flatnonzero(some)
    for _ in range(MAX_BACKTRACKS):
        length = 1 / now.inverse[left]
        ahead = now.beta[left] - length.astype(dtype)[:, None] * now.slope[left]
        trial = _shrunk(ahead, (length * model.strength[now.alive[left]]).astype(dtype)[:, None])
        total, slope, curvature = model.at(trial, now.alive[left])
        move = trial - now.beta[left]
        moved = np.vecdot(move, move).astype(np.float64)
        worst = np.maximum(now.recent[left].max(1), now.total[left])
        enough = worst - SUFFICIENT * now.inverse[left] / 2 * moved
        good = total <= enough + 8 * np.finfo(dtype).eps * np.abs(worst)
        taken = left[good]
        bent = np.vecdot(move, slope - now.slope[left]).astype(np.float64) / np.where(moved > 0, moved, 1)
        now.inverse[taken] = np.clip(np.where(bent > 0, bent, now.inverse[left]), 1e-8, 1e12)[good]
        now.beta[taken], now.total[taken] = trial[good], total[good]
        now.slope[taken], now.curvature[taken] = slope[good], curvature[good]
        left = left[~good]
        if not len(left):
            break
        now.inverse[left] *= 2
    stuck = np.zeros(len(now.beta), np.bool_)
    stuck[left] = True
    return stuck


def _shrunk(values: Floats, by: Floats) -> Floats:
    out: Floats = np.sign(values) * np.maximum(np.abs(values) - by, 0)
    return out
