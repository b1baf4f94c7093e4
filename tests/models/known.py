"""Tiny twins of known encoders: saved as their hub has them, and encoded as their cards say, without headwater.

What stands here was written from the models' cards, apart from `headwater.embed.known`: both must agree.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.models.dual import build_open_clip, clip, open_clip_with_bert, siglip
from tests.models.parts import WIDTHS, processor_of, scatter

TINY = {"depth": 2, "embed_dim": 48, "num_heads": 2}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
OPTIMUS = ([0.707223, 0.578729, 0.703617], [0.211883, 0.230117, 0.177517])
LUNIT = ([0.70322989, 0.53606487, 0.66096631], [0.21716536, 0.26081574, 0.20723464])


def steps(resize, crop, colours, mode):
    """Return the transform of a card."""
    from torchvision import transforms as t

    cut = [] if crop is None else [t.CenterCrop(crop)]
    return t.Compose(
        [t.Resize(resize, interpolation=t.InterpolationMode(mode)), *cut, t.ToTensor(), t.Normalize(*colours)]
    )


def swiglu():
    """Return the two arguments that cards of SwiGLU models pass."""
    import timm
    import torch

    return {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}


def joined(first):
    """Return a function that joins the class token with the mean of the tokens from ``first`` on."""
    import torch

    return lambda model, x: torch.cat([(out := model(x))[:, 0], out[:, first:].mean(1)], -1)


@dataclass(frozen=True)
class TimmCard:
    """A timm model on the hub: its configuration, and what its card does.

    ``on_hub`` are colours and interpolation of the hub's configuration, where they are not the card's.
    """

    architecture: str
    transform: tuple
    args: dict = field(default_factory=dict)
    card: Callable = dict
    vector: Callable | None = None
    on_hub: tuple | None = None
    crop_pct: float = 1.0
    file: str = "model.safetensors"
    native: int = 224

    def save(self, folder):
        """Save a tiny model with the configuration that the hub has; return what its card makes of images."""
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        args = {"num_classes": 0, **self.args, **TINY}
        card = {key: value for key, value in self.card().items() if key != "img_size" or self.native == 224}
        model = scatter(timm.create_model(self.architecture, **{**card, **args})).eval()
        colours, mode = self.on_hub or (self.transform[2], self.transform[3])
        cfg = {"input_size": [3, self.native, self.native], "mean": colours[0], "std": colours[1]}
        cfg |= {"interpolation": mode, "crop_pct": self.crop_pct, "num_classes": 0, "fixed_input_size": True}
        config = {"architecture": self.architecture, "num_classes": 0, "model_args": args, "pretrained_cfg": cfg}
        if self.file == "GPFM.pth":  # a bare file of weights
            torch.save(model.state_dict(), folder / self.file)
            return self.of(model)
        (folder / "config.json").write_text(json.dumps(config))
        if self.file.endswith("bin"):
            torch.save(model.state_dict(), folder / self.file)
        else:
            save_file(model.state_dict(), folder / self.file)
        theirs = {**self.card(), **{k: v for k, v in TINY.items() if k in self.card()}}
        return self.of(timm.create_model(f"local-dir:{folder}", pretrained=True, **theirs).eval())

    def of(self, model):
        """Return the function from an image to its vector."""
        prepare, vector = steps(*self.transform), self.vector or (lambda model, x: model(x))
        return lambda image: vector(model, prepare(image)[None])[0]


def uni2():
    """Return the arguments on UNI2-h's card."""
    return {
        "img_size": 224,
        "patch_size": 14,
        "init_values": 1e-5,
        "mlp_ratio": 2.66667 * 2,
        "num_classes": 0,
        "no_embed_class": True,
        "reg_tokens": 8,
        "dynamic_img_size": True,
        **swiglu(),
    }


def layer_scale(**more):
    """Return a function to the arguments of many cards."""
    return lambda: {"init_values": 1e-5, "num_classes": 0, **more}


