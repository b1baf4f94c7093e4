"""The ordinal head: a cumulative logit model (proportional odds), solved for all folds and penalties at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from headwater._backend import Backend, computed, product, to_numpy
from headwater._devices import Device
from headwater._grades import ordered_grades
from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, probabilities, require_two
from headwater.heads._cumulative import GradeSolution, solve_grades
from headwater.heads._logistic import Problems
from headwater.heads._rows import one_blas_thread, training_rows
from headwater.heads._settings import require_above_0, require_one_of
from headwater.heads.base import Fit, SearchSpace, State, blocks

EVALUATIONS = 30  # of the loss until most fits have converged, to estimate the work


class Ordinal(Classifier):
    """Proportional odds on frozen features: one weight vector, and a threshold between each two adjacent grades.

    ``P(grade <= j) = σ(θ_j - x w)``. Minimises ``C * sum of losses + ‖w‖² / 2`` with free thresholds, after
    standardising each column on the training rows: the penalty is that of `headwater.heads.LinearProbe`. Of two classes
    it is logistic regression.

    A grade without training rows has no threshold: its probability is not in the output, since ``classes_`` lacks it.

    Parameters
    ----------
    C
        Inverse strength of the penalty, above 0.
    order
        The grades from the lowest to the highest, compared as text. By default their names must show the order:
        numbers, letters without a gap, or Roman numerals.
    standardize
        Whether columns are scaled by their standard deviation on the training rows.
    tol, max_iter, n_threads, max_bytes, device
        As for `headwater.heads.LinearProbe`.

    Attributes
    ----------
    classes_ : of shape (n_classes,)
        Sorted labels, as scikit-learn has them; columns of probabilities are in this order.
    grades_ : of shape (n_classes,)
        The same labels from the lowest grade to the highest.
    coef_ : float64, of shape (1, d)
        Weights for unstandardised X; positive ones go with higher grades.
    thresholds_ : float64, of shape (n_classes - 1,)
        Ascending.
    objective_ : float
        Value of the objective.
    n_iter_ : int
        Iterations taken.

    References
    ----------
    McCullagh, Regression models for ordinal data, JRSS B 42, 1980.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 5)); y = np.digitize(X[:, 0] + 0.1 * rng.standard_normal(300), [-0.5, 0.5])
    >>> head = Ordinal(C=100.0).fit(X[:200], y[:200])
    >>> head.score(X[200:], y[200:]) > 0.9, head.thresholds_.shape
    (True, (2,))
    """

    search_space: ClassVar[SearchSpace] = {"C": ("log", 1e-7, 1e3)}

    def __init__(
        self,
        C: float = 1.0,
        *,
        order: Sequence[Any] | None = None,
        standardize: bool = True,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_threads: int | None = None,
        max_bytes: int = 4 << 30,
        device: Device = "auto",
    ) -> None:
        self.C = C
        self.order = order
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.max_bytes = max_bytes
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        return tags

    def default_grid(self) -> list[dict[str, Any]]:
        """Return 17 penalties, evenly spaced on a log scale from 1e-6 to 1e2."""
        return [{"C": float(c)} for c in np.logspace(-6, 2, 17)]

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit many heads together; see `Head.fit_many`. Fits with the same parameters except C form a batch."""
        check_classification_targets(y)
        shared = self.get_params()
        heads = [type(self)(**{**shared, **params}) for _, params in fits]
        for head in heads:
            head._require_usable()
        codes, classes, several = encode_labels(y)
        if several:
            raise HeadError("ordinal needs one class per sample, a grade, but y has several labels.")
        batches: dict[Any, list[int]] = {}
        present: dict[int, NDArray[np.int64]] = {}
        for i, ((rows, _), head) in enumerate(zip(fits, heads, strict=True)):
            if id(rows) not in present:
                present[id(rows)] = np.unique(codes[rows])
            settings = {k: getattr(head, k) for k in shared if k not in ("C", "order")}
            order = None if head.order is None else tuple(map(str, head.order))
            batches.setdefault((*sorted(settings.items()), order, tuple(present[id(rows)])), []).append(i)
        for (*_, order, seen), chosen in batches.items():
            require_two(np.array(seen), classes)
            grades = _ranked(classes[list(seen)], order)
            _solve_batch([heads[i] for i in chosen], [fits[i][0] for i in chosen], X, y, classes[list(seen)], grades)
        return heads

    def _require_usable(self) -> None:
        require_above_0(self, "C", "tol", "max_iter")
        if self.n_threads is not None and not self.n_threads > 0:
            raise HeadError(f"n_threads must be above 0, but is {self.n_threads!r}.")
        require_one_of(self, device=Device)

    @classmethod
    def predict_proba_many(
        cls, heads: Sequence[Self], X: Any, rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.floating[Any]]]:
        """Return ``head.predict_proba(X[rows])`` for each head, with one matrix product for heads that share rows."""
        out: list[Any] = [None] * len(heads)
        sharing: dict[int, list[int]] = {}
        for i, part in enumerate(rows):
            sharing.setdefault(id(part), []).append(i)
        for members in sharing.values():
            coef = np.concatenate([heads[i].coef_ for i in members])
            latent = product(X[rows[members[0]]], coef.T, heads[members[0]].device)
            for i, column in zip(members, np.asarray(latent, np.float64).T, strict=True):
                out[i] = probabilities(heads[i]._logits_of(column), False)
        return out

    def latent(self, X: Any) -> NDArray[np.float64]:
        """Return ``X @ coef``, of shape ``(n_samples,)``: the scale that the thresholds divide."""
        check_is_fitted(self)
        out = np.empty(X.shape[0])
        for rows, values in blocks(X):
            out[rows] = to_numpy(values).astype(np.float64, copy=False) @ self.coef_[0]
        return out

    def log_probabilities(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log-probability of each class at values of the latent, of shape ``(n, n_classes)``."""
        return self._of_classes(log_probabilities(latent, self.thresholds_))

    def slopes(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the derivative of each class's log-probability in the latent, of shape ``(n, n_classes)``."""
        none = np.zeros((len(latent), 1))
        above = np.exp(-np.logaddexp(0, self.thresholds_ - latent[:, None]))  # P(grade > j)
        return self._of_classes(np.concatenate([none, 1 - above], 1) - np.concatenate([above, none], 1))

    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""
        check_is_fitted(self)
        order = None if self.order is None else [_plain(name) for name in self.order]
        values = {
            "params": {**self.get_params(), "order": order},
            "classes": self.classes_.tolist(),
            "grades": self.grades_.tolist(),
            "objective": self.objective_,
            "n_iter": self.n_iter_,
        }
        return values, {"coef": self.coef_, "thresholds": self.thresholds_}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        head = cls(**values["params"])
        head.classes_, head.grades_ = np.array(values["classes"]), np.array(values["grades"])
        if sorted(values["classes"]) != sorted(values["grades"]):
            raise HeadError("grades must be the classes in another order")
        head.coef_, head.thresholds_ = arrays["coef"], arrays["thresholds"]
        if head.thresholds_.shape != (len(head.classes_) - 1,) or not (np.diff(head.thresholds_) >= 0).all():
            raise HeadError("thresholds must be ascending, one fewer than grades")
        head.objective_, head.n_iter_ = values["objective"], values["n_iter"]
        head.multilabel_ = False
        head.n_features_in_ = head.coef_.shape[1]
        return head

    def _logits(self, X: Any) -> NDArray[np.float64]:
        return self._logits_of(self.latent(X))

    def _logits_of(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log-probabilities in the order of ``classes_``; of two classes the logit of the second."""
        if len(self.classes_) == 2:
            up: NDArray[np.float64] = latent[:, None] - self.thresholds_
            return up if self.grades_[1] == self.classes_[1] else -up
        return self.log_probabilities(latent)

    def _of_classes(self, of_grades: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return columns of grades in the order of ``classes_``."""
        return of_grades[:, np.argsort(np.searchsorted(self.classes_, self.grades_))]


def log_probabilities(latent: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-probability of each grade, of shape ``(n, K)``, for a latent of shape ``(n,)``."""
    below = -np.logaddexp(0, latent[:, None] - thresholds)  # log P(grade <= j)
    above = -np.logaddexp(0, thresholds - latent[:, None])
    none = np.zeros((len(latent), 1))
    with np.errstate(divide="ignore"):  # equal thresholds leave a grade no probability
        between = np.log(-np.expm1(-np.diff(thresholds)))
    inner = np.concatenate([[0.0], between, [0.0]])
    found: NDArray[np.float64] = np.concatenate([below, none], 1) + np.concatenate([none, above], 1) + inner
    return found


def _ranked(seen: NDArray[Any], order: Sequence[str] | None) -> NDArray[Any]:
    """Return classes from the lowest grade to the highest; two classes need no order."""
    names = seen.tolist()
    grades = names if order is None and len(names) == 2 else ordered_grades(names, order)
    return seen[[names.index(name) for name in grades]]


def _plain(name: Any) -> Any:
    return name.item() if isinstance(name, np.generic) else name


def _solve_batch(
    heads: Sequence[Ordinal],
    fit_rows: Sequence[NDArray[np.int64]],
    X: Any,
    y: NDArray[Any],
    seen: NDArray[Any],
    grades: NDArray[Any],
) -> None:
    """Fit heads that differ only in C and rows, and whose rows have the same classes."""
    first = heads[0]
    unique: dict[int, NDArray[np.int64]] = {id(rows): rows for rows in fit_rows}
    number = {key: s for s, key in enumerate(unique)}
    set_of = np.array([number[id(rows)] for rows in fit_rows])
    C = np.array([head.C for head in heads], np.float64)
    rank = np.argsort(np.searchsorted(seen, grades))  # of each class among the grades
    targets = rank[np.searchsorted(seen, y.reshape(-1)).clip(max=len(seen) - 1)].astype(np.int64)[:, None]
    problems = Problems(set_of, C, np.zeros(len(C), np.int64), targets, 1)

    def solved(backend: Backend) -> GradeSolution:
        rows = training_rows(
            X,
            list(unique.values()),
            backend,
            scale=first.standardize,
            max_bytes=first.max_bytes,
            n_threads=first.n_threads or len(os.sched_getaffinity(0)),
        )
        return solve_grades(rows, problems, tol=first.tol, max_iter=first.max_iter)

    work = 4.0 * EVALUATIONS * sum(map(len, fit_rows)) * X.shape[1]
    with one_blas_thread():
        solution = computed(solved, first.device, work=work, what="ordinal heads", X=X)
    if not solution.converged.all():
        warnings.warn(
            f"{(~solution.converged).sum()} of {len(C)} fits did not reach tol={first.tol} in {first.max_iter} "
            "iterations: raise max_iter, or leave out the largest C.",
            ConvergenceWarning,
            stacklevel=3,
        )
    for i, head in enumerate(heads):
        head.classes_, head.grades_ = seen, grades
        head.coef_ = solution.coef[i][None]
        head.thresholds_ = solution.thresholds[i]
        head.objective_ = float(solution.objective[i])
        head.n_iter_ = int(solution.n_iter[i])
        head.multilabel_ = False
        head.n_features_in_ = head.coef_.shape[1]
