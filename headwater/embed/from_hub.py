"""Encoders from the Hugging Face hub, or from a directory in its format."""

from __future__ import annotations

import copy
import inspect
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._devices import Precision
from headwater._extras import need
from headwater.embed._naflex import PATCHES, padded_patches, patches_of, pooled_tokens, see_patches, takes_patches
from headwater.embed._preprocess import ImagePipeline, ImagePreparer
from headwater.embed._torch import Frozen, fitting, quiet_libraries
from headwater.embed.contents import Content
from headwater.embed.encoder import Encoded, Preparer
from headwater.embed.model_spec import Transform
from headwater.embed.pooling import (
    OF_CELLS,
    OF_CLASS,
    POOLINGS,
    begins_with_class,
    grid_of_sequence,
    own_tokens,
    parse_pooling,
    pool_cells,
    pool_grid,
    pool_words,
    require_pooling,
)
from headwater.embed.sentence import Sentence, model_place, text_before
from headwater.embed.tunable import TorchFeatures, Tunable
from headwater.embed.weights import digest_of_vocabulary, first_line, load_state, require_fit
from headwater.errors import EncoderError
from headwater.store import FeatureSpec, Modality

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.embed.adapter import Adapter

    Tensors = tuple[Tensor, Tensor]

LONGEST_TRIED = 4096
"""Most tokens of the text with which an encoder is tested when it is loaded."""


