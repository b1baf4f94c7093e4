"""Encoders from torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from headwater._devices import Precision
from headwater._extras import need
from headwater.embed._preprocess import ImagePipeline
from headwater.embed._torch import Frozen, quiet_libraries
from headwater.embed.fetched import weights_in
from headwater.embed.images_only import ImagesOnly
from headwater.embed.pooling import OF_CELLS, OF_CLASS, parse_pooling, pool_cells, require_pooling
from headwater.embed.tunable import TorchFeatures
from headwater.embed.weights import first_line, fit_weights, load_state
from headwater.errors import EncoderError, nearest
from headwater.store import FeatureSpec, Modality

if TYPE_CHECKING:
    from torch import Tensor, nn

    from headwater.embed.adapter import Adapter


CLASSES = 1000
"""Number of classes of ImageNet, which all these classifiers predict."""
INCEPTIONS = ("googlenet", "inception_v3")
ASIDE = ("aux1", "aux2", "AuxLogits", "aux_logits")
"""Auxiliary classifiers inside Inception models, used in training, and the switch for them."""


class TorchvisionEncoder(ImagesOnly):
    """A classifier of torchvision without its last linear layer; the pooled feature is the input of this layer.

    Preprocessing is the evaluation transform of the weights. For tokens, and for images of another size, use timm,
    which has most of these models too.

    Parameters
    ----------
    name
        A model, such as ``alexnet``; for weights other than the default ones, with their name after a slash, such as
        ``resnet50/IMAGENET1K_V1``.
    pooling
        How the last feature map, or a vision transformer's tokens, become one vector instead; see
        `headwater.embed.pooling.POOLINGS`.

    References
    ----------
    https://docs.pytorch.org/vision/stable/models.html
    """

    library = "torchvision"

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        adapter: Adapter | None = None,
        tokens: str = "none",
        pooling: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.name, self.tokens = f"torchvision:{name}", tokens
        if tokens != "none":
            raise EncoderError(f"{self.name} has no tokens. Leave --tokens out, or use the model from timm.")
        named, architecture = named_weights(name, self.name), name.partition("/")[0]
        if weights is None:
            model = _fetched(architecture, named, self.name)
            without_classifier(model, self.name)
        else:
            model = _as_trained(architecture)
            head = without_classifier(model, self.name)
            aside = [f"{part}." for part in (head, *ASIDE)]
            fit_weights(model, _renamed(load_state(weights_in(weights))), f"--weights {weights}", optional=aside)
        self._pooling = parse_pooling(pooling, self.name)
        if self._pooling is not None:
            _pool_last(model, self._pooling, self.name)
        self._config, transform = _transform_of(named)
        self._pipeline = ImagePipeline(transform)
        self._frozen = Frozen(model, device, precision, weights, adapter, self.name)
        self.threads_own_cores = self._frozen.device == "cpu"
        self._dim = self.encode("image", [self._pipeline.prepare(Image.new("RGB", (64, 64)))]).pooled.shape[1]

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of these features."""
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._frozen.digest,
            adapter=self._frozen.adapter,
            preprocessing=self.with_steps(self._config),
            layer="before the classifier" if self._pooling is None else "last tokens",
            pooling=self._pooling or "own",
            dim=self._dim,
            dtype=dtype,
        )

    def features(self, module: Any, modality: Modality, inputs: tuple[Tensor, ...]) -> TorchFeatures:
        """Return features of a collated batch."""
        if self._pooling is None:
            return TorchFeatures(module(*inputs))
        if not hasattr(module, "class_token"):
            return TorchFeatures(module(*inputs).flatten(1))
        tokens = _tokens_of(module, *inputs)
        return TorchFeatures(pool_cells(self._pooling, tokens[:, 1:].float(), tokens[:, 0]))


def named_weights(name: str, spec: str) -> Any:
    """Return torchvision's entry for a model's weights.

    Raises
    ------
    EncoderError
        When there is no such classifier, or it has no such weights.
    """
    models = need("torchvision.models", "encoders")
    model, _, tag = name.partition("/")
    known = models.list_models(module=models)
    if model not in known:
        raise EncoderError(f"{spec}: torchvision has no such classifier.{nearest(model, known)}")
    of_model = models.get_model_weights(model)
    names = [weights.name for weights in of_model]
    if tag and tag not in names:
        raise EncoderError(f"{spec}: there are no such weights.{nearest(tag, names)} There are: {', '.join(names)}.")
    return of_model[tag] if tag else of_model.DEFAULT


