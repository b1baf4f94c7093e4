"""Templated reports to stored features, against the hub library's own pipeline.

50,000 reports are filled from a few columns, as reports of a department are, so that many are the same. Ours embeds
each distinct text once, sorted by length; theirs is ``transformers.pipeline("feature-extraction")`` over all of them in
batches of 32, timed on a part and scaled (said so). The model is a BERT of random weights, ``--layers`` deep.

Run: python benchmarks/text_embed.py [--n N] [--layers N] [--timed N]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _timing import machine, report
from transformers import BertConfig, BertModel, BertTokenizerFast, pipeline

from headwater.embed import fill, load_encoder, unique_texts
from headwater.store import create_store

FINDINGS = ["no mass", "a spiculated mass", "grouped calcifications", "an asymmetry", "architectural distortion"]
PLACES = [
    "upper outer quadrant",
    "upper inner quadrant",
    "lower outer quadrant",
    "lower inner quadrant",
    "retroareolar",
]


def reports(n):
    """Return templated reports: age, side, density, place and finding vary."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(n):
        age, density = int(rng.integers(40, 80)), "abcd"[int(rng.integers(4))]
        side, finding = ("left", "right")[int(rng.integers(2))], FINDINGS[int(rng.integers(5))]
        text = f"screening mammogram of a woman aged {age} , density {density} ."
        if finding != "no mass":
            text += f" {side} breast : {finding} in the {PLACES[int(rng.integers(5))]} ."
        if rng.random() < 0.3:
            text += " compared with the examination of the year before without change in the other breast ."
        out.append(text)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--timed", type=int, default=2_000)
    given = parser.parse_args()
    print(machine())
    texts = reports(given.n)
    words = sorted({word for text in texts for word in text.split()})
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = BertTokenizerFast(vocab=vocab, model_max_length=128)
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(vocab),
            hidden_size=256,
            num_hidden_layers=given.layers,
            num_attention_heads=4,
            intermediate_size=1024,
        )
    ).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "bert")
        tokenizer.save_pretrained(folder / "bert")
        theirs_model = pipeline("feature-extraction", model=model, tokenizer=tokenizer, batch_size=32)
        part = texts[: given.timed]
        start = time.perf_counter()
        for _ in theirs_model(part, return_tensors=True):
            pass
        theirs = (time.perf_counter() - start) * given.n / given.timed
        start = time.perf_counter()
        encoder = load_encoder(f"hf:{folder / 'bert'}", device="cpu", precision="fp32")
        contents, _ = unique_texts(texts)
        features = create_store(folder / "a.hw").require_features(
            "t/text", encoder.spec("text", "float16"), len(contents)
        )
        done = fill(features, encoder, contents)
        ours = time.perf_counter() - start
    print(f"{given.n:,} reports, {done.embedded:,} distinct; theirs timed on {given.timed:,} and scaled")
    report("templated reports to features", ours, theirs, 5)


if __name__ == "__main__":
    main()
