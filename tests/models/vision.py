"""Encoders of images alone: of timm, torchvision and transformers."""

import json
from dataclasses import replace

from tests.models.parts import DROPS, PIXELS, SIDE, WIDTHS, Tiny, build_hub, processor_of, scatter


def build_timm(folder, architecture, **model_args):
    """Save a timm model, dropout and all, as a directory that ``timm:local-dir:`` reads."""
    import timm
    from safetensors.torch import save_file

    model = scatter(timm.create_model(architecture, **model_args))
    config = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "model_args": model_args,
        "pretrained_cfg": {
            **{k: v for k, v in model.pretrained_cfg.items() if k in ("mean", "std", "interpolation", "first_conv")},
            "input_size": [3, SIDE, SIDE],
            "classifier": model.pretrained_cfg["classifier"],
            "crop_pct": 0.9,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return Tiny(f"timm:local-dir:{folder}", ("image",), folder)


def build_torchvision(folder, architecture):
    """Save random weights of a torchvision model, classifier and all."""
    from safetensors.torch import save_file
    from torchvision.models import get_model

    save_file(scatter(get_model(architecture)).state_dict(), folder / "weights.safetensors")
    return Tiny(f"torchvision:{architecture}", ("image",), folder, {"weights": folder / "weights.safetensors"})


def swin_of_timm(folder):
    """Build a timm model whose feature maps have their channels last."""
    sizes = {"window_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    return build_timm(folder, "swin_tiny_patch4_window7_224", img_size=SIDE, **sizes, drop_rate=0.3)


def clip_vision(folder):
    """Build the vision tower of a CLIP, without its projection."""
    import transformers as t

    return build_hub(folder, t.CLIPVisionModel(t.CLIPVisionConfig(**WIDTHS, **PIXELS)), processor_of("CLIP"))


def vit(folder):
    """Build a ViT."""
    import transformers as t

    return build_hub(folder, t.ViTModel(t.ViTConfig(**WIDTHS, **PIXELS, **DROPS)), processor_of("ViT"))


def dinov2(folder):
    """Build a DINOv2."""
    import transformers as t

    config = t.Dinov2Config(**WIDTHS, **PIXELS, **DROPS, drop_path_rate=0.3)
    return build_hub(folder, t.Dinov2Model(config), processor_of("Bit"))


def dinov2_registers(folder):
    """Build a DINOv2 with registers."""
    import transformers as t

    config = t.Dinov2WithRegistersConfig(**WIDTHS, **PIXELS, **DROPS, drop_path_rate=0.3, num_register_tokens=3)
    return build_hub(folder, t.Dinov2WithRegistersModel(config), processor_of("Bit"))


def dinov3_vit(folder):
    """Build a DINOv3 that is a ViT, with registers."""
    import transformers as t

    config = t.DINOv3ViTConfig(**WIDTHS, **PIXELS, attention_dropout=0.3, drop_path_rate=0.3, num_register_tokens=3)
    return build_hub(folder, t.DINOv3ViTModel(config), processor_of("DINOv3ViT"))


def dinov3_convnext(folder):
    """Build a DINOv3 that is a ConvNeXt."""
    import transformers as t

    config = t.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], drop_path_rate=0.3)
    return build_hub(folder, t.DINOv3ConvNextModel(config), processor_of("DINOv3ViT"))


def convnext(folder):
    """Build a ConvNeXt."""
    import transformers as t

    config = t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], drop_path_rate=0.3)
    return build_hub(folder, t.ConvNextModel(config), processor_of("ConvNext"))


def resnet(folder):
    """Build a ResNet."""
    import transformers as t

    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return build_hub(folder, t.ResNetModel(config), processor_of("ConvNext"))


def swin(folder):
    """Build a Swin transformer."""
    import transformers as t

    config = t.SwinConfig(image_size=SIDE, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, **DROPS)
    return build_hub(folder, t.SwinModel(config), processor_of("ViT"))


MEMBERS = {
    "timm-conv": lambda folder: build_timm(folder, "test_resnet", drop_rate=0.5, drop_path_rate=0.3),
    "timm-efficientnet": lambda folder: build_timm(folder, "test_efficientnet", drop_rate=0.3, drop_path_rate=0.3),
    "timm-vit": lambda folder: build_timm(folder, "test_vit", img_size=SIDE, drop_rate=0.3, drop_path_rate=0.3),
    "timm-vit-registers": lambda folder: build_timm(folder, "test_vit", img_size=SIDE, reg_tokens=3, drop_rate=0.3),
    "timm-stage": lambda folder: replace(build_timm(folder, "test_resnet"), options={"layer": "stage3"}),
    "timm-nhwc": swin_of_timm,
    "hf-clip_vision": clip_vision,
    "hf-vit": vit,
    "hf-dinov2": dinov2,
    "hf-dinov2_registers": dinov2_registers,
    "hf-dinov3_vit": dinov3_vit,
    "hf-dinov3_convnext": dinov3_convnext,
    "hf-convnext": convnext,
    "hf-resnet": resnet,
    "hf-swin": swin,
    "torchvision": lambda folder: build_torchvision(folder, "shufflenet_v2_x0_5"),
}
