"""Embedding on the CPU, from JPEG files to stored features: how near to the bound, how far from a plain loop.

Two ratios a model, both sides measured in one run, in turn:

- *of the bound*: images a second, end to end, divided by ``cores / (p + f)``, where ``p`` are the core-seconds that
  one image takes to be decoded and transformed, and ``f`` those of the bare model's forward pass on ready tensors in
  the same precision, each measured alone on one thread, best of several. What is missing is the store, and what the
  cores' caches and memory lose when both parts alternate on all of them at once.
  The same ratio in core-seconds, used by the run against ``p + f``, is what other programs on the machine disturb less;
  it leaves out the time that a core stands idle.
- *of a plain loop*: against timm as its documentation shows it, a DataLoader over files and the model in fp32, with
  torch's own threads.

Run: python benchmarks/embed_cpu.py [--models NAME ...] [--repeats N]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from _timing import best
from PIL import Image

from headwater._devices import fast_at_bf16
from headwater._memory import keep_freed_memory
from headwater.embed import Content, fill, key_of_file, load_encoder
from headwater.embed.run import CORE_BATCH
from headwater.store import create_store

WEIGHTS = Path(__file__).parents[1] / ".." / "shared" / "data" / "weights" / "mobilenetv2_100.safetensors"
MODELS = {"mobilenetv2_100": 1536, "vit_small_patch16_224": 256}  # and on how many images
N_DISTINCT = 256
CORES = len(os.sched_getaffinity(0))


def make_images(folder, n_images):
    """Save smooth random JPEG files of 512 to 768 pixels a side; from the 256th on, copies with a byte or two more."""
    random = np.random.default_rng(0)
    for i in range(n_images):
        file = folder / f"{i:05}.jpg"
        if i >= N_DISTINCT:
            file.write_bytes((folder / f"{i % N_DISTINCT:05}.jpg").read_bytes() + str(i).encode())
            continue
        width, height = random.integers(512, 769, 2).tolist()
        coarse = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        fine = random.normal(0, 6, (height, width, 3))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + fine
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return sorted(folder.glob("*.jpg"))


def weights_of(name, folder):
    """Return the real weights file where there is one, else a file of random weights."""
    if name == "mobilenetv2_100" and WEIGHTS.exists():
        return WEIGHTS
    file = folder / f"{name}.pt"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), file)
    return file


def headwater_rate(name, weights, contents, folder, precision):
    """Return images a second from files to a finished feature set, core-seconds an image, and the precision."""
    encoder = load_encoder(f"timm:{name}", weights=weights, device="cpu", precision=precision)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        features = create_store(Path(store) / "a.hw").require_features(
            "f/image", encoder.spec("image", "float16"), len(contents)
        )
        start, core_start = time.perf_counter(), time.process_time()
        assert fill(features, encoder, contents).embedded == len(contents)
        seconds, core_seconds = time.perf_counter() - start, time.process_time() - core_start
        return len(contents) / seconds, core_seconds / len(contents), encoder.environment()["precision"]


def bound_rate(name, weights, contents, precision):
    """Return the images a second that the cores allow, and the seconds of its two parts; see above."""
    encoder = load_encoder(f"timm:{name}", weights=weights, device="cpu", precision=precision)
    model, dtype = encoder._frozen.module, encoder._frozen.dtype
    some = contents[:: max(1, len(contents) // 64)]
    prepared = [encoder.prepare("image", content) for content in some]
    x = encoder._pipeline.batch(prepared[:CORE_BATCH], encoder._frozen).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with keep_freed_memory(), torch.inference_mode():
        decoding = best(lambda: [encoder.prepare("image", content) for content in some], 5) / len(some)
        scaling = best(lambda: encoder._pipeline.batch(prepared[:CORE_BATCH], encoder._frozen), 5) / CORE_BATCH
        forward = best(lambda: model(x), 5) / CORE_BATCH
    torch.set_num_threads(before)
    return CORES / (decoding + scaling + forward), decoding + scaling, forward


class Files(torch.utils.data.Dataset):
    def __init__(self, files, transform):
        self.files = files
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def plain_rate(name, weights, files):
    """Return images a second of timm as its documentation shows it."""
    model = timm.create_model(name, num_classes=0).eval()
    state = encoder_state(weights)
    model.load_state_dict(state, strict=False)
    config = timm.data.resolve_model_data_config(model)
    dataset = Files(files, timm.data.create_transform(**config, is_training=False))
    start = time.perf_counter()
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=CORES)
    with torch.inference_mode():
        features = torch.cat([model(batch) for batch in loader])
    assert len(features) == len(files)
    return len(files) / (time.perf_counter() - start)


def encoder_state(weights):
    if weights.suffix == ".pt":
        return torch.load(weights, weights_only=True)
    from safetensors.torch import load_file

    return load_file(weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    chosen = "bf16" if fast_at_bf16("cpu") else "fp32"
    print(f"{CORES} cores, torch {torch.__version__}, JPEG files of 512 to 768 pixels a side")
    with tempfile.TemporaryDirectory() as folder:
        all_files = make_images(Path(folder), max(MODELS[name] for name in options.models))
        for name in options.models:
            files = all_files[: MODELS[name]]
            contents = [Content(key_of_file(file), file) for file in files]
            weights = weights_of(name, Path(folder))
            of_bound = {}
            for precision in sorted({"fp32", chosen}):
                pairs = []
                for _ in range(options.repeats):
                    bound, preparing, forward = bound_rate(name, weights, contents, precision)
                    rate, used, _ = headwater_rate(name, weights, contents, Path(folder), precision)
                    pairs.append((rate / bound, (preparing + forward) / used, rate, bound, preparing, forward))
                of_bound[precision] = sorted(pairs)[len(pairs) // 2]
            loops = []
            for _ in range(options.repeats):
                plain = plain_rate(name, weights, files)
                rate, _, settled = headwater_rate(name, weights, contents, Path(folder), "auto")
                loops.append((rate / plain, rate, plain))
            print(f"\n{name}, {len(files)} images")
            for precision, (ratio, core_ratio, rate, bound, preparing, forward) in of_bound.items():
                print(
                    f"  of the bound, {precision}:  {ratio:.2f}, in core-seconds {core_ratio:.2f}  ({rate:.1f} of "
                    f"{bound:.1f} images/s; decode and transform {1e3 * preparing:.2f} ms, forward "
                    f"{1e3 * forward:.2f} ms)"
                )
            ratio, rate, plain = sorted(loops)[len(loops) // 2]
            print(f"  of a plain loop, auto ({settled}):  {ratio:.2f}x  ({rate:.1f} against {plain:.1f} images/s)")


if __name__ == "__main__":
    main()
