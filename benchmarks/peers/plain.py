"""The script that a user writes without headwater: timm, a DataLoader, one .npy file, and scikit-learn.

    python plain.py MANIFEST WEIGHTS FEATURES.npy RESULT.json

MANIFEST has the columns ``image`` (relative to it), ``label`` and ``source_tile``. Images are embedded unless
FEATURES.npy is there. The penalty is selected in inner folds; source tiles are whole in every fold.
"""

import csv
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CORES = len(os.sched_getaffinity(0))


def embed(images: list[Path], weights: str) -> np.ndarray:
    """Return a float32 vector for each image, of shape (n_images, 1280)."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_100", num_classes=0).eval()
    model.load_state_dict(load_file(weights))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return transform(Image.open(images[index]).convert("RGB"))

    vectors = []
    with torch.inference_mode():
        for batch in torch.utils.data.DataLoader(Images(), batch_size=32, num_workers=CORES):
            vectors.append(model(batch).numpy())
            print(f"embedded {sum(map(len, vectors))}/{len(images)}", flush=True)
    return np.concatenate(vectors)


def main() -> None:
    manifest, weights, features, result = sys.argv[1:]
    with Path(manifest).open() as file:
        rows = list(csv.DictReader(file))
    if Path(features).exists():
        X = np.load(features)
    else:
        X = embed([Path(manifest).parent / row["image"] for row in rows], weights)
        np.save(features, X)
    y = np.array([row["label"] for row in rows])
    groups = np.array([row["source_tile"] for row in rows])
    warnings.simplefilter("ignore")
    scores = {"accuracy": [], "balanced_accuracy": []}
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(X, y, groups):
        inner = list(StratifiedGroupKFold(4, shuffle=True, random_state=0).split(X[train], y[train], groups[train]))
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        grid = {"logisticregression__C": np.logspace(-6, 2, 17)}
        search = GridSearchCV(model, grid, cv=inner, scoring="neg_log_loss", n_jobs=CORES).fit(X[train], y[train])
        predicted = search.predict(X[test])
        scores["accuracy"].append(accuracy_score(y[test], predicted))
        scores["balanced_accuracy"].append(balanced_accuracy_score(y[test], predicted))
    Path(result).write_text(json.dumps(scores))
    print(f"accuracy {np.mean(scores['accuracy']):.3f}")


if __name__ == "__main__":
    main()
