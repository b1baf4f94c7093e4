"""The pooling that a model folder of sentence-transformers declares for texts.

``modules.json`` lists modules: the transformer, a pooling, then optional dense layers and a normalisation. They are
read as data: sentence-transformers is not needed, and code that they name is not imported.

References
----------
Reimers and Gurevych, Sentence-BERT: Sentence embeddings using Siamese BERT-networks, 2019.
https://sbert.net/docs/package_reference/sentence_transformer/modules.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from headwater._extras import need
from headwater._reading import read_json
from headwater._schema import Size, Word, read_as
from headwater.embed.gate import file_on_hub
from headwater.embed.pooling import pool_words
from headwater.embed.weights import load_state, require_fit
from headwater.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

MODULES = "modules.json"
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Poolings, in the order in which several are concatenated."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
"""Classes of ``torch.nn`` that a dense layer may end in."""
DENSE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
Read = TypeVar("Read")


@dataclass(frozen=True)
class _Module:
    type: Word
    path: Word = ""


@dataclass(frozen=True)
class _Pooling:
    pooling_mode: Word | list[Word] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True

    def modes(self) -> tuple[str, ...]:
        """Return the poolings, whose vectors are concatenated."""
        if self.pooling_mode is not None:
            return (self.pooling_mode,) if isinstance(self.pooling_mode, str) else tuple(self.pooling_mode)
        asked = (
            self.pooling_mode_cls_token,
            self.pooling_mode_max_tokens,
            self.pooling_mode_mean_tokens,
            self.pooling_mode_mean_sqrt_len_tokens,
            self.pooling_mode_weightedmean_tokens,
            self.pooling_mode_lasttoken,
        )
        return tuple(mode for mode, wanted in zip(MODES, asked, strict=True) if wanted)


@dataclass(frozen=True)
class _Dense:
    in_features: Size
    out_features: Size
    bias: bool = True
    activation_function: Word | None = "torch.nn.modules.activation.Tanh"
    use_residual: bool = False
    module_input_name: Word = "sentence_embedding"
    module_output_name: Word | None = None


@dataclass(frozen=True)
class _Reading:
    max_seq_length: Size | None = None
    do_lower_case: bool = False


@dataclass(frozen=True)
class _Prompts:
    prompts: dict[Word, Word] = field(default_factory=dict)
    default_prompt_name: Word | None = None


@dataclass(frozen=True)
class Dense:
    """A dense layer on the pooled vector: ``activation(W x + b)``.

    Attributes
    ----------
    state
        ``weight`` of shape ``(out_features, in_features)``, and ``bias`` if there is one, float32.
    activation
        A class of ``torch.nn``.
    """

    state: Mapping[str, Tensor]
    activation: str

    def layer(self) -> Module:
        """Return the layer as a torch module."""
        nn = need("torch.nn", "encoders")
        rows, columns = self.state["weight"].shape
        linear = nn.Linear(columns, rows, bias="bias" in self.state)
        linear.load_state_dict(dict(self.state))
        layer: Module = nn.Sequential(linear, getattr(nn, self.activation)())
        return layer


@dataclass(frozen=True)
class Sentence:
    """How a text becomes one vector.

    Attributes
    ----------
    modes
        Poolings from `MODES`, concatenated in this order.
    after
        Dense layers, and ``"normalize"`` for scaling to length 1, in order.
    max_length
        Most tokens that are read of a text; None if only the model limits them.
    lower
        Whether texts are converted to lower case first.
    prompt
        Words that are put before every text.
    folder
        Subfolder of the transformer in the model's folder.
    """

    modes: tuple[str, ...] = ("mean",)
    after: tuple[Dense | Literal["normalize"], ...] = ()
    max_length: int | None = None
    lower: bool = False
    prompt: str = ""
    folder: str = ""

    def __str__(self) -> str:
        layers = [one if isinstance(one, str) else f"dense {one.state['weight'].shape[0]}" for one in self.after]
        return f"as declared: {', '.join(['+'.join(self.modes), *layers])}"

    def layers(self) -> list[Module]:
        """Return the dense layers as modules, in order."""
        return [one.layer() for one in self.after if not isinstance(one, str)]

    def pooled(self, hidden: Tensor, own: Tensor, layers: Iterable[Any]) -> Tensor:
        """Return vectors of shape ``(n, dim)``.

        Parameters
        ----------
        hidden
            States of shape ``(n, length, width)``.
        own
            True for a text's own states, false for padding: bool, of shape ``(n, length)``.
        layers
            The dense layers as modules, in order.
        """
        torch = need("torch", "encoders")
        vector: Tensor = torch.cat([_pool(mode, hidden, own) for mode in self.modes], 1)
        dense = iter(layers)
        for one in self.after:
            if one == "normalize":
                vector = torch.nn.functional.normalize(vector, dim=1)
            else:
                vector = next(dense)(vector)
        return vector


def _pool(mode: str, hidden: Tensor, own: Tensor) -> Tensor:
    if mode not in ("mean_sqrt_len_tokens", "weightedmean"):
        return pool_words(mode.removesuffix("token"), hidden, own)
    weights = own[:, :, None].to(hidden.dtype)
    if mode == "weightedmean":  # weighted by position among a text's own tokens, from 1
        weights = weights * own.cumsum(1)[:, :, None].to(hidden.dtype)
    total = weights.sum(1)
    return (hidden * weights).sum(1) / (total if mode == "weightedmean" else total.sqrt())


def declared(name: str, spec: str) -> Sentence | None:
    """Return the pooling that a model declares; None if it is not a model of sentence-transformers.

    Parameters
    ----------
    name
        ``ORG/NAME`` on the hub, or a local directory.

    Raises
    ------
    EncoderError
        When one of its files cannot be read, or it declares something that is not supported.
    """
    reader = _Reader(name, spec)
    modules = reader.read(MODULES, list[_Module])
    return None if modules is None else reader.sentence(modules)


def model_place(name: str, sentence: Sentence | None) -> str:
    """Return the path of a model's transformer: its folder or a subfolder."""
    return name if sentence is None or not sentence.folder else str(Path(name, sentence.folder))


