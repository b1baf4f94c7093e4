"""A step of training, against the same step in a bare PyTorch loop, and the memory that LoRA and full tuning take.

Both sides train ViT-B/16 (or ``--model``) with random weights and a linear head on the same images, by AdamW, in the
same precision. Ours reads the images from JPEG files in other threads while the device works; the bare loop has them as
ready tensors, so that what the loop, and reading, cost can be told. Peak memory is that of the process on the CPU, of
tensors on a GPU, each measured in a process of its own.

Run: python benchmarks/fine_tune_step.py [--model NAME] [--steps N] [--batch N] [--device cpu|cuda]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from _timing import machine, report
from embed_cpu import make_images

from headwater.embed import key_of_file, load_encoder, unique_images
from headwater.finetune.adapt import Adapted, LoraSettings, parse_train_mode
from headwater.finetune.data import InputSource
from headwater.finetune.loop import LoopSettings, LossOf, Predicting, train_model
from headwater.finetune.model import Model
from headwater.finetune.team import Team
from headwater.heads import LinearProbe
from headwater.heads.differentiable import Described, network_of


def built(name, how, files, folder, device):
    """Return a model that is trained, and the encoder."""
    weights = folder / f"{name}.pt"
    if not weights.exists():
        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), weights)
    encoder = load_encoder(f"timm:{name}", weights=weights, device=device, precision="fp32")
    return adapted_model(encoder, how, files, device), encoder


def adapted_model(encoder, how, files, device):
    """Return a model of an encoder that is trained, and a linear head for two classes."""
    contents, place = unique_images(files, [key_of_file(file) for file in files])
    source = InputSource("x/image", encoder, "image", contents, [np.array([i]) for i in place], False)
    adapted = Adapted(encoder, {"image": parse_train_mode(how)}, LoraSettings())
    d = encoder.spec("image", "float32").dim
    described = Described("x/image", 1, np.zeros(d), np.ones(d))
    network = network_of(LinearProbe(), [described], np.arange(2), False, torch.Generator().manual_seed(0))
    return Model([adapted], [source], network, device)


def ours(model, n, batch, precision, device):
    """Return seconds a step over one epoch of our loop."""
    y = torch.arange(n, device=device)[:, None] % 2
    loss_of = LossOf(model.network.objective, torch.ones(2, 1, device=device), model.network.regularised)
    settings = LoopSettings(
        lr=1e-5, head_lr=1e-4, epochs=1, warmup=0.5, batch_size=batch, patience=None, precision=precision
    )
    start = time.perf_counter()
    team = Team(device)
    task = Predicting(model, y.float(), loss_of, settings, team, None)
    train_model(model, task, np.arange(n), np.zeros(0, np.int64), settings, team=team)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / (n // batch)


def bare(model, encoder, files, n, batch, dtype, device):
    """Return seconds a step of the plain loop on ready tensors."""
    from PIL import Image

    x = encoder.collate("image", [encoder.prepare_image(Image.open(f).convert("RGB")) for f in files[:batch]])[0]
    y = torch.arange(batch, device=device).float()[:, None] % 2
    parameters = [p for p in encoder.module.parameters() if p.requires_grad]
    head = torch.nn.Linear(model.network.inputs[0].width, 1).to(device)
    optimiser = torch.optim.AdamW([*parameters, *head.parameters()], lr=1e-5, fused=True)
    start = time.perf_counter()
    for _ in range(n // batch):
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            pooled = encoder.module.forward_head(encoder.module.forward_features(x), pre_logits=True)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(pooled.float()), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*parameters, *head.parameters()], 1.0)
        optimiser.step()
        optimiser.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / (n // batch)


def peak(device):
    """Return bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with Path("/proc/self/status").open() as file:  # what getrusage gives begins with the parent's
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", metavar="HOW", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        folder = Path(given.folder)
        files = sorted(folder.glob("*.jpg"))[: 2 * given.batch]
        model, _ = built(given.model, given.memory, files, folder, given.device)
        ours(model, len(files), given.batch, "auto", given.device)
        print(peak(given.device))
        return
    print(machine(), torch.cuda.get_device_name() if given.device == "cuda" else "no GPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n = given.steps * given.batch
        files = make_images(folder, max(n, given.batch * 2))[:n]
        for how in ("lora", "full"):
            model, encoder = built(given.model, how, files, folder, given.device)
            dtype = Team(given.device).dtype("auto")
            bare(model, encoder, files, 2 * given.batch, given.batch, dtype, given.device)  # warm
            times = [
                (
                    ours(model, n, given.batch, "auto", given.device),
                    bare(model, encoder, files, n, given.batch, dtype, given.device),
                )
                for _ in range(given.repeats)
            ]
            mine, theirs = (min(side) for side in zip(*times, strict=True))
            report(f"a step of {how}, {given.model}, batch {given.batch}, {dtype}", mine, theirs, 0.95)
        for how in ("lora", "last-2", "full"):
            command = [sys.executable, __file__, "--memory", how, "--folder", name, "--model", given.model]
            command += ["--batch", str(given.batch), "--device", given.device]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"peak memory, {how}: {int(done.stdout.split()[-1]) / 2**20:,.0f} MB")


if __name__ == "__main__":
    main()
