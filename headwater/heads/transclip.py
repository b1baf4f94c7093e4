"""TransCLIP: transductive classification, in which the clusters of all test images correct the zero-shot predictions.

The objective is minimised over class probabilities z of the test rows (labelled rows keep their classes), class means μ
and column variances σ shared by all classes::

    sum over tested i of  z_i · log z_i - text_weight * z_i · log ŷ_i - likelihood_weight * z_i · log N(f_i; μ, σ)
    - 1/2 sum over i, j of a_ij z_i · z_j
    - shot_weight * (n_tested / n_labelled) * sum over labelled i of log N(f_i; μ_class(i), σ)

ŷ are the zero-shot probabilities, f unit features, and ``a = (w + wᵀ) / 2k`` with w the cosines, clipped at 0, of each
row to its k nearest neighbours.

No step increases the objective. Means and variances have closed forms, given z. For z, the neighbours' term is bounded
from above at the current z: the matrix a is not positive semi-definite, but it is with row sums δ_i on its diagonal
(diagonal dominance), and ``‖z - z'‖² <= 2 KL(z‖z')`` on the simplex (Pinsker). So adding ``δ_i KL(z_i‖z_i')`` makes the
linearised term a bound. Rows then decouple, each with a closed form. Without the δ_i it is the authors' step, which has
the same fixed points.

References
----------
Zanella, Gérin and Ben Ayed, Boosting vision-language models with transduction, NeurIPS 2024. The weight 1/50 of the
likelihood, three neighbours, and a start from the eight most confident images of each class are as in the authors'
code. Unlike there, means are not normalised after each step: equation 7 does not normalise them either, and only so do
they lower the objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from headwater.errors import HeadError
from headwater.heads._settings import require_above_0, require_at_least_0
from headwater.heads.base import State, blocks
from headwater.heads.class_texts import ClassTexts, WithTexts
from headwater.heads.neighbours import unit_rows
from headwater.heads.zero_shot import cosine_logits

Floats = NDArray[np.float64]
SUREST = 8  # most confident images of each class, for its initial mean
INNER = 5  # steps of z for each step of means and variances
LEAST_VARIANCE = 1e-8  # for unit features; a constant column would have an infinite likelihood
COSINES = 4_000_000  # cosines computed at once


@dataclass(frozen=True, eq=False)
class Transduction:
    """The result of transductive classification of the test rows.

    Attributes
    ----------
    probabilities
        Float64, of shape ``(n, n_classes)``.
    means, variances
        Class means ``(n_classes, d)``, and column variances ``(d,)``.
    objective
        The objective at the start and after each step; steps of probabilities, and of means and variances, alternate.
    converged
        Whether the last round lowered it by at most ``tol`` per row.
    """

    probabilities: Floats
    means: Floats
    variances: Floats
    objective: tuple[float, ...]
    converged: bool


def transduce(
    X: NDArray[np.floating[Any]],
    text_logits: NDArray[np.floating[Any]],
    *,
    labelled: NDArray[np.floating[Any]] | None = None,
    codes: NDArray[np.int64] | None = None,
    text_weight: float = 1.0,
    shot_weight: float = 0.0,
    likelihood_weight: float = 0.02,
    n_neighbors: int = 3,
    max_iter: int = 200,
    tol: float = 1e-6,
) -> Transduction:
    """Classify rows together, by their zero-shot logits, clusters and neighbours.

    Parameters
    ----------
    X
        All test rows, of shape ``(n, d)``; they are normalised to length 1.
    text_logits
        Zero-shot logits of each, of shape ``(n, n_classes)``.
    labelled, codes
        Labelled rows, of shape ``(n_labelled, d)``, and their classes, as columns of ``text_logits``.
    text_weight, shot_weight, likelihood_weight, n_neighbors
        Weights in the objective; see the module.
    max_iter, tol
        Most rounds, and the decrease of the objective per row below which rounds end.
    """
    n, n_classes = text_logits.shape
    tested = unit_rows(np.asarray(X, np.float64))
    known = tested[:0] if labelled is None else unit_rows(np.asarray(labelled, np.float64))
    one_hot = np.eye(n_classes)[np.zeros(0, np.int64) if codes is None else codes]
    every = np.concatenate([tested, known])
    near = affinity(every, n_neighbors)[:n]
    slack = near[:, :n].sum(1)[:, None]  # δ: labelled rows do not change
    log_text = _log_softmax(np.asarray(text_logits, np.float64))
    rows = _Rows(tested, known, one_hot, likelihood_weight, shot_weight * n / max(len(known), 1))

    z = np.exp(log_text)
    means, variances = rows.start(z), np.full(tested.shape[1], 1 / tested.shape[1])

    def objective() -> float:
        smooth = near @ np.concatenate([z / 2, one_hot])  # pairs of test rows count once
        entropy = np.sum(z * np.log(np.maximum(z, np.finfo(np.float64).tiny)))
        return float(entropy - np.sum(z * (text_weight * log_text + smooth)) - rows.likelihood(z, means, variances))

    values = [objective()]
    converged = False
    for _ in range(max_iter):
        fixed = text_weight * log_text + likelihood_weight * log_density(tested, means, variances)
        for _ in range(INNER):
            pull = fixed + near @ np.concatenate([z, one_hot])
            kept = slack * np.log(np.maximum(z, np.finfo(np.float64).tiny))
            z = np.exp(_log_softmax((pull + kept) / (1 + slack)))
        values.append(objective())
        means, variances = rows.moments(z, means, variances)
        values.append(objective())
        if values[-3] - values[-1] <= tol * n:
            converged = True
            break
    return Transduction(z, means, variances, tuple(values), converged)


class _Rows:
    """Test and labelled rows, and the part of the objective that depends on means and variances."""

    def __init__(self, tested: Floats, known: Floats, one_hot: Floats, of_tested: float, of_known: float) -> None:
        self.tested, self.known, self.one_hot = tested, known, one_hot
        self.of_tested, self.of_known = of_tested, of_known

    def start(self, z: Floats) -> Floats:
        """Return initial means: of labelled rows, or of the most confident rows if a class has none."""
        surest = np.argsort(-z, axis=0, kind="stable")[:SUREST].T  # (n_classes, 8)
        weights = np.take_along_axis(z.T, surest, axis=1) + np.finfo(np.float64).tiny
        means = np.einsum("ck,ckd->cd", weights / weights.sum(1, keepdims=True), self.tested[surest])
        count = self.one_hot.sum(0)[:, None]
        out: Floats = np.where(count > 0, self.one_hot.T @ self.known / np.maximum(count, 1), means)
        return out

    def moments(self, z: Floats, means: Floats, variances: Floats) -> tuple[Floats, Floats]:
        """Return the means and variances that minimise the objective; those without any rows stay unchanged."""
        weights = [(self.of_tested * z, self.tested), (self.of_known * self.one_hot, self.known)]
        mass = sum(w.sum(0) for w, _ in weights)[:, None]
        if not mass.any():
            return means, variances
        sums = sum(w.T @ f for w, f in weights)
        means = np.where(mass > 1e-12, sums / np.maximum(mass, 1e-12), means)
        squares = sum(w.sum(1) @ (f * f) for w, f in weights)
        spread = squares - 2 * (means * sums).sum(0) + (mass * means * means).sum(0)
        return means, np.maximum(spread / mass.sum(), LEAST_VARIANCE)

    def likelihood(self, z: Floats, means: Floats, variances: Floats) -> float:
        """Return the weighted log likelihood of all rows."""
        tested = np.sum(z * log_density(self.tested, means, variances))
        return float(
            self.of_tested * tested + self.of_known * np.sum(self.one_hot * log_density(self.known, means, variances))
        )


def log_density(X: Floats, means: Floats, variances: Floats) -> Floats:
    """Return the log density of each row under each class's normal distribution, of shape ``(n, n_classes)``."""
    scaled = means / variances
    distance = (X * X) @ (1 / variances)[:, None] - 2 * X @ scaled.T + (means * scaled).sum(1)
    out: Floats = -0.5 * (distance + np.log(2 * np.pi * variances).sum())
    return out


