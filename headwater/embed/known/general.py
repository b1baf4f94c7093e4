"""Encoders of everyday photographs: controls that show what a medical encoder adds."""

from __future__ import annotations

from headwater.embed.known.entry import IMAGENET, Difference, Known, square, timm_on_hub
from headwater.embed.model_spec import ModelSpec

HUB = "https://huggingface.co"
TORCHVISION = "https://docs.pytorch.org/vision/stable/models.html"


def _dinov2(size: str, dim: int, revision: str = "", sha256: str | None = None) -> Known:
    model = f"vit_{size}_patch14_dinov2"
    return Known(
        name=f"dinov2-{size[0]}14",
        about=f"Meta, {model} by DINOv2",
        subject="general",
        dim=dim,
        pixels=(224, 224),
        spec=timm_on_hub(
            f"timm/{model}.lvd142m{revision}",
            model,
            square(224, IMAGENET, "bicubic"),
            dynamic_img_size=True,
        ),
        pooling="cls",
        n_tokens=256,
        licence="Apache-2.0",
        commercial=True,
        weights_file="model.safetensors",
        sha256=sha256,
        source=f"{HUB}/timm/{model}.lvd142m",
        trap="timm's own size is 518 pixels; here it sees 224, and its position embeddings are interpolated.",
        differences=(
            Difference(
                "img_size",
                "224 given to timm by others",
                "built with 518, as the weights are, then set to 224: the position embeddings come out the same",
                f"{HUB}/timm/{model}.lvd142m",
            ),
        ),
    )


def _dinov3(size: str, dim: int) -> Known:
    model = f"vit_{size}_patch16_dinov3"
    return Known(
        name=f"dinov3-{size[0]}16",
        about=f"Meta, {model} by DINOv3",
        subject="general",
        dim=dim,
        pixels=(256, 256),
        spec=timm_on_hub(f"timm/{model}.lvd1689m", model, square(256, IMAGENET, "bicubic")),
        pooling="cls",
        n_tokens=256,
        n_registers=4,
        licence="DINOv3 License",
        commercial=None,
        gated=True,
        weights_file="model.safetensors",
        source=f"{HUB}/timm/{model}.lvd1689m",
        trap="timm and transformers round its rotary positions differently: do not mix features of both.",
    )


def _resnet(depth: int, dim: int, tag: str, resize: int) -> Known:
    return Known(
        name=f"resnet{depth}",
        about=f"torchvision, ResNet-{depth} by supervised training on ImageNet",
        subject="general",
        dim=dim,
        pixels=(224, 224),
        spec=ModelSpec("torchvision", f"resnet{depth}/{tag}"),
        transform=square(224, IMAGENET, "bilinear", resize=resize),
        licence="BSD-3-Clause",
        commercial=True,
        source=TORCHVISION,
        trap="Trained on labels of ImageNet: a control, not a contender.",
    )


ENTRIES = (
    _dinov2("small", 384),
    _dinov2("base", 768),
    _dinov2(
        "large",
        1024,
        "@4741e1cafbf45415e77074bb0cb42dba76c8684a",
        "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
    ),
    _dinov3("small", 384),
    _dinov3("base", 768),
    _dinov3("large", 1024),
    _resnet(34, 512, "IMAGENET1K_V1", 256),
    _resnet(50, 2048, "IMAGENET1K_V2", 232),
)
