"""Image and text encoders from open_clip."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._devices import Precision
from headwater._extras import need
from headwater._reading import read_json
from headwater._schema import Word, read_as
from headwater.embed._preprocess import ImagePipeline, ImagePreparer
from headwater.embed._torch import Frozen, fitting, quiet_libraries
from headwater.embed.contents import Content
from headwater.embed.encoder import Preparer
from headwater.embed.gate import file_on_hub, needs_code
from headwater.embed.model_spec import Transform
from headwater.embed.pooling import (
    OF_CELLS,
    OF_CLASS,
    POOLINGS,
    begins_with_class,
    own_tokens,
    parse_pooling,
    pool_cells,
    pool_grid,
    pool_words,
    require_pooling,
)
from headwater.embed.tunable import TorchFeatures, Tunable
from headwater.embed.weights import digest_of_vocabulary, first_line, fit_weights, load_state
from headwater.errors import EncoderError, nearest
from headwater.store import FeatureSpec, Modality

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.embed.adapter import Adapter


TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
"""A tokenizer of transformers has one of these files."""


class OpenClipEncoder(Tunable[NDArray[Any]]):
    """A dual encoder of open_clip.

    Pooled features are those that contrastive training compares, not yet normalised. Tokens are the outputs of the last
    layer, after its norm if it has one: image patches without the class token, text tokens without padding.

    Parameters
    ----------
    name
        ``MODEL/WEIGHTS`` as in ``ViT-B-32/laion2b_s34b_b79k``; ``hf-hub:ORG/NAME``; ``local-dir:DIRECTORY``; or
        ``MODEL`` alone together with ``weights``.
    pooling
        How the tokens of the last layer become one vector instead; see `headwater.embed.pooling.POOLINGS`. A modality
        that lacks the needed token is not encoded: ``last`` is for texts, ``cls`` needs a class token.
    image_size
        Height and width, instead of those that the model was trained for; position embeddings are interpolated.
    transform
        How images are prepared, instead of the model's own transform.

    References
    ----------
    Ilharco et al., OpenCLIP, https://github.com/mlfoundations/open_clip
    """

    library = "open_clip"

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        adapter: Adapter | None = None,
        tokens: str = "none",
        pooling: str | None = None,
        image_size: tuple[int, int] | None = None,
        transform: Transform | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        need("open_clip", "encoders")
        self.name, self.tokens, self.image_size = f"open_clip:{name}", tokens, image_size
        with quiet_libraries(), fitting(self.name, image_size):
            model, self._tokenize = _build(
                name, self.name, image_size, with_weights=weights is None, trust_remote_code=trust_remote_code
            )
        if weights is not None:
            state = load_state(weights)
            if image_size is not None:
                need("open_clip.factory", "encoders").resize_pos_embed(state, model)
            fit_weights(model, state, f"--weights {weights}", optional=("text.transformer.embeddings.",))
        if transform is None:
            self._config = {k: list(v) if isinstance(v, tuple) else v for k, v in model.visual.preprocess_cfg.items()}
            transforms = need("open_clip.transform", "encoders")
            made = transforms.image_transform_v2(transforms.PreprocessCfg(**self._config), False)
        else:
            self._config = transform.at(image_size).settings()
            made = transform.at(image_size).steps()
        self._pipeline = ImagePipeline(made)
        self.longest = int(self._tokenize.context_length)
        self._pooling = parse_pooling(pooling, self.name)
        self.modalities = self._poolable(model)
        self._frozen = Frozen(model, device, precision, weights, adapter, self.name)
        self.logit_scale = self._frozen.logit_scale
        self.threads_own_cores = self._frozen.device == "cpu"
        self._dims: dict[Modality, int] = {}
        self._token_shapes: dict[Modality, Any] = {}
        if "image" in self.modalities:
            with fitting(self.name, image_size):
                image = self.encode("image", [self._pipeline.prepare(Image.new("RGB", (64, 64)))])
            self._dims["image"] = image.pooled.shape[1]
            self._token_shapes["image"] = None if image.tokens is None else np.shape(image.tokens)[1:]
        if "text" in self.modalities:
            text = self.encode("text", [self._ids("a")])
            self._dims["text"] = text.pooled.shape[1]
            self._token_shapes["text"] = None if text.tokens is None else (None, text.tokens[0].shape[1])

    def _poolable(self, model: Any) -> frozenset[Modality]:
        """Return the modalities that have the tokens needed by ``--pooling``; without it, both."""
        tower = getattr(model, "text", None)
        names = {name.rpartition(".")[2] for name, _ in model.visual.named_parameters()}
        able: dict[Modality, tuple[str, ...]] = {"image": OF_CELLS, "text": (*OF_CELLS, "last")}
        if names & {"cls_token", "class_embedding"}:
            able["image"] += OF_CLASS
        if isinstance(tower, need("open_clip.hf_model", "encoders").HFTextEncoder) and begins_with_class(
            self._tokenize.tokenizer
        ):
            able["text"] += OF_CLASS
        found = frozenset(side for side, poolings in able.items() if self._pooling in (None, *poolings))
        if not found:
            require_pooling(self._pooling, [p for p in POOLINGS if p in set().union(*able.values())], self.name)
        return found

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of these features."""
        shape = self._token_shapes[modality]
        texts = {"tokenizer": type(self._tokenize).__name__, "context_length": self._tokenize.context_length}
        if self.image_size is not None:  # it changes the digest of all weights, also for texts
            texts["image_size"] = list(self.image_size)
        if inner := getattr(self._tokenize, "tokenizer", None):
            texts["vocabulary"] = digest_of_vocabulary(inner)
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._frozen.digest,
            adapter=self._frozen.adapter,
            preprocessing=self.with_steps(self._config) if modality == "image" else texts,
            pooling=self._pooling or "projection",
            dim=self._dims[modality],
            dtype=dtype,
            tokens=self.tokens,
            n_tokens=None if shape is None else shape[0],
            token_dim=None if shape is None else shape[1],
            logit_scale=None if self._pooling else self.logit_scale,
        )

    def towers(self) -> Mapping[Modality, Sequence[str]]:
        """Return the submodules for images, and those for texts."""
        read = [n for n, _ in self.module.named_children() if n != "visual"]
        plain = [n for n, _ in self.module.named_parameters(recurse=False) if n.startswith(("text", "positional"))]
        return {"image": ("visual",), "text": tuple(dict.fromkeys([*read, *plain]))}

    @property
    def resizes_to(self) -> tuple[int, int] | None:
        """Return the size of the pipeline's resizing."""
        return self._pipeline.resizes_to

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop an image."""
        return self._pipeline.prepare(image)

    def preparer(self, modality: Modality) -> Preparer | None:
        """Return the pipeline of images, with the steps before it."""
        return ImagePreparer(self._pipeline, self.steps) if modality == "image" else None

    def prepare_text(self, text: str) -> NDArray[Any]:
        """Turn a text into token ids, padding cut off."""
        return self._ids(text)

    def collate(self, modality: Modality, batch: Sequence[NDArray[Any]]) -> tuple[Tensor, ...]:
        """Return pixels ``(n, 3, height, width)``; or token ids ``(n, context_length)`` and their numbers ``(n,)``."""
        if modality == "image":
            return (self._pipeline.batch(batch, self._frozen),)
        return self._padded(batch), need("torch", "encoders").tensor([len(ids) for ids in batch])

    def features(self, module: Any, modality: Modality, inputs: tuple[Tensor, ...]) -> TorchFeatures:
        """Return features of a collated batch."""
        return self._see(module, *inputs) if modality == "image" else self._read(module, *inputs)

    def length(self, modality: Modality, prepared: NDArray[Any]) -> int:
        """Return how many tokens of a text are stored."""
        if modality == "image" or self.tokens == "none":
            return 0
        return len(prepared) if self.tokens == "all" else min(len(prepared), int(self.tokens))

    def cut(self, modality: Modality, content: Content, prepared: NDArray[Any]) -> bool:
        """Whether a text is longer than the model's context."""
        length: int = self._tokenize.context_length
        if modality == "image" or len(prepared) < length:
            return False
        longer = self._longer([content.text()], context_length=length + 1)[0].numpy()
        return bool((longer != self._pad)[length])

    @cached_property
    def _longer(self) -> Any:
        """A second tokenizer that truncates one token later; the length is part of a tokenizer's state."""
        own = copy.deepcopy(self._tokenize)
        own(["a"], context_length=own.context_length + 1)
        return own

    def _see(self, model: Any, x: Tensor) -> TorchFeatures:
        if self.tokens == "none" and self._pooling is None:
            return TorchFeatures(model.encode_image(x))
        with_class = self._pooling in OF_CLASS
        more = {"output_extra_tokens": True} if with_class else {}
        out = model.visual.forward_intermediates(x, indices=1, normalize_intermediates=True, **more)
        grid = out["image_intermediates"][-1].permute(0, 2, 3, 1)
        pooled = out["image_features"]
        if self._pooling is not None:
            first = out["image_intermediates_prefix"][-1][:, 0] if with_class else None
            pooled = pool_cells(self._pooling, grid.flatten(1, 2).float(), first)
        if self.tokens == "none":
            return TorchFeatures(pooled)
        return TorchFeatures(pooled, grid.flatten(1, 2) if self.tokens == "all" else pool_grid(grid, int(self.tokens)))

    def _read(self, model: Any, ids: Tensor, lengths: Tensor) -> TorchFeatures:
        if self.tokens == "none" and self._pooling is None:
            return TorchFeatures(model.encode_text(ids))
        pooled, hidden = _text_tokens(model, ids)
        if self._pooling is not None:
            places = need("torch", "encoders").arange(hidden.shape[1], device=hidden.device)
            pooled = pool_words(self._pooling, hidden.float(), places < lengths.to(hidden.device)[:, None])
        if self.tokens == "none":
            return TorchFeatures(pooled)
        own = [slice(0, length) for length in lengths.tolist()]
        return TorchFeatures(pooled, *own_tokens(hidden, own, None if self.tokens == "all" else int(self.tokens)))

    def _ids(self, text: str) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self._tokenize([text])[0].numpy()
        used = np.flatnonzero(ids != self._pad)
        return ids[: int(used[-1]) + 1] if len(used) else ids[:1]

    @property
    def _pad(self) -> int:
        inner = getattr(self._tokenize, "tokenizer", None)
        return int(getattr(inner, "pad_token_id", None) or 0)

    def _padded(self, batch: Sequence[NDArray[Any]]) -> Tensor:
        """Return ids of shape ``(n, context_length)``, since the towers need the full length."""
        torch = need("torch", "encoders")
        ids = np.full((len(batch), self._tokenize.context_length), self._pad, np.int64)
        for row, own in zip(ids, batch, strict=True):
            row[: len(own)] = own
        padded: Tensor = torch.from_numpy(ids).to(self._frozen.device)
        return padded


