"""Gradient-boosted trees on stored features, by XGBoost."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._backend import WORTHWHILE, on_device
from headwater._devices import Device
from headwater._extras import need
from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, require_two
from headwater.heads._regressor import Regressor, as_targets
from headwater.heads._settings import weights_of_rows
from headwater.heads._stopping import rows_to_stop_by
from headwater.heads._weighted import TakesWeights
from headwater.heads.base import Fit, Head, SearchSpace, State, blocks

Rows = NDArray[np.int64]
OPERATIONS = 20  # floating-point operations that take as long as one visit of a value while a level of a tree grows


@dataclass(frozen=True, eq=False)
class _Problem:
    """The learning problem of trees on some rows.

    Attributes
    ----------
    targets
        Targets for XGBoost, of shape ``(n_rows,)`` or ``(n_rows, n_outputs)``.
    codes
        Codes to stratify held-out rows by, if one-dimensional.
    settings
        XGBoost's objective and related settings.
    fitted
        Attributes to set on the fitted head.
    """

    targets: NDArray[Any]
    codes: NDArray[Any]
    settings: Mapping[str, Any]
    fitted: Mapping[str, Any]


class _Trees(Head):
    """Boosted trees of any kind: settings, bins and boosting; see `XGBoost`."""

    search_space: ClassVar[SearchSpace] = {
        "max_depth": ("int", 1, 8),
        "lr": ("log", 0.01, 0.5),
        "subsample": ("uniform", 0.5, 1.0),
        "colsample": ("uniform", 0.1, 1.0),
        "min_child_weight": ("log", 0.1, 30.0),
        "reg_lambda": ("log", 0.01, 100.0),
    }

    n_features_in_: int
    n_rounds_: int
    booster_: Any

    def __init__(
        self,
        n_rounds: int = 300,
        *,
        max_depth: int = 4,
        lr: float = 0.1,
        subsample: float = 1.0,
        colsample: float = 0.5,
        min_child_weight: float = 1.0,
        reg_lambda: float = 1.0,
        gamma: float = 0.0,
        max_bin: int = 64,
        patience: int | None = 20,
        stop_share: float = 0.15,
        seed: int = 0,
        n_threads: int | None = None,
        device: Device = "auto",
    ) -> None:
        self.n_rounds = n_rounds
        self.max_depth = max_depth
        self.lr = lr
        self.subsample = subsample
        self.colsample = colsample
        self.min_child_weight = min_child_weight
        self.reg_lambda = reg_lambda
        self.gamma = gamma
        self.max_bin = max_bin
        self.patience = patience
        self.stop_share = stop_share
        self.seed = seed
        self.n_threads = n_threads
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return six settings: three depths by two learning rates."""
        return [{"max_depth": depth, "lr": lr} for depth in (2, 4, 6) for lr in (0.05, 0.2)]

    def fit_many(
        self,
        X: Any,
        y: NDArray[Any],
        fits: Sequence[Fit],
        *,
        groups: NDArray[Any] | None = None,
        sample_weight: NDArray[np.floating[Any]] | None = None,
    ) -> list[Self]:
        """Fit many; see `Head.fit_many`. Columns are binned once for each set of training rows.

        ``sample_weight`` holds the weight of each row of X, of shape ``(n_samples,)``.
        """
        xgboost = need("xgboost", "boost")
        problem_of = self._problems(y)
        weights = None if sample_weight is None else weights_of_rows(sample_weight, len(y))
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        sharing: dict[Any, list[int]] = {}
        for i, ((rows, _), head) in enumerate(zip(fits, heads, strict=True)):
            head._require_usable()
            stopping = (head.stop_share, head.seed) if head.patience is not None else None
            sharing.setdefault((id(rows), head.max_bin, stopping), []).append(i)
        for members in sharing.values():  # one set of rows at a time
            first, rows = heads[members[0]], fits[members[0]][0]
            problem = problem_of(rows)
            binned = first._binned(X, problem, rows, groups, weights)
            boosted = partial(_boosted, xgboost, [heads[i] for i in members], binned, problem)
            on_device(boosted, first._where(len(rows), X.shape[1], [heads[i] for i in members]), what="boosted trees")
            for i in members:
                heads[i].n_features_in_ = int(X.shape[1])
        return heads

    @abstractmethod
    def _problems(self, y: NDArray[Any]) -> Callable[[Rows], _Problem]:
        """Return a function from rows to their learning problem."""

    def _require_usable(self) -> None:
        for name in ("n_rounds", "max_depth", "lr", "subsample", "colsample", "max_bin"):
            if not getattr(self, name) > 0:
                raise HeadError(f"{name} must be above 0, but is {getattr(self, name)!r}.")
        for name in ("subsample", "colsample"):
            if getattr(self, name) > 1:
                raise HeadError(f"{name} must be at most 1, but is {getattr(self, name)!r}.")
        if self.patience is not None and not self.patience > 0:
            raise HeadError(f"patience must be above 0, or null for all rounds, but is {self.patience!r}.")

    @staticmethod
    def _where(n: int, d: int, heads: Sequence[_Trees]) -> Device:
        """Return the device of these heads; ``cpu`` for ``auto`` if they are not worthwhile work for a GPU."""
        visits = sum(n * d * head.colsample * head.subsample * head.n_rounds * head.max_depth for head in heads)
        device = heads[0].device
        return "cpu" if device == "auto" and OPERATIONS * visits < WORTHWHILE else device

    @property
    def _threads(self) -> int:
        return self.n_threads or len(os.sched_getaffinity(0))

    def _binned(
        self,
        X: Any,
        problem: _Problem,
        rows: Rows,
        groups: NDArray[Any] | None,
        weights: NDArray[np.float64] | None,
    ) -> tuple[Any, Any]:
        """Return the binned training rows, and the binned stopping rows (or None)."""
        xgboost = need("xgboost", "boost")
        values = np.asarray(X[rows], np.float32)
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            raise HeadError(f"features are not finite in {len(bad)} rows, the first being {rows[bad[:5]].tolist()}.")
        held = np.zeros(len(rows), bool)
        if self.patience is not None:
            share = None if groups is None else groups[rows]
            held[rows_to_stop_by(problem.codes, share, self.stop_share, self.seed)] = True
        options = {"max_bin": self.max_bin, "nthread": self._threads}
        targets, weight = problem.targets, None if weights is None else weights[rows]

        def matrix(some: NDArray[np.bool_], ref: Any = None) -> Any:
            counts = None if weight is None else weight[some]
            return xgboost.QuantileDMatrix(values[some], targets[some], weight=counts, ref=ref, **options)

        train = matrix(~held)
        stop = matrix(held, train) if held.any() else None
        return train, stop

    def _boost(self, xgboost: Any, binned: tuple[Any, Any], problem: _Problem, computing: Mapping[str, Any]) -> None:
        train, stop = binned
        params: dict[str, Any] = {
            **problem.settings,
            "max_depth": self.max_depth,
            "learning_rate": self.lr,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample,
            "min_child_weight": self.min_child_weight,
            "reg_lambda": self.reg_lambda,
            "gamma": self.gamma,
            "max_bin": self.max_bin,
            "tree_method": "hist",
            "seed": self.seed,
            **computing,
        }
        booster = xgboost.train(
            params,
            train,
            self.n_rounds,
            evals=[(stop, "stop")] if stop is not None else [],
            early_stopping_rounds=self.patience if stop is not None else None,
            verbose_eval=False,
        )
        booster.set_param({"device": "cpu"})  # predicts where every saved head predicts
        self.n_rounds_ = booster.best_iteration + 1 if stop is not None else self.n_rounds
        self.booster_ = booster[: self.n_rounds_] if self.n_rounds_ < booster.num_boosted_rounds() else booster
        for name, value in problem.fitted.items():
            setattr(self, name, value)

    def _margins(self, X: Any, k: int) -> NDArray[np.float32]:
        """Return the sums of trees, of shape ``(n_samples, k)``."""
        xgboost = need("xgboost", "boost")
        out = np.empty((X.shape[0], k), np.float32)
        for rows, values in blocks(X):
            matrix = xgboost.DMatrix(np.asarray(values, np.float32), nthread=self._threads)
            out[rows] = self.booster_.predict(matrix, output_margin=True).reshape(-1, k)
        return out

    def _trees(self) -> NDArray[np.uint8]:
        """Return the trees as XGBoost's own universal binary JSON."""
        return np.frombuffer(bytes(self.booster_.save_raw("ubj")), np.uint8)

    def _grow(self, trees: NDArray[np.uint8]) -> None:
        """Load trees from `_trees`."""
        xgboost = need("xgboost", "boost")
        self.booster_ = xgboost.Booster({"nthread": self._threads})
        self.booster_.load_model(bytearray(trees.tobytes()))


