"""The linear probe: L2-penalised logistic regression, solved for all folds and penalties at once."""

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
from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, probabilities, require_two
from headwater.heads._logistic import Problems, Solution, solve
from headwater.heads._objective import ClassWeight, Objective, class_weights
from headwater.heads._rows import TrainingRows, one_blas_thread, training_rows
from headwater.heads._settings import plain_class_weight, require_class_weight, require_one_of, weights_of_rows
from headwater.heads._weighted import TakesWeights
from headwater.heads.base import Fit, SearchSpace, State, blocks

EVALUATIONS = 30  # of the loss until most fits have converged, to estimate the work


class LinearProbe(TakesWeights, Classifier):
    """L2-penalised logistic regression on frozen features.

    Minimises ``C * sum of losses + ‖W‖² / 2`` with an unpenalised intercept: the objective of scikit-learn's
    ``LogisticRegression``, after standardising each column on the training rows as
    ``make_pipeline(StandardScaler(), LogisticRegression(C))`` does. Two classes: logistic loss. More: multinomial.
    Labels of shape ``(n_samples, n_labels)``: an independent binary problem for each label.

    Parameters
    ----------
    C
        Inverse strength of the penalty, above 0.
    class_weight
        Weights in the loss: ``balanced`` weights each class by the inverse of its frequency in the training rows, as in
        scikit-learn; or a dict of weights by class (for labels: by 0 and 1), with 1 for missing ones.
    standardize
        Whether columns are scaled by their standard deviation on the training rows. (Centring has no effect, since the
        intercept is unpenalised.)
    tol
        The search ends when the predicted decrease of another step is at most this share of the loss of predicting the
        class frequencies for all rows, and at most 1e-5 of the objective.
    max_iter
        Most iterations of L-BFGS.
    n_threads
        Threads for NumPy input; None for one per core.
    max_bytes
        Training rows that take more than this in float32, or more than half of a GPU's free memory, are streamed from
        X block by block in each iteration.
    device
        ``auto``, ``cpu`` or ``cuda``; `headwater.heads` says what auto takes. An array of another library, such as a
        tensor on a GPU, is computed with where it is.

    Attributes
    ----------
    classes_ : of shape (n_classes,)
        Sorted labels; ``arange(n_labels)`` for several labels.
    coef_ : float64, of shape (1, d), (n_classes, d) or (n_labels, d)
        Weights for unstandardised X.
    intercept_ : float64, of shape (1,), (n_classes,) or (n_labels,)
    objective_ : float
        Value of the objective (summed over labels).
    n_iter_ : int
        Iterations taken.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5)); y = X[:, 0] + 0.1 * rng.standard_normal(200) > 0
    >>> LinearProbe(C=10).fit(X[:150], y[:150]).score(X[150:], y[150:])
    1.0
    """

    search_space: ClassVar[SearchSpace] = {"C": ("log", 1e-7, 1e3)}

    def __init__(
        self,
        C: float = 1.0,
        *,
        class_weight: ClassWeight = None,
        standardize: bool = True,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_threads: int | None = None,
        max_bytes: int = 4 << 30,
        device: Device = "auto",
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.max_bytes = max_bytes
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return 17 penalties, evenly spaced on a log scale from 1e-6 to 1e2."""
        return [{"C": float(c)} for c in np.logspace(-6, 2, 17)]

    def fit_many(
        self,
        X: Any,
        y: NDArray[Any],
        fits: Sequence[Fit],
        *,
        groups: NDArray[Any] | None = None,
        sample_weight: NDArray[np.floating[Any]] | None = None,
    ) -> list[Self]:
        """Fit many probes together; see `Head.fit_many`. Fits with the same parameters except C form a batch.

        ``sample_weight`` holds the weight of each row of X, of shape ``(n_samples,)``; standardisation ignores it, as
        in ``make_pipeline(StandardScaler(), LogisticRegression())``.
        """
        check_classification_targets(y)
        shared = self.get_params()
        heads = [type(self)(**{**shared, **params}) for _, params in fits]
        for head in heads:
            head._require_usable()
        codes, classes, multilabel = encode_labels(y)
        batches: dict[Any, list[int]] = {}
        present: dict[int, NDArray[np.int64]] = {}
        for i, ((rows, _), head) in enumerate(zip(fits, heads, strict=True)):
            if id(rows) not in present:
                present[id(rows)] = np.arange(len(classes)) if multilabel else np.unique(codes[rows])
            settings = {k: getattr(head, k) for k in shared if k not in ("C", "class_weight")}
            batches.setdefault((*sorted(settings.items()), tuple(present[id(rows)])), []).append(i)
        for (*_, seen), chosen in batches.items():
            if not multilabel:
                require_two(np.array(seen), classes)
            mine = [heads[i] for i in chosen], [fits[i][0] for i in chosen]
            _solve_batch(*mine, X, codes, classes, np.array(seen), sample_weight)
        return heads

    def _require_usable(self) -> None:
        limits = {"C": self.C, "tol": self.tol, "max_iter": self.max_iter, "n_threads": self.n_threads}
        for name, value in limits.items():
            if value is not None and not value > 0:
                raise HeadError(f"{name} must be above 0, but is {value!r}.")
        require_one_of(self, device=Device)
        require_class_weight(self)

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
            values = X[rows[members[0]]]
            sizes = np.cumsum([len(heads[i].intercept_) for i in members])
            coef = np.concatenate([heads[i].coef_ for i in members])
            intercept = np.concatenate([heads[i].intercept_ for i in members])
            products = product(values, coef.T, heads[members[0]].device) + intercept
            logits = np.split(products, sizes[:-1], axis=1)
            for i, part in zip(members, logits, strict=True):
                out[i] = probabilities(np.asarray(part, np.float64), heads[i].multilabel_)
        return out

    def to_state(self) -> State:
        """Return a fitted probe as plain JSON values and arrays."""
        check_is_fitted(self)
        values = {
            "params": {**self.get_params(), "class_weight": plain_class_weight(self.class_weight)},
            "classes": self.classes_.tolist(),
            "multilabel": self.multilabel_,
            "objective": self.objective_,
            "n_iter": self.n_iter_,
        }
        return values, {"coef": self.coef_, "intercept": self.intercept_}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a probe from `to_state`."""
        head = cls(**values["params"])
        head.classes_ = np.array(values["classes"])
        head.coef_, head.intercept_ = arrays["coef"], arrays["intercept"]
        head.objective_, head.n_iter_ = values["objective"], values["n_iter"]
        head.multilabel_ = values["multilabel"]
        head.n_features_in_ = head.coef_.shape[1]
        return head

    def _logits(self, X: Any) -> NDArray[np.float64]:
        out = np.empty((X.shape[0], len(self.intercept_)))
        for rows, values in blocks(X):
            out[rows] = to_numpy(values).astype(np.float64, copy=False) @ self.coef_.T + self.intercept_
        return out


def _solve_batch(
    heads: Sequence[LinearProbe],
    fit_rows: Sequence[NDArray[np.int64]],
    X: Any,
    codes: NDArray[Any],
    classes: NDArray[Any],
    seen: NDArray[np.int64],
    sample_weight: NDArray[np.floating[Any]] | None,
) -> None:
    """Fit heads that differ only in C, class weights and rows, and whose rows have the same classes."""
    first = heads[0]
    unique: dict[int, NDArray[np.int64]] = {id(rows): rows for rows in fit_rows}
    number = {key: s for s, key in enumerate(unique)}
    set_of = np.array([number[id(rows)] for rows in fit_rows])
    C = np.array([head.C for head in heads], np.float64)
    multilabel = codes.ndim == 2
    weights = None if sample_weight is None else weights_of_rows(sample_weight, len(codes))
    class_weight = _weights_of_classes(heads, fit_rows, codes, classes, seen, weights)
    n_outputs = codes.shape[1] if multilabel else 1 if len(seen) == 2 else len(seen)

    def solved(backend: Backend) -> tuple[Solution, NDArray[np.int64]]:
        rows = training_rows(
            X,
            list(unique.values()),
            backend,
            scale=first.standardize,
            max_bytes=first.max_bytes,
            n_threads=first.n_threads or len(os.sched_getaffinity(0)),
        )
        if multilabel:
            return _solve_labels(rows, codes, set_of, C, first, class_weight, weights)
        places = np.searchsorted(seen, codes).astype(np.int64)
        targets = (2.0 * places - 1 if len(seen) == 2 else places)[:, None]
        of_first = np.zeros(len(C), np.int64)
        of_classes = None if class_weight is None else class_weight[:, :, 0]
        problems = Problems(set_of, C, of_first, targets, n_outputs, of_classes, weights)
        return solve(rows, problems, tol=first.tol, max_iter=first.max_iter), np.arange(len(C))[:, None]

    work = 4.0 * EVALUATIONS * sum(map(len, fit_rows)) * X.shape[1] * n_outputs
    with one_blas_thread():
        solution, where = computed(solved, first.device, work=work, what="linear heads", X=X)
    if not solution.converged.all():
        warnings.warn(
            f"{(~solution.converged).sum()} of {len(C)} fits did not reach tol={first.tol} in {first.max_iter} "
            "iterations: raise max_iter, or leave out the largest C.",
            ConvergenceWarning,
            stacklevel=3,
        )
    for i, head in enumerate(heads):
        mine = where[i]
        head.classes_ = classes[seen]
        head.coef_ = solution.coef[mine].reshape(-1, solution.coef.shape[2])
        head.intercept_ = solution.intercept[mine].reshape(-1)
        head.objective_ = float(solution.objective[mine].sum())
        head.n_iter_ = int(solution.n_iter[mine].max())
        head.multilabel_ = multilabel
        head.n_features_in_ = head.coef_.shape[1]


def _weights_of_classes(
    heads: Sequence[LinearProbe],
    fit_rows: Sequence[NDArray[np.int64]],
    codes: NDArray[Any],
    classes: NDArray[Any],
    seen: NDArray[np.int64],
    sample_weight: NDArray[np.float64] | None,
) -> NDArray[np.float64] | None:
    """Return the weight of each class in each fit, of shape ``(fits, n_classes, 1)``, or ``(fits, 2, n_labels)``."""
    if all(head.class_weight is None for head in heads):
        return None
    several = codes.ndim == 2
    # as for mutually exclusive classes, with one weight per class even for two classes
    objective = Objective(codes.shape[1] if several else len(seen), not several, "cross-entropy", 0.0)
    known = np.array([0, 1]) if several else classes[seen]
    found = [
        class_weights(
            codes[rows],
            seen,
            known,
            objective,
            head.class_weight,
            None if sample_weight is None else sample_weight[rows],
        )
        for head, rows in zip(heads, fit_rows, strict=True)
    ]
    return np.stack([weights if several else weights[:, None] for weights in found]).astype(np.float64)


def _solve_labels(
    rows: TrainingRows,
    labels: NDArray[Any],
    set_of: NDArray[np.int64],
    C: NDArray[np.float64],
    first: LinearProbe,
    class_weight: NDArray[np.float64] | None,
    sample_weight: NDArray[np.float64] | None,
) -> tuple[Solution, NDArray[np.int64]]:
    """Solve a binary problem for each fit and label; return solutions and the index of each, ``(fits, labels)``.

    A label that is constant in the training rows has no finite solution: it gets zero weights and the intercept of its
    smoothed frequency, ``(n_positive + 1/2) / (n + 1)``.
    """
    n_fits, n_labels = len(C), labels.shape[1]
    signs = 2.0 * (labels > 0) - 1
    positives = rows.inside.T.astype(np.int64) @ (labels > 0)
    n = rows.inside.sum(0)[:, None]
    varied = ((positives > 0) & (positives < n))[set_of].reshape(-1)
    target_of = np.tile(np.arange(n_labels), n_fits)
    of_labels = None if class_weight is None else class_weight.transpose(0, 2, 1).reshape(-1, 2)[varied]
    problems = Problems(
        np.repeat(set_of, n_labels)[varied],
        np.repeat(C, n_labels)[varied],
        target_of[varied],
        signs,
        1,
        of_labels,
        sample_weight,
    )
    solved = solve(rows, problems, tol=first.tol, max_iter=first.max_iter)
    odds = (positives + 0.5) / (n - positives + 0.5)
    intercept = np.log(odds)[set_of].reshape(-1, 1)
    intercept[varied] = solved.intercept

    def spread(values: NDArray[Any], fill: Any) -> NDArray[Any]:
        out = np.full((n_fits * n_labels, *values.shape[1:]), fill, values.dtype)
        out[varied] = values
        return out

    full = Solution(
        spread(solved.coef, 0),
        intercept,
        spread(solved.objective, 0),
        spread(solved.n_iter, 0),
        spread(solved.converged, True),
    )
    return full, np.arange(n_fits * n_labels).reshape(n_fits, n_labels)
