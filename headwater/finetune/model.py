"""Encoders and a head as one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater.finetune.adapt import Adapted
from headwater.finetune.data import InputSource, Part
from headwater.heads.differentiable import Network

if TYPE_CHECKING:
    from torch import Tensor, nn

State = dict[str, "Tensor"]


class Model:
    """Partly trained encoders, and the head on top of them.

    Parameters
    ----------
    adapted
        The trained encoders.
    sources
        The inputs of the head.
    network
        The head; its parameters are moved to the encoders' device, and trained.
    """

    def __init__(
        self, adapted: Sequence[Adapted], sources: Sequence[InputSource], network: Network, device: str
    ) -> None:
        self.adapted = list(adapted)
        self.sources = list(sources)
        self.network = network
        self.module: Any = _module(self, device)

    @property
    def head(self) -> dict[str, nn.Parameter]:
        """The head's parameters, by name."""
        return {name.replace("/", "."): p for name, p in self.module.head.items()}

    @property
    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters of the encoders, by the encoder's number and the parameter's name."""
        return {f"{i}.{name}": p for i, part in enumerate(self.adapted) for name, p in part.parameters.items()}

    def training(self, on: bool) -> None:
        """Switch training mode (dropout and running statistics) on in the trained parts, or off everywhere."""
        self.module.training = on
        for part in self.adapted:
            part.training(on)

    def state(self) -> State:
        """Return copies of everything that training changes."""
        head = {f"head.{name}": p.detach().clone() for name, p in self.head.items()}
        parts = {f"{i}.{name}": t for i, part in enumerate(self.adapted) for name, t in part.state().items()}
        return head | parts

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a `state`."""
        torch = need("torch", "encoders")
        with torch.no_grad():
            for name, parameter in self.head.items():
                parameter.copy_(state[f"head.{name}"])
        for i, part in enumerate(self.adapted):
            prefix = f"{i}."
            part.load({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})


def _module(model: Model, device: str) -> Any:
    """Return one torch module that maps a batch to logits, for distributed training to wrap."""
    nn = need("torch", "encoders").nn

    class Whole(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleList([part.encoder.module for part in model.adapted])
            params = {name.replace(".", "/"): nn.Parameter(p) for name, p in model.network.params.items()}
            self.head = nn.ParameterDict(params).to(device)

        def forward(self, parts: Sequence[Part]) -> Tensor:
            tokens = [source.tokens_of(part) for source, part in zip(model.sources, parts, strict=True)]
            params = {name.replace("/", "."): p for name, p in self.head.items()}
            return model.network.logits(params, tokens, training=self.training)

    return Whole()
