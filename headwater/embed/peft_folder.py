"""LoRA adapters as peft saves them: ``adapter_config.json`` beside ``adapter_model.safetensors``.

The adapted layers and their ranks are taken from the tensors. Only the settings that scale them are taken from the
configuration. Its patterns are not matched, and files that it names are not opened.

References
----------
Hu et al., LoRA: low-rank adaptation of large language models, 2022. https://huggingface.co/docs/peft
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater._reading import read_json
from headwater._schema import Finite, Size, Word, read_as
from headwater.embed.gate import file_of
from headwater.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
PARTS = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(\.weight)?")
PLAIN = re.compile(r"[\w.]+")
MERGE = "Merge it into the model with peft: model.merge_and_unload().save_pretrained(DIRECTORY)."


@dataclass(frozen=True)
class _Config:
    peft_type: Word
    r: Size = 8
    lora_alpha: Finite = 8.0
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: Word = "none"
    lora_bias: bool = False
    alpha_pattern: dict[Word, Finite] = field(default_factory=dict)
    modules_to_save: list[Word] | None = None
    layer_replication: list[Any] | None = None
    target_parameters: list[Word] | None = None
    trainable_token_indices: list[Any] | dict[str, Any] | None = None


@dataclass(frozen=True)
class PeftLora:
    """Low-rank adapters of some layers, each with its own rank and scale.

    Attributes
    ----------
    ranks, alphas
        Rank and alpha of each layer, by full name.
    rslora
        Whether ``B A`` is scaled by ``alpha / sqrt(rank)`` instead of ``alpha / rank``.
    dora
        Whether only directions are adapted, and magnitudes are stored separately (DoRA).
    fan_in_fan_out
        Whether weights are stored as ``(in, out)``.
    """

    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool = False
    dora: bool = False
    fan_in_fan_out: bool = False

    def inject(self, module: nn.Module) -> Any:
        """Insert new adapters into a module; return peft's model of it."""
        whole = "|".join(map(re.escape, self.ranks))
        config = need("peft", "encoders").LoraConfig(
            r=next(iter(self.ranks.values())),
            target_modules=f"({whole})",
            rank_pattern={re.escape(name): rank for name, rank in self.ranks.items()},
            alpha_pattern={re.escape(name): alpha for name, alpha in self.alphas.items()},
            use_rslora=self.rslora,
            use_dora=self.dora,
            fan_in_fan_out=self.fan_in_fan_out,
        )
        return need("peft.tuners.lora", "encoders").LoraModel(module, config, "default")


@dataclass(frozen=True, eq=False)
class PeftAdapter:
    """The contents of a peft folder, with names as in the trained model.

    Attributes
    ----------
    lora
        LoRA settings, by the layer names of that model.
    tensors
        Tensors of adapters, such as ``LAYER.lora_A.default.weight``, and other trained tensors, by name.
    saved
        Names of modules that were trained as a whole, such as a classifier.
    """

    lora: PeftLora
    tensors: Mapping[str, Tensor]
    saved: Sequence[str] = ()

    def on(self, module: nn.Module, source: str) -> tuple[PeftLora, dict[str, Tensor]]:
        """Return adapters and tensors by the layer names of ``module``.

        In a model with a head, which the encoder does not have, the layers are one level deeper.

        Raises
        ------
        EncoderError
            When adapted layers are not in the module.
        """
        layers = {name for name, _ in module.named_modules()}
        first = next(iter(self.lora.ranks)).partition(".")[0]
        prefixes = ("", f"{getattr(module, 'base_model_prefix', '') or first}.", f"{first}.")
        missing = [name for name in self.lora.ranks if name not in layers]
        for prefix in prefixes:
            used = self._used(prefix, layers)
            if used.lora.ranks and set(used.lora.ranks) <= layers:
                return used.lora, used._tensors_of(module, source)
        raise EncoderError(
            f"{source} adapts {len(missing)} layers that this encoder does not have ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}). Give the encoder that it was trained on."
        )

    def _used(self, prefix: str, layers: set[str]) -> PeftAdapter:
        """Return the adapter with names without a prefix, and without a pooler that the encoder does not have."""

        def kept(of: Mapping[str, Any]) -> dict[str, Any]:
            short = {name.removeprefix(prefix): value for name, value in of.items()}
            return {n: value for n, value in short.items() if "pooler" not in n.split(".") or _layer(n) in layers}

        lora = replace(self.lora, ranks=kept(self.lora.ranks), alphas=kept(self.lora.alphas))
        return PeftAdapter(lora, kept(self.tensors), self.saved)

    def _tensors_of(self, module: nn.Module, source: str) -> dict[str, Tensor]:
        """Return the tensors that the module has; leave out those of a head that was saved with them."""
        own = module.state_dict()
        found, unknown = {}, []
        for name, tensor in self.tensors.items():
            if ".lora_" in name or name in own:
                found[name] = tensor
            elif not set(name.split(".")) & set(self.saved):
                unknown.append(name)
        if unknown:
            raise EncoderError(f"{source} has trained {unknown[0]}, which is not part of this encoder. {MERGE}")
        return found