def _boosted(xgboost: Any, heads: Sequence[_Trees], binned: tuple[Any, Any], problem: _Problem, device: str) -> None:
    """Fit heads on the same binned rows.

    On the CPU with one thread for each, since threads that share a tree wait for each other at every node; on a GPU one
    after the other, since each fills it.
    """
    n_threads = heads[0]._threads
    side_by_side = 1 if device == "cuda" else min(len(heads), n_threads)
    computing = {"nthread": n_threads // side_by_side, "device": device}
    with ThreadPoolExecutor(side_by_side) as pool:
        list(pool.map(lambda head: head._boost(xgboost, binned, problem, computing), heads))


class XGBoost(TakesWeights, _Trees, Classifier):
    """Gradient-boosted trees; features are binned once for all settings on the same rows.

    Parameters
    ----------
    n_rounds
        Most rounds of boosting, with one tree per class or label in each.
    max_depth, lr, subsample, colsample, min_child_weight, reg_lambda, gamma
        XGBoost's ``max_depth``, ``learning_rate``, ``subsample``, ``colsample_bytree``, ``min_child_weight``,
        ``reg_lambda`` and ``gamma``.
    max_bin
        Bins per column. XGBoost's own default is 256; on a few thousand rows, searching so many takes most of the time
        (``benchmarks/boosting_sweep.py`` compares time and accuracy on synthetic features).
    patience
        Stop after this many rounds without a lower loss on the held-out rows, and keep the best number of rounds; None
        to hold out nothing and run all rounds.
    stop_share
        Share of the training rows to hold out for early stopping, in whole groups if groups are given.
    seed
        Random seed.
    n_threads
        Number of threads; None for one per core.
    device
        ``auto``, ``cpu`` or ``cuda``; see `headwater.heads`.

    Attributes
    ----------
    classes_, multilabel_, n_features_in_
        See `LinearProbe`.
    booster_ : xgboost.Booster
    n_rounds_ : int
        Number of rounds kept.

    References
    ----------
    Chen and Guestrin, XGBoost: a scalable tree boosting system, 2016.
    """

    def _problems(self, y: NDArray[Any]) -> Callable[[Rows], _Problem]:
        codes, classes, multilabel = encode_labels(y)

        def problem_of(rows: Rows) -> _Problem:
            seen = np.arange(len(classes)) if multilabel else np.unique(codes[rows])
            if not multilabel:
                require_two(seen, classes)
            many = len(seen) > 2 and not multilabel
            settings: dict[str, Any] = {
                "objective": "multi:softprob" if many else "binary:logistic",
                "eval_metric": "mlogloss" if many else "logloss",
                **({"num_class": len(seen)} if many else {}),
            }
            targets = codes[rows] if multilabel else np.searchsorted(seen, codes[rows])
            return _Problem(targets, codes[rows], settings, {"classes_": classes[seen], "multilabel_": multilabel})

        return problem_of

    def to_state(self) -> State:
        """Return fitted trees as plain JSON values and arrays; the trees are XGBoost's own universal binary JSON."""
        check_is_fitted(self)
        values = {
            "params": self.get_params(),
            "classes": self.classes_.tolist(),
            "multilabel": self.multilabel_,
            "n_features": self.n_features_in_,
            "n_rounds": self.n_rounds_,
        }
        return values, {"booster": self._trees()}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        head = cls(**values["params"])
        head._grow(arrays["booster"])
        head.classes_, head.multilabel_ = np.array(values["classes"]), values["multilabel"]
        head.n_features_in_, head.n_rounds_ = values["n_features"], values["n_rounds"]
        return head

    def _logits(self, X: Any) -> NDArray[np.float32]:
        return self._margins(X, len(self.classes_) if self.multilabel_ or len(self.classes_) > 2 else 1)


class XGBoostRegressor(TakesWeights, _Trees, Regressor):
    """Gradient-boosted trees for least squares, with one tree per output in each round, on standardised targets.

    Parameters are those of `XGBoost`; early stopping uses the root mean squared error over all outputs.

    Attributes
    ----------
    centre_, width_ : float64, of shape (n_outputs,)
        Mean and standard deviation of the targets of the training rows.
    booster_, n_rounds_
        See `XGBoost`.
    several_, n_features_in_
        Whether targets have two dimensions; number of columns of X.
    """

    def _problems(self, y: NDArray[Any]) -> Callable[[Rows], _Problem]:
        every, several = as_targets(y)

        def problem_of(rows: Rows) -> _Problem:
            targets = every[rows]
            centre, std = targets.mean(0), targets.std(0)
            width = np.where(std > 0, std, 1.0)
            settings = {"objective": "reg:squarederror", "eval_metric": "rmse", "base_score": 0.0}
            fitted = {"centre_": centre, "width_": width, "several_": several}
            return _Problem((targets - centre) / width, targets, settings, fitted)

        return problem_of

    def to_state(self) -> State:
        """Return fitted trees as plain JSON values and arrays; the trees are XGBoost's own universal binary JSON."""
        check_is_fitted(self)
        values = {
            "params": self.get_params(),
            "several": self.several_,
            "n_features": self.n_features_in_,
            "n_rounds": self.n_rounds_,
        }
        return values, {"booster": self._trees(), "centre": self.centre_, "width": self.width_}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        head = cls(**values["params"])
        head._grow(arrays["booster"])
        head.centre_, head.width_, head.several_ = arrays["centre"], arrays["width"], values["several"]
        head.n_features_in_, head.n_rounds_ = values["n_features"], values["n_rounds"]
        return head

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        out: NDArray[np.float64] = self._margins(X, len(self.centre_)) * self.width_ + self.centre_
        return out
