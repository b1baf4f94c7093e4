"""Cox proportional hazards on frozen features, solved for all folds and penalties at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from headwater._backend import NUMPY, Backend, to_numpy
from headwater._survival import RiskSets, as_survival, concordance
from headwater.errors import HeadError, InputError
from headwater.heads._partial import Baseline, Problems, Solution, solve
from headwater.heads._regressor import Floats, Regressor
from headwater.heads._rows import SharedRows, TrainingRows, one_blas_thread, training_rows
from headwater.heads._settings import require_above_0
from headwater.heads.base import Fit, Input, SearchSpace, State, blocks

Rows = NDArray[np.int64]


class Cox(Regressor):
    """Cox proportional hazards with a ridge or elastic net penalty on frozen features.

    The hazard of a row is ``baseline(t) * exp(x W)``. Minimises ``-C * log partial likelihood + (1 - l1_ratio) / 2 ‖W‖²
    + l1_ratio ‖W‖₁`` over standardised columns, with Efron's treatment of tied events: with ``l1_ratio=0`` the
    objective of scikit-survival's ``CoxPHSurvivalAnalysis(alpha=1 / C, ties="efron")`` after ``StandardScaler``.

    Parameters
    ----------
    C
        Inverse strength of the penalty, above 0.
    l1_ratio
        The share of the L1 penalty, from 0 (ridge) to 1 (lasso). Above 0 some weights become exactly 0.
    standardize
        Whether columns are scaled by their standard deviation on the training rows.
    tol
        The search ends when the predicted decrease of another step is at most this share of the loss of equal risks,
        and at most 1e-5 of the objective.
    max_iter
        Most iterations.
    n_threads
        Threads; None for one per core.
    max_bytes
        Training rows that take more than this in float32 are streamed from X block by block in each iteration.

    Attributes
    ----------
    coef_ : float64, of shape (d,)
        Weights for unstandardised X: the log of the hazard ratio of one unit.
    intercept_ : float
        ``X @ coef_ + intercept_`` is the log hazard relative to a row with the mean features of the training rows.
    times_, hazard_ : float64, of shape (n_times,)
        Distinct times of training events, and the cumulative hazard at them of a row with log hazard 0.
    last_time_ : float
        The longest time that a training row was followed, beyond which survival is unknown.
    objective_ : float
        Value of the objective.
    n_iter_ : int
        Iterations taken.
    n_features_in_ : int
        Columns of X.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5)); time = rng.exponential(np.exp(-2 * X[:, 0])); event = np.ones(200)
    >>> head = Cox(C=10).fit(X[:150], np.column_stack([time, event])[:150])
    >>> round(head.score(X[150:], np.column_stack([time, event])[150:]), 1)
    0.8
    >>> head.predict_survival(X[150:], [0.5, 1.0]).shape
    (50, 2)

    References
    ----------
    Cox, Regression models and life-tables, 1972. Efron, The efficiency of Cox's likelihood function for censored data,
    1977. Verweij and van Houwelingen, Penalized likelihood in Cox regression, 1994.
    """

    search_space: ClassVar[SearchSpace] = {"C": ("log", 1e-7, 1e3)}

    def __init__(
        self,
        C: float = 1.0,
        *,
        l1_ratio: float = 0.0,
        standardize: bool = True,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_threads: int | None = None,
        max_bytes: int = 4 << 30,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.max_bytes = max_bytes

    def default_grid(self) -> list[dict[str, Any]]:
        """Return 17 penalties, evenly spaced on a log scale from 1e-6 to 1e2."""
        return [{"C": float(c)} for c in np.logspace(-6, 2, 17)]

    def fit(self, X: Input, y: ArrayLike) -> Self:
        """Fit on all rows.

        Parameters
        ----------
        X
            Features of shape ``(n_samples, d)``.
        y
            Time and event, of shape ``(n_samples, 2)``: times above 0; 1 for the event, 0 for a censored row. Or a
            structured array as of scikit-survival.

        Raises
        ------
        HeadError
            When no row has an event, or a feature is not finite (the message names rows).
        InputError
            When times or events are invalid; the message names rows.
        """
        structured = np.asarray(y).dtype.names is not None
        return self._fitted(X, as_survival(y) if structured else y)

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit many heads together; see `Head.fit_many`. Fits with the same parameters except C form a batch."""
        targets = as_survival(y)
        if Backend.of(X) is not None:
            X = to_numpy(X)
        shared = self.get_params()
        heads = [type(self)(**{**shared, **params}) for _, params in fits]
        batches: dict[Any, list[int]] = {}
        for i, ((rows, _), head) in enumerate(zip(fits, heads, strict=True)):
            head._require_usable()
            if not targets[rows, 1].any():
                raise HeadError(
                    f"no event among {len(rows)} training rows, so there is no hazard to fit. Add samples with events, "
                    "or use fewer folds."
                )
            settings = {k: getattr(head, k) for k in shared if k != "C"}
            batches.setdefault(tuple(sorted(settings.items())), []).append(i)
        for chosen in batches.values():
            _solve_batch([heads[i] for i in chosen], [fits[i][0] for i in chosen], X, targets)
        return heads

    def _require_usable(self) -> None:
        require_above_0(self, "C", "tol", "max_iter")
        if self.n_threads is not None:
            require_above_0(self, "n_threads")
        if not 0 <= self.l1_ratio <= 1:
            raise HeadError(f"l1_ratio must be from 0 (ridge) to 1 (lasso), but is {self.l1_ratio!r}.")

    def score(self, X: Input, y: ArrayLike, sample_weight: None = None) -> float:
        """Return Harrell's C of the predicted risks."""
        return concordance(as_survival(y), self.predict(X))

    def predict_survival(self, X: Input, times: ArrayLike) -> Floats:
        """Return the probability of no event until some times, of shape ``(n_samples, n_times)``.

        Parameters
        ----------
        X
            Features of shape ``(n_samples, d)``.
        times
            At least 0, of shape ``(n_times,)``. NaN is returned beyond the longest time that a training row was
            followed.

        Raises
        ------
        HeadError, InputError
            When X has another number of columns than in fitting, or a time is not a number of at least 0.
        """
        risk = self.predict(X)
        at = np.atleast_1d(np.asarray(times, np.float64))
        if at.ndim != 1 or np.isnan(at).any() or (at < 0).any():
            raise InputError(f"times must be numbers of at least 0, of shape (n_times,), but are {times!r}.")
        place = np.searchsorted(self.times_, at, side="right")
        with np.errstate(divide="ignore", over="ignore"):
            log_hazard = np.log(np.concatenate([[0.0], self.hazard_]))[place]
            survival: Floats = np.exp(-np.exp(log_hazard + risk[:, None]))
        survival[:, at > self.last_time_] = np.nan
        return survival

    @classmethod
    def predict_many(cls, heads: Sequence[Self], X: Any, rows: Sequence[Rows]) -> list[NDArray[np.floating[Any]]]:
        """Return ``head.predict(X[rows])`` for each head, with one matrix product for heads that share rows."""
        out: list[Any] = [None] * len(heads)
        sharing: dict[int, list[int]] = {}
        for i, part in enumerate(rows):
            sharing.setdefault(id(part), []).append(i)
        for members in sharing.values():
            values = np.asarray(to_numpy(X[rows[members[0]]])).astype(np.float64, copy=False)
            risks = values @ np.stack([heads[i].coef_ for i in members], axis=1)
            for i, risk in zip(members, risks.T, strict=True):
                out[i] = risk + heads[i].intercept_
        return out

    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""
        check_is_fitted(self)
        values = {
            "params": self.get_params(),
            "intercept": self.intercept_,
            "last_time": self.last_time_,
            "objective": self.objective_,
            "n_iter": self.n_iter_,
        }
        return values, {"coef": self.coef_, "times": self.times_, "hazard": self.hazard_}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        head = cls(**values["params"])
        coef, times, hazard = arrays["coef"], arrays["times"], arrays["hazard"]
        if coef.ndim != 1 or times.ndim != 1 or hazard.shape != times.shape:
            raise HeadError(f"coef, times and hazard have shapes {coef.shape}, {times.shape} and {hazard.shape}")
        head._keep(coef, float(values["intercept"]), Baseline(times, hazard), float(values["last_time"]))
        head.objective_, head.n_iter_ = float(values["objective"]), int(values["n_iter"])
        return head

    def _keep(self, coef: Floats, intercept: float, baseline: Baseline, last: float) -> None:
        self.coef_, self.intercept_ = coef, intercept
        self.times_, self.hazard_ = baseline
        self.last_time_ = last
        self.several_, self.n_features_in_ = False, len(coef)

    def _outputs(self, X: Any) -> Floats:
        out = np.empty((X.shape[0], 1))
        for rows, values in blocks(X):
            out[rows, 0] = to_numpy(values).astype(np.float64, copy=False) @ self.coef_ + self.intercept_
        return out


