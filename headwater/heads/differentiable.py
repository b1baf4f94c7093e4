"""Heads as differentiable functions of their parameters, to be trained together with encoders.

Inputs are standardised by the statistics of the frozen features. A trained head has that standardisation folded in, so
that it takes unstandardised features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.errors import HeadError
from headwater.heads import _attention, _network
from headwater.heads._attention import Tokens, TokenShape
from headwater.heads._classifier import Classifier
from headwater.heads._network import Shape
from headwater.heads._objective import ClassWeight, Objective, objective_of
from headwater.heads._token_head import TokenHead
from headwater.heads.linear import LinearProbe
from headwater.heads.mlp import MLP

if TYPE_CHECKING:
    from torch import Generator, Tensor

Params = dict[str, "Tensor"]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Described:
    """Description of a head's input.

    Attributes
    ----------
    name
        Name of the feature set.
    length
        Number of tokens, 1 for one vector per item, None if it varies between items.
    mean, std
        Statistics of its columns over training rows and their tokens, of shape ``(d,)``; std is 1 for constant columns.
    """

    name: str
    length: int | None
    mean: Vector
    std: Vector

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.mean)


@dataclass(frozen=True)
class Regularised:
    """Regularisation of a head in training.

    Attributes
    ----------
    dropout, label_smoothing
        Shares, from 0 to below 1.
    class_weight
        The head's own setting.
    """

    dropout: float
    label_smoothing: float
    class_weight: ClassWeight


class Network(ABC):
    """A head in training.

    Attributes
    ----------
    params
        Its parameters, for standardised inputs.
    objective
        The task of its logits.
    """

    params: Params
    objective: Objective

    def __init__(self, head: Classifier, inputs: Sequence[Described], classes: NDArray[Any], multilabel: bool) -> None:
        self.head = head
        self.inputs = list(inputs)
        self.classes = classes
        self.multilabel = multilabel

    @property
    def regularised(self) -> Regularised:
        """Its regularisation in training."""
        given = self.head.get_params()
        return Regularised(given.get("dropout", 0.0), given.get("label_smoothing", 0.0), given["class_weight"])

    def scaled(self, inputs: Sequence[Tokens]) -> list[Tokens]:
        """Standardise inputs, to float32."""
        torch = need("torch", "encoders")
        out = []
        for (values, mask), described in zip(inputs, self.inputs, strict=True):
            mean, std = (torch.as_tensor(v, dtype=torch.float32, device=values.device) for v in _pair(described))
            out.append(((values.float() - mean) / std, mask))
        return out

    @abstractmethod
    def logits(self, params: Params, inputs: Sequence[Tokens], *, training: bool) -> Tensor:
        """Return logits ``(b, n_outputs)``, float32.

        Parameters
        ----------
        inputs
            For each input its unstandardised values ``(b, t, d)``, and the mask ``(b, t)`` of existing tokens.
        training
            Whether to apply dropout, from torch's global generator.
        """

    @abstractmethod
    def fitted(self, params: Params) -> Classifier:
        """Return the head with these parameters, for unstandardised features."""

    @abstractmethod
    def start_from(self, fitted: Classifier) -> None:
        """Start from the parameters of a fitted head of the same kind."""


def network_of(
    head: Classifier,
    inputs: Sequence[Described],
    classes: NDArray[Any],
    multilabel: bool,
    generator: Generator,
) -> Network:
    """Return an unfitted head as a network with random parameters.

    Raises
    ------
    HeadError
        When the head is not trained by gradients.
    """
    for kind, network in NETWORKS.items():
        if isinstance(head, kind):
            made: Network = network(head, inputs, classes, multilabel, generator)
            return made
    raise HeadError(
        f"a {type(head).__name__} head is not trained by gradients: tune the encoder with linear, mlp, token-mlp, "
        "efficient-probing, self-attention, merged-attention, cross-attention, co-attention or mil."
    )


class DenseNetwork(Network):
    """A `LinearProbe` or `MLP`."""

    def __init__(
        self,
        head: LinearProbe | MLP,
        inputs: Sequence[Described],
        classes: NDArray[Any],
        multilabel: bool,
        generator: Generator,
    ) -> None:
        super().__init__(head, inputs, classes, multilabel)
        given = head.get_params()
        self.objective = objective_of(
            len(classes), multilabel, given.get("loss", "cross-entropy"), given.get("gamma", 2.0)
        )
        hidden = tuple(int(h) for h in given.get("hidden", ()))
        self.shape = Shape(tuple(i.width for i in inputs), hidden, self.objective, given.get("fusion", "concat"))
        self.params = _network.initial(self.shape, 1, [generator])

    def logits(self, params: Params, inputs: Sequence[Tokens], *, training: bool) -> Tensor:
        """Return logits of the first, and only, token of each input."""
        torch = need("torch", "encoders")
        columns = [values[:, 0][None] for values, _ in self.scaled(inputs)]
        rate = torch.full((1, 1), float(self.regularised.dropout), device=columns[0].device)
        noise = None
        if training and self.regularised.dropout:
            noise = [torch.rand(1, h, columns[0].shape[1], device=columns[0].device) for h in self.shape.hidden]
        logits: Tensor = _network.forward(self.shape, params, columns, rate, noise)[0, 0]
        return logits

    def start_from(self, fitted: Classifier) -> None:
        """Start from a fitted head's parameters."""
        torch = need("torch", "encoders")
        params = {name: torch.from_numpy(np.array(p, np.float64)) for name, p in _dense_params(fitted, self).items()}
        scales = [(torch.from_numpy(i.mean), torch.from_numpy(i.std)) for i in self.inputs]
        own = _network.batched(_network.unfolded(params, scales))
        self.params = {name: own[name].float() for name in self.params}

    def fitted(self, params: Params) -> Classifier:
        """Return the head with these parameters."""
        torch = need("torch", "encoders")
        own = {name: p.detach().cpu().double() for name, p in _network.one_network(params, 0, 0, 1).items()}
        scales = [(torch.from_numpy(i.mean), torch.from_numpy(i.std)) for i in self.inputs]
        folded = {name: p.numpy() for name, p in _network.folded(own, scales).items()}
        head: Any = type(self.head)(**self.head.get_params())
        head.classes_, head.multilabel_ = self.classes, self.multilabel
        head.n_features_in_ = sum(self.shape.inputs)
        if isinstance(head, LinearProbe):
            head.coef_ = np.concatenate([folded[f"in{i}.weight"] for i in range(len(self.inputs))]).T
            head.intercept_ = folded["in.bias"]
            head.objective_, head.n_iter_ = float("nan"), 0
        else:
            head.params_ = {name: p.astype(np.float32) for name, p in folded.items()}
            head.inputs_ = {i.name: i.width for i in self.inputs} if len(self.inputs) > 1 else None
            head.n_epochs_, head.curve_ = 0, np.zeros(0, np.float32)
        return head  # type: ignore[no-any-return]


