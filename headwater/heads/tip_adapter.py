"""Tip-Adapter: zero-shot logits plus a cache of labelled images, without or with training of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headwater._backend import on_device
from headwater._devices import Device
from headwater._extras import need
from headwater.heads._classifier import probabilities
from headwater.heads._settings import require_above_0, require_at_least_0, require_one_of
from headwater.heads.base import blocks
from headwater.heads.class_texts import ClassTexts, WithTexts
from headwater.heads.neighbours import unit_rows

Floats = NDArray[np.float64]
QUERIES = 2048  # rows compared at once


class _Cache(WithTexts):
    """Logits from texts plus a cache: ``logit_scale * f·W + alpha * exp(-beta * (1 - f·keys)) L``."""

    alpha: float
    beta: float

    @classmethod
    def predict_proba_many(
        cls, heads: Sequence[Self], X: Any, rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.floating[Any]]]:
        """Return ``head.predict_proba(X[rows])`` for each head; heads that share rows and keys share cosines."""
        out: list[Any] = [None] * len(heads)
        sharing: dict[tuple[int, int], list[int]] = {}
        for i, (head, part) in enumerate(zip(heads, rows, strict=True)):
            sharing.setdefault((id(part), id(head.keys_)), []).append(i)
        for members in sharing.values():
            some = [heads[i] for i in members]
            for i, logits in zip(members, _logits(some, X[rows[members[0]]]), strict=True):
                out[i] = probabilities(logits, multilabel=False)
        return out

    def _require_usable(self) -> None:
        require_at_least_0(self, "alpha")
        require_above_0(self, "beta")

    def _logits(self, X: Any) -> Floats:
        return _logits([self], X)[0]


class TipAdapter(_Cache):
    """Tip-Adapter: zero-shot logits plus similarity-weighted votes of the training rows, without training.

    The logit of class c for an image f is ``logit_scale * cos(f, text of c) + alpha * sum over training rows i of c of
    exp(-beta * (1 - cos(f, i)))``.

    Parameters
    ----------
    texts
        Vectors of the classes; None to use the cache only.
    alpha
        Weight of the cache, at least 0. The cache is a sum over training rows: more rows need a smaller alpha.
    beta
        Larger values give more weight to the nearest.

    Attributes
    ----------
    classes_, n_features_in_, keys_, codes_, text_
        See `WithTexts`.

    References
    ----------
    Zhang et al., Tip-Adapter: training-free adaption of CLIP for few-shot classification, ECCV 2022, equations 3 to 5.
    """

    def __init__(self, texts: ClassTexts | None = None, *, alpha: float = 1.0, beta: float = 5.5) -> None:
        self.texts = texts
        self.alpha = alpha
        self.beta = beta

    def default_grid(self) -> list[dict[str, Any]]:
        """Return seven values of alpha, from 0 to 10, by six of beta."""
        return [
            {"alpha": alpha, "beta": beta}
            for alpha in (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
            for beta in (1.0, 3.0, 5.5, 10.0, 20.0, 50.0)
            if alpha > 0 or beta == 1.0  # beta has no effect without a cache
        ]

    def _train(self) -> None:
        pass


class TipAdapterF(_Cache):
    """Tip-Adapter-F: as `TipAdapter`, with trained cache keys, initialised with the training rows.

    Training minimises the cross-entropy of the training rows by AdamW, with a cosine schedule over all ``epochs``.
    There is no early stopping, since few rows leave none to hold out. (The authors' ImageNet script keeps the epoch
    that is best on the test set.)

    Parameters
    ----------
    texts, alpha, beta
        As for `TipAdapter`; alpha and beta are also used in training.
    lr, weight_decay
        Learning rate and weight decay of AdamW.
    epochs, batch_size
        Number of epochs, and rows per step.
    seed
        Seed for the order of rows.
    device
        ``auto``, ``cpu`` or ``cuda``.

    Attributes
    ----------
    classes_, n_features_in_, codes_, text_
        See `WithTexts`.
    keys_ : float32, of shape (n_train, d)
        Trained keys, of any length.

    References
    ----------
    Zhang et al., 2022, section 3.2; training settings are those of the authors' code.
    """

    def __init__(
        self,
        texts: ClassTexts | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 5.5,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        epochs: int = 20,
        batch_size: int = 256,
        seed: int = 0,
        device: Device = "auto",
    ) -> None:
        self.texts = texts
        self.alpha = alpha
        self.beta = beta
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return four values of alpha by three of beta; each setting is trained separately."""
        return [{"alpha": alpha, "beta": beta} for alpha in (0.1, 0.3, 1.0, 3.0) for beta in (1.0, 5.5, 20.0)]

    def _require_usable(self) -> None:
        require_above_0(self, "alpha", "beta", "lr", "epochs", "batch_size")
        require_at_least_0(self, "weight_decay", "seed")
        require_one_of(self, device=Device)

    def _train(self) -> None:
        tuned = partial(
            tuned_keys,
            self.keys_,
            self.codes_,
            self.keys_ @ self.text_.T,
            alpha=self.alpha,
            beta=self.beta,
            lr=self.lr,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        self.keys_ = on_device(lambda device: tuned(device=device), self.device, what="cached keys")


def tuned_keys(
    keys: NDArray[np.float32],
    codes: NDArray[np.int64],
    text_logits: NDArray[np.floating[Any]],
    *,
    alpha: float,
    beta: float,
    lr: float,
    weight_decay: float,
    epochs: int,
    batch_size: int,
    seed: int,
    device: str,
) -> NDArray[np.float32]:
    """Train keys, of shape ``(n, d)``, on the rows they are initialised with, with classes ``(n,)``; return them.

    Parameters
    ----------
    text_logits
        Zero-shot logits of each row, of shape ``(n, n_classes)``.
    """
    torch = need("torch", "encoders")
    X = torch.tensor(keys, device=device)
    target = torch.tensor(codes, device=device)
    said = torch.tensor(text_logits, dtype=torch.float32, device=device)
    values = torch.nn.functional.one_hot(target, said.shape[1]).float()
    trained = X.clone().requires_grad_()
    # epsilon 1e-4 as in the authors' code: gradients are small if the texts are already confident
    optimiser = torch.optim.AdamW([trained], lr=lr, weight_decay=weight_decay, eps=1e-4)
    n_steps = epochs * -(-len(X) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(epochs):
            for batch in torch.randperm(len(X), generator=generator).to(device).split(batch_size):
                near = (beta * (X[batch] @ trained.T - 1)).exp()
                loss = torch.nn.functional.cross_entropy(said[batch] + alpha * near @ values, target[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    out: NDArray[np.float32] = trained.detach().cpu().numpy()
    return out


def _logits(heads: Sequence[_Cache], X: Any) -> list[Floats]:
    """Return the logits of heads with the same keys, one column for two classes."""
    first = heads[0]
    keys, values = first.keys_.astype(np.float64), np.eye(len(first.classes_))[first.codes_]
    out = [np.empty((X.shape[0], len(first.classes_))) for _ in heads]
    for rows, read in blocks(X):
        for start in range(0, len(read), QUERIES):
            queries = unit_rows(np.asarray(read[start : start + QUERIES], np.float64))
            here = slice(rows.start + start, rows.start + start + len(queries))
            cosine = queries @ keys.T
            cached = {beta: np.exp(beta * (cosine - 1)) @ values for beta in {head.beta for head in heads}}
            for head, logits in zip(heads, out, strict=True):
                logits[here] = queries @ head.text_.T + head.alpha * cached[head.beta]
    return [logits if logits.shape[1] > 2 else logits[:, 1:] - logits[:, :1] for logits in out]
