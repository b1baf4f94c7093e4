"""Explanation of heads: relevance of an item's tokens for a class, and tests of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._extras import need
from headwater.errors import HeadError, nearest
from headwater.heads._attention import Params, Tokens, TokenShape, forward
from headwater.heads._classifier import probabilities
from headwater.heads._token_head import TokenHead
from headwater.heads.base import Input, is_several
from headwater.heads.linear import LinearProbe
from headwater.heads.ordinal import Ordinal
from headwater.heads.tokens import read_tokens

if TYPE_CHECKING:
    from torch import Tensor

Relevance = Literal["gradient", "occlusion", "attention"]
PATH_STEPS = 24  # steps of integrated gradients
OfClass = Callable[["Tensor"], "Tensor"]


def relevance(
    head: TokenHead | LinearProbe | Ordinal,
    X: Input,
    rows: NDArray[np.int64],
    *,
    target: int | None = None,
    method: Relevance = "gradient",
) -> list[NDArray[np.float32]]:
    """Return the relevance of each token for a class.

    Parameters
    ----------
    head
        A fitted head over tokens; or a linear probe or ordinal head on pooled features that are means of tokens, for
        which relevance is exact. For an ordinal head it is that for higher grades, times the slope of the class's
        log-probability at the item.
    X
        Token features, as for `TokenHead`.
    rows
        Rows to explain, int64.
    target
        Index of the class, or label, in ``classes_``. Default: each row's likeliest.
    method
        ``gradient``: integrated gradients of the class's logit, on the path from the mean token of the training rows at
        every position to the item's tokens, summed over columns. They sum to the difference of the two logits. For a
        head that is linear in tokens, each is the change of the logit from replacing the token by that mean. (For a
        linear probe it is the mean token of the item, so that they sum to 0.)
        ``occlusion``: the decrease of the logit when the token is left out.
        ``attention``: the token's weight in pooling, the same for all classes: attention weights, equal weights for
        ``mean``, and for ``max`` the share of columns whose maximum it has.

    Returns
    -------
    list of float32 arrays of shape (n_rows, t)
        One for each input; NaN for missing tokens. A class's logit is relative to the mean of the others.

    Raises
    ------
    HeadError
        When the method does not suit the head, or the class does not exist.

    References
    ----------
    Sundararajan et al., Axiomatic attribution for deep networks, 2017 (integrated gradients); Zeiler and Fergus,
    Visualizing and understanding convolutional networks, 2014 (occlusion); Zhou et al., Learning deep features for
    discriminative localization, 2016 (class activation maps, which a linear probe's are).
    """
    check_is_fitted(head)
    if method not in get_args(Relevance):
        allowed = get_args(Relevance)
        raise HeadError(f"method {method!r}.{nearest(method, allowed)} There are: {', '.join(allowed)}.")
    if isinstance(head, LinearProbe | Ordinal):
        return [_class_activation(head, X, rows, target, method)]
    reader, params = head.reading(X)
    tokens = reader(rows)
    torch = need("torch", "encoders")
    with torch.no_grad():
        logits, shares = forward(head.shape_, params, tokens)
    if method == "attention":
        if head.tokenizer != "project":
            raise HeadError(
                f"method 'attention' needs tokenizer 'project', but the head has {head.tokenizer!r}: its attention "
                "does not refer to stored tokens."
            )
        return [_where(share, mask) for share, (_, mask) in zip(shares, tokens, strict=True)]
    chosen = _of_class(logits, target, head.multilabel_)
    if method == "occlusion":
        return [_where(_occlusion(head.shape_, params, tokens, i, chosen), mask) for i, (_, mask) in enumerate(tokens)]
    return _gradient(head.shape_, params, tokens, chosen)


def deletion(
    head: TokenHead,
    X: Input,
    rows: NDArray[np.int64],
    ranking: NDArray[np.float32],
    *,
    name: str | None = None,
    steps: int = 10,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of each row's likeliest class as tokens are deleted, and as they are inserted.

    With faithful relevance the first curve falls, and the second rises, faster than in random order.

    Parameters
    ----------
    ranking
        Relevance of each token, of shape ``(n_rows, t)``, NaN for missing tokens; the highest goes first.
    name
        The input. Default: the first. Other inputs stay unchanged.
    steps
        Number of steps from no token to all.

    Returns
    -------
    deletion, insertion : float64, of shape (n_rows, steps)
        At step k (from 1), without the first ``k / steps`` of an item's tokens (one stays), and with only these.

    References
    ----------
    Petsiuk et al., RISE: randomized input sampling for explanation of black-box models, 2018, section 4.3.
    """
    torch = need("torch", "encoders")
    check_is_fitted(head)
    reader, params = head.reading(X)
    tokens = reader(rows)
    place = 0 if name is None or head.inputs_ is None else list(head.inputs_).index(name)
    values, mask = tokens[place]
    low = np.where(np.isnan(ranking), -np.inf, ranking)
    rank = torch.from_numpy(np.argsort(np.argsort(-low, axis=1, kind="stable"), axis=1)).to(mask.device)
    size = mask.sum(1, keepdim=True)

    def scores(kept: Tensor) -> NDArray[np.float64]:
        some = [(values, mask & kept) if j == place else stream for j, stream in enumerate(tokens)]
        with torch.no_grad():
            logits = forward(head.shape_, params, some)[0].cpu().numpy().astype(np.float64)
        return np.asarray(probabilities(logits, head.multilabel_), np.float64)

    best = scores(torch.ones_like(mask)).argmax(1)
    every = np.arange(len(rows))
    without, alone = [], []
    for step in range(1, steps + 1):
        first = torch.ceil(size * step / steps).clamp(min=1)
        without.append(scores(rank >= torch.minimum(first, size - 1))[every, best])
        alone.append(scores(rank < first)[every, best])
    return np.stack(without, 1), np.stack(alone, 1)


def _class_activation(
    head: LinearProbe | Ordinal, X: Any, rows: NDArray[np.int64], target: int | None, method: str
) -> NDArray[np.float32]:
    if method != "gradient":
        raise HeadError(f"method {method!r} is for heads over tokens: use 'gradient' for a linear or ordinal head.")
    if is_several(X):
        raise HeadError("relevance for a linear probe needs one input: pass its tokens.")
    values, mask = read_tokens(X, rows)
    if values.shape[2] != head.n_features_in_:
        raise HeadError(
            f"tokens have {values.shape[2]} columns, but the probe has {head.n_features_in_}: it was not fitted on "
            "means of these tokens."
        )
    there = np.ones(values.shape[:2], bool) if mask is None else mask
    mean = (values * there[..., None]).sum(1, dtype=np.float64) / np.maximum(there.sum(1), 1)[:, None]
    apart = (values - mean[:, None]) / np.maximum(there.sum(1), 1)[:, None, None]
    if isinstance(head, Ordinal):
        _require_target(target, len(head.classes_))
        latent = mean @ head.coef_[0]
        likeliest = head.log_probabilities(latent).argmax(1)
        grade = likeliest if target is None else np.full(len(rows), target)
        slopes = head.slopes(latent)[np.arange(len(rows)), grade]
        return _shown_where(there, apart @ head.coef_[0] * slopes[:, None])
    coef = head.coef_
    if len(coef) == 1 and not head.multilabel_:
        coef = np.concatenate([-coef, coef])
    elif not head.multilabel_:
        coef = (coef - coef.mean(0)) * len(coef) / (len(coef) - 1)
    _require_target(target, len(coef))
    logits = mean @ head.coef_.T + head.intercept_
    best = (logits[:, 0] > 0).astype(int) if len(head.coef_) == 1 else logits.argmax(1)
    chosen = best if target is None else np.full(len(rows), target)
    return _shown_where(there, np.einsum("ntd,nd->nt", apart, coef[chosen]))


def _shown_where(there: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = np.where(there, values, np.nan).astype(np.float32)
    return out


def _gradient(shape: TokenShape, params: Params, tokens: list[Tokens], chosen: OfClass) -> list[NDArray[np.float32]]:
    """Integrate gradients on the path from the mean token of the training rows at every position."""
    torch = need("torch", "encoders")
    means = [params[f"mean{i}"] for i in range(len(tokens))]
    totals = [torch.zeros_like(values) for values, _ in tokens]
    for step in range(PATH_STEPS):
        share = (step + 0.5) / PATH_STEPS
        leaves = [(m + share * (x - m)).detach().requires_grad_() for (x, _), m in zip(tokens, means, strict=True)]
        with torch.enable_grad():
            logits, _ = forward(shape, params, [(leaf, mask) for leaf, (_, mask) in zip(leaves, tokens, strict=True)])
            gradients = torch.autograd.grad(chosen(logits).sum(), leaves)
        totals = [total + gradient / PATH_STEPS for total, gradient in zip(totals, gradients, strict=True)]
    parts = zip(tokens, means, totals, strict=True)
    return [_where((total * (values - mean)).sum(2), mask) for (values, mask), mean, total in parts]


def _occlusion(shape: TokenShape, params: Params, tokens: list[Tokens], i: int, chosen: OfClass) -> Tensor:
    torch = need("torch", "encoders")
    values, mask = tokens[i]
    falls: Tensor = torch.zeros(mask.shape, device=mask.device)
    with torch.no_grad():
        whole = chosen(forward(shape, params, tokens)[0])
        for t in range(mask.shape[1]):
            less = mask.clone()
            less[:, t] = False
            kept = [(values, less) if j == i else stream for j, stream in enumerate(tokens)]
            falls[:, t] = whole - chosen(forward(shape, params, kept)[0])
    return falls


def _of_class(logits: Tensor, target: int | None, multilabel: bool) -> OfClass:
    """Return a function from logits to each row's target: a class's logit minus the mean of the others."""
    torch = need("torch", "encoders")
    k = logits.shape[1]
    if k == 1 and not multilabel:
        _require_target(target, 2)
        wanted = (logits[:, 0] > 0).float() if target is None else torch.full_like(logits[:, 0], target)

        def signed(now: Tensor) -> Tensor:
            only: Tensor = now[:, 0] * (2 * wanted - 1)
            return only

        return signed
    _require_target(target, k)
    number = logits.argmax(1) if target is None else torch.full((len(logits),), target, device=logits.device)

    def own(now: Tensor) -> Tensor:
        one: Tensor = now.gather(1, number[:, None])[:, 0]
        against: Tensor = one if multilabel else (one - now.mean(1)) * (k / (k - 1))
        return against

    return own


def _require_target(target: int | None, n_classes: int) -> None:
    if target is not None and not 0 <= target < n_classes:
        raise HeadError(f"target {target}: must be a class number from 0 to {n_classes - 1}.")


def _where(values: Tensor, mask: Tensor) -> NDArray[np.float32]:
    torch = need("torch", "encoders")
    out: NDArray[np.float32] = torch.where(mask, values.float(), torch.nan).cpu().numpy()
    return out
