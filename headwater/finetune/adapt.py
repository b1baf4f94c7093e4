"""The trained part of an encoder: low-rank adapters, the last blocks, or all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from headwater._checks import require_number, require_whole
from headwater._extras import need
from headwater.embed._torch import convolve_as_before
from headwater.embed.adapter import Adapter, Lora
from headwater.embed.tunable import Tunable
from headwater.errors import InputError, nearest
from headwater.store import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn

TrainKind = Literal["none", "lora", "last", "full"]
BatchNorm = Literal["keep", "update"]


@dataclass(frozen=True)
class TrainMode:
    """How one tower is trained; ``n_blocks`` is used by ``last`` only."""

    kind: TrainKind
    n_blocks: int = 0

    def __str__(self) -> str:
        return f"last-{self.n_blocks}" if self.kind == "last" else self.kind


def parse_train_mode(text: str) -> TrainMode:
    """Read ``none``, ``lora``, ``last-N`` or ``full``.

    Raises
    ------
    InputError
        When it is something else.

    Examples
    --------
    >>> parse_train_mode("last-2")
    TrainMode(kind='last', n_blocks=2)
    """
    if found := re.fullmatch(r"last-([1-9][0-9]{0,6})", text):
        return TrainMode("last", int(found[1]))
    if text == "none":
        return TrainMode("none")
    if text == "lora":
        return TrainMode("lora")
    if text == "full":
        return TrainMode("full")
    kinds = ("none", "lora", "last-2", "full")
    raise InputError(f"--train {text!r}.{nearest(text, kinds)} There are: none, lora, last-N (such as last-2), full.")


@dataclass(frozen=True)
class LoraSettings:
    """Settings of low-rank adapters.

    Attributes
    ----------
    modules
        A regular expression for the names of layers that get adapters. Default: every linear layer and convolution of
        the blocks.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    modules: str | None = None

    def refuse(self) -> None:
        """Raise `InputError` for invalid settings."""
        require_whole("--lora-rank", self.rank, 1)
        require_number("--lora-alpha", self.alpha, above=0)
        require_number("--lora-dropout", self.dropout)
        if self.dropout >= 1:
            raise InputError(f"--lora-dropout must be from 0 to below 1, but is {self.dropout}.")
        try:
            re.compile(self.modules or "")
        except re.error as error:
            raise InputError(f"--lora-modules {self.modules!r} is not a regular expression ({error}).") from error


class Adapted:
    """An encoder with a trainable part; everything else stays frozen, including running statistics.

    Parameters
    ----------
    encoder
        The encoder; its module is changed in place.
    how
        For each modality, how its tower is trained.
    lora
        Settings for towers with adapters.
    batch_norm
        ``keep``: trained batch norms keep their original statistics, though their scales and offsets are trained.
        ``update``: they use and update the statistics of each batch, which is noisy for small batches of few patients.
    seed
        Seed for the initial adapters.
    also
        Names of parameters outside the towers that are set from outside, such as the logit scale; they are part of the
        state.

    Attributes
    ----------
    trained : list of str
        Names of the trained parameters.

    Raises
    ------
    InputError
        When a tower lacks the requested layers.
    """

    def __init__(
        self,
        encoder: Tunable[Any],
        how: Mapping[Modality, TrainMode],
        lora: LoraSettings,
        batch_norm: BatchNorm = "keep",
        seed: int = 0,
        also: Sequence[str] = (),
    ) -> None:
        self.encoder = encoder
        self.batch_norm = batch_norm
        self.also = list(also)
        self.how = dict(how)
        module = encoder.module
        self._lora: Lora | None = None
        self._tuner: Any = None
        self._parts: list[nn.Module] = []
        module.requires_grad_(False)
        convolve_as_before(module)
        chosen: dict[str, nn.Parameter] = {}
        layers: list[str] = []
        for modality, here in self.how.items():
            towers = encoder.towers()[modality]
            if here.kind == "full":
                self._parts += [module.get_submodule(name) for name in towers if not _is_parameter(module, name)]
                chosen |= dict(_parameters(module, towers))
            elif here.kind == "last":
                names = last_blocks(module, towers, here.n_blocks, f"{encoder.name} ({modality})")
                self._parts += [module.get_submodule(name) for name in names if not _is_parameter(module, name)]
                chosen |= dict(_parameters(module, names))
            elif here.kind == "lora":
                layers += lora_layers(module, towers, lora.modules, f"{encoder.name} ({modality})")
        if layers:
            self._lora = Lora(lora.rank, lora.alpha, lora.dropout, layers)
            torch = need("torch", "encoders")
            with torch.random.fork_rng(devices=[]):  # peft uses torch's global generator
                torch.manual_seed(seed)
                self._tuner = self._lora.inject(module)  # freezes everything else
            chosen |= {name: p for name, p in module.named_parameters() if ".lora_" in name}
        self.trained = list(chosen)
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        self.training(False)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name."""
        every = dict(self.encoder.module.named_parameters())
        return {name: every[name] for name in self.trained}

    @property
    def n_parameters(self) -> tuple[int, int]:
        """Number of trained parameters, and of all parameters."""
        return (
            sum(p.numel() for p in self.parameters.values()),
            sum(p.numel() for p in self.encoder.module.parameters()),
        )

    def training(self, on: bool) -> None:
        """Switch training mode (dropout and running statistics) on in the trained parts, or off everywhere."""
        self.encoder.module.eval()
        if not on:
            return
        for part in self._parts:
            part.train()
            for layer in part.modules() if self.batch_norm == "keep" else ():
                if isinstance(layer, need("torch.nn.modules.batchnorm", "encoders")._BatchNorm):
                    layer.eval()
        for layer in self._layers():
            layer.lora_dropout.train()
        for part in self.encoder.module.modules():
            if getattr(part, "gradient_checkpointing", False):  # transformers checkpoints only in training mode
                part.training = True

    def state(self) -> dict[str, Tensor]:
        """Return copies of the trained parameters, and of the running statistics that are updated."""
        module = self.encoder.module
        running = {id(buffer) for part in self._parts for buffer in part.buffers()}
        every = dict(module.named_parameters())
        kept = {name: every[name].detach() for name in (*self.trained, *self.also)}
        # state_dict leaves out non-persistent buffers, such as position ids
        kept |= {name: t for name, t in module.state_dict(keep_vars=True).items() if id(t) in running}
        return {name: tensor.detach().clone() for name, tensor in kept.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a `state`."""
        self.encoder.module.load_state_dict(dict(state), strict=False)

    def adapter(self) -> Adapter:
        """Return the trained weights."""
        encoder = self.encoder
        steps = None if encoder.steps is None else encoder.steps.names
        if steps is None and not {"image", "pair"}.isdisjoint(self.how):
            steps = ()  # trained on unprocessed images
        return Adapter(
            encoder.name,
            encoder.weights,
            self._lora,
            self.state(),
            before=encoder.tuned,
            image_size=encoder.image_size,
            choices=encoder.choices,
            steps=steps,
        )

    def _layers(self) -> Iterator[Any]:
        tuner_layer = need("peft.tuners.lora", "encoders").LoraLayer
        return (layer for layer in self.encoder.module.modules() if isinstance(layer, tuner_layer))