def _layer(name: str) -> str:
    """Return the layer name for the name of a layer or of one of its tensors."""
    return re.sub(r"\.(lora_\w+\.default\.)?(weight|bias)$", "", name)


def is_peft(path: Path) -> bool:
    """Whether a folder is an adapter that peft saved."""
    return (path / CONFIG).is_file()


def read_peft(path: Path) -> PeftAdapter:
    """Read an adapter that peft saved.

    Raises
    ------
    EncoderError
        When it cannot be read, or is not a LoRA adapter.
    """
    source = f"--adapter {path}"
    if not (path / TENSORS).is_file():
        why = (
            "its tensors are pickled, and headwater unpickles none"
            if (path / PICKLED).is_file()
            else f"has no {TENSORS}"
        )
        raise EncoderError(f"{source}: {why}. Save it again with peft: model.save_pretrained(DIRECTORY).")
    try:
        config = read_as(_Config, read_json(file_of(path, CONFIG)))
        tensors = need("safetensors.torch", "encoders").load_file(file_of(path, TENSORS))
        _refuse_other(config, source)
        ranks, named = _named(tensors)
        return PeftAdapter(
            PeftLora(ranks, _alphas(config, ranks), config.use_rslora, config.use_dora, config.fan_in_fan_out),
            named,
            tuple(config.modules_to_save or ()),
        )
    except EncoderError:
        raise
    except (OSError, ValueError, need("safetensors", "encoders").SafetensorError) as error:
        why = str(getattr(error, "strerror", None) or error).split("\n")[0].rstrip(".")
        raise EncoderError(f"{source}: cannot be read ({why}).") from error


def _refuse_other(config: _Config, source: str) -> None:
    """Raise `EncoderError` for kinds of adapters that are not supported."""
    other = {
        f"has the type {config.peft_type}, not LORA": config.peft_type != "LORA",
        "repeats layers of the model (layer_replication)": bool(config.layer_replication),
        "adapts parameters outside layers (target_parameters)": bool(config.target_parameters),
        "trains single tokens (trainable_token_indices)": bool(config.trainable_token_indices),
        "has adapters with a bias (lora_bias)": config.lora_bias,
    }
    if found := [what for what, is_so in other.items() if is_so]:
        raise EncoderError(f"{source}: {CONFIG}: {found[0]}. {MERGE}")


def _named(tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Return the rank of each adapted layer, and all tensors by their names in peft's model."""
    named: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(PREFIX)
        part = PARTS.fullmatch(name)
        if part is None:
            named[name.replace(".base_layer.", ".")] = tensor
            continue
        named[f"{part[1]}.{part[2]}.default.weight"] = tensor
        if part[2] == "lora_A":
            ranks[part[1]] = int(tensor.shape[0]) if tensor.ndim else 0
    if not ranks or min(ranks.values()) < 1:
        raise ValueError("it adapts no layer")
    if other := [name for name in named if "lora_" in name and not name.endswith(".default.weight")]:
        raise ValueError(f"{other[0]} is not an adapter of a linear or convolutional layer")
    return ranks, named


def _alphas(config: _Config, ranks: Mapping[str, int]) -> dict[str, float]:
    """Return the alpha of each layer's adapter."""
    if odd := [key for key in config.alpha_pattern if not PLAIN.fullmatch(key)]:
        raise ValueError(f"alpha_pattern: {odd[0]!r} is not a plain ending of a layer's name")

    def alpha(name: str) -> float:
        ends = (value for key, value in config.alpha_pattern.items() if f".{name}".endswith(f".{key}"))
        return next(ends, config.lora_alpha)

    return {name: alpha(name) for name in ranks}
