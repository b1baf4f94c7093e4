"""Real weights on real images: headwater's features are those of the library used by hand."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from headwater.embed import Content, content_key, fill, load_encoder
from headwater.store import create_store

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
WEIGHTS = DATA / "weights" / "mobilenetv2_100.safetensors"
IMAGES = DATA / "glas" / "images"
pytestmark = pytest.mark.skipif(not (WEIGHTS.exists() and IMAGES.exists()), reason="../shared/data is not here")


@pytest.fixture(scope="module")
def by_hand():
    """Return image files and their features by plain timm, in fp32."""
    files = sorted(p for p in IMAGES.iterdir() if p.suffix in (".jpg", ".png"))[::20]
    model = timm.create_model("mobilenetv2_100", num_classes=0).eval()
    state = load_file(WEIGHTS)
    model.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("classifier.")})
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        features = model(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    return files, features.numpy()


@pytest.mark.parametrize(
    ("precision", "resizing", "least"),
    [("fp32", "Pillow's", 0.999999), ("fp32", "torch's", 0.9999), ("auto", "torch's", 0.999)],
)
def test_mobilenet(by_hand, tmp_path, request, precision, resizing, least):
    if resizing == "Pillow's":
        request.getfixturevalue("resized_by_pillow")
    files, expected = by_hand
    encoder = load_encoder("timm:mobilenetv2_100", weights=WEIGHTS, device="cpu", precision=precision)
    contents = [Content(content_key(file.read_bytes()), file) for file in files]
    spec = encoder.spec("image", "float16")
    features = create_store(tmp_path / "s").require_features("mobilenet/image", spec, len(files))
    assert fill(features, encoder, contents, batch_size=4).embedded == len(files)
    stored = np.asarray(features.refresh().pooled).astype(np.float64)
    cosine = (stored * expected).sum(1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > least
    if resizing == "Pillow's":
        np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-3)
