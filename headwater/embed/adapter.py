"""Adapters: weights that training added to an encoder, stored in a folder and applied when the encoder is loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater._reading import read_json
from headwater.embed.encoder import CHOICES
from headwater.embed.gate import file_of
from headwater.embed.peft_folder import PeftAdapter, PeftLora, is_peft, read_peft
from headwater.embed.weights import first_line, require_fit
from headwater.errors import EncoderError
from headwater.sources.steps import Steps, parse_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
ADAPTER, TENSORS = "adapter.json", "adapter.safetensors"
BEFORE = "before"
FOLDER = "encoder"
"""Folder of a run that holds its adapters, one subfolder per trained encoder."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters of some layers: ``W x + alpha / rank * B A x``.

    Attributes
    ----------
    targets
        Full names of the layers.

    References
    ----------
    Hu et al., LoRA: low-rank adaptation of large language models, 2022, section 4.1.
    """

    rank: int
    alpha: float
    dropout: float
    targets: Sequence[str]

    def inject(self, module: nn.Module) -> Any:
        """Insert new adapters, which change nothing yet, into a module; return peft's model of it."""
        whole = "|".join(map(re.escape, self.targets))  # peft matches a list against ends of names
        config = need("peft", "encoders").LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=f"({whole})"
        )
        return need("peft.tuners.lora", "encoders").LoraModel(module, config, "default")


@dataclass(frozen=True, eq=False)
class Adapter:
    """The tensors that training changed in an encoder.

    Attributes
    ----------
    encoder, base
        Spec of the trained encoder, and digest of the weights that training started from.
    lora
        The LoRA settings; None if the encoder's own parameters were trained.
    tensors
        The trained tensors, and the running statistics of trained layers, by name.
    path
        Folder that the adapter was read from.
    before
        The adapter of an earlier training, if this one continued it.
    image_size
        Height and width of the training images, if they were not the encoder's own.
    choices
        The ``layer``, ``pooling`` and ``prompt`` that were chosen for training.
    steps
        The steps applied to images, as named by `headwater.sources.steps.Steps`; None if they were not recorded.
    peft
        An adapter saved by peft. The other fields are then empty, and it is unknown which weights it was trained on.
    """

    encoder: str
    base: str
    lora: Lora | None
    tensors: Mapping[str, Tensor]
    path: Path | None = None
    before: Adapter | None = None
    image_size: tuple[int, int] | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[str] | None = None
    peft: PeftAdapter | None = None

    @property
    def digest(self) -> str:
        """BLAKE2b-128 digest of the tensors, with their names."""
        scaled = "" if self.peft is None else repr(self.peft.lora)
        digest = blake2b((scaled if self.before is None else self.before.digest).encode(), digest_size=16)
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.view(-1).view(need("torch", "encoders").uint8).numpy().data)
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Write the adapter into an existing folder."""
        lora = None if self.lora is None else {**vars(self.lora), "targets": list(self.lora.targets)}
        values = {"format": FORMAT, "encoder": self.encoder, "base": self.base, "lora": lora}
        if self.image_size is not None:
            values["image_size"] = list(self.image_size)
        if self.choices:
            values["choices"] = dict(self.choices)
        if self.steps is not None:
            values["steps"] = list(self.steps)
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        need("safetensors.torch", "encoders").save_file(kept, folder / TENSORS)
        if self.before is not None:
            (folder / BEFORE).mkdir()
            self.before.write(folder / BEFORE)
        (folder / ADAPTER).write_text(json.dumps(values, indent=2) + "\n")

    def steps_with(self, asked: Steps | None) -> Steps | None:
        """Return the steps for an encoder with this adapter, given the requested steps.

        Raises
        ------
        EncoderError
            When the adapter was trained with other steps.
        """
        if self.steps is None:
            return asked
        if asked is not None and list(asked.names) != list(self.steps):
            trained = " ".join(f"--step {step}" for step in self.steps) or "no --step"
            raise EncoderError(f"--adapter {self.path} was trained with {trained}. Leave --step out.")
        return parse_steps(self.steps, named_by=f"--adapter {self.path}")

    def apply(self, module: nn.Module, base: str, encoder: str) -> None:
        """Apply the adapter to a module that was built like the trained one.

        Raises
        ------
        EncoderError
            When the module has other weights than the adapter was trained on, or lacks a trained layer.
        """
        tensors = self.tensors
        lora: Lora | PeftLora | None = self.lora
        if self.peft is not None:
            lora, tensors = self.peft.on(module, f"--adapter {self.path}")
        elif base != self.base:
            raise EncoderError(
                f"{encoder}: the adapter was trained on other weights ({self.encoder}, digest {self.base[:8]}…, not "
                f"{base[:8]}…). Give the encoder, and the --weights, that it was trained on."
            )
        if self.before is not None:
            self.before.apply(module, base, encoder)
        try:
            tuner = None if lora is None else lora.inject(module)
        except Exception as error:  # the library raises many kinds for layers that it does not find or cannot adapt
            raise EncoderError(f"{encoder}: the adapter does not fit this model ({first_line(error)}).") from error
        own = module.state_dict()
        if self.peft is not None:  # peft moves the own parameters of an adapted layer one level down
            tensors = {name if name in own else _deeper(name): tensor for name, tensor in tensors.items()}
        unknown = [name for name in tensors if name not in own]
        shapes = [
            f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
            for name, tensor in tensors.items()
            if name in own and tensor.shape != own[name].shape
        ]
        missing = [name for name in own if ".lora_" in name and name not in tensors]
        require_fit(f"{encoder}: the adapter", missing, unknown, shapes)
        module.load_state_dict(dict(tensors), strict=False)
        if tuner is not None:
            tuner.merge_and_unload()


def _deeper(name: str) -> str:
    """Return the name of a layer's parameter inside the layer that peft wraps around it."""
    layer, _, parameter = name.rpartition(".")
    return f"{layer}.base_layer.{parameter}"


