"""
A8: The open questions of the study
===================================

The study trains one kind of adapter, on images alone, at one magnification at a time. Each question that it leaves
open is an option here: size and place of the adapters, augmentation, stains, text beside the image, several
magnifications at once, and bags of images. Every option is tested in the same folds, beside the adapters of A7.
"""

from pathlib import Path

import headwater as hw
from support import Recipe

recipe = Recipe("A8", "open questions: adapters, augmentation, stains, text, magnifications, bags")
template = Path(__file__).with_name("a8_text.toml")
manifest = recipe.manifest("breakhis")
told = hw.text(manifest, template=template, column="text", out=recipe.out / "with_text.parquet")
question = "Is this benign or malignant?"
encoder = recipe.encoder("hf:HuggingFaceTB/SmolVLM-Instruct", small="hf-smolvlm", prompt=f"{{image}}{question}")
small = {"folds": 3, "epochs": 3, "lr": 1e-3} if recipe.small else {"folds": 5, "epochs": 10}
attention = r"^text_model\.layers\..*\.[qkvo]_proj$"
runs = {}


def tune(at, lora=None, where="magnification = 200", **options):
    """Train adapters with some options; all else stays the same."""
    lora = hw.LoraSettings(**{"rank": 20, "alpha": 40, "dropout": 0.05, "modules": attention, **(lora or {})})
    same = {"encoder": encoder, "label": "label", "groups": "patient", "refit": False, **small}
    runs[at] = hw.fine_tune(told.path, where=where, lora=lora, out=recipe.out / "runs" / at, **same, **options)


# %%
# The adapters of A7; then another rank, scale (``alpha``, divided by the rank) and dropout, the decoder's other linear
# layers, and the attention of the vision encoder.

tune("as A7")
tune("rank 4", {"rank": 4, "alpha": 8})
tune("alpha 160", {"alpha": 160})
tune("dropout 0.3", {"dropout": 0.3})
tune("all linear layers", {"modules": r"^text_model\.layers\."})
tune("vision too", {"modules": r"^(text_model\.layers|vision_model\.encoder\.layers)\..*\.([qkvo]|out)_proj$"})

# %%
# Colour and geometric augmentation, each alone; and stains normalised by Macenko's method, without augmentation.

tune("colour", augment=["colour"])
tune("geometry", augment=["geometry"])
tune("Macenko", steps=["macenko"])

# %%
# Text beside the image: the prompt has a place for each. Notes of a pathologist are in made data only, as captions.

if "caption" in told.table.columns:
    tune("notes", text="caption", prompt=f"{{image}}Notes: {{text}}\n{question}")

# %%
# Several magnifications at once, without and with a text that says stain and magnification (``a8_text.toml``). Results
# are also given by magnification.

every = {"where": None, "by": "magnification"}
tune("all magnifications", **every)
tune("all, said in text", text="text", prompt=f"{{image}}{{text}} {question}", **every)

# %%
# Bags: all images of a patient are one row, as the tiles of a whole slide would be (``headwater tiles`` cuts them, and
# ``bags`` is then the slide). Attention over the frozen features of the images, beside their mean.

store = recipe.out / "features.hw"
hw.embed(told.path, store, encoder=encoder, image="image", name="frozen")
bags = {"head": "mil", "bags": "patient", "label": "label", "groups": "patient", "folds": small["folds"]}
for pool in ("attention", "mean"):
    at = f"bags, {pool}"
    runs[at] = hw.fit_head(store, features="frozen/image", params={"pool": pool}, out=recipe.out / "runs" / at, **bags)

# %%
# Every option with its interval, and what each changes, by the corrected t-test over folds. Among so many options one
# may look better by chance: correct for their number (``hw.compare`` of all runs does), or test that one on new data.

print(hw.table([run.path for run in runs.values()], names=list(runs), metrics=["auc", "accuracy"], intervals=True))
pairs = [(at, "as A7") for at in list(runs)[1:-4]]
pairs += [("all, said in text", "all magnifications"), ("bags, attention", "bags, mean")]
for at, other in pairs:
    print(hw.compare([runs[at], runs[other]]).differences[0].verdict)

recipe.write(
    runs,
    published={},
    metrics=["auc", "accuracy"],
    differs={
        "data": "synthetic histology, 48 images of 24 patients at each magnification",
        "weights": "a tiny SmolVLM of random weights",
        "size": "3 epochs at a learning rate of 1e-3; a fold that training does not help keeps the frozen model",
        "protocol": "3 folds instead of 5",
    },
    on_data={"protocol": "70 patients: blocks of one slide number stay together; no notes"},
)