def cached_file(named: Any) -> Path:
    """Return the path of weights in torch's cache."""
    return Path(need("torch.hub", "encoders").get_dir(), "checkpoints", named.url.rpartition("/")[2])


def _fetched(architecture: str, named: Any, spec: str) -> nn.Module:
    """Return a model with weights from the cache or the network."""
    offline = need("huggingface_hub.constants", "encoders").HF_HUB_OFFLINE
    advice = f"Without a network, pass --weights FILE ({named.url} saved to a file)."
    if offline and not cached_file(named).exists():
        raise EncoderError(f"{spec}: the weights are not at {cached_file(named)}. {advice}")
    try:
        with quiet_libraries():
            model: nn.Module = need("torchvision.models", "encoders").get_model(
                architecture, weights=named, progress=False
            )
    except (OSError, RuntimeError) as error:
        raise EncoderError(f"{spec}: cannot be fetched ({first_line(error)}). {advice}") from error
    return model


def _as_trained(architecture: str) -> nn.Module:
    """Return a model as torchvision builds it for weights, but without loading them."""
    own = {"aux_logits": True, "transform_input": True, "init_weights": False} if architecture in INCEPTIONS else {}
    with quiet_libraries():
        model: nn.Module = need("torchvision.models", "encoders").get_model(architecture, weights=None, **own)
    return model


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with the current names of DenseNet's layers; files have older names."""
    return {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name): t for name, t in state.items()}


def without_classifier(model: nn.Module, spec: str) -> str:
    """Remove a model's last linear layer, and Inception's auxiliary classifiers; return the layer's name."""
    nn = need("torch.nn", "encoders")
    for part in ASIDE:
        if hasattr(model, part):
            setattr(model, part, False if part == "aux_logits" else None)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or model.get_submodule(linear[-1]).out_features != CLASSES:
        raise EncoderError(
            f"{spec} does not end in a linear layer, so its features are not defined. Choose another model."
        )
    name: str = linear[-1]
    above, _, last = name.rpartition(".")
    setattr(model.get_submodule(above), last, nn.Identity())
    return name


def _pool_last(model: Any, pooling: str, spec: str) -> None:
    """Make a model end in its pooled last feature map; `features` pools the tokens of a vision transformer.

    Raises
    ------
    EncoderError
        When the model has no such map, or no such token.
    """
    nn = need("torch.nn", "encoders")
    if hasattr(model, "class_token"):
        require_pooling(pooling, (*OF_CLASS, *OF_CELLS), spec)
        return
    size = getattr(getattr(model, "avgpool", None), "output_size", None)
    require_pooling(pooling, OF_CELLS, spec)
    if size not in (1, (1, 1)):
        raise EncoderError(f"{spec}: --pooling {pooling}: this model's pooling is fixed in its code. Use it from timm.")
    model.avgpool = nn.AdaptiveMaxPool2d(1) if pooling == "max" else nn.AdaptiveAvgPool2d(1)
    for after in ("classifier", "fc", "head"):
        if hasattr(model, after):
            setattr(model, after, nn.Identity())


def _tokens_of(model: Any, x: Tensor) -> Tensor:
    """Return the tokens of a vision transformer after its last norm, of shape ``(n, 1 + n_cells, dim)``."""
    torch = need("torch", "encoders")
    cells = model._process_input(x)
    tokens: Tensor = model.encoder(torch.cat([model.class_token.expand(len(cells), -1, -1), cells], 1))
    return tokens


def _transform_of(named: Any) -> tuple[dict[str, Any], Any]:
    """Return the transform of weights as plain values and as torchvision's own steps."""
    transforms = need("torchvision.transforms", "encoders")
    own = named.transforms()
    (crop,), (resize,) = own.crop_size, own.resize_size
    config = {
        "resize_size": resize,
        "crop_size": crop,
        "crop_pct": crop / resize,
        "interpolation": own.interpolation.value,
        "mean": [float(value) for value in np.asarray(own.mean)],
        "std": [float(value) for value in np.asarray(own.std)],
    }
    steps = [
        transforms.Resize(resize, interpolation=own.interpolation),
        transforms.CenterCrop(crop),
        transforms.ToTensor(),
        transforms.Normalize(own.mean, own.std),
    ]
    return config, transforms.Compose(steps)
