"""Encoders from the Hugging Face hub, or from a directory in its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.embed._torch import Frozen, fit_weights, load_state, to_numpy
from headwater.embed.encoder import Content, Encoded, Encoder, Precision
from headwater.embed.pooling import pool_grid, pool_sequence
from headwater.errors import EncoderError
from headwater.store import FeatureSpec, Modality

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = tuple[Tensor, Tensor]


class HubEncoder(Encoder[NDArray[Any]]):
    """A transformers model: a dual encoder (CLIP, SigLIP), a vision model, or a text model like BERT.

    Pooled features are, for a dual encoder, the projections that its training compares; for a vision model, the class
    token after the last norm, or the mean over the feature map where there is none; for a text model, the mean over
    its tokens. Tokens are the last hidden state, without class and register tokens (images) or padding (texts).

    Parameters
    ----------
    name
        ``ORG/NAME`` on the hub, or a local directory.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        tokens: str = "none",
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        transformers = need("transformers", "encoders")
        self.name, self.tokens = f"hf:{name}", tokens
        try:
            config = transformers.AutoConfig.from_pretrained(name)
            if weights is None:
                model = transformers.AutoModel.from_pretrained(name, dtype="float32")
            else:
                model = transformers.AutoModel.from_config(config)
                fit_weights(model, load_state(weights), f"--weights {weights}")
            dual = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
            sees = dual or model.main_input_name == "pixel_values"
            self._processor = transformers.AutoImageProcessor.from_pretrained(name) if sees else None
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(name) if dual or not sees else None
        except (OSError, ValueError, ImportError) as error:
            raise EncoderError(
                f"{self.name}: cannot be loaded ({str(error).strip().splitlines()[0]}) Without a network, give a "
                "directory: hf:DIRECTORY."
            ) from error
        self.modalities = frozenset[Modality]((["image"] if sees else []) + (["text"] if self._tokenizer else []))  # type: ignore[arg-type]
        self._dual = dual
        self.logit_scale = float(model.logit_scale.exp()) if dual else None
        self._has_class_token = bool(getattr(getattr(model, "embeddings", None), "cls_token", None) is not None)
        vision = getattr(config, "vision_config", config)
        self._registers = int(getattr(vision, "num_register_tokens", 0) or 0)
        self._patch = getattr(vision, "patch_size", None)
        text = getattr(config, "text_config", config)
        self._max_length = int(getattr(text, "max_position_embeddings", 512))
        self._frozen = Frozen(model, device, precision)
        self.threads_own_cores = self._frozen.device == "cpu"
        probes: dict[Modality, Encoded] = {}
        if self._processor is not None:
            blank = need("PIL.Image", "encoders").new("RGB", (64, 64))
            probes["image"] = self._encode_images([self._pixels(blank)])
        if self._tokenizer is not None:
            probes["text"] = self._encode_texts([self._ids("a")])
        self._dims = {m: e.pooled.shape[1] for m, e in probes.items()}
        self._token_shapes = {
            m: None if e.tokens is None else (np.shape(e.tokens)[1] if m == "image" else None, e.tokens[0].shape[1])
            for m, e in probes.items()
        }

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return what defines these features."""
        shape = self._token_shapes[modality]
        pooling = "projection" if self._dual else "mean"
        if modality == "image":
            preprocessing = _plain(self._processor.to_dict())  # type: ignore[union-attr]
            if not self._dual and self._has_class_token:
                pooling = "class token"
        else:
            preprocessing = {"tokenizer": type(self._tokenizer).__name__, "max_length": self._max_length}
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._frozen.digest,
            preprocessing=preprocessing,
            layer="last_hidden_state",
            pooling=pooling,
            dim=self._dims[modality],
            dtype=dtype,
            tokens=self.tokens,
            n_tokens=None if shape is None else shape[0],
            token_dim=None if shape is None else shape[1],
        )

    def prepare(self, modality: Modality, content: Content) -> NDArray[Any]:
        """Turn an image into pixels, or a text into token ids."""
        return self._pixels(content.image()) if modality == "image" else self._ids(content.text())

    def encode(self, modality: Modality, batch: Sequence[NDArray[Any]]) -> Encoded:
        """Encode prepared images or texts."""
        return self._encode_images(batch) if modality == "image" else self._encode_texts(batch)

    def length(self, modality: Modality, prepared: NDArray[Any]) -> int:
        """Return how many tokens of a text are stored."""
        if modality == "image" or self.tokens == "none":
            return 0
        return len(prepared) if self.tokens == "all" else min(len(prepared), int(self.tokens))

    def settle(self, modality: Modality, batch: Sequence[NDArray[Any]]) -> None:
        """Try bf16."""
        if modality == "image":
            self._frozen.settle(lambda model, x: self._see(model, x)[0], self._batch(batch))
        else:
            self._frozen.settle(lambda model, ids, mask: self._read(model, ids, mask)[0], *self._padded(batch))

    def environment(self) -> dict[str, Any]:
        """Return versions, device and precision."""
        return {**self._frozen.environment(), "transformers": need("transformers", "encoders").__version__}

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Take over an earlier run's precision."""
        self._frozen.restore(environment)

    # Images

    def _pixels(self, image: Any) -> NDArray[np.float32]:
        """Return what the image processor makes, float32 of shape ``(3, height, width)``."""
        values: NDArray[np.float32] = np.asarray(self._processor(images=image, return_tensors="np")["pixel_values"][0])  # type: ignore[misc]
        return values

    def _batch(self, batch: Sequence[NDArray[Any]]) -> Tensor:
        torch = need("torch", "encoders")
        x: Tensor = torch.from_numpy(np.stack(batch)).to(self._frozen.device, self._frozen.dtype)
        return x.contiguous(memory_format=torch.channels_last)

    def _encode_images(self, batch: Sequence[NDArray[Any]]) -> Encoded:
        x = self._batch(batch)
        pooled, hidden = self._frozen.run(self._see, x)
        if self.tokens == "none":
            return Encoded(to_numpy(pooled))
        return Encoded(to_numpy(pooled), to_numpy(self._image_tokens(hidden, x.shape[2], x.shape[3])))

    def _see(self, model: Any, x: Tensor) -> Tensors:
        if self._dual:
            out = model.get_image_features(pixel_values=x)
            return out.pooler_output, out.last_hidden_state
        hidden = model(pixel_values=x).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3)), hidden
        return hidden[:, 0] if self._has_class_token else hidden.mean(1), hidden

    def _image_tokens(self, hidden: Tensor, height: int, width: int) -> Tensor:
        """Return tokens of shape ``(n, n_tokens, dim)``, class and register tokens left out."""
        if hidden.ndim == 4:
            grid = hidden.permute(0, 2, 3, 1)
        else:
            patch = self._patch if isinstance(self._patch, int) else None
            rows, columns = (height // patch, width // patch) if patch else (1, hidden.shape[1])
            patches = hidden[:, hidden.shape[1] - rows * columns :] if hidden.shape[1] >= rows * columns else hidden
            if patches.shape[1] != rows * columns:
                rows, columns = _square(patches.shape[1])
            grid = patches.reshape(len(hidden), rows, columns, -1)
        return grid.flatten(1, 2) if self.tokens == "all" else pool_grid(grid, int(self.tokens))

    # Texts

    def _ids(self, text: str) -> NDArray[np.int64]:
        limit = min(self._max_length, int(self._tokenizer.model_max_length))  # type: ignore[union-attr]
        ids = self._tokenizer(text, truncation=True, max_length=limit)["input_ids"]  # type: ignore[misc]
        return np.asarray(ids, np.int64)

    def _padded(self, batch: Sequence[NDArray[Any]]) -> Tensors:
        """Return ids and attention mask, of shape ``(n, longest)``."""
        torch = need("torch", "encoders")
        longest = max(len(ids) for ids in batch)
        padded = np.full((len(batch), longest), int(self._tokenizer.pad_token_id or 0), np.int64)  # type: ignore[union-attr]
        mask = np.zeros_like(padded)
        for i, ids in enumerate(batch):
            padded[i, : len(ids)] = ids
            mask[i, : len(ids)] = 1
        device = self._frozen.device
        return torch.from_numpy(padded).to(device), torch.from_numpy(mask).to(device)

    def _encode_texts(self, batch: Sequence[NDArray[Any]]) -> Encoded:
        pooled, hidden = self._frozen.run(self._read, *self._padded(batch))
        if self.tokens == "none":
            return Encoded(to_numpy(pooled))
        n = hidden.shape[1] if self.tokens == "all" else int(self.tokens)
        tokens = [to_numpy(pool_sequence(h[: len(ids)], n)) for h, ids in zip(hidden, batch, strict=True)]
        return Encoded(to_numpy(pooled), tokens)

    def _read(self, model: Any, ids: Tensor, mask: Tensor) -> Tensors:
        if self._dual:
            out = model.get_text_features(input_ids=ids, attention_mask=mask)
            return out.pooler_output, out.last_hidden_state
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1), hidden


def _square(n: int) -> tuple[int, int]:
    side = int(n**0.5)
    return (side, side) if side * side == n else (1, n)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON values among an image processor's settings, those that do not change pixels left out."""
    kept = {
        k: v for k, v in values.items() if k not in ("processor_class", "_processor_class", "data_format", "device")
    }
    return {k: v for k, v in kept.items() if v is None or isinstance(v, (bool, int, float, str, list, dict))}
