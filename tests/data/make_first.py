"""How ``first.tar.xz`` was made: a store, and runs of every kind, by headwater 0.1.0 before its formats changed.

It is kept to show how; run by a later version it writes that version's formats.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import headwater as hw
from headwater.finetune.adapt import LoraSettings


def make():
    """Write the store and the runs to ``first`` in the current folder."""
    root = Path("first")
    shutil.rmtree(root, ignore_errors=True)
    (root / "i").mkdir(parents=True)
    rng = np.random.default_rng(0)
    words = [
        "benign gland tissue",
        "malignant gland with mass",
        "tissue",
        "severe malignant mass of the breast",
        "benign",
    ]
    rows = []
    for k in range(16):
        mal = k % 2
        px = rng.integers(0, 90, (8, 8, 3), dtype=np.uint8) + np.uint8(100 * mal)
        Image.fromarray(px).save(root / "i" / f"{k}.png")
        rows.append(
            {
                "id": f"r{k}",
                "image": f"i/{k}.png",
                "text": words[(k * 7 + mal) % 5] + f" {k % 9}",
                "label": ["benign", "malignant"][mal],
                "patient": f"p{k // 2}",
                "magnification": [40, 200][k % 4 // 2],
                "size": 1.5 * mal + k / 24,
                "part2": ["a", "b"][k // 2 % 2],
                "part": ["train", "train", "train", "test"][k // 4],
            }
        )
    table = pl.DataFrame(rows)
    table.write_csv(root / "table.csv")
    (root / "i" / "15.png").write_bytes(b"no image")
    S = root / "store.hw"
    hw.embed(root / "table.csv", S, encoder="builtin:texture", workers=1)
    hw.embed(root / "table.csv", S, encoder="builtin:ngram", workers=1)
    hw.embed(root / "table.csv", S, encoder="builtin:clip", tokens="2", workers=1, batch_size=8)
    hw.embed(
        root / "table.csv",
        S,
        encoder="builtin:clip",
        tokens="2",
        tokens_dtype="int8",
        name="small",
        workers=1,
        batch_size=8,
    )
    hw.embed(
        root / "table.csv",
        S,
        encoder="builtin:clip",
        tokens="2",
        tokens_dtype="bfloat16",
        name="wide",
        text=None,
        workers=1,
        batch_size=8,
    )
    hw.embed(root / "table.csv", S, encoder="builtin:clip", name="plain", workers=1)
    hw.index(S, features="clip/image", kind="flat")
    (root / "prompts.toml").write_text('[classes]\nbenign = ["benign gland tissue"]\nmalignant = ["malignant mass"]\n')
    fit = {"label": "label", "groups": "patient", "folds": 2, "inner_folds": 2}
    R = root / "runs"
    X = ["clip/image"]
    for head, features, more in [
        ("linear", X, {"calibrate": "temperature", "sensitivity": 0.9, "conformal": 0.2, "per": "patient"}),
        ("mlp", X, {"params": {"hidden": [8], "epochs": 5}}),
        ("knn", ["texture/image"], {}),
        ("prototypes", X, {}),
        ("xgboost", X, {"params": {"n_rounds": 5}}),
        ("tip-adapter", ["plain/image"], {"prompts": root / "prompts.toml"}),
        ("transclip", ["plain/image"], {"prompts": root / "prompts.toml"}),
        ("token-mlp", X, {"params": {"width": 4, "epochs": 3}}),
        ("self-attention", X, {"params": {"width": 4, "heads": 2, "epochs": 3}}),
        ("co-attention", ["clip/image", "clip/text"], {"params": {"width": 4, "heads": 2, "epochs": 3}}),
        ("mil", X, {"bags": "patient", "label": "part2", "groups": "none", "params": {"width": 4, "epochs": 3}}),
    ]:
        hw.fit_head(S, features=features, head=head, out=R / head, **{**fit, **more})
    hw.fit_head(S, features=["texture/image", "ngram/text"], out=R / "concatenation", seeds=2, **fit)
    hw.fit_head(
        S, features=X, label="size", groups="patient", task="regression", folds=2, inner_folds=2, out=R / "ridge"
    )
    hw.fit_head(
        S,
        features=["texture/image"],
        label="size",
        groups="patient",
        task="regression",
        head="knn",
        folds=2,
        inner_folds=2,
        out=R / "knn-regression",
    )
    hw.zero_shot(S, features="plain", prompts=root / "prompts.toml", label="label", out=R / "zero-shot")
    hw.evaluate(R / "linear", S, label="label", out=R / "evaluated", groups="patient", allow_leakage="the same data")
    hw.sweep(
        S,
        features=["plain/image", "texture/image"],
        label="label",
        groups="patient",
        folds=2,
        inner_folds=2,
        out=R / "sweep",
    )
    hw.fine_tune(
        root / "table.csv",
        encoder="builtin:clip",
        label="label",
        groups="patient",
        text=None,
        train="lora",
        folds=2,
        epochs=1,
        lora=LoraSettings(1, 2.0, 0.0, r"vision.*stages.1.*pwconv1"),
        batch_size=8,
        workers=1,
        out=R / "fine-tuned",
    )
    hw.contrast(
        root / "table.csv",
        where="id != 'r15'",
        encoder=["builtin:clip"],
        train="lora",
        epochs=1,
        lora=LoraSettings(1, 2.0, 0.0, r".*(stages.1.*pwconv1|layer.0.*self.query)"),
        batch_size=8,
        workers=1,
        groups="patient",
        out=R / "contrasted",
    )
    vocab = {
        w: n
        for n, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "benign", "malignant", "gland", "mass", "tissue"])
    }
    t = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=t, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    ).save_pretrained(root / "reader")
    torch.manual_seed(0)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=32,
        )
    ).save_pretrained(root / "reader")
    os.chdir(root)
    hw.contrast(
        "table.csv",
        encoder=["builtin:clip", "hf:reader"],
        train=["image=none", "text=lora"],
        where="id != 'r15'",
        dim=4,
        epochs=1,
        lora=LoraSettings(1, 2.0, 0.0, ".*query"),
        batch_size=8,
        workers=1,
        groups="patient",
        out="runs/joined",
    )


if __name__ == "__main__":
    make()