PLAIN = (224, 224, IMAGENET, "bilinear")
CUBIC = (224, 224, IMAGENET, "bicubic")
VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True}
KAIKO = {"transform": (224, 224, HALF, "bilinear"), "card": lambda: {"dynamic_img_size": True}, "crop_pct": 0.9}
H_OPTIMUS = TimmCard(
    "vit_giant_patch14_reg4_dinov2",
    (224, 224, OPTIMUS, "bicubic"),
    args={"img_size": 224, "global_pool": "token"},
    card=layer_scale(dynamic_img_size=False),
)
DINOV3 = TimmCard(
    "vit_small_patch16_dinov3",
    (256, 256, IMAGENET, "bicubic"),
    vector=lambda model, x: model.forward_features(x)[:, 0],
    native=256,
)
DINOV2 = TimmCard(
    "vit_small_patch14_dinov2", CUBIC, card=lambda: {"img_size": 224, "dynamic_img_size": True}, native=518
)
TIMM = {
    "uni": TimmCard(
        "vit_large_patch16_224", PLAIN, {"img_size": 224}, layer_scale(dynamic_img_size=True), file="pytorch_model.bin"
    ),
    "uni2-h": TimmCard("vit_giant_patch14_224", PLAIN, {"img_size": 224}, uni2, file="pytorch_model.bin"),
    "virchow": TimmCard("vit_huge_patch14_224", CUBIC, VIRCHOW, swiglu, joined(1)),
    "virchow2": TimmCard("vit_huge_patch14_224", CUBIC, {**VIRCHOW, "reg_tokens": 4}, swiglu, joined(5)),
    "gigapath": TimmCard(
        "vit_giant_patch14_dinov2",
        (256, 224, IMAGENET, "bicubic"),
        {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "mlp_ratio": 5.33334},
        file="pytorch_model.bin",
    ),
    "h-optimus-0": H_OPTIMUS,
    "h-optimus-1": H_OPTIMUS,
    "h0-mini": TimmCard(
        "vit_base_patch14_reg4_dinov2",
        (224, 224, OPTIMUS, "bicubic"),
        {"img_size": 224, "init_values": 1e-5, "reg_tokens": 4, "mlp_ratio": 5.33334, "global_pool": ""}
        | {"dynamic_img_size": True},
        swiglu,
        lambda model, x: model(x)[:, 0],
    ),
    "kaiko-s8": TimmCard("vit_small_patch8_224", **KAIKO),
    "kaiko-s16": TimmCard("vit_small_patch16_224", **KAIKO),
    "kaiko-b8": TimmCard("vit_base_patch8_224", **KAIKO),
    "kaiko-b16": TimmCard("vit_base_patch16_224", **KAIKO),
    "kaiko-l14": TimmCard(
        "vit_large_patch14_reg4_dinov2", **{**KAIKO, "crop_pct": 1.0}, on_hub=(IMAGENET, "bicubic"), native=518
    ),
    "lunit-s8": TimmCard(
        "vit_small_patch8_224", (224, 224, LUNIT, "bicubic"), on_hub=(IMAGENET, "bicubic"), crop_pct=0.9
    ),
    "lunit-s16": TimmCard(
        "vit_small_patch16_224", (224, 224, LUNIT, "bicubic"), on_hub=(HALF, "bicubic"), crop_pct=0.9
    ),
    "gpfm": TimmCard(
        "vit_large_patch14_dinov2", CUBIC, {"img_size": 224}, lambda: {"init_values": 1e-5}, file="GPFM.pth"
    ),
    "mstar": TimmCard(
        "vit_large_patch16_224",
        PLAIN,
        {"img_size": 224},
        layer_scale(dynamic_img_size=True),
        on_hub=(HALF, "bicubic"),
        crop_pct=0.9,
    ),
    "path-orchestra": TimmCard(
        "vit_large_patch16_224", PLAIN, {}, layer_scale(dynamic_img_size=True), file="pytorch_model.bin"
    ),
    **dict.fromkeys(("dinov2-s14", "dinov2-b14", "dinov2-l14"), DINOV2),
    **dict.fromkeys(("dinov3-s16", "dinov3-b16", "dinov3-l16"), DINOV3),
}


@dataclass(frozen=True)
class HubCard:
    """A vision model of transformers on the hub, and what its card makes of the last hidden state."""

    kind: str
    transform: tuple
    vector: Callable
    patch: int
    processor: str | None = None

    def save(self, folder):
        """Save a tiny model as the hub has it; return what its card makes of images."""
        import transformers as t

        config = getattr(t, f"{self.kind}Config")(**WIDTHS, image_size=224, patch_size=self.patch)
        scatter(getattr(t, f"{self.kind}Model")(config)).save_pretrained(folder)
        if self.processor is not None:
            processor_of(self.processor).save_pretrained(folder)
        model, prepare = t.AutoModel.from_pretrained(folder).eval(), steps(*self.transform)
        return lambda image: self.vector(model(pixel_values=prepare(image)[None]).last_hidden_state)[0]