class TokenNetwork(Network):
    """A `TokenHead`."""

    def __init__(
        self,
        head: TokenHead,
        inputs: Sequence[Described],
        classes: NDArray[Any],
        multilabel: bool,
        generator: Generator,
    ) -> None:
        super().__init__(head, inputs, classes, multilabel)
        self.objective = objective_of(len(classes), multilabel, head.loss, head.gamma)
        self.shape = TokenShape(
            inputs=tuple(i.width for i in inputs),
            lengths=tuple(i.length for i in inputs),
            tokenizer=head.tokenizer,
            n_tokens=int(head.n_tokens),
            aggregator=head.aggregator,
            width=int(head.width),
            blocks=int(head.blocks),
            heads=int(head.heads),
            pool=head.pool,
            hidden=tuple(int(h) for h in head.hidden),
            rectified=head.rectified,
            objective=self.objective,
        )
        self.params = _attention.initial(self.shape, generator)

    def logits(self, params: Params, inputs: Sequence[Tokens], *, training: bool) -> Tensor:
        """Return logits of each input's tokens."""
        torch = need("torch", "encoders")
        rate = self.regularised.dropout if training else 0.0

        def drop(x: Tensor) -> Tensor:
            dropped: Tensor = torch.nn.functional.dropout(x, rate)
            return dropped

        logits, _ = _attention.forward(self.shape, params, self.scaled(inputs), drop)
        return logits

    def start_from(self, fitted: Classifier) -> None:
        """Start from a fitted head's parameters."""
        torch = need("torch", "encoders")
        if not isinstance(fitted, TokenHead):
            raise HeadError(f"a {type(fitted).__name__} head is not a {type(self.head).__name__}.")
        params = {name: torch.from_numpy(p).double() for name, p in fitted.params_.items() if name in self.params}
        scales = [(torch.from_numpy(i.mean), torch.from_numpy(i.std)) for i in self.inputs]
        self.params = {name: p.float() for name, p in _attention.unfolded(params, scales).items()}

    def fitted(self, params: Params) -> Classifier:
        """Return the head with these parameters."""
        torch = need("torch", "encoders")
        own = {name: p.detach().cpu().double() for name, p in params.items()}
        scales = [(torch.from_numpy(i.mean), torch.from_numpy(i.std)) for i in self.inputs]
        head: Any = type(self.head)(**self.head.get_params())
        head.params_ = {name: p.float().numpy() for name, p in _attention.folded(own, scales).items()}
        head.shape_ = self.shape
        head.classes_, head.multilabel_ = self.classes, self.multilabel
        head.inputs_ = {i.name: i.width for i in self.inputs} if len(self.inputs) > 1 else None
        head.n_features_in_ = sum(self.shape.inputs)
        head.n_epochs_, head.curve_ = 0, np.zeros(0, np.float32)
        return head  # type: ignore[no-any-return]


def _dense_params(fitted: Classifier, network: DenseNetwork) -> Mapping[str, NDArray[Any]]:
    """Return a fitted head's weights ``(fan_in, units)`` and biases, by name."""
    if isinstance(fitted, MLP):
        params: Mapping[str, NDArray[Any]] = fitted.params_
        return params
    if not isinstance(fitted, LinearProbe):
        raise HeadError(f"a {type(fitted).__name__} head is not a {type(network.head).__name__}.")
    parts = np.split(fitted.coef_.T, np.cumsum(network.shape.inputs)[:-1])
    return {**{f"in{i}.weight": part for i, part in enumerate(parts)}, "in.bias": fitted.intercept_}


def _pair(described: Described) -> tuple[Vector, Vector]:
    return described.mean, described.std


NETWORKS: Mapping[type[Any], Any] = {LinearProbe: DenseNetwork, MLP: DenseNetwork, TokenHead: TokenNetwork}