def _text_tokens(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return pooled text features and the last layer's tokens."""
    tower = getattr(model, "text", None)
    if isinstance(tower, need("open_clip.hf_model", "encoders").HFTextEncoder):  # its own method drops the class token
        mask = (ids != tower.config.pad_token_id).long()
        hidden = tower.transformer(input_ids=ids, attention_mask=mask)
        return tower.proj(tower.pooler(hidden, mask)), hidden.last_hidden_state
    out = model.forward_intermediates(text=ids, text_indices=1, normalize=False, normalize_intermediates=True)
    return out["text_features"], out["text_intermediates"][-1]


def _build(
    name: str, spec: str, image_size: tuple[int, int] | None, *, with_weights: bool, trust_remote_code: bool
) -> tuple[Any, Any]:
    """Build an open_clip model and its tokenizer."""
    open_clip = need("open_clip", "encoders")
    whole = name.startswith(("hf-hub:", "local-dir:"))
    model_name, _, tag = (name, "", "") if whole else name.partition("/")
    tower = _text_tower(Path(name.removeprefix("local-dir:")), spec) if name.startswith("local-dir:") else {}
    trained: dict[str, Any] = {} if whole else _training_of(open_clip, model_name, tag, spec, with_weights)
    try:
        with warnings.catch_warnings():  # for weights that do not declare QuickGELU, the model's configuration decides
            warnings.filterwarnings("ignore", "QuickGELU mismatch", UserWarning)
            model = open_clip.create_model(
                model_name,
                pretrained=tag if tag and with_weights else None,
                load_weights=with_weights,
                require_pretrained=with_weights,
                pretrained_text=False,
                force_quick_gelu=bool(trained.get("quick_gelu")),
                force_preprocess_cfg=trained,
                force_image_size=image_size if image_size is None or len(set(image_size)) > 1 else image_size[0],
                weights_only=True,
                **tower,
            )
        words = (open_clip.get_model_config(model_name) or {}).get("text_cfg", {})
        # passed explicitly to transformers, which would otherwise ask; open_clip's own tokenizers do not accept it
        told = {"trust_remote_code": trust_remote_code} if words.get("hf_tokenizer_name") else {}
        return model, open_clip.get_tokenizer(model_name, **told)
    except Exception as error:  # the library raises many kinds for what it cannot use
        if "trust_remote_code" in str(error):
            raise needs_code(spec) from error
        if image_size is not None and "size mismatch" in str(error):
            raise EncoderError(
                f"{spec}: open_clip does not interpolate the position embeddings of this kind of model. Leave "
                "--image-size out."
            ) from error
        advice = (
            "Check that the folder holds open_clip_config.json, weights and, for a text model of transformers, its "
            "tokenizer."
            if tower or name.startswith("local-dir:")
            else "Without a network, pass --weights FILE or open_clip:local-dir:DIRECTORY."
        )
        raise EncoderError(f"{spec}: cannot be loaded ({first_line(error)}). {advice}") from error


@dataclass(frozen=True)
class _ModelConfig:
    text_cfg: dict[Word, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _OpenClipConfig:
    model_cfg: _ModelConfig


@dataclass(frozen=True)
class _TextConfig:
    model_type: Word


def _text_tower(folder: Path, spec: str) -> dict[str, Any]:
    """Return the text part of a folder's configuration, with the path of its text model; empty if it names none.

    A text model named by a relative path is searched in the folder, which may hold its ``config.json`` itself, then in
    the hub's cache. The current directory is never searched.

    Raises
    ------
    EncoderError
        When its configuration or its tokenizer is not found.
    """
    try:
        text = read_as(_OpenClipConfig, read_json(folder / "open_clip_config.json")).model_cfg.text_cfg
    except (OSError, ValueError):
        return {}  # open_clip reports the error
    named = text.get("hf_model_name")
    if not isinstance(named, str) or Path(named).is_absolute():
        return {}
    places = (folder / named, folder)
    place = next((place for place in places if _describes_text(place)), None)
    if place is None:
        cached = file_on_hub(named, "config.json")
        if cached is None:
            raise EncoderError(
                f"{spec}: open_clip_config.json names the text model {named}, but its configuration is neither in the "
                f"folder nor in the hub's cache. Save the config.json of {named} as {folder / 'config.json'}."
            )
        place = Path(cached).parent
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise EncoderError(
            f"{spec}: the text model {named} needs a tokenizer, but the folder has none. Save tokenizer.json and "
            f"tokenizer_config.json of {named} in {folder}."
        )
    return {"text_cfg": {**text, "hf_model_name": str(place.resolve())}}


def _describes_text(folder: Path) -> bool:
    """Whether a folder holds the configuration of a text model that open_clip knows."""
    try:
        found = read_as(_TextConfig, read_json(folder / "config.json"))
    except (OSError, ValueError):
        return False
    return found.model_type in need("open_clip.hf_configs", "encoders").arch_dict


def _training_of(open_clip: Any, model_name: str, tag: str, spec: str, with_weights: bool) -> dict[str, Any]:
    """Return the training settings of the weights ``tag``; empty without a tag."""
    if model_name not in open_clip.list_models():
        close = difflib.get_close_matches(model_name, open_clip.list_models(), n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise EncoderError(f"{spec}: open_clip has no such model.{hint}")
    tags = [t for m, t in open_clip.list_pretrained() if m == model_name]
    if (tag and tag not in tags) or (not tag and with_weights):
        what = f"open_clip has no weights {tag!r} for it.{nearest(tag, tags)}" if tag else "no weights are named."
        raise EncoderError(
            f"{spec}: {what} Write open_clip:{model_name}/WEIGHTS, with one of {', '.join(tags)}, or pass --weights "
            "FILE."
        )
    trained: dict[str, Any] = open_clip.get_pretrained_cfg(model_name, tag) if tag else {}
    plain = model_name.removesuffix("-quickgelu")
    if tag and plain != model_name and not trained.get("quick_gelu"):
        raise EncoderError(f"{spec}: these weights were trained without QuickGELU. Use open_clip:{plain}/{tag}.")
    return trained
