"""Encoders from timm."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from headwater._devices import Precision
from headwater._extras import need
from headwater.embed._preprocess import ImagePipeline
from headwater.embed._stages import chosen_stages, see_stages
from headwater.embed._torch import Frozen, fitting, quiet_libraries
from headwater.embed.fetched import weights_in, weights_on_hub
from headwater.embed.images_only import ImagesOnly
from headwater.embed.model_spec import ModelSpec, Transform, Value
from headwater.embed.pooling import (
    OF_CELLS,
    OF_CLASS,
    grid_of_sequence,
    parse_pooling,
    pool_cells,
    pool_grid,
    require_pooling,
)
from headwater.embed.tunable import TorchFeatures
from headwater.embed.weights import first_line, fit_weights, load_state
from headwater.errors import EncoderError
from headwater.store import FeatureSpec, Modality

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.embed.adapter import Adapter


class TimmEncoder(ImagesOnly):
    """A timm model without its classifier.

    The pooled feature is ``forward_head(forward_features(x), pre_logits=True)``. Tokens are the feature map or patch
    tokens of ``forward_features``, without class and register tokens. Preprocessing is the model's own evaluation
    transform.

    Parameters
    ----------
    layer
        Stages whose feature maps are used instead, such as ``stage3`` or ``stage2,stage4``. The pooled feature is the
        mean of each map, concatenated; tokens are the cells of the map and need a single stage.
    pooling
        How the tokens of ``forward_features`` become one vector instead; see `headwater.embed.pooling.POOLINGS`. Class
        and register tokens do not enter a mean or a maximum.
    image_size
        Height and width, instead of those that the model was trained for.
    arguments
        What the model is built with, instead of a configuration on the hub; see `headwater.embed.model_spec`.
    transform
        How images are prepared, instead of the model's own evaluation transform.

    References
    ----------
    Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models
    """

    library = "timm"

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        adapter: Adapter | None = None,
        tokens: str = "none",
        layer: str | None = None,
        pooling: str | None = None,
        image_size: tuple[int, int] | None = None,
        arguments: Mapping[str, Value] | None = None,
        transform: Transform | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        timm = need("timm", "encoders")
        self.name, self.tokens = f"timm:{name}", tokens
        described = ModelSpec("timm", name, arguments or {}, transform)
        file = weights_on_hub(described) if arguments and weights is None else weights
        with quiet_libraries():
            model = _build(timm, described, pretrained=file is None)
        if file is not None:
            source = self.name if weights is None else f"--weights {weights}"
            classifier = model.pretrained_cfg.get("classifier") or ()
            heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            aside = [f"{head}." for head in heads] + ["mask_token"] * bool(arguments)
            fit_weights(model, load_state(weights_in(file)), source, optional=aside)
        self.image_size = image_size
        if transform is not None:
            transform = transform.at(image_size)
        seen = image_size if transform is None else transform.size
        if seen is not None:
            _resize(model, seen, self.name)
        self._stages = {} if layer is None else chosen_stages(layer, model, self.name)
        if len(self._stages) > 1 and tokens != "none":
            raise EncoderError(
                f"{self.name}: --layer {layer} names {len(self._stages)} stages, but --tokens needs a single one."
            )
        if transform is None:
            self._config = timm.data.resolve_model_data_config(model)
            if image_size is not None:
                self._config["input_size"] = (3, *image_size)
            self._pipeline = ImagePipeline(timm.data.create_transform(**self._config, is_training=False))
        else:
            self._config = transform.settings()
            self._pipeline = ImagePipeline(transform.steps())
        self._sees: tuple[int, int] = self._config["input_size"][1:] if transform is None else transform.size
        self._channels_last_map = not self._stages and getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        patches = getattr(model, "patch_embed", None)
        self._grid = tuple(getattr(patches, "grid_size", None) or ())
        self._pooling = parse_pooling(pooling, self.name)
        require_pooling(
            self._pooling, OF_CELLS if self._stages or not has_class_token(model) else (*OF_CLASS, *OF_CELLS), self.name
        )
        self._frozen = Frozen(model, device, precision, weights, adapter, self.name)
        self.threads_own_cores = self._frozen.device == "cpu"
        height, width = self._sees
        with fitting(self.name, image_size):
            probe = self.encode("image", [self._pipeline.prepare(Image.new("RGB", (width, height)))])
        self._dim = probe.pooled.shape[1]
        self._token_shape = None if probe.tokens is None else np.shape(probe.tokens)[1:]

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of these features."""
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._frozen.digest,
            adapter=self._frozen.adapter,
            preprocessing=self.with_steps({k: list(v) if isinstance(v, tuple) else v for k, v in self._config.items()}),
            layer="+".join(self._stages) or "forward_features",
            pooling=self._pooled_by(),
            dim=self._dim,
            dtype=dtype,
            tokens=self.tokens,
            n_tokens=None if self._token_shape is None else self._token_shape[0],
            token_dim=None if self._token_shape is None else self._token_shape[1],
        )

    def _pooled_by(self) -> str:
        own = "mean of each stage" if self._stages else "forward_head(pre_logits)"
        return own if self._pooling is None or (self._stages and self._pooling == "mean") else self._pooling

    def features(self, module: Any, modality: Modality, inputs: tuple[Tensor, ...]) -> TorchFeatures:
        """Return features of a collated batch."""
        features, pooled = self._see(module, *inputs)
        return TorchFeatures(pooled, None if self.tokens == "none" else self._tokens(features))

    def _see(self, model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._stages:
            return see_stages(model, x, list(self._stages.values()), self._pooling or "mean")
        if self._pooling is None:
            return _forward(model, x)
        features = model.forward_features(x)
        first = features[:, 0] if "cls" in self._pooling else None
        return features, pool_cells(self._pooling, self._cells(features).float(), first)

    def _tokens(self, features: Tensor) -> Tensor:
        """Return tokens of shape ``(n, n_tokens, dim)`` from a feature map or a sequence."""
        cells = self._cells(features)
        if features.ndim == 3:
            rows, columns = self._sees
            height, width = grid_of_sequence(cells.shape[1], self._grid, of_square=rows == columns)
        else:
            height, width = features.shape[1:3] if self._channels_last_map else features.shape[2:4]
        if self.tokens == "all":
            return cells
        return pool_grid(cells.reshape(len(cells), height, width, -1), int(self.tokens))

    def _cells(self, features: Tensor) -> Tensor:
        """Return the cells of a feature map or a sequence, of shape ``(n, n_cells, dim)``."""
        if isinstance(features, (list, tuple)):  # from branches with patches of different sizes
            option = "--tokens" if self._pooling is None else "--pooling"
            raise EncoderError(f"{self.name} has several kinds of tokens. Pass --layer stage1, or leave {option} out.")
        if features.ndim == 3:
            return features[:, self._prefix :]
        if features.ndim != 4:
            raise EncoderError(f"{self.name} has no tokens. Leave --tokens and --pooling out.")
        return (features if self._channels_last_map else features.permute(0, 2, 3, 1)).flatten(1, 2)


def has_class_token(model: Any) -> bool:
    """Whether a timm model puts a class token before the patch tokens."""
    owners = (model, getattr(model, "embeds", None))
    has = any(getattr(owner, "cls_token", None) is not None for owner in owners)
    return has and int(getattr(model, "num_prefix_tokens", 0)) > 0


def _build(timm: Any, described: ModelSpec, *, pretrained: bool) -> Any:
    """Build a timm model without its classifier."""
    spec = described.plain
    name = str(described.arguments.get("architecture", described.name))
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **described.built_with())
    except RuntimeError as error:
        if not str(error).startswith(("Unknown model", "Invalid pretrained tag")):
            raise EncoderError(f"{spec}: cannot be built ({first_line(error)}).") from error
        close = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        what = "such model" if name == described.name else f"model {name}"
        raise EncoderError(f"{spec}: timm has no {what}.{hint}") from error
    except Exception as error:  # the library raises many kinds for what it cannot use
        if described.arguments:
            raise EncoderError(f"{spec}: {name} cannot be built so ({first_line(error)}).") from error
        if name.startswith("local-dir:"):
            raise EncoderError(f"{spec}: cannot be read ({first_line(error)}). Copy the folder again.") from error
        advice = "pass --weights FILE"
        if described.repository is not None:  # the configuration is wanted too
            place, _, folder = described.repository[0].rpartition("/")
            advice = f"run hf download {place}/{folder} --local-dir {folder} where there is one, and pass --encoder "
            advice += f"timm:local-dir:{folder}"
        words = f"cannot be fetched from the hub ({first_line(error)}). Without a network, {advice}."
        raise EncoderError(f"{spec}: {words}") from error


def _resize(model: Any, size: tuple[int, int], spec: str) -> None:
    """Change the input size of a model that depends on it, such as a ViT; a convolutional one accepts any size."""
    if hasattr(model, "set_input_size"):
        with fitting(spec, size), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about interpolation in Swin
            model.set_input_size(img_size=size)


def _forward(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features = model.forward_features(x)
    return features, model.forward_head(features, pre_logits=True)
