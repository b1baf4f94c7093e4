"""Dual encoders, of images and texts each by itself: of open_clip and transformers."""

import json

from tests.models.parts import PIXELS, SIDE, WIDTHS, Tiny, build_hub, processor_of, scatter
from tests.models.text import bert
from tests.models.tokenizers import byte_pairs, lowered_pieces, sentence_pieces

TEXT_TOWER = {"vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}


def build_open_clip(folder, vision, text):
    """Save an open_clip model as a directory that ``open_clip:local-dir:`` reads."""
    import open_clip
    from safetensors.torch import save_file

    custom = "hf_model_name" in text or "timm_model_name" in vision
    config = {"embed_dim": 24, "vision_cfg": {"image_size": SIDE, **vision}, "text_cfg": {"context_length": 24, **text}}
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
    settings = {
        "model_cfg": {**config, "custom_text": custom},
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    state = {name: tensor.contiguous() for name, tensor in scatter(model).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return Tiny(f"open_clip:local-dir:{folder}", ("image", "text"), folder)


def open_clip(folder):
    """Build an open_clip model of two transformers, which drops patches in training."""
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "patch_dropout": 0.5}
    return build_open_clip(folder, vision, TEXT_TOWER)


def open_clip_with_resnet(folder):
    """Build an open_clip model whose vision tower is a ResNet."""
    return build_open_clip(folder, {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, TEXT_TOWER)


def open_clip_with_timm(folder):
    """Build an open_clip model whose vision tower is timm's."""
    vision = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"}
    return build_open_clip(folder, vision, TEXT_TOWER)


def open_clip_with_bert(folder):
    """Build an open_clip model whose text tower is a BERT."""
    bert(folder)  # config and tokenizer; its own weights are not used
    (folder / "model.safetensors").unlink()
    text = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "mlp",
        "hf_model_pretrained": False,
    }
    return build_open_clip(folder, {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16}, text)


def clip(folder):
    """Build a CLIP."""
    import transformers as t

    text = t.CLIPTextConfig(**WIDTHS, vocab_size=514, max_position_embeddings=32, bos_token_id=512, eos_token_id=513)
    vision = t.CLIPVisionConfig(**WIDTHS, **PIXELS, attention_dropout=0.3)
    config = t.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
    return build_hub(folder, t.CLIPModel(config), processor_of("CLIP"), byte_pairs())


def siglip(folder):
    """Build a SigLIP."""
    import transformers as t

    text = t.SiglipTextConfig(
        **WIDTHS, vocab_size=20, max_position_embeddings=16, projection_size=32, bos_token_id=1, eos_token_id=1
    )
    vision = t.SiglipVisionConfig(**WIDTHS, **PIXELS, attention_dropout=0.3)
    config = t.SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    return build_hub(folder, t.SiglipModel(config), processor_of("Siglip"), sentence_pieces())


def siglip2(folder):
    """Build a SigLIP 2 whose images become as many tokens as their shape asks for."""
    import transformers as t

    text = t.Siglip2TextConfig(
        **WIDTHS, vocab_size=40, max_position_embeddings=16, projection_size=32, bos_token_id=2, eos_token_id=1
    )
    vision = t.Siglip2VisionConfig(**WIDTHS, patch_size=16, num_patches=16, attention_dropout=0.3)
    config = t.Siglip2Config(text_config=text.to_dict(), vision_config=vision.to_dict())
    images = t.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
    return build_hub(folder, t.Siglip2Model(config), images, lowered_pieces())


MEMBERS = {
    "open_clip": open_clip,
    "open_clip-resnet": open_clip_with_resnet,
    "open_clip-timm": open_clip_with_timm,
    "open_clip-bert": open_clip_with_bert,
    "hf-clip": clip,
    "hf-siglip": siglip,
    "hf-siglip2": siglip2,
}
