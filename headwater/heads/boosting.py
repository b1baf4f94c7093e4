"""Gradient-boosted trees on stored features, by XGBoost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._devices import resolve_device
from headwater._extras import need
from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, require_two
from headwater.heads._stopping import rows_to_stop_by
from headwater.heads.base import Fit, SearchSpace, State, blocks


class XGBoost(Classifier):
    """Gradient-boosted trees, their features put into bins once for all settings of the same rows.

    Parameters
    ----------
    n_rounds
        Most rounds of boosting; a tree a class, or a label, in each.
    max_depth, lr, subsample, colsample, min_child_weight, reg_lambda, gamma
        XGBoost's ``max_depth``, ``learning_rate``, ``subsample``, ``colsample_bytree``, ``min_child_weight``,
        ``reg_lambda`` and ``gamma``.
    max_bin
        Bins a column. XGBoost's own default is 256; on a few thousand rows, finding the best of so many takes most of
        the time (``benchmarks/boosting_sweep.py`` compares time and accuracy, on made-up features).
    patience
        Rounds without a lower loss on the rows held out after which boosting ends, and the best number of rounds is
        taken; None to hold out nothing and go through all rounds.
    stop_share
        Share of the training rows that are held out to stop by, whole groups of them where groups are given.
    seed
        Of what is drawn.
    n_threads
        None for one a core.
    device
        ``auto``, ``cpu`` or ``cuda``.

    Attributes
    ----------
    classes_, multilabel_, n_features_in_
        As `LinearProbe` has them.
    booster_ : xgboost.Booster
    n_rounds_ : int
        Rounds that were kept.

    References
    ----------
    Chen and Guestrin, XGBoost: a scalable tree boosting system, 2016.
    """

    search_space: ClassVar[SearchSpace] = {
        "max_depth": ("int", 1, 8),
        "lr": ("log", 0.01, 0.5),
        "subsample": ("uniform", 0.5, 1.0),
        "colsample": ("uniform", 0.1, 1.0),
        "min_child_weight": ("log", 0.1, 30.0),
        "reg_lambda": ("log", 0.01, 100.0),
    }

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
        device: Literal["auto", "cpu", "cuda"] = "cpu",
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
        self, X: Any, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit many; see `Head.fit_many`. Columns are put into bins once for each set of training rows."""
        xgboost = need("xgboost", "boost")
        codes, classes, multilabel = encode_labels(y)
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        sharing: dict[Any, list[int]] = {}
        for i, ((rows, _), head) in enumerate(zip(fits, heads, strict=True)):
            head._require_usable()
            stopping = (head.stop_share, head.seed) if head.patience is not None else None
            sharing.setdefault((id(rows), head.max_bin, stopping), []).append(i)
        for members in sharing.values():  # one set of rows at a time
            first = heads[members[0]]
            binned = first._binned(X, codes, classes, multilabel, fits[members[0]][0], groups)
            # Settings side by side, a thread each: two that grow one tree together wait for each other at every node.
            side_by_side = min(len(members), first._threads)

            def boost(i: int, binned: Any = binned, n_threads: int = first._threads // side_by_side) -> None:
                heads[i]._boost(xgboost, binned, classes, multilabel, n_threads)
                heads[i].n_features_in_ = int(X.shape[1])

            with ThreadPoolExecutor(side_by_side) as pool:
                list(pool.map(boost, members))
        return heads

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
        return values, {"booster": np.frombuffer(bytes(self.booster_.save_raw("ubj")), np.uint8)}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        xgboost = need("xgboost", "boost")
        head = cls(**values["params"])
        head.booster_ = xgboost.Booster({"nthread": head._threads})
        head.booster_.load_model(bytearray(arrays["booster"].tobytes()))
        head.classes_, head.multilabel_ = np.array(values["classes"]), values["multilabel"]
        head.n_features_in_, head.n_rounds_ = values["n_features"], values["n_rounds"]
        return head

    def _require_usable(self) -> None:
        for name in ("n_rounds", "max_depth", "lr", "subsample", "colsample", "max_bin"):
            if not getattr(self, name) > 0:
                raise HeadError(f"{name} must be above 0, but is {getattr(self, name)!r}.")
        for name in ("subsample", "colsample"):
            if getattr(self, name) > 1:
                raise HeadError(f"{name} is a share, at most 1, but is {getattr(self, name)!r}.")
        if self.patience is not None and not self.patience > 0:
            raise HeadError(f"patience must be above 0, or null for all rounds, but is {self.patience!r}.")

    @property
    def _threads(self) -> int:
        return self.n_threads or len(os.sched_getaffinity(0))

    def _binned(
        self,
        X: Any,
        codes: NDArray[Any],
        classes: NDArray[Any],
        multilabel: bool,
        rows: NDArray[np.int64],
        groups: NDArray[Any] | None,
    ) -> tuple[Any, Any, NDArray[np.int64]]:
        """Return the training rows in bins, those to stop by (or None), and the classes that are there."""
        xgboost = need("xgboost", "boost")
        seen = np.arange(len(classes)) if multilabel else np.unique(codes[rows])
        if not multilabel:
            require_two(seen, classes)
        values = np.asarray(X[rows], np.float32)
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            raise HeadError(f"features are not finite in {len(bad)} rows, the first being {rows[bad[:5]].tolist()}.")
        targets = codes[rows] if multilabel else np.searchsorted(seen, codes[rows])
        held = np.zeros(len(rows), bool)
        if self.patience is not None:
            share = None if groups is None else groups[rows]
            held[rows_to_stop_by(codes[rows], share, self.stop_share, self.seed)] = True
        options = {"max_bin": self.max_bin, "nthread": self._threads}
        train = xgboost.QuantileDMatrix(values[~held], targets[~held], **options)
        stop = xgboost.QuantileDMatrix(values[held], targets[held], ref=train, **options) if held.any() else None
        return train, stop, seen

    def _boost(
        self,
        xgboost: Any,
        binned: tuple[Any, Any, NDArray[np.int64]],
        classes: NDArray[Any],
        multilabel: bool,
        n_threads: int,
    ) -> None:
        train, stop, seen = binned
        many = len(seen) > 2 and not multilabel
        params: dict[str, Any] = {
            "objective": "multi:softprob" if many else "binary:logistic",
            "eval_metric": "mlogloss" if many else "logloss",
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
            "nthread": n_threads,
            "device": resolve_device(self.device) if self.device != "cpu" else "cpu",  # torch is asked only if it must
        }
        if many:
            params["num_class"] = len(seen)
        booster = xgboost.train(
            params,
            train,
            self.n_rounds,
            evals=[(stop, "stop")] if stop is not None else [],
            early_stopping_rounds=self.patience if stop is not None else None,
            verbose_eval=False,
        )
        self.n_rounds_ = booster.best_iteration + 1 if stop is not None else self.n_rounds
        self.booster_ = booster[: self.n_rounds_] if self.n_rounds_ < booster.num_boosted_rounds() else booster
        self.classes_, self.multilabel_ = classes[seen], multilabel

    def _logits(self, X: Any) -> NDArray[np.float32]:
        xgboost = need("xgboost", "boost")
        k = len(self.classes_) if self.multilabel_ or len(self.classes_) > 2 else 1
        out = np.empty((X.shape[0], k), np.float32)
        for rows, values in blocks(X):
            matrix = xgboost.DMatrix(np.asarray(values, np.float32), nthread=self._threads)
            out[rows] = self.booster_.predict(matrix, output_margin=True).reshape(-1, k)
        return out
