"""A vision-language decoder of any size with random weights, saved with its tokenizer and processor."""

from dataclasses import dataclass

import torch

SPECIAL = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
SPECIAL |= {"image": "<|image_pad|>", "video": "<|video_pad|>"}
CHAT = (
    "{% for turn in messages %}{{ turn['role'] }} {% for part in turn['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@dataclass(frozen=True)
class Decoder:
    """The shape of a Qwen2-VL.

    Attributes
    ----------
    text, vision
        Sizes of the language model and of the vision tower, as its configuration names them.
    rope
        How many pairs of a head's columns tell time, height and width.
    pixels
        The least and the most pixels that an image is resized to.
    """

    name: str
    text: dict
    vision: dict
    rope: tuple[int, int, int]
    pixels: tuple[int, int]


QWEN2_VL_2B = Decoder(
    "Qwen2-VL-2B's shape",
    {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
    },
    {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536},
    (16, 24, 24),
    (448 * 448, 512 * 512),
)
TINY_DECODER = Decoder(
    "a tiny decoder",
    {
        "hidden_size": 32,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 300,
    },
    {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 32},
    (2, 3, 3),
    (56 * 56, 84 * 84),
)


def save_decoder(folder, shape, device):
    """Save a model of a shape, its weights random and drawn on a device, with its processor."""
    import transformers as t
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import ByteLevel

    t.utils.logging.disable_progress_bar()
    letters = ["<pad>", *sorted(ByteLevel.alphabet())]
    bytes_of = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    bytes_of.pre_tokenizer = ByteLevel(add_prefix_space=False)
    words = t.PreTrainedTokenizerFast(
        tokenizer_object=bytes_of,
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL.values()),
        model_max_length=2048,
    )
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(shape.rope)}
    text = {**shape.text, "max_position_embeddings": 2048, "rope_parameters": rope, "pad_token_id": 0}
    text |= {"bos_token_id": None, "eos_token_id": None}
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    config = t.Qwen2VLConfig(text_config=text, vision_config=shape.vision, **ids)
    torch.manual_seed(0)
    with torch.device(device):
        model = t.Qwen2VLModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    model.to(torch.bfloat16 if device == "cuda" else torch.float32).save_pretrained(folder)  # half of the bytes
    least, most = shape.pixels
    images = t.Qwen2VLImageProcessor(size={"shortest_edge": least, "longest_edge": most})
    t.Qwen2VLProcessor(images, words, t.Qwen2VLVideoProcessor(), chat_template=CHAT).save_pretrained(folder)