def tuned_encoders(path: str | Path) -> list[str]:
    """Return the specs of the encoders that a run of ``fine-tune`` trained.

    Raises
    ------
    EncoderError
        When the run holds none.
    """
    return [values["encoder"] for values in _described(Path(path)).values()]


def read_adapter(path: str | Path, encoder: str) -> Adapter:
    """Read the adapter of an encoder.

    Parameters
    ----------
    path
        A run of ``fine-tune``, the folder of one adapter, or a folder in which peft saved one.
    encoder
        Spec of the encoder; a run may hold adapters of several encoders.

    Raises
    ------
    EncoderError
        When there is no adapter, or none for this encoder.
    """
    path = Path(path)
    if is_peft(path):
        found = read_peft(path)
        return Adapter(encoder, "", None, found.tensors, path.resolve(), peft=found)
    described = _described(path)
    try:
        # a single adapter may give another name of the encoder, such as a moved directory; the digest is checked later
        chosen = [f for f, values in described.items() if values["encoder"] == encoder] or list(described)
        if len(chosen) > 1:
            names = ", ".join(values["encoder"] for values in described.values())
            raise EncoderError(
                f"--adapter {path} holds trained encoders {names}, but not {encoder}. Name one of these."
            )
        values = described[chosen[0]]
        tensors = need("safetensors.torch", "encoders").load_file(file_of(chosen[0], TENSORS))
        lora = None if values["lora"] is None else _lora_of(values["lora"])
        earlier = chosen[0] / BEFORE
        before = None
        if os.path.lexists(earlier):
            file_of(chosen[0], BEFORE, ADAPTER)
            before = read_adapter(earlier, values["encoder"])
        size = values.get("image_size")
        seen = None if size is None else (int(size[0]), int(size[1]))
        if not isinstance(values["encoder"], str) or not isinstance(values.get("choices", {}), dict):
            raise ValueError("the encoder must be a string, and choices a mapping")
        choices = {str(option): str(value) for option, value in values.get("choices", {}).items()}
        if unknown := sorted(set(choices) - set(CHOICES)):
            raise ValueError(f"unknown choices {', '.join(unknown)}; an encoder has {', '.join(CHOICES)}")
        steps = None if "steps" not in values else [str(step) for step in values["steps"]]
        return Adapter(values["encoder"], values["base"], lora, tensors, path.resolve(), before, seen, choices, steps)
    except EncoderError:
        raise
    except (OSError, ValueError, KeyError, TypeError, need("safetensors", "encoders").SafetensorError) as error:
        raise EncoderError(f"--adapter {path}: cannot be read ({first_line(error)}).") from error


def _lora_of(values: Mapping[str, Any]) -> Lora:
    """Return the LoRA settings, with the types that peft needs."""
    lora = Lora(**values)
    if lora.rank < 1 or not all(isinstance(target, str) for target in lora.targets):
        raise ValueError("the LoRA rank must be at least 1, and target layers must be strings")
    return Lora(int(lora.rank), float(lora.alpha), float(lora.dropout), list(lora.targets))


def _described(path: Path) -> dict[Path, dict[str, Any]]:
    """Return the description of each adapter of a run, by folder."""
    folders = [path] if (path / ADAPTER).is_file() else sorted(f.parent for f in (path / FOLDER).glob(f"*/{ADAPTER}"))
    if not folders:
        raise EncoderError(f"--adapter {path}: there is no trained encoder. Run: headwater fine-tune … --out {path}")
    try:
        described = {f: read_json(file_of(path, *f.relative_to(path).parts, ADAPTER)) for f in folders}
        formats = {str(values["encoder"]): values["format"] for values in described.values()}
    except EncoderError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"--adapter {path}: cannot be read ({first_line(error)}).") from error
    for number in formats.values():
        if number != FORMAT:
            raise EncoderError(
                f"--adapter {path} has format {number}; this headwater reads format {FORMAT}. Upgrade headwater."
            )
    return described
