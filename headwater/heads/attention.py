"""Heads with attention between tokens of one input or of several."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from headwater.heads._settings import with_defaults
from headwater.heads._token_head import TokenHead
from headwater.heads.base import SearchSpace


class SelfAttention(TokenHead):
    """The tokens of each input attend to each other; inputs are combined after pooling. See `TokenHead`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5, 8)).astype("float32")
    >>> y = (X[:, :, 0].max(1) > 1).astype(int)
    >>> head = SelfAttention(width=16, blocks=1, heads=2, hidden=(), lr=3e-3, epochs=20, device="cpu")
    >>> bool(head.fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.7)
    True
    """

    aggregator = "self"


class MergedAttention(TokenHead):
    """The tokens of all inputs attend to each other as one sequence. See `TokenHead`."""

    aggregator = "merged"


class CrossAttention(TokenHead):
    """The tokens of each input attend to those of the others. See `TokenHead`."""

    aggregator = "cross"
    least_inputs = 2


class CoAttention(TokenHead):
    """In each block, the tokens of each input attend to themselves, then to those of the others. See `TokenHead`.

    ``blocks=3, heads=4, pool="max", hidden=(1024, 512), tokenizer="mix", n_tokens=256`` is the published setting for
    mammograms with reports generated from their metadata.
    """

    aggregator = "co"
    least_inputs = 2


class EfficientProbing(TokenHead):
    """Learned queries attend to the tokens of each input as they are; what they find is classified. See `TokenHead`.

    Tokens x are projected to ``width`` columns, which are divided into ``heads`` parts. Query j weights tokens by the
    softmax of ``query_j · x / sqrt(d)`` over tokens, without a projection of keys, and takes the mean of the j-th part
    with these weights. The parts are concatenated and classified, by a linear layer unless there are ``hidden`` ones.
    ``heads`` is thus the number of queries. ``tokenizer`` must be ``project``; ``blocks`` and ``pool`` are not used.

    References
    ----------
    Psomas et al., Attention, please! Revisiting attentive probing through the lens of efficiency, 2025
    (arXiv 2506.10178). docs/heads.md lists the differences.
    """

    aggregator = "queries"
    search_space: ClassVar[SearchSpace] = {
        **{name: where for name, where in TokenHead.search_space.items() if name not in ("blocks", "pool")},
        "heads": ("choice", (8, 16, 32)),
    }

    __init__ = with_defaults(TokenHead.__init__, blocks=0, heads=16, width=256, hidden=(), dropout=0.0)


class TokenMLP(TokenHead):
    """The tokens of each input are pooled and passed to an MLP: the baseline without attention.

    With ``hidden=()`` and ``pool="mean"`` it is linear in tokens, so `headwater.heads.relevance` is exact. See
    `TokenHead`; ``blocks`` and ``heads`` are not used.
    """

    aggregator = "none"
    search_space: ClassVar[SearchSpace] = {
        name: where for name, where in TokenHead.search_space.items() if name != "blocks"
    }

    __init__ = with_defaults(TokenHead.__init__, blocks=0, heads=1, pool="mean")


class MIL(TokenMLP):
    """Multiple-instance learning: a bag's instances are projected, rectified, pooled and classified.

    X is `Bags`, or any token input whose tokens are instances. ``pool="attention"`` is attention-based MIL (ABMIL);
    ``mean`` and ``max`` are baselines. `instance_weights` gives the weight of each instance. See `TokenHead`.

    References
    ----------
    Ilse et al., Attention-based deep multiple instance learning, 2018.
    """

    rectified = True

    __init__ = with_defaults(
        TokenHead.__init__,
        blocks=0,
        heads=1,
        pool="attention",
        hidden=(),
        dropout=0.25,
        epochs=60,
        batch_size=16,
        patience=10,
    )

    def instance_weights(self, X: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each instance's weight in its bag, float32, of shape ``(n_rows, largest)``; NaN for padding.

        Weights of a bag sum to 1: attention weights, equal weights for ``mean``, and for ``max`` the share of columns
        whose maximum an instance has.
        """
        from headwater.heads.explain import relevance  # imports all heads over tokens

        return relevance(self, X, rows, method="attention")[0]
