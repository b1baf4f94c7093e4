"""Fixtures shared by several folders: tiny encoders of every kind, the command line in this process, made stores."""

import ast
import importlib.util
import json
import logging
import os
import sys
import tempfile
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.cli import main
from headwater.errors import MissingExtra
from headwater.store import BlockResult, FeatureSpec, Roles, create_store, hex_from_keys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a test process a core: more threads would spin
CACHE = tempfile.TemporaryDirectory(prefix="headwater-tests-")
os.environ["HEADWATER_CACHE"] = CACHE.name  # never the user's own
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network fails at once, instead of after retries

EXTRAS = {"torch", "torchvision", "timm", "open_clip", "transformers", "peft", "faiss", "xgboost", "optuna", "ray"}
EXTRAS |= {"matplotlib", "s3fs", "fsspec", "h5py", "anndata", "datasets", "lance", "pyarrow", "moto", "xarray", "dask"}
ABSENT = {name for name in EXTRAS if importlib.util.find_spec(name) is None}
"""Packages of extras that are not here: what needs them is skipped."""


def _at_the_top(path):
    """Return the packages that a file imports when it is loaded."""
    nodes = ast.parse(path.read_text()).body
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {str(name).partition(".")[0] for name in names}


def pytest_ignore_collect(collection_path):
    """Leave out a file that cannot be loaded without the package of an extra."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if ABSENT and is_test and _at_the_top(collection_path) & ABSENT else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Skip a test whose fixtures come upon the package of an extra that is not installed."""
    return (yield from _without_extras())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip a test that comes upon the package of an extra that is not installed."""
    return (yield from _without_extras())


def _without_extras():
    try:
        return (yield)
    except Exception as error:
        cause = error
        while ABSENT and cause is not None:
            lacking = isinstance(cause, ImportError) and str(cause.name).partition(".")[0] in ABSENT
            if lacking or isinstance(cause, MissingExtra):
                pytest.skip(str(cause))
            cause = cause.__cause__ or cause.__context__
        raise


SIDE = 64
WORDS = [
    "a",
    "the",
    "of",
    "benign",
    "malignant",
    "tissue",
    "gland",
    "left",
    "right",
    "breast",
    "mass",
    "with",
    "severe",
]


@dataclass(frozen=True)
class Tiny:
    """A tiny encoder on disk."""

    spec: str
    modalities: tuple[str, ...]
    folder: Path | None = None
    options: dict = field(default_factory=dict)


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


def build_hub(folder, model, processor=None, tokenizer=None):
    """Save a transformers model with its image processor and tokenizer."""
    for part in (scatter(model), processor, tokenizer):
        if part is not None:
            part.save_pretrained(folder)
    modalities = tuple(m for m, p in (("image", processor), ("text", tokenizer)) if p is not None)
    return Tiny(f"hf:{folder}", modalities, folder)


def scatter(model):
    """Give every parameter and statistic a value of its own, by a fixed seed, so that none is idle."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or tensor.ndim == 0:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + noise.abs())
            elif tensor.ndim == 1:
                tensor.add_(0.1 * noise)
            else:
                tensor.copy_(noise / max(np.prod(tensor.shape[1:]), 16) ** 0.5)
    return model


def wordpieces():
    """Return a tokenizer like BERT's, of few words and all letters."""
    from transformers import BertTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "!", *WORDS[1:], *letters, *(f"##{c}" for c in letters)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(vocab)}, model_max_length=32)


def byte_pairs():
    """Return a tokenizer like CLIP's, of all bytes and without merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    vocab = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(vocab)}, merges=[], model_max_length=32)


def sentence_pieces():
    """Return a tokenizer like SigLIP's: it ends with ``</s>``, pads with it too, and gives no attention mask."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "</s>", *WORDS])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=16,
        model_input_names=["input_ids"],
    )


def lowered_pieces():
    """Return a tokenizer like SigLIP 2's: of lower-case letters, without merges; it ends with ``<eos>``."""
    from tokenizers import processors
    from transformers import Siglip2Tokenizer

    letters = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        "▁",
        ",",
        "!",
        *(chr(c) for c in range(ord("a"), ord("z") + 1)),
    ]
    words = Siglip2Tokenizer(vocab={word: i for i, word in enumerate(letters)}, merges=[], model_max_length=16)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return words


WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
DROPS = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
PIXELS = {"image_size": SIDE, "patch_size": 16}


def processor_of(kind):
    """Return a transformers image processor for images of `SIDE` pixels."""
    import transformers

    size = {"shortest_edge": SIDE + 8} if kind in ("CLIP", "Bit") else {"height": SIDE, "width": SIDE}
    crop = {"crop_size": {"height": SIDE, "width": SIDE}} if kind in ("CLIP", "Bit") else {}
    if kind == "ConvNext":
        size, crop = {"shortest_edge": SIDE}, {"crop_pct": 0.9}
    return getattr(transformers, f"{kind}ImageProcessor")(size=size, **crop)


