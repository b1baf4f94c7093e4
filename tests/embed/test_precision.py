"""Precision: as asked, or bf16 where the device is fast at it and the vectors do not suffer."""

import numpy as np
import pytest
import torch

from headwater.embed import Content, content_key, fill, load_encoder
from headwater.embed import _torch as frozen_modules
from headwater.embed._torch import Frozen
from headwater.store import create_store


class Cancels(torch.nn.Module):
    """Adds a large number and takes it away again: exact enough in fp32, nothing is left in bf16."""

    def __init__(self):
        super().__init__()
        self.large = torch.nn.Parameter(torch.tensor([4096.0]))

    def forward(self, x):
        x = x.to(self.large.dtype)
        return (x + self.large) - self.large


@pytest.fixture
def fast(monkeypatch):
    """A device that is fast at bf16."""
    monkeypatch.setattr(frozen_modules, "fast_at_bf16", lambda device: True)


@pytest.fixture
def slow(monkeypatch):
    """A device that is not."""
    monkeypatch.setattr(frozen_modules, "fast_at_bf16", lambda device: False)


def images(encoder, files):
    contents = [Content(content_key(file.read_bytes()), file) for file in files]
    return contents, [encoder.prepare("image", content) for content in contents]


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("member", ["timm-conv", "timm-vit", "open_clip", "hf-vit"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_forced(tiny, image_files, member, precision):
    """A precision that is asked for is used, settles on nothing else, and comes near fp32."""
    exact = load_encoder(tiny(member).spec, device="cpu", precision="fp32")
    near = load_encoder(tiny(member).spec, device="cpu", precision=precision)
    _, prepared = images(near, image_files)
    near.settle("image", prepared)
    near.restore({"precision": "fp32"})
    assert (near.environment()["precision"], exact.environment()["precision"]) == (precision, "fp32")
    vectors = near.encode("image", prepared).pooled
    assert vectors.dtype == np.float32
    assert cosines(vectors, exact.encode("image", prepared).pooled).min() > 0.99
    assert not np.array_equal(vectors, exact.encode("image", prepared).pooled)


@pytest.mark.usefixtures("fast")
def test_auto_takes_bf16_where_vectors_stay(tiny, image_files):
    encoder = load_encoder(tiny("timm-vit").spec, device="cpu")
    _, prepared = images(encoder, image_files)
    exact = encoder.encode("image", prepared).pooled
    assert encoder.environment()["precision"] == "fp32"
    encoder.settle("image", prepared)
    assert encoder.environment()["precision"] == "bf16"
    near = encoder.encode("image", prepared).pooled
    assert not np.array_equal(near, exact)
    assert cosines(near, exact).min() >= 0.999


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("member", ["timm-vit", "open_clip", "hf-clip"])
def test_settling_again(tiny, image_files, member):
    """An encoder that fills one feature set after another settles each time, whatever it settled on before."""
    encoder = load_encoder(tiny(member).spec, device="cpu")
    texts = ["gland", "benign tissue"]
    prepared = {
        "image": images(encoder, image_files)[1],
        "text": [encoder.prepare("text", Content(content_key(text.encode()), text)) for text in texts]
        if "text" in encoder.modalities
        else [],
    }
    for modality in ("image", "text", "image"):
        if prepared[modality]:
            encoder.settle(modality, prepared[modality])
            assert np.isfinite(encoder.encode(modality, prepared[modality]).pooled).all()


@pytest.mark.usefixtures("slow")
def test_auto_stays_in_fp32_on_a_slow_device(tiny, image_files):
    encoder = load_encoder(tiny("timm-vit").spec, device="cpu")
    encoder.settle("image", images(encoder, image_files)[1])
    assert encoder.environment()["precision"] == "fp32"


@pytest.mark.usefixtures("fast")
def test_auto_stays_in_fp32_where_vectors_suffer():
    """A module that bf16 ruins is left in fp32, to the last bit."""
    frozen = Frozen(Cancels(), "cpu", "auto")
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    before = frozen.run(lambda module, x: module(x), x)
    frozen.settle(lambda module: module(x))
    assert frozen.precision == "fp32"
    assert torch.equal(frozen.run(lambda module, x: module(x), x), before)


@pytest.mark.usefixtures("fast")
def test_not_a_number_is_not_near():
    frozen = Frozen(torch.nn.Identity(), "cpu", "auto")
    frozen.settle(lambda module: module(torch.ones(2, 2)) * torch.nan)
    assert frozen.precision == "fp32"


@pytest.mark.usefixtures("fast")
def test_each_modality_settles_for_itself():
    """What was found for images says nothing of texts; going back to fp32 gives the exact weights back."""
    frozen = Frozen(Cancels(), "cpu", "auto")
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    frozen.settle(lambda module: x * 2)
    assert frozen.precision == "bf16"
    frozen.settle(lambda module: module(x))
    assert frozen.precision == "fp32"
    assert frozen.module.large.item() == 4096
    frozen.restore({"precision": "bf16"})
    assert (frozen.precision, frozen.module.large.dtype) == ("bf16", torch.bfloat16)
    frozen.restore({})
    assert (frozen.precision, frozen.module.large.dtype) == ("fp32", torch.float32)


def test_a_run_that_is_taken_up_again_keeps_its_precision(tiny, image_files, tmp_path, monkeypatch):
    """Begun in bf16, a run ends in bf16, even on a machine that would not have chosen it; and the other way round."""
    for first, then, expected in ((True, False, "bf16"), (False, True, "fp32")):
        features = None
        for fast, files in ((first, image_files[:2]), (then, image_files)):
            monkeypatch.setattr(frozen_modules, "fast_at_bf16", lambda device, fast=fast: fast)
            encoder = load_encoder(tiny("timm-vit").spec, device="cpu")
            contents, _ = images(encoder, files)
            store = create_store(tmp_path / expected)
            features = store.require_features("f/image", encoder.spec("image", "float16"), len(image_files))
            fill(features, encoder, contents)
            assert encoder.environment()["precision"] == expected
        environments = features.refresh().state.environments.values()
        assert {environment["precision"] for environment in environments} == {expected}