def last_blocks(module: nn.Module, towers: Sequence[str], n: int, what: str) -> list[str]:
    """Return the names of a tower's last ``n`` blocks, and of the norms and projections after them.

    Blocks are the entries of the module list with the most parameters: the layers of a transformer, or the stages of a
    convolutional network.
    """
    path, blocks = blocks_of(module, towers)
    if not blocks:
        raise InputError(f"{what} has no sequence of blocks: use --train full or lora.")
    if n > len(blocks):
        raise InputError(f"{what} has {len(blocks)} blocks, fewer than {n}: lower --train last-{n}.")
    after: list[str] = []
    steps = path.split(".") if path else []
    for depth in range(len(steps) + 1):
        ancestor = ".".join(steps[:depth])
        parent = module.get_submodule(ancestor)
        here = [name for name, _ in parent.named_children()]
        if depth == 0 and "" not in towers:
            here = [name for name in here if name in towers]
        start = here.index(steps[depth]) if depth < len(steps) else max(here.index(b.split(".")[-1]) for b in blocks)
        later = [name for name in here[start + 1 :] if "embed" not in name]
        plain = [name for name, _ in parent.named_parameters(recurse=False) if "proj" in name]
        if depth == 0 and "" not in towers:
            plain = [name for name in plain if name in towers]
        after += [f"{ancestor}.{name}" if ancestor else name for name in (*later, *plain)]
    return [*blocks[-n:], *after]


def blocks_of(module: nn.Module, towers: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the module that holds a tower's blocks, and the names of the blocks."""
    nn = need("torch", "encoders").nn
    best, most = ("", list[str]()), 0
    for name, part in module.named_modules():
        if not _within(name, towers) and not (name == "" and "" in towers):
            continue
        stages = [child for child, _ in part.named_children() if re.fullmatch(r"layer\d", child)]
        if isinstance(part, nn.Sequential | nn.ModuleList):
            stages = [child for child, own in part.named_children() if next(own.parameters(), None) is not None]
        n = sum(p.numel() for child in stages for p in part.get_submodule(child).parameters())
        if len(stages) >= 2 and n > most:  # for nested lists, the outer one comes first and wins ties
            best, most = (name, [f"{name}.{child}" if name else child for child in stages]), n
    return best


def lora_layers(module: nn.Module, towers: Sequence[str], pattern: str | None, what: str) -> list[str]:
    """Return the full names of a tower's layers that get adapters.

    Raises
    ------
    InputError
        When there are none.
    """
    nn = need("torch", "encoders").nn
    path, blocks = blocks_of(module, towers)
    found: list[str] = []
    whole: list[str] = []  # fused attention modules, whose inner layers are not called
    for name, part in module.named_modules():
        if not _within(name, towers) or any(name.startswith(f"{outer}.") for outer in whole):
            continue
        usable = isinstance(part, nn.Linear | nn.MultiheadAttention) or (
            isinstance(part, nn.Conv2d) and part.groups == 1
        )
        if isinstance(part, nn.MultiheadAttention):
            whole.append(name)
        wanted = re.search(pattern, name) if pattern is not None else any(_within(name, [b]) for b in blocks)
        if usable and wanted:
            found.append(name)
    if found:
        return found
    if pattern is None:
        raise InputError(f"{what} has no linear layers or convolutions in blocks: name layers with --lora-modules.")
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and _within(name, towers)]
    raise InputError(
        f"--lora-modules {pattern!r} matches no linear layer, attention or ungrouped convolution of {what}. "
        f"Its layers are named like {', '.join(names[:3]) or path}."
    )


def _within(name: str, towers: Sequence[str]) -> bool:
    return any(tower == "" or name == tower or name.startswith(f"{tower}.") for tower in towers)


def _is_parameter(module: nn.Module, name: str) -> bool:
    parent, _, own = name.rpartition(".")
    return own in module.get_submodule(parent)._parameters


def _parameters(module: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if _within(name, names))