def hub(folder, kind):
    """Build the transformers member ``kind``."""
    import transformers as t

    if kind == "clip":
        text = t.CLIPTextConfig(
            **WIDTHS, vocab_size=514, max_position_embeddings=32, bos_token_id=512, eos_token_id=513
        )
        vision = t.CLIPVisionConfig(**WIDTHS, **PIXELS, attention_dropout=0.3)
        config = t.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
        return build_hub(folder, t.CLIPModel(config), processor_of("CLIP"), byte_pairs())
    if kind == "siglip":
        text = t.SiglipTextConfig(
            **WIDTHS, vocab_size=20, max_position_embeddings=16, projection_size=32, bos_token_id=1, eos_token_id=1
        )
        vision = t.SiglipVisionConfig(**WIDTHS, **PIXELS, attention_dropout=0.3)
        config = t.SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
        return build_hub(folder, t.SiglipModel(config), processor_of("Siglip"), sentence_pieces())
    if kind == "clip_vision":
        return build_hub(folder, t.CLIPVisionModel(t.CLIPVisionConfig(**WIDTHS, **PIXELS)), processor_of("CLIP"))
    if kind == "vit":
        return build_hub(folder, t.ViTModel(t.ViTConfig(**WIDTHS, **PIXELS, **DROPS)), processor_of("ViT"))
    if kind == "dinov2":
        config = t.Dinov2Config(**WIDTHS, **PIXELS, **DROPS, drop_path_rate=0.3)
        return build_hub(folder, t.Dinov2Model(config), processor_of("Bit"))
    if kind == "dinov2_registers":
        config = t.Dinov2WithRegistersConfig(**WIDTHS, **PIXELS, **DROPS, drop_path_rate=0.3, num_register_tokens=3)
        return build_hub(folder, t.Dinov2WithRegistersModel(config), processor_of("Bit"))
    if kind == "convnext":
        config = t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], drop_path_rate=0.3)
        return build_hub(folder, t.ConvNextModel(config), processor_of("ConvNext"))
    if kind == "resnet":
        config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        return build_hub(folder, t.ResNetModel(config), processor_of("ConvNext"))
    if kind == "swin":
        config = t.SwinConfig(image_size=SIDE, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, **DROPS)
        return build_hub(folder, t.SwinModel(config), processor_of("ViT"))
    if kind == "dinov3_vit":
        config = t.DINOv3ViTConfig(**WIDTHS, **PIXELS, attention_dropout=0.3, drop_path_rate=0.3, num_register_tokens=3)
        return build_hub(folder, t.DINOv3ViTModel(config), processor_of("DINOv3ViT"))
    if kind == "dinov3_convnext":
        config = t.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], drop_path_rate=0.3)
        return build_hub(folder, t.DINOv3ConvNextModel(config), processor_of("DINOv3ViT"))
    if kind == "siglip2":
        text = t.Siglip2TextConfig(
            **WIDTHS, vocab_size=40, max_position_embeddings=16, projection_size=32, bos_token_id=2, eos_token_id=1
        )
        vision = t.Siglip2VisionConfig(**WIDTHS, patch_size=16, num_patches=16, attention_dropout=0.3)
        config = t.Siglip2Config(text_config=text.to_dict(), vision_config=vision.to_dict())
        images = t.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
        return build_hub(folder, t.Siglip2Model(config), images, lowered_pieces())
    if kind == "distilbert":
        config = t.DistilBertConfig(
            vocab_size=len(wordpieces()), dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=40
        )
        return build_hub(folder, t.DistilBertModel(config), None, wordpieces())
    if kind == "roberta":  # which counts positions from the padding's number on
        config = t.RobertaConfig(
            **WIDTHS, **DROPS, vocab_size=len(wordpieces()), max_position_embeddings=40, pad_token_id=0
        )
        return build_hub(folder, t.RobertaModel(config), None, wordpieces())
    if kind == "modernbert":
        config = t.ModernBertConfig(
            **WIDTHS,
            vocab_size=len(wordpieces()),
            max_position_embeddings=40,
            local_attention=8,
            pad_token_id=0,
            bos_token_id=2,
            cls_token_id=2,
            eos_token_id=3,
            sep_token_id=3,
        )
        return build_hub(folder, t.ModernBertModel(config), None, wordpieces())
    config = t.BertConfig(**WIDTHS, **DROPS, vocab_size=len(wordpieces()), max_position_embeddings=40)
    return build_hub(folder, t.BertModel(config), None, wordpieces())


