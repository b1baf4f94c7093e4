"""The loop against plain torch, and several processes against one."""

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from PIL import Image

import headwater as hw
from headwater.embed import load_encoder, unique_images
from headwater.embed.contents import key_of_file
from headwater.finetune.adapt import Adapted, LoraSettings, TrainMode
from headwater.finetune.data import InputSource, batches
from headwater.finetune.loop import LoopSettings, LossOf, Predicting, factor, train_model
from headwater.finetune.model import Model
from headwater.finetune.team import Team
from headwater.heads import LinearProbe
from headwater.heads.differentiable import Described, network_of

torch = pytest.importorskip("torch")


def built(tiny, paths, member="timm-vit"):
    """Return an encoder with a linear head as a model, and the head's plain twin."""
    encoder = load_encoder(tiny(member).spec, device="cpu", precision="fp32")
    contents, place = unique_images(paths, [key_of_file(path) for path in paths])
    source = InputSource("x/image", encoder, "image", contents, [np.array([i]) for i in place], False)
    adapted = Adapted(encoder, {"image": TrainMode("full")}, LoraSettings())
    d = encoder.spec("image", "float32").dim
    rng = np.random.default_rng(0)
    described = Described("x/image", 1, rng.normal(size=d), rng.uniform(0.5, 2, d))
    generator = torch.Generator().manual_seed(3)
    network = network_of(LinearProbe(), [described], np.array(["a", "b", "c"]), False, generator)
    return encoder, Model([adapted], [source], network, "cpu"), described


@pytest.mark.usefixtures("resized_by_pillow")
def test_a_step_is_a_step_of_plain_torch(tiny, image_files):
    """After three epochs of one step, each parameter is what the bare loop with AdamW makes of it."""
    y = torch.tensor([0, 1, 2, 1])
    settings = LoopSettings(lr=1e-3, head_lr=1e-2, epochs=3, warmup=0.5, batch_size=4, patience=None, clip=0.7)
    encoder, model, described = built(tiny, image_files)
    for part in encoder.module.modules():  # whatever draws, draws nothing
        if isinstance(part, torch.nn.Dropout) or type(part).__name__ == "DropPath":
            part.p = part.drop_prob = 0.0
    twin = load_encoder(tiny("timm-vit").spec, device="cpu", precision="fp32")
    bare = twin.module.requires_grad_(True)
    own = {name: p.detach().clone() for name, p in model.network.params.items()}
    head = torch.nn.Linear(described.width, 3)
    with torch.no_grad():
        head.weight.copy_(own["in0.weight"][0])
        head.bias.copy_(own["in.bias"][0, :, 0])
    loss_of = LossOf(model.network.objective, torch.ones(3), model.network.regularised)
    task = Predicting(model, y, loss_of, settings, Team("cpu"), None)
    train_model(model, task, np.arange(4), np.zeros(0, np.int64), settings, team=Team("cpu"))

    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (described.mean, described.std))
    matrices = [p for p in bare.parameters() if p.squeeze().ndim >= 2]
    vectors = [p for p in bare.parameters() if p.squeeze().ndim < 2]
    groups = [
        {"params": matrices, "lr": 1e-3, "weight_decay": 1e-4},
        {"params": vectors, "lr": 1e-3, "weight_decay": 0.0},
        {"params": [head.weight], "lr": 1e-2, "weight_decay": 1e-4},
        {"params": [head.bias], "lr": 1e-2, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups)
    highest = [group["lr"] for group in groups]
    x = twin.collate("image", [twin.prepare_image(Image.open(f).convert("RGB")) for f in image_files])
    for epoch in range(3):
        for group, lr in zip(optimiser.param_groups, highest, strict=True):
            group["lr"] = lr * factor(epoch + 1, settings)
        features = bare.forward_head(bare.forward_features(*x), pre_logits=True)
        torch.nn.functional.cross_entropy(head((features - mean) / std), y).backward()
        torch.nn.utils.clip_grad_norm_([*bare.parameters(), *head.parameters()], 0.7)
        optimiser.step()
        optimiser.zero_grad()
    for name, p in bare.named_parameters():
        ours, theirs = dict(encoder.module.named_parameters())[name].detach(), p.detach()
        if name.endswith("qkv.bias"):  # that of keys moves no logit: what Adam makes of its gradient is rounding alone
            ours, theirs = (torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)
    torch.testing.assert_close(model.head["in0.weight"][0].detach(), head.weight.detach(), rtol=1e-3, atol=1e-5)


def test_learning_rates_go_up_and_down():
    """Up in a line over the warm-up, then down as half a cosine to 0."""
    settings = LoopSettings(lr=1, head_lr=1, epochs=10, warmup=2)
    assert factor(1, settings) == 0.5
    assert factor(2, settings) == 1
    assert factor(6, settings) == pytest.approx(0.5)
    assert factor(10, settings) == pytest.approx(0)


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_depend_on_the_seed_alone(tiny, image_files, workers):
    """Images are changed by the seed and their row, whatever the number of threads."""
    _, model, _ = built(tiny, image_files)
    from dataclasses import replace

    from headwater.finetune.augment import parse_augmentation

    source = replace(model.sources[0], augment=parse_augmentation(["geometry", "colour"]))
    parts = [np.array([0, 2]), np.array([3, 1])]
    found = [parts[0].inputs[0] for _, parts in batches([source], parts, seed=(5, 1), workers=workers)]
    again = [parts[0].inputs[0] for _, parts in batches([source], parts[::-1], seed=(5, 1), workers=1)]
    plain = [parts[0].inputs[0] for _, parts in batches([source], parts, workers=workers)]
    for one, other, untouched in zip(found, again[::-1], plain, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, untouched)


@pytest.mark.slow
def test_two_processes_train_as_one(cases, tiny, tmp_path):
    """Two processes over gloo give what one gives that works on each step in two parts."""
    spec = tiny("timm-vit").spec
    options = ["--label", "label", "--groups", "patient", "--folds", "2", "--epochs", "2", "--batch-size", "16"]
    options += ["--encoder", spec, "--set", "C=0.01", "--device", "cpu", "--lr", "0.003", "--patience", "2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    done = subprocess.run(
        [*launch, "headwater", "fine-tune", str(cases), *options, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = hw.fine_tune(
        cases,
        encoder=spec,
        label="label",
        groups="patient",
        folds=2,
        epochs=2,
        batch_size=16,
        params={"C": 0.01},
        device="cpu",
        lr=0.003,
        patience=2,
        accumulate=2,
        lora=LoraSettings(),
    )
    two = hw.open_run(tmp_path / "two")
    assert two.metrics["training"]["processes"] == 2
    scores = [run.predictions.sort("id").select(pl.selectors.starts_with("score_")).to_numpy() for run in (one, two)]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)
    curves = [run.curves["train_loss"].drop_nulls().to_numpy() for run in (one, two)]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