def cls_and_mean(hidden):
    """Join the class token with the mean of the other tokens."""
    import torch

    return torch.cat([hidden[:, 0], hidden[:, 1:].mean(1)], -1)


HUB = {
    "phikon": HubCard("ViT", ((224, 224), None, IMAGENET, "bilinear"), lambda hidden: hidden[:, 0, :], 16, "ViT"),
    "phikon-v2": HubCard("Dinov2", CUBIC, lambda hidden: hidden[:, 0, :], 16, "Bit"),
    "midnight": HubCard("Dinov2", (224, 224, HALF, "bilinear"), cls_and_mean, 14),
}


@dataclass(frozen=True)
class DualCard:
    """A dual encoder: the builder of its twin, and how its library encodes an image."""

    build: Callable
    library: str
    transform: tuple | None = None

    def save(self, folder):
        """Save a tiny model; return what its library makes of images, not normalised."""
        self.build(folder)
        if self.library == "open_clip":
            import open_clip

            model = open_clip.create_model(f"local-dir:{folder}").eval()
            prepare = steps(*self.transform)
            return lambda image: model.encode_image(prepare(image)[None])[0]
        import transformers as t

        model, processor = t.AutoModel.from_pretrained(folder).eval(), t.AutoImageProcessor.from_pretrained(folder)
        prepare = None if self.transform is None else steps(*self.transform)

        def vector(image):
            if prepare is None:
                pixels = processor(images=image, return_tensors="pt")["pixel_values"]
            else:
                pixels = prepare(image)[None]
            return model.get_image_features(pixel_values=pixels).pooler_output[0]

        return vector


def at_224(build):
    """Return a builder of the same model for images of 224 pixels."""

    def built(folder):
        import tests.models.dual as dual
        import tests.models.parts as parts

        kept = dual.SIDE, dict(dual.PIXELS)
        dual.SIDE, dual.PIXELS["image_size"] = 224, 224
        try:
            return build(folder)
        finally:
            dual.SIDE, dual.PIXELS["image_size"] = kept[0], parts.SIDE

    return built


def quilt(folder):
    """Build a CLIP of ViT-B/32's kind."""
    text = {"vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    return build_open_clip(folder, {"layers": 2, "width": 32, "head_width": 16, "patch_size": 32}, text)


PROJECTED = (224, 224, CLIP, "bicubic")
DUAL = {
    "plip": DualCard(at_224(clip), "transformers", PROJECTED),
    "quiltnet-b-32": DualCard(at_224(quilt), "open_clip", PROJECTED),
    "biomedclip": DualCard(at_224(open_clip_with_bert), "open_clip", PROJECTED),
    **dict.fromkeys(("medsiglip", "siglip2-b16", "siglip2-so400m"), DualCard(siglip, "transformers")),
}


@dataclass(frozen=True)
class TorchvisionCard:
    """A classifier of torchvision without its last layer."""

    name: str
    weights: str
    file: str = "weights.safetensors"

    def save(self, folder):
        """Save random weights; return what torchvision makes of images."""
        import torch
        from safetensors.torch import save_file
        from torchvision import models

        model = scatter(models.get_model(self.name))
        save_file(model.state_dict(), folder / self.file)
        model.fc = torch.nn.Identity()
        prepare = models.get_weight(self.weights).transforms()
        return lambda image: model.eval()(prepare(image)[None])[0]


TORCHVISION = {
    "resnet34": TorchvisionCard("resnet34", "ResNet34_Weights.IMAGENET1K_V1"),
    "resnet50": TorchvisionCard("resnet50", "ResNet50_Weights.IMAGENET1K_V2"),
}
CARDS = {**TIMM, **HUB, **DUAL, **TORCHVISION}


def twin(name, folder: Path):
    """Save a tiny twin of a known encoder; return the spec that loads it, and what its card makes of images."""
    from dataclasses import replace

    from headwater.embed.known import KNOWN

    vector = CARDS[name].save(folder)
    spec = KNOWN[name].spec
    if spec.arguments:
        spec = replace(spec, arguments={**spec.arguments, **TINY})
    return str(spec), vector
