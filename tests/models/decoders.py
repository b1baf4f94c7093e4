"""Vision-language decoders, which are asked to read an image, a text, or both together."""

from dataclasses import replace

from tests.models.parts import PIXELS, WIDTHS, Tiny, processor_of, scatter
from tests.models.tokenizers import byte_words

CHAT = (
    "{% for turn in messages %}<s>{{ turn['role'] }} {% for part in turn['content'] %}{% if part['type'] == 'image' %}"
    "IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}"
    "<s>assistant {% endif %}"
)


def qwen(folder, kind):
    """Build a Qwen vision-language model, whose images become as many tokens as their size and shape ask for."""
    import transformers as t

    special = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    special |= {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    words = byte_words(*special.values())
    patch = 16 if kind == "Qwen3VL" else 14
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": patch, "intermediate_size": 48}
    text = {**WIDTHS, "num_key_value_heads": 1, "vocab_size": len(words), "attention_dropout": 0.3, "pad_token_id": 0}
    text |= {"max_position_embeddings": 384, "bos_token_id": None, "eos_token_id": None}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    if kind == "Qwen2VL":
        vision |= {"embed_dim": 32, "mlp_ratio": 2}
    elif kind == "Qwen2_5_VL":
        vision |= {"out_hidden_size": 32, "fullatt_block_indexes": [1]}
    else:
        vision |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        text["head_dim"] = 16
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(token) for name, token in special.items()}
    config = getattr(t, f"{kind}Config")(text_config=text, vision_config=vision, **ids)
    side = 2 * patch
    images = t.Qwen2VLImageProcessor(patch_size=patch, size={"shortest_edge": 4 * side**2, "longest_edge": 9 * side**2})
    videos = t.Qwen3VLVideoProcessor() if kind == "Qwen3VL" else t.Qwen2VLVideoProcessor()
    chat = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = getattr(t, f"{kind}Processor")(images, words, videos, chat_template=chat)
    return build_decoder(folder, getattr(t, f"{kind}Model")(config), processor)


def idefics(folder, kind):
    """Build Idefics3 or SmolVLM, which see an image whole and in as many pieces as its size and shape ask for."""
    import transformers as t

    words = byte_words("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    text = t.LlamaConfig(
        **WIDTHS, num_key_value_heads=1, vocab_size=len(words), max_position_embeddings=384, attention_dropout=0.3
    )
    image = words.convert_tokens_to_ids("<image>")
    vision = {**WIDTHS, "image_size": 32, "patch_size": 8}
    config = getattr(t, f"{kind}Config")(
        text_config={**text.to_dict(), "pad_token_id": 0}, vision_config=vision, scale_factor=2, image_token_id=image
    )
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    images = getattr(t, f"{kind}ImageProcessor")(**sizes)
    videos = {"video_processor": t.SmolVLMVideoProcessor(**sizes)} if kind == "SmolVLM" else {}
    processor = getattr(t, f"{kind}Processor")(
        images, words, **videos, image_seq_len=4, chat_template=CHAT.replace("IMAGE", "<image>")
    )
    return build_decoder(folder, getattr(t, f"{kind}Model")(config), processor)


def llava(folder):
    """Build LLaVA, of which every image is as many tokens."""
    import transformers as t

    words = byte_words("<image>")
    text = t.LlamaConfig(**WIDTHS, vocab_size=len(words), max_position_embeddings=384)
    image = words.convert_tokens_to_ids("<image>")
    vision = t.CLIPVisionConfig(**WIDTHS, **PIXELS)
    config = t.LlavaConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=image)
    processor = t.LlavaProcessor(
        processor_of("CLIP"),
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    return build_decoder(folder, t.LlavaModel(config), processor)


def build_decoder(folder, model, processor):
    """Save a vision-language model with its processor."""
    for part in (scatter(model), processor):
        part.save_pretrained(folder)
    return Tiny(f"hf:{folder}", ("image", "text"), folder)


def of_pairs(member):
    """Return a decoder that is asked to read an image and its text together."""
    return replace(member, modalities=("pair",), options={"prompt": "{image}Report: {text}\nSummary in one word:"})


MEMBERS = {
    "hf-qwen2_vl": lambda folder: qwen(folder, "Qwen2VL"),
    "hf-qwen2_5_vl": lambda folder: qwen(folder, "Qwen2_5_VL"),
    "hf-qwen3_vl": lambda folder: qwen(folder, "Qwen3VL"),
    "hf-idefics3": lambda folder: idefics(folder, "Idefics3"),
    "hf-smolvlm": lambda folder: idefics(folder, "SmolVLM"),
    "hf-llava": llava,
    "hf-qwen2_vl-pair": lambda folder: of_pairs(qwen(folder, "Qwen2VL")),
    "hf-smolvlm-pair": lambda folder: of_pairs(idefics(folder, "SmolVLM")),
}
