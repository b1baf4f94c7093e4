"""Gaussian discriminant analysis with a shrunk covariance that all classes share, without or with texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._backend import Backend, computed, to_numpy
from headwater._devices import Device
from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, probabilities, require_two
from headwater.heads._gaussian import Discriminants, Scaling, Shrinkage, Truth, discriminants
from headwater.heads._objective import ClassWeight, Objective, class_weights
from headwater.heads._settings import plain_class_weight, require_at_least_0, require_class_weight, require_one_of
from headwater.heads.base import Fit, SearchSpace, State, blocks
from headwater.heads.class_texts import ClassTexts, scaled_texts
from headwater.heads.neighbours import unit_rows

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
LEAST_SHRINKAGE = 1e-8
EIGEN = 20  # operations of an eigendecomposition, in units of the cube of its size
QUERIES = 2048  # rows predicted at once


class GDA(Classifier):
    """Classes are Gaussians with one covariance, which is shrunk; the boundary is linear, and nothing is trained.

    The logit of class k with mean ``m`` and frequency π for a row x is ``alpha * (x P m - m P m / 2) + log π``, where P
    is the inverse of the shrunk covariance within classes; with texts, ``logit_scale * cos(x, text of k)`` is added.
    With ``alpha=1`` and no texts, this is linear discriminant analysis. Labels: rows with the label and rows without it
    are two classes, for each label by itself.

    Parameters
    ----------
    texts
        Vectors of the classes; None to use the labelled rows only.
    shrinkage
        A number λ from 1e-8 to 1: the covariance S becomes ``(1 - λ) S + λ tr(S) / d I``. Or ``ks``: the precision of
        the paper's authors, ``d ((n - 1) S + tr(S) I)⁻¹``, which is that for ``λ = d / (n - 1 + d)`` times a number.
    alpha
        Weight of the Gaussians against the texts, at least 0; without texts, a smaller alpha makes probabilities less
        confident. It does not multiply the priors.
    scaling
        ``unit`` scales rows to length 1, as the authors do; ``standardize`` scales columns by their standard deviations
        on the training rows. The cosines to texts do not depend on it.
    class_weight
        The prior of a class is its frequency in the training rows times its weight: ``balanced`` for equal priors (as
        the authors have), or a dict of weights above 0 by class (for labels: by 0 and 1), with 1 for missing ones.
    device
        ``auto``, ``cpu`` or ``cuda``; see `headwater.heads`.

    Attributes
    ----------
    classes_, multilabel_, n_features_in_
        See `LinearProbe`.
    coef_ : float64, of shape (1, d), (n_classes, d) or (n_labels, d)
        Weights of the Gaussians, for rows of length 1 (``unit``) or as they are (``standardize``), without alpha.
    offset_ : float64, of shape (n_outputs,)
        Their offsets, without alpha.
    prior_ : float64, of shape (n_outputs,)
        Logarithms of priors; for two classes and for labels, of their odds.
    text_ : float64, of the shape of ``coef_``, or None
        Unit vectors of the classes times the logit scale; for two classes, their difference.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5)); y = X[:, 0] + 0.1 * rng.standard_normal(200) > 0
    >>> bool(GDA(shrinkage=0.1).fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.9)
    True

    References
    ----------
    Wang, Liang, Sheng, He, Wang and Tan, A hard-to-beat baseline for training-free CLIP-based adaptation, ICLR 2024.
    docs/heads.md lists the differences.
    """

    takes_texts = True
    search_space: ClassVar[SearchSpace] = {"shrinkage": ("uniform", LEAST_SHRINKAGE, 1.0), "alpha": ("log", 1e-3, 1e2)}

    def __init__(
        self,
        texts: ClassTexts | None = None,
        *,
        shrinkage: Shrinkage = "ks",
        alpha: float = 1.0,
        scaling: Scaling = "unit",
        class_weight: ClassWeight = None,
        device: Device = "auto",
    ) -> None:
        self.texts = texts
        self.shrinkage = shrinkage
        self.alpha = alpha
        self.scaling = scaling
        self.class_weight = class_weight
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return 17 shrinkages by eight values of alpha, from 0.001 to 3.

        The shrinkages are ``ks``, 1, and 15 of which ``λ / (1 - λ)`` is evenly spaced on a log scale from 1e-4 to 100.
        """
        ratios = np.logspace(-4, 2, 15)
        numbers = [float(f"{ratio / (1 + ratio):.4g}") for ratio in ratios.tolist()]
        return [
            {"shrinkage": shrinkage, "alpha": alpha}
            for shrinkage in (*numbers, 1.0, "ks")
            for alpha in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
        ]

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit many; see `Head.fit_many`. Each set of rows is decomposed once, for all of its shrinkages."""
        codes, classes, multilabel = encode_labels(y)
        truth = Truth(codes, len(classes))
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        sharing: dict[Scaling, list[int]] = {}
        for i, head in enumerate(heads):
            head._require_usable(multilabel)
            sharing.setdefault(head.scaling, []).append(i)
        if not multilabel:
            for rows in {id(rows): rows for rows, _ in fits}.values():
                require_two(np.unique(codes[rows]), classes)
        for members in sharing.values():
            batch = [(heads[i], fits[i][0]) for i in members]
            _fit_together(batch, X, truth, classes)
        return heads

    @classmethod
    def predict_proba_many(cls, heads: Sequence[Self], X: Any, rows: Sequence[Rows]) -> list[NDArray[np.floating[Any]]]:
        """Return ``head.predict_proba(X[rows])`` for each head, with one matrix product for heads that share rows."""
        out: list[Any] = [None] * len(heads)
        sharing: dict[int, list[int]] = {}
        for i, part in enumerate(rows):
            sharing.setdefault(id(part), []).append(i)
        for members in sharing.values():
            some = [heads[i] for i in members]
            for i, logits in zip(members, _logits(some, X[rows[members[0]]]), strict=True):
                out[i] = probabilities(logits, heads[i].multilabel_)
        return out

    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""
        check_is_fitted(self)
        params, texts = self.get_params(), self.texts
        plain = {name: value for name, value in params.items() if name != "texts"}
        values = {
            "params": {**plain, "class_weight": plain_class_weight(self.class_weight)},
            "classes": self.classes_.tolist(),
            "multilabel": self.multilabel_,
            "texts": None if texts is None else {"classes": list(texts.classes), "logit_scale": texts.logit_scale},
        }
        arrays: dict[str, NDArray[Any]] = {"coef": self.coef_, "offset": self.offset_, "prior": self.prior_}
        if texts is not None:
            arrays["class_features"] = np.asarray(texts.features)
        return values, arrays

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        texts, of = None, values["texts"]
        if of is not None:
            texts = ClassTexts(arrays["class_features"], tuple(of["classes"]), of["logit_scale"])
        head = cls(**values["params"], texts=texts)
        head.classes_, head.multilabel_ = np.array(values["classes"]), values["multilabel"]
        head.coef_, head.offset_, head.prior_ = arrays["coef"], arrays["offset"], arrays["prior"]
        head.n_features_in_ = head.coef_.shape[1]
        head.text_ = _of_outputs(texts, head.classes_, head.n_features_in_)
        return head

    def _require_usable(self, multilabel: bool) -> None:
        number = isinstance(self.shrinkage, int | float | np.number) and not isinstance(self.shrinkage, bool)
        if self.shrinkage != "ks" and not (number and LEAST_SHRINKAGE <= self.shrinkage <= 1):
            raise HeadError(
                f"shrinkage must be ks, or a number from {LEAST_SHRINKAGE:g} to 1, but is {self.shrinkage!r}."
            )
        require_at_least_0(self, "alpha")
        require_one_of(self, scaling=Scaling, device=Device)
        require_class_weight(self)
        if isinstance(self.class_weight, Mapping) and not all(weight > 0 for weight in self.class_weight.values()):
            raise HeadError(f"class weights must be above 0 for gda, but are {self.class_weight!r}: leave rows out.")
        if multilabel and self.texts is not None:
            raise HeadError("gda with texts needs one class per sample, but there are several labels: leave texts out.")

    def _logits(self, X: Any) -> Floats:
        return _logits([self], X)[0]


def _fit_together(batch: Sequence[tuple[GDA, Rows]], X: Any, truth: Truth, classes: NDArray[Any]) -> None:
    """Fit heads that differ in rows, shrinkage, alpha, class weights and texts."""
    first = batch[0][0]
    sets: dict[int, Rows] = {}
    shrinkages: dict[int, dict[Shrinkage, int]] = {}
    for head, rows in batch:
        sets[id(rows)] = rows
        of_set = shrinkages.setdefault(id(rows), {})
        of_set.setdefault(head.shrinkage, len(of_set))
    d = int(X.shape[1])
    work = sum(2.0 * len(rows) * d * min(len(rows), d) + EIGEN * min(len(rows), d) ** 3 for rows in sets.values())

    def solved(backend: Backend) -> list[Discriminants]:
        asked = [list(shrinkages[key]) for key in sets]
        return discriminants(X, list(sets.values()), truth, asked, backend, scaling=first.scaling)

    found = dict(zip(sets, computed(solved, first.device, work=work, what="gda heads", X=X), strict=True))
    parts = {
        (key, shrinkage): (found[key].coef[place], found[key].offset[place])
        for key, of_set in shrinkages.items()
        for shrinkage, place in of_set.items()
    }
    texts: dict[tuple[int, int], Floats | None] = {}
    for head, rows in batch:
        seen = np.arange(len(classes)) if truth.several else np.unique(truth.codes[rows])
        head.classes_, head.multilabel_, head.n_features_in_ = classes[seen], truth.several, d
        head.coef_, head.offset_ = parts[id(rows), head.shrinkage]
        head.prior_ = _priors(head, truth.codes[rows], seen)
        key = (id(rows), id(head.texts))
        if key not in texts:
            texts[key] = _of_outputs(head.texts, head.classes_, d)
        head.text_ = texts[key]


def _priors(head: GDA, codes: NDArray[Any], seen: NDArray[np.int64]) -> Floats:
    """Return logarithms of priors, or of their odds for two classes and for labels, of shape ``(n_outputs,)``.

    The frequency of a label that is constant is smoothed: ``(n_positive + 1/2) / (n + 1)``.
    """
    several = codes.ndim == 2
    objective = Objective(len(seen), not several, "cross-entropy", 0.0)
    known = np.array([0, 1]) if several else head.classes_
    weights = class_weights(codes, seen, known, objective, head.class_weight).astype(np.float64)
    if several:
        positive = (codes > 0).sum(0).astype(np.float64)
        counts = np.stack([len(codes) - positive, positive])
        constant = (counts == 0).any(0)
        odds = np.where(constant, counts[1] + 0.5, counts[1] * weights[1]) / np.where(
            constant, counts[0] + 0.5, counts[0] * weights[0]
        )
        return np.asarray(np.log(odds))
    share = (codes[:, None] == seen).sum(0) * weights
    logs = np.asarray(np.log(share / share.sum()), np.float64)
    return logs if len(seen) > 2 else logs[1:] - logs[:1]


def _of_outputs(texts: ClassTexts | None, classes: NDArray[Any], d: int) -> Floats | None:
    """Return scaled text vectors, one for two classes, else one for each class."""
    if texts is None:
        return None
    vectors = scaled_texts(texts, classes, d)
    return vectors if len(classes) > 2 else vectors[1:] - vectors[:1]


def _logits(heads: Sequence[GDA], X: Any) -> list[Floats]:
    """Return the logits of several heads for the same rows."""
    wanted: dict[bool, dict[int, Floats]] = {}
    for head in heads:
        wanted.setdefault(head.scaling == "unit", {})[id(head.coef_)] = head.coef_
        if head.text_ is not None:
            wanted.setdefault(True, {})[id(head.text_)] = head.text_
    products: dict[tuple[bool, int], Floats] = {}
    for unit, matrices in wanted.items():
        sizes = np.cumsum([len(matrix) for matrix in matrices.values()])
        found = _products(X, np.concatenate(list(matrices.values())), heads[0].device, unit=unit)
        for key, part in zip(matrices, np.split(found, sizes[:-1], axis=1), strict=True):
            products[unit, key] = part
    out = []
    for head in heads:
        gaussian = products[head.scaling == "unit", id(head.coef_)] + head.offset_
        logits = head.alpha * gaussian + head.prior_
        out.append(logits if head.text_ is None else logits + products[True, id(head.text_)])
    return out


def _products(X: Any, matrix: Floats, device: Device, *, unit: bool) -> Floats:
    """Multiply rows, scaled to length 1 if wanted, with the rows of a matrix ``(k, d)``, in float64."""

    def multiplied(backend: Backend) -> Floats:
        xp = backend.xp
        weights = backend.put(matrix).T
        out = np.empty((X.shape[0], len(matrix)))
        for rows, values in blocks(X):
            for start in range(0, len(values), QUERIES):
                some = xp.astype(backend.put(values[start : start + QUERIES]), xp.float64)
                found = to_numpy((unit_rows(some, xp) if unit else some) @ weights)
                out[rows.start + start : rows.start + start + len(found)] = found
        return out

    return computed(multiplied, device, work=2.0 * X.shape[0] * matrix.size, what="predictions", X=X)