class _Reader:
    """Reads the files of one model."""

    def __init__(self, name: str, spec: str) -> None:
        self.name, self.spec = name, spec

    def sentence(self, modules: list[_Module]) -> Sentence:
        kinds = [module.type.rpartition(".")[2] for module in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or not all(m.type.startswith("sentence_transf") for m in modules):
            raise self._refusal(MODULES, f"lists {', '.join(kinds) or 'no module'}, not a Transformer and a Pooling")
        folder = modules[0].path
        if folder and not Path(self.name).is_dir():
            raise self._refusal(MODULES, f"has its transformer in the subfolder {folder}/ of a model on the hub")
        reading = self.read(self._in(folder, "sentence_bert_config.json"), _Reading) or _Reading()
        pooling = self.read(self._in(modules[1].path, "config.json"), _Pooling)
        modes = () if pooling is None else pooling.modes()
        if not modes or not set(modes) <= set(MODES):
            raise self._refusal(
                self._in(modules[1].path, "config.json"), f"declares the poolings {', '.join(modes) or 'none'}"
            )
        prompt = self._prompt()
        if prompt and pooling is not None and not pooling.include_prompt:
            raise self._refusal(self._in(modules[1].path, "config.json"), "leaves the prompt out of the pooling")
        after: list[Dense | Literal["normalize"]] = []
        for kind, module in zip(kinds[2:], modules[2:], strict=True):
            if kind == "Dense":
                after.append(self._dense(module.path))
            elif kind == "Normalize":
                after.append("normalize")
            elif kind != "Dropout":  # dropout has no effect outside training
                raise self._refusal(MODULES, f"lists {kind} after the pooling")
        return Sentence(modes, tuple(after), reading.max_seq_length, reading.do_lower_case, prompt, folder)

    def read(self, file: str, kind: type[Read]) -> Read | None:
        """Return the values in a JSON file of the model; None if it has no such file."""
        path = self._path(file)
        if path is None:
            return None
        try:
            return read_as(kind, read_json(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise EncoderError(f"{self.spec}: {file}: cannot be read ({why}). Fetch the model again.") from error

    def _path(self, file: str) -> Path | None:
        if Path(self.name).is_dir():
            return Path(self.name, file)
        found = file_on_hub(self.name, file)
        return None if found is None else Path(found)

    def _in(self, folder: str, file: str) -> str:
        """Return the path of a file in a subfolder of the model."""
        if folder and (folder in (".", "..") or not re.fullmatch(r"[\w.-]+", folder)):
            raise self._refusal(MODULES, f"names a module in {folder!r}, which is not a subfolder of the model")
        return f"{folder}/{file}" if folder else file

    def _prompt(self) -> str:
        """Return the words that are put before every text by default."""
        found = self.read("config_sentence_transformers.json", _Prompts)
        if found is None or found.default_prompt_name is None:
            return ""
        if found.default_prompt_name not in found.prompts:
            raise self._refusal("config_sentence_transformers.json", f"has no prompt {found.default_prompt_name!r}")
        return found.prompts[found.default_prompt_name]

    def _dense(self, folder: str) -> Dense:
        file = self._in(folder, "config.json")
        config = self.read(file, _Dense)
        if config is None:
            raise self._refusal(file, "is missing")
        activation = (config.activation_function or "Identity").rpartition(".")[2]
        known = config.activation_function is None or config.activation_function.startswith("torch.nn.")
        if activation not in ACTIVATIONS or not known:
            raise self._refusal(file, f"ends in {config.activation_function}, not in {', '.join(ACTIVATIONS)}")
        if config.use_residual or {config.module_input_name, config.module_output_name} - {"sentence_embedding", None}:
            raise self._refusal(file, "is not a plain dense layer on the pooled vector")
        paths = [self._path(self._in(folder, name)) for name in DENSE_WEIGHTS]
        there = [path for path in paths if path is not None and path.is_file()]
        if not there:
            raise self._refusal(f"{folder}/{DENSE_WEIGHTS[0]}", "is missing")
        state = {name.removeprefix("linear."): tensor.float() for name, tensor in load_state(there[0]).items()}
        shapes: dict[str, tuple[int, ...]] = {"weight": (config.out_features, config.in_features)}
        shapes |= {"bias": (config.out_features,)} if config.bias else {}
        wrong = [
            f"{n} {tuple(state[n].shape)}" for n, shape in shapes.items() if n in state and state[n].shape != shape
        ]
        missing, extra = [n for n in shapes if n not in state], [n for n in state if n not in shapes]
        require_fit(f"{self.spec}: {folder}", missing, extra, wrong)
        return Dense(state, activation)

    def _refusal(self, file: str, what: str) -> EncoderError:
        return EncoderError(
            f"{self.spec}: {file} {what}, which is not supported. Pass --pooling mean, cls, max or last instead of the "
            "declared pooling."
        )


def text_before(sentence: Sentence | None) -> Callable[[str], str]:
    """Return the function that is applied to a text before tokenization."""
    if sentence is None or not (sentence.lower or sentence.prompt):
        return lambda text: text

    def changed(text: str) -> str:
        text = f"{sentence.prompt}{text}"
        return text.lower() if sentence.lower else text

    return changed