def affinity(unit: Floats, n_neighbors: int) -> csr_array:
    """Return the symmetric affinity of unit rows: cosines to the nearest neighbours, over twice their number."""
    n = len(unit)
    k = min(n_neighbors, n - 1)
    if k < 1:
        return csr_array((n, n))
    nearest, cosines = np.empty((n, k), np.int64), np.empty((n, k))
    single = unit.astype(np.float32)  # twice as fast to find neighbours; their cosines are in float64
    step = max(1, COSINES // max(n, k * unit.shape[1]))
    for start in range(0, n, step):
        here = slice(start, min(start + step, n))
        distant = -(single[here] @ single.T)
        distant[np.arange(len(distant)), np.arange(start, here.stop)] = np.inf  # a row is not its own neighbour
        nearest[here] = np.argpartition(distant, k - 1, axis=1)[:, :k]
        cosines[here] = np.einsum("id,ikd->ik", unit[here], unit[nearest[here]])
    w = csr_array((np.maximum(cosines, 0).ravel(), nearest.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    return csr_array((w + w.T) / (2 * n_neighbors))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    out: Floats = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return out


# As estimators


class TransductiveZeroShot(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Zero-shot classification of all rows together, without labels.

    ``predict_proba`` uses all given rows: probabilities of a row depend on the others. For a single row they equal
    those of `ZeroShot`.

    Parameters
    ----------
    texts
        Vectors of the classes.
    text_weight, likelihood_weight, n_neighbors
        See `transduce`.

    References
    ----------
    Zanella, Gérin and Ben Ayed, 2024 (TransCLIP-ZS).
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self, texts: ClassTexts, *, text_weight: float = 1.0, likelihood_weight: float = 0.02, n_neighbors: int = 3
    ) -> None:
        self.texts = texts
        self.text_weight = text_weight
        self.likelihood_weight = likelihood_weight
        self.n_neighbors = n_neighbors

    @property
    def classes_(self) -> NDArray[Any]:
        """Sorted labels."""
        return np.sort(np.asarray(self.texts.classes))

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Do nothing: there is nothing to fit."""
        return self

    def transduce(self, X: Any) -> Transduction:
        """Classify all rows together, with columns in the order of ``classes_``."""
        logits = cosine_logits(X, self.texts.features, self.texts.classes, self.texts.logit_scale)
        return transduce(
            _read(X),
            logits,
            text_weight=self.text_weight,
            likelihood_weight=self.likelihood_weight,
            n_neighbors=self.n_neighbors,
        )

    def predict_proba(self, X: Any) -> Floats:
        """Return class probabilities, of shape ``(n_samples, n_classes)``, in the order of ``classes_``."""
        return self.transduce(X).probabilities

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each row."""
        best: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return best

    def to_state(self) -> State:
        """Return plain JSON values and arrays."""
        params = {name: value for name, value in self.get_params().items() if name != "texts"}
        values = {"params": params, "classes": list(self.texts.classes), "logit_scale": self.texts.logit_scale}
        return values, {"class_features": np.asarray(self.texts.features)}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        texts = ClassTexts(arrays["class_features"], tuple(values["classes"]), values["logit_scale"])
        return cls(texts, **values["params"])


class TransCLIP(WithTexts):
    """Few-shot classification of all rows together, by labelled rows, texts and each other.

    ``predict_proba`` uses the features of all given rows, so that probabilities of a row depend on the others. Only
    labels of the training rows are used.

    Parameters
    ----------
    texts
        Vectors of the classes; None to use labelled rows and clusters only.
    text_weight, shot_weight, likelihood_weight, n_neighbors
        See `transduce`.

    Attributes
    ----------
    classes_, n_features_in_, keys_, codes_, text_
        See `WithTexts`.

    References
    ----------
    Zanella, Gérin and Ben Ayed, 2024 (TransCLIP-FS).
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self,
        texts: ClassTexts | None = None,
        *,
        text_weight: float = 0.5,
        shot_weight: float = 0.02,
        likelihood_weight: float = 0.02,
        n_neighbors: int = 3,
    ) -> None:
        self.texts = texts
        self.text_weight = text_weight
        self.shot_weight = shot_weight
        self.likelihood_weight = likelihood_weight
        self.n_neighbors = n_neighbors

    def default_grid(self) -> list[dict[str, Any]]:
        """Return the four values of ``shot_weight`` that the authors select from."""
        return [{"shot_weight": weight} for weight in (0.002, 0.01, 0.02, 0.2)]

    def transduce(self, X: Any) -> Transduction:
        """Classify all rows together."""
        check_is_fitted(self)
        tested = _read(X)
        return transduce(
            tested,
            unit_rows(tested) @ self.text_.T,
            labelled=self.keys_,
            codes=self.codes_,
            text_weight=self.text_weight,
            shot_weight=self.shot_weight,
            likelihood_weight=self.likelihood_weight,
            n_neighbors=self.n_neighbors,
        )

    def _require_usable(self) -> None:
        require_above_0(self, "n_neighbors")
        require_at_least_0(self, "text_weight", "shot_weight", "likelihood_weight")

    def _train(self) -> None:
        pass

    def _logits(self, X: Any) -> Floats:
        log_p = np.log(np.maximum(self.transduce(X).probabilities, np.finfo(np.float64).tiny))
        return log_p if log_p.shape[1] > 2 else log_p[:, 1:] - log_p[:, :1]


def _read(X: Any) -> Floats:
    """Return all rows, float64; refuse non-finite rows."""
    read = np.concatenate([np.asarray(values, np.float64) for _, values in blocks(X)])
    bad: Sequence[int] = np.flatnonzero(~np.isfinite(read).all(1)).tolist()
    if bad:
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {bad[:5]}.")
    return read
