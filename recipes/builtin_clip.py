"""Train ``builtin:clip``, the small dual encoder that comes with headwater, on synthetic histology.

    python recipes/builtin_clip.py FOLDER

paints the images, builds an untrained model of a few million parameters, trains it with
``headwater contrast``, tests it on sets of other seeds, and writes the model in float16 to
``FOLDER/model``, which is what ``headwater/embed/clip`` holds. It takes about an hour on two cores.

Each set is one seed of `headwater.sources.make_histology`, with laboratories, stains and patients of its own. Texts are
made from the columns of the manifest by fixed sentences; a caption joins some of them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

SIDE = 96
TRAINED_SEEDS = range(1000, 1048)
TESTED_SEEDS = range(2000, 2006)
PATIENTS, IMAGES = 16, 12
SENTENCES = (
    "{subtype}",
    "{label} breast tissue",
    "{label} breast tissue, {subtype}",
    "{subtype} at {magnification}x",
    "a microscope image of {label} tissue at {magnification}x",
    "histology of {subtype}, {label}",
    "h&e section at {magnification}x magnification showing {subtype}",
    "{caption} {label}.",
    "{caption}",
)
PROMPTS = """templates = ["{} breast tissue", "a microscope image of {} tissue", "histology, {}"]

[classes]
benign = ["benign", "adenosis, benign", "fibroadenoma, benign", "phyllodes tumor, benign", "tubular adenoma, benign"]
malignant = ["malignant", "ductal carcinoma, malignant", "lobular carcinoma, malignant",
    "mucinous carcinoma, malignant", "papillary carcinoma, malignant"]
"""


def main() -> None:
    """Do all of it; what is there already is kept."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--epochs", type=int, default=12)
    arguments.add_argument("--sets", type=int, default=len(TRAINED_SEEDS), help="sets to train on")
    given = arguments.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    manifest = paint(folder, given.sets)
    untrained = folder / "untrained"
    if not untrained.exists():
        build(untrained, pl.read_csv(manifest)["text"].to_list())
    (folder / "prompts.toml").write_text(PROMPTS)
    command = ["fine-tune", manifest, "--objective", "contrastive", "--encoder", f"hf:{untrained.resolve()}"]
    command += ["--text", "text", "--train", "full", "--groups", "patient", "--split", "split", "--where", "kept"]
    command += ["--prompts", folder / "prompts.toml", "--label", "label", "--augment", "flip", "--augment", "rotate"]
    command += ["--augment", "colour", "--lr", "0.001", "--weight-decay", "0.05", "--batch-size", "128"]
    command += ["--epochs", given.epochs, "--patience", "0", "--out", folder / "run"]
    subprocess.run([sys.executable, "-m", "headwater", *map(str, command)], check=True)
    export(untrained, folder / "run", folder / "model")


def paint(folder: Path, n_sets: int) -> Path:
    """Paint the sets, and write one manifest of all with a text for each image."""
    from headwater.sources import make_histology

    manifest = folder / "manifest.csv"
    if manifest.exists():
        return manifest
    tables = []
    for part, seeds in (("train", TRAINED_SEEDS[:n_sets]), ("test", TESTED_SEEDS)):
        for seed in seeds:
            name = f"set-{seed}"
            made = make_histology(
                folder / name, n_patients=PATIENTS, images_per_patient=IMAGES, laboratories=4, seed=seed
            )
            table = pl.read_csv(made)
            rng = np.random.default_rng([seed, 1])
            texts = [
                SENTENCES[i].format(**row) for i, row in zip(_drawn(rng, len(table)), table.to_dicts(), strict=True)
            ]
            tables.append(
                table.with_columns(
                    id=f"{name}-" + pl.col("id"),
                    image=f"{name}/" + pl.col("image"),
                    patient=f"{name}-" + pl.col("patient"),
                    text=pl.Series(texts),
                    split=pl.lit(part),
                    kept=pl.lit(True),
                )
            )
    pl.concat(tables).write_csv(manifest)
    return manifest


def _drawn(rng: np.random.Generator, n: int) -> list[int]:
    return rng.integers(len(SENTENCES), size=n).tolist()


def build(folder: Path, texts: list[str]) -> None:
    """Write an untrained model: a small ConvNeXt, a small BERT, and a tokenizer of the words of the texts."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import (
        BertConfig,
        ConvNextConfig,
        ConvNextImageProcessor,
        PreTrainedTokenizerFast,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
    )

    torch.manual_seed(0)
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=1000, special_tokens=special))
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    vision = ConvNextConfig(
        image_size=SIDE, num_stages=3, hidden_sizes=[32, 64, 224], depths=[1, 1, 3], hidden_size=224
    )
    text = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=128)
    model = VisionTextDualEncoderModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = ConvNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_pct=1.0, image_mean=[0.7, 0.6, 0.7], image_std=[0.2, 0.25, 0.2]
    )
    processor.save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")


def export(untrained: Path, run: Path, out: Path) -> None:
    """Write the trained model in float16."""
    import torch
    from transformers import VisionTextDualEncoderModel

    from headwater.embed import load_encoder

    encoder = load_encoder(f"hf:{untrained.resolve()}", adapter=run, device="cpu", precision="fp32")
    model: VisionTextDualEncoderModel = encoder.module  # type: ignore[attr-defined]
    shutil.copytree(untrained, out, dirs_exist_ok=True)
    model.to(torch.float16).save_pretrained(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