class HubEncoder(Tunable[NDArray[Any]]):
    """A transformers model: a dual encoder (CLIP, SigLIP), a vision model, or a text model like BERT.

    Pooled features of a dual encoder are the projections that its training compares. Those of a vision model are its
    own pooled output, else its class token, else the mean of its tokens. Those of a text model are the mean over its
    tokens. A pooler with a dense layer (BERT, ViT) is not used: it was trained for another task, and many published
    weights lack it. Tokens are the last hidden state, without class and register tokens (images) or padding (texts).

    Parameters
    ----------
    name
        ``ORG/NAME`` on the hub, or a local directory.
    pooling
        How the tokens of the last hidden state become one vector instead; see `headwater.embed.pooling.POOLINGS`. A
        modality of a dual encoder that lacks the needed token is not encoded, such as images with ``last``.
    sentence
        The pooling that the folder of a sentence-transformers model declares.
    image_size
        Height and width, instead of those that the model was trained for; position embeddings are interpolated.
    transform
        How images are prepared, instead of the model's own processor, which is then not read.
    """

    library = "transformers"

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        adapter: Adapter | None = None,
        tokens: str = "none",
        pooling: str | None = None,
        sentence: Sentence | None = None,
        image_size: tuple[int, int] | None = None,
        transform: Transform | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        need("transformers", "encoders")
        self.name, self.tokens = f"hf:{name}", tokens
        self._transform = None if transform is None else transform.at(image_size)
        self._pooling = parse_pooling(pooling, self.name)
        name = model_place(name, sentence)
        with quiet_libraries():
            model, self._processor, self._tokenizer = _build(
                name, self.name, weights, trust_remote_code, self._transform
            )
        self._pipeline = None if self._transform is None else ImagePipeline(self._transform.steps())
        self._dual = self._processor is not None and self._tokenizer is not None
        vision, text = (getattr(model.config, f"{part}_config", model.config) for part in ("vision", "text"))
        self._has_class_token = getattr(getattr(model, "embeddings", None), "cls_token", None) is not None
        self._class_first = has_class_token(model)
        self._n_behind = int(getattr(model.config, "num_detection_tokens", None) or 0)
        self._masks = sees_everything(model)
        self._naflex = takes_patches(self._processor)
        self._interpolates: dict[str, bool] = {}
        if image_size is not None and self._processor is not None:
            self.image_size = image_size
            self._processor = self._resized(image_size, model, name, trust_remote_code)
        if self._naflex and tokens == "all":
            raise EncoderError(f"{self.name}: its images have different numbers of tokens. Pass --tokens N.")
        # DINOv3's ConvNeXt puts its pooled vector before its cells, each of which is 32 pixels wide.
        patch = 32 if model.config.model_type == "dinov3_convnext" else getattr(vision, "patch_size", None)
        self._patch = (patch, patch) if isinstance(patch, int) else tuple(patch or ())
        if self._tokenizer is not None:
            declared = int(getattr(text, "max_position_embeddings", None) or 512)  # XLNet, which has none, says -1
            self._declared_length = min(declared if declared > 0 else 512, int(self._tokenizer.model_max_length))
            self._max_length = min(self._declared_length, usable_positions(model))
            if self._dual or (sentence is not None and self._is_default(sentence)):
                sentence = None
            if sentence is not None and sentence.max_length is not None:
                self._declared_length = self._max_length = min(self._max_length, sentence.max_length)
            self.longest = min(self._max_length, LONGEST_TRIED)
            self._vocabulary = digest_of_vocabulary(self._tokenizer)
        self._sentence = sentence
        self._before = text_before(sentence)
        if sentence is not None:
            model.sentence_layers = need("torch.nn", "encoders").ModuleList(sentence.layers())
        able = self._poolable()
        # SigLIP pools the last position, even if it is padding, so its texts are always padded to the full length.
        self._pads_fully = str(model.config.model_type).startswith("siglip")
        self._frozen = Frozen(model, device, precision, weights, adapter, self.name)
        self.logit_scale = self._frozen.logit_scale if self._dual else None
        self.threads_own_cores = self._frozen.device == "cpu"
        try:
            with fitting(self.name, self.image_size):
                probes = self._probe(able)
        except EncoderError:
            raise
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise EncoderError(
                f"{self.name}: a {model.config.model_type} model cannot be used as an encoder ({first_line(error)})."
            ) from error
        self.modalities = frozenset(probes)
        self._dims = {m: e.pooled.shape[1] for m, e in probes.items()}
        self._token_shapes = {
            m: None if e.tokens is None else (np.shape(e.tokens)[1] if m == "image" else None, e.tokens[0].shape[1])
            for m, e in probes.items()
        }

    def _is_default(self, sentence: Sentence) -> bool:
        """Whether the declared pooling is the default one of text models."""
        same_length = sentence.max_length is None or sentence.max_length >= self._max_length
        return replace(sentence, max_length=None, folder="") == Sentence() and same_length

    def _poolable(self) -> frozenset[Modality]:
        """Return the modalities that have the tokens needed by ``--pooling``; without it, all."""
        able: dict[Modality, tuple[str, ...]] = {}
        if self._processor is not None:
            able["image"] = (*OF_CELLS, *(OF_CLASS if self._class_first else ()))
        if self._tokenizer is not None:
            able["text"] = (*OF_CELLS, "last", *(OF_CLASS if begins_with_class(self._tokenizer) else ()))
        found = frozenset(side for side, poolings in able.items() if self._pooling in (None, *poolings))
        if not found:
            require_pooling(self._pooling, [p for p in POOLINGS if p in set().union(*able.values())], self.name)
        return found

    def _probe(self, modalities: frozenset[Modality]) -> dict[Modality, Encoded]:
        """Encode one item of each modality."""
        probes: dict[Modality, Encoded] = {}
        if "image" in modalities:
            probes["image"] = self.encode("image", [self._pixels(Image.new("RGB", (64, 64)))])
        if "text" in modalities:
            probes["text"] = self.encode("text", [self._ids("a")])
        return probes

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of these features."""
        shape = self._token_shapes[modality]
        if modality == "image":
            preprocessing = self.with_steps(
                plain_settings(self._processor.to_dict()) if self._transform is None else self._transform.settings()
            )
            pooling = self._pooling or ("projection" if self._dual else "default")
        else:
            preprocessing = {
                "tokenizer": type(self._tokenizer).__name__,
                "max_length": self._declared_length,  # as in existing stores, all of whose texts are shorter
                "vocabulary": self._vocabulary,
            }
            if self.image_size is not None:
                preprocessing["image_size"] = list(self.image_size)
            if self._sentence is not None:
                preprocessing |= {"lower_case": self._sentence.lower, "words_before": self._sentence.prompt}
            declared = None if self._sentence is None else str(self._sentence)
            pooling = self._pooling or declared or ("projection" if self._dual else "mean")
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._frozen.digest,
            adapter=self._frozen.adapter,
            preprocessing=preprocessing,
            layer="last_hidden_state",
            pooling=pooling,
            dim=self._dims[modality],
            dtype=dtype,
            tokens=self.tokens,
            n_tokens=None if shape is None else shape[0],
            token_dim=None if shape is None else shape[1],
            logit_scale=None if self._pooling else self.logit_scale,
        )

    def towers(self) -> Mapping[Modality, Sequence[str]]:
        """Return the submodules for images, and those for texts."""
        if not self._dual:
            return dict.fromkeys(self.modalities, ("",))
        children = [n for n, _ in self.module.named_children()]
        of: dict[Modality, tuple[str, ...]] = {
            "image": tuple(n for n in children if n.startswith("vis")),
            "text": tuple(n for n in children if n.startswith("text")),
        }
        return of

    @property
    def resizes_to(self) -> tuple[int, int] | None:
        """Return the size in the processor's settings."""
        size = dict(getattr(self._processor, "size", None) or {})
        height, width = (int(size.get(side) or size.get("shortest_edge") or 0) for side in ("height", "width"))
        return (height, width) if height and width and not self._naflex else None

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Turn an image into pixels."""
        return self._pixels(image)

    def preparer(self, modality: Modality) -> Preparer | None:
        """Return the pipeline of images, with the steps before it; None for a processor of transformers."""
        given = self._pipeline if modality == "image" else None
        return None if given is None else ImagePreparer(given, self.steps)

    def prepare_text(self, text: str) -> NDArray[Any]:
        """Turn a text into token ids."""
        return self._ids(text)

    def collate(self, modality: Modality, batch: Sequence[NDArray[Any]]) -> tuple[Tensor, ...]:
        """Return pixels ``(n, 3, height, width)``; or ids and attention mask ``(n, longest)``, and lengths ``(n,)``."""
        if modality == "image" and self._naflex:
            return tuple(padded_patches(batch, self._processor.max_num_patches, self._frozen).values())
        if modality == "image":
            return (self._batch(batch),)
        return (*self._padded(batch), need("torch", "encoders").tensor([len(ids) for ids in batch]))

    def features(self, module: Any, modality: Modality, inputs: tuple[Tensor, ...]) -> TorchFeatures:
        """Return features of a collated batch."""
        if modality == "image" and self._naflex:
            pooled, hidden = see_patches(module, dict(zip(PATCHES, inputs, strict=True)))
            if self._pooling is not None:
                pooled = pool_words(self._pooling, hidden.float(), inputs[1].bool())
            tokens = None if self.tokens == "none" else pooled_tokens(hidden, inputs[2], int(self.tokens))
            return TorchFeatures(pooled, tokens)
        if modality == "image":
            pooled, hidden = self._see(module, *inputs)
            height, width = inputs[0].shape[2:]
            if self._pooling is not None:
                first = hidden[:, 0] if self._pooling in OF_CLASS else None
                pooled = pool_cells(self._pooling, self._cells(hidden, height, width).flatten(1, 2).float(), first)
            return TorchFeatures(pooled, None if self.tokens == "none" else self._image_tokens(hidden, height, width))
        ids, mask, lengths = inputs
        pooled, hidden = self._read(module, ids, mask)
        if self._sentence is not None:
            pooled = self._sentence.pooled(hidden, self._own_words(lengths, hidden), module.sentence_layers)
        elif self._pooling is not None:
            pooled = pool_words(self._pooling, hidden.float(), self._own_words(lengths, hidden))
        if self.tokens == "none":
            return TorchFeatures(pooled)
        own = [self._own(length, ids.shape[1]) for length in lengths.tolist()]
        return TorchFeatures(pooled, *own_tokens(hidden, own, None if self.tokens == "all" else int(self.tokens)))

    def length(self, modality: Modality, prepared: NDArray[Any]) -> int:
        """Return how many tokens of a text are stored."""
        if modality == "image" or self.tokens == "none":
            return 0
        return len(prepared) if self.tokens == "all" else min(len(prepared), int(self.tokens))

    def cut(self, modality: Modality, content: Content, prepared: NDArray[Any]) -> bool:
        """Whether a text is longer than the model's context."""
        if modality == "image" or len(prepared) < self._max_length:
            return False
        longer = self._longer(self._before(content.text()), truncation=True, max_length=self._max_length + 1)[
            "input_ids"
        ]
        return len(longer) > self._max_length

    @cached_property
    def _longer(self) -> Any:
        """A second tokenizer that truncates one token later; the length is part of a tokenizer's state."""
        own = copy.deepcopy(self._tokenizer)
        own("a", truncation=True, max_length=self._max_length + 1)
        return own

    # Images

    def _resized(self, size: tuple[int, int], model: Any, name: str, trust_remote_code: bool) -> Any:
        """Return the image processor for another size, and let the model interpolate its position embeddings.

        For a square size, resizing and cropping keep their proportions; for any other shape, nothing is cropped.
        """
        if self._naflex:
            raise EncoderError(f"{self.name} reads images in their own aspect ratio. Leave --image-size out.")
        sees = model.get_image_features if self._dual else model.forward
        if "interpolate_pos_encoding" in inspect.signature(sees).parameters:
            self._interpolates = {"interpolate_pos_encoding": True}
        if self._transform is not None:
            return self._processor
        height, width = size
        old, crop = (dict(getattr(self._processor, part, None) or {}) for part in ("size", "crop_size"))
        if height != width and hasattr(self._processor, "crop_pct"):
            raise EncoderError(f"{self.name} reads only square images. Pass --image-size {height}.")
        both = {"height": height, "width": width}
        changed: dict[str, Any] = {"size": both}
        if old.get("shortest_edge") and height == width:
            own = crop.get("height") or old["shortest_edge"]
            changed = {"size": {"shortest_edge": round(old["shortest_edge"] * height / own)}}
        elif crop:
            changed["do_center_crop"] = False
        if crop:
            changed["crop_size"] = both
        auto = need("transformers", "encoders").AutoImageProcessor
        return auto.from_pretrained(name, trust_remote_code=trust_remote_code, **changed)

    def _pixels(self, image: Any) -> NDArray[Any]:
        """Return preprocessed pixels, float32 of shape ``(3, height, width)``, or a grid of patches.

        A given transform leaves the last steps to `_batch`: uint8 of shape ``(height, width, 3)``.
        """
        if self._pipeline is not None:
            return self._pipeline.prepare(image)
        made = self._processor(images=image, return_tensors="np")
        values: NDArray[np.float32] = patches_of(made) if self._naflex else np.asarray(made["pixel_values"][0])
        return values

    def _batch(self, batch: Sequence[NDArray[Any]]) -> Tensor:
        if self._pipeline is not None:
            return self._pipeline.batch(batch, self._frozen)
        torch = need("torch", "encoders")
        x: Tensor = torch.from_numpy(np.stack(batch)).to(self._frozen.device, self._frozen.dtype)
        return x.contiguous(memory_format=torch.channels_last)

    def _see(self, model: Any, x: Tensor) -> Tensors:
        if self._dual:
            out = model.get_image_features(pixel_values=x, **self._interpolates)
            return out.pooler_output, out.last_hidden_state
        out = model(pixel_values=x, **self._interpolates, **(self._in_order(x) if self._masks else {}))
        hidden, pooled = out.last_hidden_state, out.get("pooler_output")
        if pooled is not None:
            return pooled.flatten(1), hidden
        if hidden.ndim == 4:
            return hidden.mean((2, 3)), hidden
        return hidden[:, 0] if self._has_class_token else hidden.mean(1), hidden

    def _in_order(self, x: Tensor) -> dict[str, Tensor]:
        """Return the positions of patches, by which a masked autoencoder orders them instead of by noise."""
        n_patches = (x.shape[2] // self._patch[0]) * (x.shape[3] // self._patch[1])
        places = need("torch", "encoders").arange(n_patches, device=x.device)
        return {"noise": places.expand(len(x), -1)}

    def _image_tokens(self, hidden: Tensor, height: int, width: int) -> Tensor:
        """Return tokens of shape ``(n, n_tokens, dim)``."""
        grid = self._cells(hidden, height, width)
        return grid.flatten(1, 2) if self.tokens == "all" else pool_grid(grid, int(self.tokens))

    def _cells(self, hidden: Tensor, height: int, width: int) -> Tensor:
        """Return the states of an image's cells, of shape ``(n, rows, columns, dim)``.

        Class and register tokens come first, detection tokens last; both are left out.
        """
        if hidden.ndim == 4:
            return hidden.permute(0, 2, 3, 1)
        end = hidden.shape[1] - self._n_behind
        expected: tuple[int, ...] = (height // self._patch[0], width // self._patch[1]) if self._patch else ()
        n_cells = math.prod(expected) if expected else 0
        start = (
            end - n_cells if 0 < n_cells <= end else int(self._class_first)
        )  # else patches were merged inside the model
        patches = hidden[:, start:end]
        rows, columns = grid_of_sequence(patches.shape[1], expected, of_square=height == width)
        return patches.reshape(len(patches), rows, columns, -1)

    # Texts

    def _ids(self, text: str) -> NDArray[np.int64]:
        ids = self._tokenizer(self._before(text), truncation=True, max_length=self._max_length)["input_ids"]
        return np.asarray(ids or [self._pad], np.int64)

    @property
    def _pad(self) -> int:
        return int(self._tokenizer.pad_token_id or 0)

    def _own(self, n_tokens: int, length: int) -> slice:
        """Return the slice of a text's own tokens among ``length`` padded ones."""
        left = self._pads_fully and self._tokenizer.padding_side == "left"
        return slice(length - n_tokens, length) if left else slice(0, n_tokens)

    def _own_words(self, lengths: Tensor, hidden: Tensor) -> Tensor:
        """Return the mask of a text's own states, bool, of shape ``(n, longest)``."""
        n_places = hidden.shape[1]
        places: Tensor = need("torch", "encoders").arange(n_places, device=hidden.device)
        n_own = lengths.to(hidden.device)[:, None]
        return places >= n_places - n_own if self._own(0, n_places).start > 0 else places < n_own

    def _padded(self, batch: Sequence[NDArray[Any]]) -> Tensors:
        """Return ids and attention mask, of shape ``(n, longest)``."""
        torch = need("torch", "encoders")
        longest = self._max_length if self._pads_fully else max(len(ids) for ids in batch)
        padded = np.full((len(batch), longest), self._pad, np.int64)
        mask = np.zeros_like(padded) if "attention_mask" in self._tokenizer.model_input_names else np.ones_like(padded)
        for i, ids in enumerate(batch):
            own = self._own(len(ids), longest)
            padded[i, own] = ids
            mask[i, own] = 1
        device = self._frozen.device
        return torch.from_numpy(padded).to(device), torch.from_numpy(mask).to(device)

    def _read(self, model: Any, ids: Tensor, mask: Tensor) -> Tensors:
        if self._dual:
            out = model.get_text_features(input_ids=ids, attention_mask=mask)
            return out.pooler_output, out.last_hidden_state
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1), hidden


def has_class_token(model: Any) -> bool:
    """Whether a vision model puts a class token before an image's patches."""
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    return bool(names & {"cls_token", "class_token", "class_embedding"})


def sees_everything(model: Any) -> bool:
    """Turn off the random masking of patches in a masked autoencoder; return whether the model is one.

    References
    ----------
    He et al., Masked autoencoders are scalable vision learners, 2022: its encoder sees whole images once trained.
    """
    if not hasattr(model.config, "mask_ratio") or "noise" not in inspect.signature(model.forward).parameters:
        return False
    model.config.mask_ratio = 0.0
    return True


def usable_positions(model: Any) -> int:
    """Return the number of tokens that have a position embedding; `sys.maxsize` if no table limits them.

    RoBERTa and similar models count positions from the padding index, so they never use the first rows of the table.
    """
    tables = [
        part
        for name, part in model.named_modules()
        if "position" in name.rpartition(".")[2] and getattr(part, "padding_idx", None) is not None
    ]
    usable = [int(len(table.weight) - table.padding_idx - 1) for table in tables if hasattr(table, "weight")]
    return min(usable, default=sys.maxsize)


def builtin_clip(
    name: str,
    *,
    weights: str | Path | None = None,
    adapter: Adapter | None = None,
    tokens: str = "none",
    device: str = "auto",
    precision: Precision = "auto",
) -> HubEncoder:
    """Build ``builtin:clip``, a small dual encoder for demonstrations, from files in the package.

    It was trained only on synthetic histology, by ``recipes/builtin_clip.py``, and is not meant for real tissue.
    """
    if weights is not None:
        raise EncoderError("builtin:clip has its own weights. Leave --weights out.")
    options: dict[str, Any] = {"adapter": adapter, "tokens": tokens, "device": device, "precision": precision}
    encoder = HubEncoder(str(Path(__file__).with_name(name)), **options)
    encoder.name = f"builtin:{name}"
    return encoder


def _build(
    name: str, spec: str, weights: str | Path | None, trust_remote_code: bool, transform: Transform | None
) -> tuple[Any, Any, Any]:
    """Build a transformers model, its image processor and its tokenizer; None for one that it does not need.

    A given transform takes the place of the processor.
    """
    transformers = need("transformers", "encoders")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    state = None if weights is None else load_state(weights)
    config = transformers.AutoConfig.from_pretrained(name, **options)
    kind = transformers.AutoModel if state is None else _kind_of(config, trust_remote_code)
    model, report = kind.from_pretrained(
        name if state is None else None,
        config=config,
        state_dict=state,
        dtype="float32",
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are named below
        weights_only=True,
        **options,
    )
    dual = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    sees = dual or model.main_input_name == "pixel_values"
    processor: Any = transform if sees else None
    if sees and transform is None:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **options)
    if transform is not None and not sees:
        raise EncoderError(f"{spec} reads no images, so that its spec cannot say how they are resized.")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options) if dual or not sees else None
    missing = sorted(n for n in report["missing_keys"] if not n.startswith("pooler."))
    shapes = sorted(f"{n} {tuple(own)} instead of {tuple(ours)}" for n, own, ours in report["mismatched_keys"])
    require_fit(spec if weights is None else f"--weights {weights}", missing, (), shapes)
    if hasattr(getattr(model, "pooler", None), "dense"):
        model.pooler = None
    if hasattr(model, "set_attention_type"):  # BigBird would switch by the longest text of a batch, permanently
        model.set_attention_type("original_full")
    return model, processor, tokenizer


def _kind_of(config: Any, trust_remote_code: bool) -> Any:
    """Return the model class of a configuration."""
    with need("torch", "encoders").device("meta"):
        return type(need("transformers", "encoders").AutoModel.from_config(config, trust_remote_code=trust_remote_code))


def plain_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image processor's settings as JSON values, without those that do not change pixels."""
    left_out = ("processor_class", "_processor_class", "data_format", "device")
    kept: dict[str, Any] = json.loads(json.dumps(dict(values), default=_plain_value))
    return {k: v for k, v in kept.items() if k not in left_out}


def _plain_value(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