CHAT = (
    "{% for turn in messages %}<s>{{ turn['role'] }} {% for part in turn['content'] %}{% if part['type'] == 'image' %}"
    "IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}"
    "<s>assistant {% endif %}"
)


def byte_words(*special):
    """Return a tokenizer like Qwen's: a token a byte, without merges, and special ones."""
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    letters = ["<pad>", *sorted(ByteLevel.alphabet())]
    words = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(special),
        model_max_length=384,
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


def open_clip_with_bert(folder):
    """Build an open_clip model whose text tower is a BERT."""
    hub(folder, "bert")  # config and tokenizer; its own weights are not used
    (folder / "model.safetensors").unlink()
    text = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "mlp",
        "hf_model_pretrained": False,
    }
    return build_open_clip(folder, {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16}, text)


TEXT_TOWER = {"vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
MEMBERS = {
    "timm-conv": lambda folder: build_timm(folder, "test_resnet", drop_rate=0.5, drop_path_rate=0.3),
    "timm-vit": lambda folder: build_timm(folder, "test_vit", img_size=SIDE, drop_rate=0.3, drop_path_rate=0.3),
    "timm-vit-registers": lambda folder: build_timm(folder, "test_vit", img_size=SIDE, reg_tokens=3, drop_rate=0.3),
    "timm-stage": lambda folder: replace(build_timm(folder, "test_resnet"), options={"layer": "stage3"}),
    "timm-nhwc": lambda folder: build_timm(
        folder,
        "swin_tiny_patch4_window7_224",
        img_size=SIDE,
        window_size=4,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        drop_rate=0.3,
    ),
    "open_clip": lambda folder: build_open_clip(
        folder, {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "patch_dropout": 0.5}, TEXT_TOWER
    ),
    "open_clip-resnet": lambda folder: build_open_clip(
        folder, {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, TEXT_TOWER
    ),
    "open_clip-timm": lambda folder: build_open_clip(
        folder,
        {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"},
        TEXT_TOWER,
    ),
    "open_clip-bert": open_clip_with_bert,
    **{
        f"hf-{kind}": lambda folder, kind=kind: hub(folder, kind)
        for kind in [
            "clip",
            "siglip",
            "clip_vision",
            "vit",
            "dinov2",
            "dinov2_registers",
            "convnext",
            "resnet",
            "swin",
            "dinov3_vit",
            "dinov3_convnext",
            "siglip2",
            "bert",
            "distilbert",
            "roberta",
            "modernbert",
        ]
    },
    "hf-qwen2_vl": lambda folder: qwen(folder, "Qwen2VL"),
    "hf-qwen2_5_vl": lambda folder: qwen(folder, "Qwen2_5_VL"),
    "hf-qwen3_vl": lambda folder: qwen(folder, "Qwen3VL"),
    "hf-idefics3": lambda folder: idefics(folder, "Idefics3"),
    "hf-smolvlm": lambda folder: idefics(folder, "SmolVLM"),
    "hf-llava": llava,
    "hf-qwen2_vl-pair": lambda folder: of_pairs(qwen(folder, "Qwen2VL")),
    "hf-smolvlm-pair": lambda folder: of_pairs(idefics(folder, "SmolVLM")),
    "builtin-clip": lambda folder: Tiny("builtin:clip", ("image", "text")),
    "torchvision": lambda folder: build_torchvision(folder, "shufflenet_v2_x0_5"),
    "texture": lambda folder: Tiny("builtin:texture", ("image",)),
    "ngram": lambda folder: Tiny("builtin:ngram", ("text",)),
    "stub": lambda folder: Tiny("stub:16", ("image", "text")),
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function from a member's name to its `Tiny`, built when it is first asked for."""
    built = {}

    def build(name):
        if name not in built:
            if importlib.util.find_spec("torch"):
                import torch

                torch.manual_seed(zlib.crc32(name.encode()))  # what `scatter` only adds to is drawn by the library
            built[name] = MEMBERS[name](tmp_path_factory.mktemp(name))
        return built[name]

    return build


@pytest.fixture(scope="session")
def picture():
    """Return a function that saves a smooth random image, the same for the same seed."""

    def save(path, seed, size=(72, 64)):
        random = np.random.default_rng(zlib.crc32(f"picture {seed}".encode()))
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def image_files(tmp_path_factory, picture):
    """Return some images of different sizes and colours, as files."""
    folder = tmp_path_factory.mktemp("images")
    return [picture(folder / f"{i}.png", i, size) for i, size in enumerate([(90, 70), (64, 64), (41, 120), (200, 150)])]


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    status: int
    out: str
    err: str

    @property
    def error(self):
        """The one line that it failed with."""
        last = self.err.splitlines()[-1]
        assert last.startswith("headwater: ")
        assert "Traceback" not in self.err
        return last


@pytest.fixture
def command(capsys, monkeypatch):
    """Return a function that runs a command line as a terminal would, in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["headwater", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        done = Done(status, *capsys.readouterr())
        if ABSENT and "is not installed. Run: pip install 'headwater[" in done.err:
            pytest.skip(done.error)
        return done

    return run


@pytest.fixture
def refused(command, tmp_path):
    """Return a function that runs a command which must fail with one line, status 1, and change no file."""

    def run(*words, status=1):
        before = _files_of(tmp_path)
        done = command(*words)
        assert done.status == status, done
        assert _files_of(tmp_path) == before, "something was written"
        return done.error

    return run


def _files_of(folder):
    """Every file below a folder with its bytes, and every folder; locks and the cache of files hold nothing of ours."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if p.suffix != ".lock" and p.name != "files.parquet"
    }


ENDPOINT, BUCKET = "HEADWATER_TEST_S3_ENDPOINT", "HEADWATER_TEST_S3_BUCKET"
"""Environment variables: the S3 endpoint to test instead of moto's, and a bucket there; see docs/buckets.md."""
GIVEN = {name: os.environ.get(name, "") for name in (ENDPOINT, BUCKET)}  # the fixture `s3` hides them from the tests


@pytest.fixture(scope="session")
def s3_server():
    """The URL of an S3 server: the one that the environment names, or one that the first test starts."""
    if bool(GIVEN[ENDPOINT]) != bool(GIVEN[BUCKET]):
        pytest.fail(f"set both {ENDPOINT} and {BUCKET}, or neither")
    pytest.importorskip("s3fs")
    if GIVEN[ENDPOINT]:
        yield GIVEN[ENDPOINT]
        return
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A plain client of that server, which this process and those that it starts use from now on."""
    import s3fs

    ours = ("HEADWATER_",) if GIVEN[ENDPOINT] else ("AWS_", "FSSPEC_", "HEADWATER_")
    for name in [name for name in os.environ if name.startswith(ours) and name != "HEADWATER_CACHE"]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if GIVEN[ENDPOINT]:  # credentials and region are those of the environment
        settings = {"AWS_ENDPOINT_URL": s3_server}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return s3fs.S3FileSystem(use_listings_cache=False)


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    """The URL of an empty bucket, or of an empty prefix; what is read from it is cached in ``tmp_path / "cache"``."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    name = f"b{uuid.uuid4().hex[:12]}"
    if not GIVEN[ENDPOINT]:
        s3.mkdir(name)
        yield f"s3://{name}"
        return
    place = f"{GIVEN[BUCKET].removeprefix('s3://').strip('/')}/headwater-tests/{name}"
    yield f"s3://{place}"
    own = type(s3)(use_listings_cache=False, skip_instance_cache=True)  # a test may have patched the other
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(own.rm_file, own.find(place)))


def _write_features(store, name, X, keys, **spec):
    """Write vectors into a store as a run would."""
    modality = name.split("/")[1]
    described = FeatureSpec(**{"encoder": "test:made", "modality": modality, "dim": X.shape[1], **spec})
    with store.require_features(name, described, len(X)).writing() as writer:
        writer.set_environment({})
        for task in writer.plan(keys):
            writer.commit(task, BlockResult(task.rows, X[task.rows]))


def _keys_of(n, start=0):
    """Return distinct content keys."""
    words = np.arange(start, start + n, dtype="<u8") * np.uint64(0x9E3779B97F4A7C15)
    return np.ascontiguousarray(np.column_stack([words, words])).view(np.uint8)


@pytest.fixture
def make_store(tmp_path):
    """Return a function that makes a store of given vectors and columns, no image behind it."""

    def make(X, name="made/image", path="made.hw", first_key=0, **columns):
        store = create_store(tmp_path / path)
        keys = _keys_of(len(X), first_key)
        hexed = pl.Series(hex_from_keys(keys), dtype=pl.String)
        none = pl.Series([None] * len(X), dtype=pl.String)
        table = pl.DataFrame({"id": [f"r{i:03d}" for i in range(len(X))], **columns})
        table = table.with_columns(image=hexed + ".png", image_key=hexed, text_key=none)
        store.write_samples(table, Roles("id", "image", None, "/"))
        _write_features(store, name, np.asarray(X, np.float32), keys, dtype="float32")
        return store

    return make


@pytest.fixture(scope="session")
def files_of():
    """Return a function that reads every file below a folder."""
    return _files_of


@pytest.fixture
def write_features():
    """Return a function that writes vectors into a store as a run would."""
    return _write_features
