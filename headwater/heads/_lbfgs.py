"""Preconditioned L-BFGS for many small convex problems at once.

Every step is computed for all problems together, as a few large matrix products. Step lengths, convergence and history
are separate for each problem. Converged problems leave the batch.

References
----------
Nocedal and Wright, Numerical Optimization, 2nd ed., algorithms 7.4 (two-loop recursion) and 3.1 (backtracking).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from array_api_compat import device

Array = Any  # an array of the objective's array library

SUFFICIENT_DECREASE = 1e-4
MAX_BACKTRACKS = 12
MAX_IDLE = 3  # steps that lower a value by no more than rounding, after which predicted decreases are noise


class Evaluation(NamedTuple):
    """Values of some problems, each at one point.

    ``value`` has shape ``(p,)`` and type float64, ``gradient`` has shape ``(p, k, m)``, and ``curvature`` of shape
    ``(p, k)`` holds what the objective's preconditioner needs.
    """

    value: Array
    gradient: Array
    curvature: Array


class Objective(Protocol):
    """Independent problems to minimise, each over parameters of shape ``(k, m)``."""

    xp: Any

    def evaluate(self, theta: Array, which: Array) -> Evaluation:
        """Evaluate the problems numbered ``which`` (shape ``(p,)``) at ``theta`` (shape ``(p, k, m)``)."""
        ...

    def precondition(self, gradient: Array, curvature: Array, which: Array) -> Array:
        """Multiply ``gradient`` by an approximate inverse Hessian of each problem."""
        ...


@dataclass
class Minimum:
    """The end of the search, for each of P problems."""

    theta: Array
    value: Array
    n_iter: Array
    converged: Array


def minimise(
    objective: Objective, theta: Array, *, tol: Array, share: float, max_iter: int, memory: int = 10
) -> Minimum:
    """Minimise all problems from ``theta``, of shape ``(P, k, m)``.

    A problem has converged when the further decrease predicted by its quasi-Newton model is below its ``tol`` (float64,
    of shape ``(P,)``) and below this ``share`` of its value. It stops without converging if, because of rounding, no
    step, or `MAX_IDLE` steps in a row, lower its value.
    """
    xp = objective.xp
    n_problems = theta.shape[0]
    end = Minimum(
        theta=xp.asarray(theta, copy=True),
        value=xp.zeros(n_problems, dtype=xp.float64, device=device(theta)),
        n_iter=xp.zeros(n_problems, dtype=xp.int64, device=device(theta)),
        converged=xp.zeros(n_problems, dtype=xp.bool, device=device(theta)),
    )
    noise = 8 * float(xp.finfo(theta.dtype).eps)
    alive = xp.arange(n_problems, device=device(theta))
    at = objective.evaluate(theta, alive)
    idle = xp.zeros_like(alive)
    pairs: list[tuple[Array, Array, Array]] = []
    for iteration in range(max_iter + 1):
        direction = -_two_loop(objective, at, alive, pairs)
        slope = _dot(xp, at.gradient, direction)
        converged = -slope <= 2 * xp.minimum(tol[alive], share * at.value)
        if iteration == max_iter:
            _record(end, alive, theta, at.value, iteration, converged)
            return end
        trial, new, stuck = _search(objective, theta, at, direction, slope, alive, converged, noise)
        idle = xp.where(at.value - new.value > noise * xp.abs(at.value), xp.zeros_like(idle), idle + 1)
        leaving = converged | stuck | (idle >= MAX_IDLE)
        # the last small step is taken too, since it has been computed
        ahead = (new.value < at.value)[leaving]
        last = xp.where(ahead[:, None, None], trial[leaving], theta[leaving])
        value = xp.where(ahead, new.value[leaving], at.value[leaving])
        _record(end, alive[leaving], last, value, iteration + 1, converged[leaving])
        keep = ~leaving
        if not bool(xp.any(keep)):
            return end
        if bool(xp.any(leaving)):
            alive, theta, trial, idle = alive[keep], theta[keep], trial[keep], idle[keep]
            at, new = Evaluation(*(part[keep] for part in at)), Evaluation(*(part[keep] for part in new))
            pairs = [(s[keep], y[keep], rho[keep]) for s, y, rho in pairs]
        step, change = trial - theta, new.gradient - at.gradient
        curvature = _dot(xp, step, change)
        usable = curvature > noise * xp.sqrt(_dot(xp, step, step) * _dot(xp, change, change))
        rho = xp.where(usable, 1 / xp.where(usable, curvature, xp.ones_like(curvature)), xp.zeros_like(curvature))
        pairs = [*pairs[-(memory - 1) :], (step, change, rho)]
        theta, at = trial, new
    return end


def _record(end: Minimum, which: Array, theta: Array, value: Array, iteration: int, converged: Array) -> None:
    end.theta[which] = theta
    end.value[which] = value
    end.n_iter[which] = iteration
    end.converged[which] = converged


def _two_loop(objective: Objective, at: Evaluation, alive: Array, pairs: list[tuple[Array, Array, Array]]) -> Array:
    """Return the inverse quasi-Newton matrix times the gradient; pairs with ``rho`` 0 are ignored.

    The preconditioner is scaled by the last pair (Nocedal and Wright, eq. 7.20).
    """
    xp = objective.xp
    q = at.gradient
    alphas = []
    for s, y, rho in reversed(pairs):
        alpha = rho * _dot(xp, s, q)
        alphas.append(alpha)
        q = q - _per_problem(xp, alpha, q) * y
    q = objective.precondition(q, at.curvature, alive)
    if pairs:
        s, y, rho = pairs[-1]
        stretched = _dot(xp, y, objective.precondition(y, at.curvature, alive))
        usable = (rho > 0) & (stretched > 0)
        scale = xp.where(usable, _dot(xp, s, y) / xp.where(usable, stretched, 1.0), xp.ones_like(stretched))
        q = q * _per_problem(xp, scale, q)
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + _per_problem(xp, alpha - rho * _dot(xp, y, q), q) * s
    return q


def _search(
    objective: Objective,
    theta: Array,
    at: Evaluation,
    direction: Array,
    slope: Array,
    alive: Array,
    converged: Array,
    noise: float,
) -> tuple[Array, Evaluation, Array]:
    """Backtrack each problem's step from 1 until its value has decreased enough; return which failed."""
    xp = objective.xp
    trial = theta + direction
    new = objective.evaluate(trial, alive)
    length = xp.ones_like(at.value)

    def poor(value: Array) -> Array:
        enough = at.value + SUFFICIENT_DECREASE * length * slope + noise * xp.abs(at.value)
        return ~(value <= enough) & ~converged

    bad = poor(new.value)
    for _ in range(MAX_BACKTRACKS):
        if not bool(xp.any(bad)):
            break
        excess = new.value - at.value - length * slope  # value minus tangent: t² / 2 times the curvature
        fitted = xp.where(excess > 0, -slope * length**2 / (2 * xp.where(excess > 0, excess, 1.0)), 0.5 * length)
        shorter = xp.where(
            xp.isfinite(fitted), xp.minimum(xp.maximum(fitted, 0.1 * length), 0.5 * length), 0.1 * length
        )
        length = xp.where(bad, shorter, length)
        retried = theta[bad] + _per_problem(xp, length[bad], direction) * direction[bad]
        again = objective.evaluate(retried, alive[bad])
        trial[bad] = retried
        for part, value in zip(new, again, strict=True):
            part[bad] = value
        bad = poor(new.value)
    return trial, new, bad


def _dot(xp: Any, a: Array, b: Array) -> Array:
    """Return each problem's inner product, float64, of shape ``(p,)``."""
    return xp.astype(xp.vecdot(a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)), xp.float64)


def _per_problem(xp: Any, scale: Array, like: Array) -> Array:
    """Reshape one number per problem to multiply ``(p, k, m)``, in the type of ``like``."""
    return xp.astype(scale, like.dtype)[:, None, None]