def _solve_batch(heads: Sequence[Cox], fit_rows: Sequence[Rows], X: Any, y: Floats) -> None:
    """Fit heads that differ only in C and rows."""
    first = heads[0]
    unique: dict[int, Rows] = {id(rows): np.unique(rows) for rows in fit_rows}
    number = {key: s for s, key in enumerate(unique)}
    set_of = np.array([number[id(rows)] for rows in fit_rows])
    problems = Problems(set_of, np.array([head.C for head in heads], np.float64), float(first.l1_ratio))
    sets = [RiskSets.of(y[rows]) for rows in unique.values()]
    with one_blas_thread():
        solution = solve(_rows(first, X, list(unique.values())), problems, sets, tol=first.tol, max_iter=first.max_iter)
    if not solution.converged.all():
        warnings.warn(
            f"{(~solution.converged).sum()} of {len(heads)} fits did not reach tol={first.tol} in {first.max_iter} "
            "iterations: raise max_iter, or leave out the largest C.",
            ConvergenceWarning,
            stacklevel=3,
        )
    last = [float(y[rows, 0].max()) for rows in unique.values()]
    for i, head in enumerate(heads):
        _give(head, solution, i, last[set_of[i]])


def _rows(first: Cox, X: Any, row_sets: list[Rows]) -> TrainingRows:
    """Return training rows in the solver's form; an L1 penalty is one of columns, which must not be rotated away."""
    n_threads = first.n_threads or len(os.sched_getaffinity(0))
    kind = SharedRows if first.l1_ratio > 0 else training_rows
    return kind(X, row_sets, NUMPY, scale=first.standardize, max_bytes=first.max_bytes, n_threads=n_threads)


def _give(head: Cox, solution: Solution, i: int, last: float) -> None:
    head._keep(solution.coef[i].copy(), float(solution.intercept[i]), solution.baselines[i], last)
    head.objective_, head.n_iter_ = float(solution.objective[i]), int(solution.n_iter[i])
