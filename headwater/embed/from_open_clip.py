"""Image and text encoders from open_clip."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.embed._preprocess import ImagePipeline
from headwater.embed._torch import Frozen, fit_weights, load_state, to_numpy
from headwater.embed.encoder import Content, Encoded, Encoder, Precision
from headwater.embed.pooling import pool_grid, pool_sequence
from headwater.errors import EncoderError
from headwater.store import FeatureSpec, Modality

if TYPE_CHECKING:
    from torch import Tensor


class OpenClipEncoder(Encoder[NDArray[Any]]):
    """A dual encoder of open_clip.

    Pooled features are those that its contrastive training compares, not yet normalised. Tokens are the last layer's,
    after its norm where it has one: image patches without the class token, text tokens without padding.

    Parameters
    ----------
    name
        ``MODEL/WEIGHTS`` as in ``ViT-B-32/laion2b_s34b_b79k``; ``hf-hub:ORG/NAME``; ``local-dir:DIRECTORY``; or
        ``MODEL`` alone together with ``weights``.

    References
    ----------
    Ilharco et al., OpenCLIP, https://github.com/mlfoundations/open_clip
    """

    modalities = frozenset[Modality]({"image", "text"})

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        tokens: str = "none",
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        open_clip = need("open_clip", "encoders")
        self.name, self.tokens = f"open_clip:{name}", tokens
        whole = name.startswith(("hf-hub:", "local-dir:"))
        model_name, _, tag = (name, "", "") if whole else name.partition("/")
        if not whole and model_name not in open_clip.list_models():
            close = difflib.get_close_matches(model_name, open_clip.list_models(), n=3)
            hint = f" Did you mean {', '.join(close)}?" if close else ""
            raise EncoderError(f"{self.name}: open_clip has no such model.{hint}")
        if not whole and not tag and weights is None:
            tags = [t for m, t in open_clip.list_pretrained() if m == model_name]
            raise EncoderError(
                f"{self.name} names no weights: write open_clip:{model_name}/WEIGHTS, WEIGHTS one of "
                f"{', '.join(tags)}, or pass --weights FILE."
            )
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                model_name, pretrained=tag if tag and weights is None else None, load_weights=weights is None
            )
            self._tokenize = open_clip.get_tokenizer(model_name)
        except (OSError, RuntimeError, ValueError) as error:
            raise EncoderError(
                f"{self.name}: cannot be loaded ({str(error).splitlines()[0]}). Without a network, pass --weights FILE "
                "or open_clip:local-dir:DIRECTORY."
            ) from error
        if weights is not None:
            fit_weights(model, load_state(weights), f"--weights {weights}", optional=("text.transformer.embeddings.",))
        self.logit_scale = float(model.logit_scale.exp())
        config = model.visual.preprocess_cfg
        self._config = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
        self._pipeline = ImagePipeline(transform)
        self._frozen = Frozen(model, device, precision)
        self.threads_own_cores = self._frozen.device == "cpu"
        size = self._config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        image = self.encode("image", [np.zeros((height, width, 3), np.uint8)])
        text = self.encode("text", [self._ids("a")])
        self._dims = {"image": image.pooled.shape[1], "text": text.pooled.shape[1]}
        self._token_shapes = {
            "image": None if image.tokens is None else np.shape(image.tokens)[1:],
            "text": None if text.tokens is None else (None, text.tokens[0].shape[1]),
        }

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return what defines these features."""
        shape = self._token_shapes[modality]
        texts = {"tokenizer": type(self._tokenize).__name__, "context_length": self._tokenize.context_length}
        images = {k: list(v) if isinstance(v, tuple) else v for k, v in self._config.items()}
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._frozen.digest,
            preprocessing=images if modality == "image" else texts,
            pooling="projection",
            dim=self._dims[modality],
            dtype=dtype,
            tokens=self.tokens,
            n_tokens=None if shape is None else shape[0],
            token_dim=None if shape is None else shape[1],
        )

    def prepare(self, modality: Modality, content: Content) -> NDArray[Any]:
        """Read, resize and crop an image; or turn a text into token ids, padding cut off."""
        return self._pipeline.prepare(content.image()) if modality == "image" else self._ids(content.text())

    def encode(self, modality: Modality, batch: Sequence[NDArray[Any]]) -> Encoded:
        """Encode prepared images or texts."""
        return self._images(batch) if modality == "image" else self._texts(batch)

    def length(self, modality: Modality, prepared: NDArray[Any]) -> int:
        """Return how many tokens of a text are stored."""
        if modality == "image" or self.tokens == "none":
            return 0
        return len(prepared) if self.tokens == "all" else min(len(prepared), int(self.tokens))

    def settle(self, modality: Modality, batch: Sequence[NDArray[Any]]) -> None:
        """Try bf16."""
        if modality == "image":
            self._frozen.settle(lambda model, x: model.encode_image(x), self._pipeline.batch(batch, self._frozen))
        else:
            self._frozen.settle(lambda model, ids: _text_tokens(model, ids)[0], self._padded(batch))

    def environment(self) -> dict[str, Any]:
        """Return versions, device and precision."""
        return {**self._frozen.environment(), "open_clip": need("open_clip", "encoders").__version__}

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Take over an earlier run's precision."""
        self._frozen.restore(environment)

    def _images(self, batch: Sequence[NDArray[Any]]) -> Encoded:
        x = self._pipeline.batch(batch, self._frozen)
        if self.tokens == "none":
            return Encoded(to_numpy(self._frozen.run(lambda model: model.encode_image(x))))
        out = self._frozen.run(
            lambda model: model.forward_intermediates(
                image=x, image_indices=1, normalize=False, normalize_intermediates=True
            )
        )
        grid = out["image_intermediates"][-1].permute(0, 2, 3, 1)
        tokens = grid.flatten(1, 2) if self.tokens == "all" else pool_grid(grid, int(self.tokens))
        return Encoded(to_numpy(out["image_features"]), to_numpy(tokens))

    def _texts(self, batch: Sequence[NDArray[Any]]) -> Encoded:
        ids = self._padded(batch)
        if self.tokens == "none":
            return Encoded(to_numpy(self._frozen.run(lambda model: model.encode_text(ids))))
        pooled, hidden = self._frozen.run(_text_tokens, ids)
        n_tokens = ids.shape[1] if self.tokens == "all" else int(self.tokens)
        tokens = [to_numpy(pool_sequence(h[: len(own)], n_tokens)) for h, own in zip(hidden, batch, strict=True)]
        return Encoded(to_numpy(pooled), tokens)

    def _ids(self, text: str) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self._tokenize([text])[0].numpy()
        used = np.flatnonzero(ids != self._pad)
        return ids[: int(used[-1]) + 1] if len(used) else ids[:1]

    @property
    def _pad(self) -> int:
        inner = getattr(self._tokenize, "tokenizer", None)
        return int(getattr(inner, "pad_token_id", None) or 0)

    def _padded(self, batch: Sequence[NDArray[Any]]) -> Tensor:
        """Return ids of shape ``(n, context_length)``; the towers want their full length."""
        torch = need("torch", "encoders")
        ids = np.full((len(batch), self._tokenize.context_length), self._pad, np.int64)
        for row, own in zip(ids, batch, strict=True):
            row[: len(own)] = own
        padded: Tensor = torch.from_numpy(ids).to(self._frozen.device)
        return padded


def _text_tokens(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return pooled text features and the last layer's tokens."""
    tower = getattr(model, "text", None)
    if tower is not None and not hasattr(tower, "forward_intermediates"):  # a Hugging Face text tower
        tower.output_tokens = True
        pooled, hidden = tower(ids)
        return pooled, hidden
    out = model.forward_intermediates(text=ids, text_indices=1, normalize=False, normalize_intermediates=True)
    return out["text_features"], out["text_intermediates"][-1]
