"""Training objectives of networks: losses of logits, class weights, and targets as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need

if TYPE_CHECKING:
    from torch import Tensor

Loss = Literal["cross-entropy", "focal"]
ClassWeight = Mapping[Any, float] | Literal["balanced"] | None


@dataclass(frozen=True)
class Objective:
    """The task of logits, and their loss.

    Attributes
    ----------
    n_outputs
        Number of logits.
    softmax
        Whether logits are for mutually exclusive classes; otherwise each is for a separate label.
    loss, gamma
        ``cross-entropy`` (logistic for separate labels) or ``focal``, with its exponent.
    """

    n_outputs: int
    softmax: bool
    loss: Loss
    gamma: float


def objective_of(n_seen: int, multilabel: bool, loss: Loss, gamma: float) -> Objective:
    """Return the objective for ``n_seen`` classes or labels: one logit for two classes, else one for each."""
    return Objective(1 if n_seen == 2 and not multilabel else n_seen, n_seen > 2 and not multilabel, loss, gamma)


def losses(
    objective: Objective, logits: Tensor, targets: Tensor, class_weight: Tensor, smoothing: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each network's sum of weighted losses and of weights, both of shape ``(g, m)``.

    Parameters
    ----------
    logits
        Of shape ``(g, m, b, k)``.
    targets
        Of shape ``(g, b)``, or ``(g, b, k)`` for separate labels.
    present
        Rows to include, bool, of shape ``(g, b)``.

    References
    ----------
    Lin et al., Focal loss for dense object detection, 2017, eq. 4; Szegedy et al., Rethinking the Inception
    architecture, 2016, section 7 (label smoothing).
    """
    torch = need("torch", "encoders")
    smooth = smoothing[:, :, None, None]
    if objective.softmax:
        log_p = torch.log_softmax(logits, -1)
        own = targets[:, None, :, None].expand(*log_p.shape[:3], 1)
        log_own = log_p.gather(-1, own)
        loss = -(1 - smooth) * log_own - smooth * log_p.mean(-1, keepdim=True)
        weight = class_weight.gather(1, targets)[:, None, :, None]
    else:
        truth = targets[:, None]
        log_own = -torch.nn.functional.softplus(logits * (1 - 2 * truth))
        loss = torch.nn.functional.softplus(logits) - (truth * (1 - smooth) + smooth / 2) * logits
        weight = torch.where(truth > 0, class_weight[:, None, None, 1], class_weight[:, None, None, 0])
    if objective.loss == "focal":
        loss = loss * (1 - log_own.exp()) ** objective.gamma
    weight = (weight * present[:, None, :, None]).expand_as(loss)
    return (loss * weight).sum((2, 3)), weight.sum((2, 3)).clamp(min=1e-12)


def class_weights(
    codes: NDArray[Any],
    seen: NDArray[np.int64],
    known: NDArray[Any],
    objective: Objective,
    class_weight: Mapping[Any, float] | str | None,
    sample_weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Return a weight per class ``(k,)``, or for each label's negatives and positives ``(2, k)``.

    ``balanced`` counts rows by their sample weights, as scikit-learn does.
    """
    if class_weight == "balanced":
        n = _counts(codes, seen, objective, np.ones(len(codes)) if sample_weight is None else sample_weight)
        some = np.where(n > 0, n, 1)  # the weight of a class without rows does not matter
        return np.asarray(n.sum(0) / (len(n) * some), np.float32)
    weights = np.ones(len(known), np.float32)
    if isinstance(class_weight, Mapping):
        given = {str(name): value for name, value in class_weight.items()}
        weights = np.array([given.get(str(name), 1.0) for name in known.tolist()], np.float32)
    return weights if objective.softmax else np.repeat(weights[:, None], objective.n_outputs, axis=1)


def _counts(
    codes: NDArray[Any], seen: NDArray[np.int64], objective: Objective, each: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the number of rows of each class ``(k,)``, or of each label's negatives and positives ``(2, k)``."""
    if codes.ndim == 2:
        positive = each @ (codes > 0)
        both: NDArray[np.float64] = np.maximum(np.stack([each.sum() - positive, positive]), 0)
        return both
    n: NDArray[np.float64] = np.asarray(each @ (codes[:, None] == seen), np.float64)
    return n if objective.softmax else n[:, None]


def targets_of(
    codes: NDArray[Any], seen: NDArray[np.int64], objective: Objective, place: NDArray[np.int64], device: Any
) -> Tensor:
    """Return the targets of the rows that have a place, in that order, for `losses`."""
    torch = need("torch", "encoders")
    used = np.flatnonzero(place >= 0)
    if codes.ndim == 2:
        out: Tensor = torch.as_tensor(codes[used].astype(np.float32), device=device)
        return out
    number = np.searchsorted(seen, codes[used]).clip(max=len(seen) - 1)
    if objective.softmax:
        return torch.as_tensor(number, device=device)  # type: ignore[no-any-return]
    return torch.as_tensor(number[:, None].astype(np.float32), device=device)  # type: ignore[no-any-return]
