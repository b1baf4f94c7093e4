"""Write a small dual encoder for open_clip: MobileNetV2 as it is, and a text tower tuned to it.

    python make_clip.py MANIFEST WEIGHTS FOLDER

The image tower is frozen and not projected, so its vectors are those of the other comparisons, but for open_clip's own
preprocessing. The text tower (2 layers) learns which of the class prompts belongs to an image, on the images whose
``fold`` is not 0. Images of fold 0 are for the tests. FOLDER is read by ``open_clip:local-dir:FOLDER`` and by
CLIP_benchmark's ``--model local-dir:FOLDER``.
"""

import csv
import json
import sys
from pathlib import Path

import open_clip
import torch
from PIL import Image
from prepare import TEMPLATES
from safetensors.torch import load_file, save_file

CONFIG = {
    "model_cfg": {
        "embed_dim": 1280,
        "vision_cfg": {
            "timm_model_name": "mobilenetv2_100",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": 224,
        },
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bicubic"},
}
STEPS = 300


def main() -> None:
    manifest, weights, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1))
    settings = CONFIG["model_cfg"]
    model = open_clip.CLIP(settings["embed_dim"], settings["vision_cfg"], settings["text_cfg"])
    model.visual.trunk.load_state_dict(load_file(weights), strict=False)
    model.eval()
    with manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row["fold"] != "0"][::2]
    classes = sorted({row["label"] for row in rows})
    transform = open_clip.image_transform(
        224, is_train=False, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic"
    )
    X = []
    with torch.no_grad():
        for row in rows:
            image = transform(Image.open(manifest.parent / row["image"]))
            X.append(model.encode_image(image[None], normalize=True))
    X = torch.cat(X)
    y = torch.tensor([classes.index(row["label"]) for row in rows])
    words = open_clip.tokenize([t.format(c) for t in TEMPLATES for c in classes], context_length=32)
    model.logit_scale.data.fill_(float(torch.tensor(100.0).log()))
    tuned = [value for name, value in model.named_parameters() if not name.startswith(("visual.", "logit_scale"))]
    optimizer = torch.optim.AdamW(tuned, lr=1e-3)
    for _ in range(STEPS):
        texts = model.encode_text(words, normalize=True).view(len(TEMPLATES), len(classes), -1)
        logits = 100.0 * torch.einsum("nd,tcd->tnc", X, texts)
        loss = sum(torch.nn.functional.cross_entropy(each, y) for each in logits) / len(TEMPLATES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    print(f"after {STEPS} steps: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
