"""
B8: A ranked list of findings within seconds
============================================

What the systems are for: a pathologist gives an image and a sentence, and within seconds reads a ranked list of
findings. A head is fitted on the stored cases once. A new case is then encoded by the same encoder, and the head ranks
all labels for it.
"""

import headwater as hw
from support import Recipe, multilabel_histology

recipe = Recipe("B8", "An image and a sentence in, ranked findings out")

# %%
# The data set is one row per image-caption pair. The column ``pathology`` holds its labels, with semicolons between.
# Labels that mean the same are united by ``merge.csv``, a table of the user with the columns ``from`` and ``to``. Pairs
# without a caption or a corrected caption are left out, as in the paper.

manifest = recipe.manifest("quilt", small=multilabel_histology)
labels = {"label": "pathology", "label_separator": ";", "merge": recipe.beside("merge.csv")}
complete = "text IS NOT NULL AND corrected_text IS NOT NULL"

# %%
# Embed images and captions once.

encoder = recipe.encoder("hf:openai/clip-vit-base-patch32", small="builtin:clip")
store = recipe.out / "features.hw"
hw.embed(manifest, store, encoder=encoder, image="image", text="text", name="clip", progress=True)

# %%
# Set one case aside as the new one: it, and all pairs of its video, take no part in what follows.

case = hw.open_store(store).select(complete).row(-1, named=True)
others = f"{complete} AND video <> '{case['video']}'"

# %%
# Fit the head, and test it on a fifth of the other pairs. ``top3_1`` is the share of cases with at least one true label
# among the first three of the list.

run = hw.fit_head(
    store,
    features=["clip/image", "clip/text"],
    head="mlp",
    params={"hidden": [512, 512, 512], "lr": 1e-3, "dropout": 0.1},
    **labels,
    where=others,
    groups="video",
    holdout=0.2,
    out=recipe.out / "run",
)
print(hw.table([run.path], names=["CLIP, image and text"]))

# %%
# Ask for the new case. The time includes loading the encoder, which a server does once. ``unlike_training`` tells how
# unusual the case is: the share of known cases that are nearer to the others.

began = recipe.seconds
found = hw.predict(run.path, image=manifest.parent / case["image"], text=case["text"]).table.row(0, named=True)
print(f"{recipe.seconds - began:.1f} seconds for: {case['text']}")
for rank, name in enumerate(found["findings"][:5], start=1):
    print(f"{rank}. {name} ({found[f'score_{name}']:.2f}){' *' if name in case['pathology'] else ''}")
print(f"* is a true label; {found['unlike_training']:.0f} % of the known cases are more usual than this one")

# %%
# For a pathologist, the same is a page in the browser: drop an image, write a sentence, and read findings and similar
# cases. ``headwater serve features.hw --run run --show pathology`` opens it.

SPLIT = "videos stay whole; the paper divides pairs at random"
recipe.write(
    {"": run},
    published={},
    metrics=["top3_1", "auc_micro"],
    differs={
        "data": "synthetic histology, 240 pairs of 120 patients, three of 14 labels each",
        "weights": "a small dual encoder, trained on other synthetic histology",
        "protocol": SPLIT,
    },
    on_data={"protocol": SPLIT},
)
