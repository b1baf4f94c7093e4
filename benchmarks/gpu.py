"""Every part that uses a GPU, against the bare operation and a plain loop, in at most eight minutes, unattended.

Images are JPEG files made on the spot and models have random weights, so nothing is fetched. Beside torch, torchvision,
timm, transformers, peft and headwater nothing is needed; sides that want FAISS or XGBoost are skipped without them.
Each row is measured side by side in one process. One that cannot be measured here (a package is missing, memory runs
out, it takes longer than its limit) says why, and the others go on. Rows are written to the JSON file as they come, so
that a run that is cut short keeps what it has. Without a GPU, what compares a GPU with the CPU compares the CPU with
itself, and says so.

Run: python benchmarks/gpu.py [--json FILE] [--device cuda] [--rows NAME ...] [--minutes 8]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _decoder import QWEN2_VL_2B, TINY_DECODER, Decoder, save_decoder
from _timing import best, machine
from embed_cpu import Files, make_images
from mlp_sweep import SETTINGS, plain

from headwater import _backend
from headwater.embed import Content, fill, key_of_file, load_encoder
from headwater.embed.feed import Feed, feeding
from headwater.heads import KNN, MLP, LinearProbe, Ridge, XGBoost, boosting, ridge
from headwater.heads import linear as linear_heads
from headwater.retrieve import search as nearest
from headwater.store import create_store

CORES = len(os.sched_getaffinity(0))


@dataclass
class Row:
    """One comparison: what was measured, on which side how much, and how much was hoped for."""

    name: str
    against: str
    unit: str
    ours: float
    theirs: float
    at_least: float | None
    also: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times as good ours is; above 1 is better, of rates and of seconds."""
        return self.ours / self.theirs if self.unit.endswith("/s") else self.theirs / self.ours


@dataclass(frozen=True)
class Sizes:
    """How much is measured: on a GPU, or at tiny sizes to try the script."""

    n_images: int = 4096
    n_plain: int = 512
    batch: int = 256
    models: tuple[tuple[str, float | None], ...] = (
        ("resnet50", None),
        ("vit_base_patch16_224", 3500.0),
        ("vit_large_patch14_clip_224", 1200.0),
    )
    step_model: str = "vit_base_patch16_224"
    step_batch: int = 64
    steps: int = 8
    n_settings: int = 64
    n_rows: int = 8000
    linear: tuple[tuple[int, int, float], ...] = ((8000, 768, 5.0), (100_000, 1024, 15.0))
    maps: tuple[str, int, tuple[int, int]] = ("resnet34", 64, (1520, 912))
    search: tuple[int, int, int] = (1_000_000, 768, 1000)
    worthwhile: tuple[float, ...] = (0.03, 0.3, 1.0)
    worthwhile_columns: int = 768
    decoder: Decoder = QWEN2_VL_2B
    decoder_batch: int = 4
    decoder_steps: int = 5


TINY = Sizes(
    n_images=24,
    n_plain=8,
    batch=8,
    models=(("test_vit", None), ("test_resnet", None)),
    step_model="test_vit",
    step_batch=4,
    steps=2,
    n_settings=2,
    n_rows=200,
    linear=((200, 16, 5.0),),
    maps=("test_resnet", 2, (96, 64)),
    search=(3000, 16, 20),
    worthwhile=(1e-5, 3e-5, 1e-4),
    worthwhile_columns=16,
    decoder=TINY_DECODER,
    decoder_batch=2,
    decoder_steps=2,
)


class Bench:
    """What rows share: the device, the sizes, image files, and models with random weights."""

    def __init__(self, device: str, sizes: Sizes, folder: Path) -> None:
        self.device, self.sizes, self.folder = device, sizes, folder
        images = folder / "images"
        images.mkdir()
        self.files = make_images(images, sizes.n_images)
        self.contents = [Content(key_of_file(file), file) for file in self.files]
        self.skipped: dict[str, str] = {}

    @property
    def cores(self) -> str:
        """What a GPU is compared with."""
        return f"{CORES} cores" if self.device == "cuda" else "itself, without a GPU"

    def skip(self, what: str, why: str) -> None:
        """Say that a side of a row is left out."""
        self.skipped[what] = why
        print(f"{what}: skipped ({why})", flush=True)

    def weights(self, name: str) -> Path:
        """Return a file of random weights of a timm model."""
        file = self.folder / f"{name}.pt"
        if not file.exists():
            torch.manual_seed(0)
            torch.save(timm.create_model(name).state_dict(), file)
        return file

    def encoder(self, name: str, **options: Any) -> Any:
        """Return a timm model as an encoder, in the precision that ``auto`` settles for."""
        found = load_encoder(
            f"timm:{name}", weights=self.weights(name), device=self.device, batch_size=self.sizes.batch, **options
        )
        found.settle("image", [found.prepare("image", self.contents[0])] * 4)
        return found

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Return the least seconds of some work, the device's share included."""

        def whole() -> None:
            work()
            self.wait()

        whole()
        return best(whole, repeats)

    @contextmanager
    def peak(self) -> Iterator[Callable[[], float]]:
        """Give a function of the most gigabytes that tensors took on the device; 0 on a CPU."""
        self.clear()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else 0.0

    def clear(self) -> None:
        """Free what earlier rows left on the device."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


# Rows


def feed(bench: Bench) -> Iterator[Row]:
    """Decode and transform as ``embed`` does, in threads and in processes, against processes that do nothing else."""
    encoder = bench.encoder(bench.sizes.models[0][0])
    some = bench.contents[: min(len(bench.contents), 64 * CORES)]
    jobs = [some[i : i + 16] for i in range(0, len(some), 16)]
    config = timm.data.resolve_model_data_config(timm.create_model(bench.sizes.models[0][0]))
    with ProcessPoolExecutor(CORES, initializer=_prepare_process, initargs=(config,)) as processes:
        paths = [str(content.source) for content in some]
        theirs = len(some) / bench.seconds(lambda: list(processes.map(_decoded, paths, chunksize=8)), 2)
    encoder.threads_own_cores = False  # as on a GPU, also where the script is tried on a CPU
    for kind in ("threads", "processes"):
        with (
            feeding(encoder, "image", some, len(some), 16, CORES, kind) as source,
            ThreadPoolExecutor(CORES) as threads,
        ):

            def prepared(job: Sequence[Content], source: Feed = source) -> None:
                source.done(source.prepare(range(len(job)), job))

            ours = len(some) / bench.seconds(lambda f=prepared, t=threads: list(t.map(f, jobs)), 2)
        against = "processes that only decode and transform"
        yield Row(f"feed alone by {kind}, {CORES} cores", against, "images/s", ours, theirs, 1.3)


def embedding(bench: Bench) -> Iterator[Row]:
    """Files to stored features, against the bare forward on ready tensors and against a plain DataLoader loop."""
    sizes = bench.sizes
    for name, wanted in sizes.models:
        encoder = bench.encoder(name)
        prepared = [encoder.prepare("image", content) for content in bench.contents[: sizes.batch]]
        ready = encoder.collate("image", prepared)
        n = len(prepared)
        preparing = best(lambda e=encoder: [e.prepare("image", c) for c in bench.contents[:32]], 2) / 32
        collating = bench.seconds(lambda e=encoder, p=prepared: e.collate("image", p)) / n

        def forward(encoder: Any = encoder, ready: Any = ready) -> None:
            with torch.inference_mode():
                encoder.features(encoder._frozen.module, "image", ready)

        bare = n / bench.seconds(forward)
        rate = _embedded(bench, encoder, bench.contents)
        where = {
            "precision": encoder.environment()["precision"],
            "decode_ms": 1e3 * preparing,
            "collate_ms": 1e3 * collating,
            "forward_ms": 1e3 / bare,
            "feed_limit": CORES / preparing,
            "images_per_second_wanted": wanted,
        }
        limit = min(bare, CORES / preparing)
        yield Row(f"embed {name}", "bare forward on ready tensors", "images/s", rate, bare, 0.9, where)
        yield Row(f"embed {name}", "the slower of forward and feed", "images/s", rate, limit, 0.95)
        plain_rate = _plain_loop(bench, name)
        yield Row(f"embed {name}", "plain fp32 DataLoader loop", "images/s", rate, plain_rate, 3.0)


def feature_maps(bench: Bench) -> Iterator[Row]:
    """Tokens of a ResNet-34 at 1520 x 912 pixels, as published for mammograms: end to end against the forward."""
    name, n, size = bench.sizes.maps
    with bench.peak() as peak:
        encoder = bench.encoder(name, tokens="all", image_size=size)
        ready = encoder.collate("image", [encoder.prepare("image", bench.contents[0])] * min(n, 8))

        def forward() -> None:
            with torch.inference_mode():
                encoder.features(encoder._frozen.module, "image", ready)

        bare = min(n, 8) / bench.seconds(forward)
        rate = _embedded(bench, encoder, bench.contents[:n], batch=8)
        also = {"peak_gigabytes": peak(), "tokens": encoder.spec("image", "float16").n_tokens}
    yield Row(f"tokens of {name} at {size[0]} x {size[1]}", "bare forward", "images/s", rate, bare, None, also)


def perceptrons(bench: Bench) -> Iterator[Row]:
    """Settings of a perceptron x 5 folds trained together, against PyTorch's own loop, timed on two of them."""
    sizes, epochs = bench.sizes, 5
    random = np.random.default_rng(0)
    X = random.standard_normal((sizes.n_rows, 768)).astype(np.float32)
    y = (X[:, 0] + random.standard_normal(sizes.n_rows) > 0).astype(int)
    parts = np.array_split(random.permutation(sizes.n_rows), 5)
    splits = [(np.concatenate(parts[:i] + parts[i + 1 :]), parts[i]) for i in range(5)]
    settings = SETTINGS[:: max(1, len(SETTINGS) // sizes.n_settings)][: sizes.n_settings]
    head = MLP(hidden=(256,), epochs=epochs, batch_size=256, warmup=0.0, patience=None, device=bench.device)
    fits = [(train, setting) for train, _ in splits for setting in settings]
    ours = bench.seconds(lambda: head.fit_many(X, y, fits), 1)
    started = time.perf_counter()
    for setting in settings[:2]:
        plain(X, y, *splits[0], [256], epochs, 256, bench.device, **setting)
    theirs = (time.perf_counter() - started) / 2 * len(fits)
    name = f"{len(settings)} perceptrons x 5 folds, {sizes.n_rows:,} x 768"
    yield Row(name, "plain PyTorch loop, two timed", "s", ours, theirs, 30.0)


def linear(bench: Bench) -> Iterator[Row]:
    """20 penalties x 5 folds of logistic regression on features in memory: on the device, against the CPU's cores."""
    for n, d, wanted in bench.sizes.linear:
        X, y = _features(n, d)
        fits = _fits(n, 20)
        heads = {}

        def fit(where: str, X: Any = X, y: Any = y, fits: Any = fits, heads: Any = heads) -> None:
            heads[where] = LinearProbe(device=where).fit_many(X, y, fits)

        ours = bench.seconds(lambda fit=fit: fit(bench.device), 2)
        on_device = heads[bench.device]
        theirs = best(lambda fit=fit: fit("cpu"), 1)
        there = torch.asarray(X, device=bench.device)
        ready = bench.seconds(lambda there=there, y=y, fits=fits: LinearProbe().fit_many(there, y, fits), 1)
        apart = max(
            float(np.abs(a.predict_proba(X[:2000]) - b.predict_proba(X[:2000])).max())
            for a, b in zip(on_device, heads["cpu"], strict=True)
        )
        also = {"seconds_with_tensors_on_the_device": ready, "largest_difference_of_probabilities": apart}
        name = f"{len(fits)} logistic fits, {n:,} x {d}"
        yield Row(name, bench.cores, "s", ours, theirs, wanted, also)


def worthwhile(bench: Bench) -> Iterator[Row]:
    """Heads at three sizes around the number of operations from which ``auto`` takes a GPU, on it and on the CPU.

    ``auto`` is right to take the GPU where the CPU takes longer than the GPU with its start in a new process.
    """
    started = {where: _seconds_to_start(where) for where in dict.fromkeys((bench.device, "cpu"))}
    for head in ("linear", "ridge", "knn", "xgboost"):
        if head == "xgboost" and find_spec("xgboost") is None:
            bench.skip("worthwhile: xgboost", "xgboost is not installed")
            continue
        last = 0.0
        for share in bench.sizes.worthwhile:
            if last * 4 > 30:
                bench.skip(f"worthwhile: {head} at {share:g} of the rule", f"the size before took {last:.0f} s")
                continue
            work, n, d = _work_of(head, share * _backend.WORTHWHILE, bench.sizes.worthwhile_columns)
            with _estimates() as estimates:
                ours = bench.seconds(lambda work=work: work(bench.device), 1)
            last = theirs = best(lambda work=work: work("cpu"), 1)
            also = {
                "head": head,
                "operations": max(estimates) if estimates else share * _backend.WORTHWHILE,
                "rule": _backend.WORTHWHILE,
                "rows": n,
                "columns": d,
                "seconds_to_start": started[bench.device],
                "seconds_to_start_on_cpu": started["cpu"],
            }
            name = f"{head}, {also['operations']:.1e} estimated operations"
            yield Row(name, bench.cores, "s", ours, theirs, None, also)


def search(bench: Bench) -> Iterator[Row]:
    """The ten nearest of float16 features on the device, against a bare product with topk, and against FAISS."""
    n, d, n_queries = bench.sizes.search
    X = torch.empty((n, d), dtype=torch.float16, device=bench.device)
    generator = torch.Generator(bench.device).manual_seed(0)
    spectrum = torch.arange(1, d + 1, device=bench.device) ** -0.4
    for first in range(0, n, 65_536):
        part = X[first : first + 65_536]
        values = torch.randn(part.shape, generator=generator, device=bench.device) * spectrum
        part.copy_(values / values.norm(dim=1, keepdim=True))
    noise = torch.randn((n_queries, d), generator=generator, device=bench.device) * spectrum
    queries = X[:: max(1, n // n_queries)][:n_queries] + (0.1 * noise / noise.norm(dim=1, keepdim=True)).half()
    found, sides = {}, {}

    def ours() -> None:
        found["ours"] = nearest(X, queries, 10)[1]

    def bare() -> None:
        found["bare"] = (queries @ X.T).topk(10, dim=1).indices

    for side in (ours, bare):
        with bench.peak() as peak:
            sides[side.__name__] = bench.seconds(side), peak()
    name = f"the 10 nearest of {len(queries):,} queries among {n:,} x {d}"
    also = {
        "peak_gigabytes": sides["ours"][1],
        "peak_gigabytes_of_the_bare_product": sides["bare"][1],
        "recall_of_the_bare_product": _shared(found["ours"], found["bare"].cpu().numpy()),
    }
    yield Row(name, "float16 product and topk", "s", sides["ours"][0], sides["bare"][0], 0.9, also)

    if find_spec("faiss") is None:
        bench.skip("search: against FAISS", "faiss is not installed")
        return
    import faiss

    if bench.device == "cuda" and not (hasattr(faiss, "GpuIndexFlatIP") and faiss.get_num_gpus()):
        bench.skip("search: against FAISS", "this build of faiss uses no GPU; faiss-gpu does")
        return
    wanted = queries.float().cpu().numpy()
    bench.clear()
    free = torch.cuda.mem_get_info()[0] if bench.device == "cuda" else 0
    if bench.device == "cuda":
        resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexFlatIP(resources, d)
    else:
        index = faiss.IndexFlatIP(d)
    for first in range(0, n, 65_536):
        index.add(X[first : first + 65_536].float().cpu().numpy())

    def theirs() -> None:
        found["faiss"] = index.search(wanted, 10)[1]

    seconds = bench.seconds(theirs)
    bench.clear()
    also = {"recall_of_faiss": _shared(found["ours"], found["faiss"])}
    against = "GpuIndexFlatIP" if bench.device == "cuda" else "IndexFlatIP, without a GPU"
    yield Row(name, against, "s", sides["ours"][0], seconds, 0.8, also)
    if bench.device == "cuda":
        taken = (free - torch.cuda.mem_get_info()[0]) / 1e9
        yield Row(f"peak memory, {name}", against, "GB", sides["ours"][1], taken, 2.0)


def decoder(bench: Bench) -> Iterator[Row]:
    """A step of LoRA of a vision-language decoder from files, against the bare step, and its peak memory."""
    import fine_tune_step as step

    sizes = bench.sizes
    n = sizes.decoder_steps * sizes.decoder_batch
    files = (bench.files * (n // len(bench.files) + 1))[:n]
    precision = "bf16" if bench.device == "cuda" else "fp32"
    folder = bench.folder / "decoder"
    save_decoder(folder, sizes.decoder, bench.device)
    encoder = load_encoder(f"hf:{folder}", device=bench.device, precision="fp32")
    model = step.adapted_model(encoder, "lora", files, bench.device)
    for checkpointed in (False, True):
        if checkpointed:
            encoder.checkpoint_gradients()
        with bench.peak() as peak:
            ours = min(step.ours(model, n, sizes.decoder_batch, precision, bench.device) for _ in range(2))
            taken = peak() or step.peak("cpu") / 1e9
        theirs = min(_bare_step(bench, model, encoder, files, n) for _ in range(2))
        also = {
            "peak_gigabytes": taken,
            "parameters": encoder.n_parameters(),
            "tokens": len(encoder.prepare("image", bench.contents[0])),
        }
        how = "LoRA step with checkpoints" if checkpointed else "LoRA step"
        name = f"{how} of {sizes.decoder.name}, {sizes.decoder_batch} images"
        yield Row(name, "bare step on ready tensors", "s", ours, theirs, None, also)
        yield Row(f"peak memory, {name}", "a card of 16 GB", "GB", taken, 16.0, 1.0)


def training(bench: Bench) -> Iterator[Row]:
    """A step of LoRA and of full tuning from files, against the bare step on ready tensors."""
    import fine_tune_step as step

    sizes = bench.sizes
    n = sizes.steps * sizes.step_batch
    files = (bench.files * (n // len(bench.files) + 1))[:n]
    dtype = torch.bfloat16 if bench.device == "cuda" else torch.float32
    precision = "bf16" if bench.device == "cuda" else "fp32"
    for how in ("lora", "full"):
        with bench.peak() as peak:
            model, encoder = step.built(sizes.step_model, how, files, bench.folder, bench.device)
            step.ours(model, n, sizes.step_batch, precision, bench.device)
            ours = step.ours(model, n, sizes.step_batch, precision, bench.device)
            also = {"peak_gigabytes": peak()}
        theirs = step.bare(model, encoder, files, n, sizes.step_batch, dtype, bench.device)
        name = f"{how} step of {sizes.step_model}, {sizes.step_batch} images"
        yield Row(name, "bare step on ready tensors", "s", ours, theirs, None, also)


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "embed": embedding,
    "perceptrons": perceptrons,
    "linear": linear,
    "training": training,
    "search": search,
    "decoder": decoder,
    "worthwhile": worthwhile,
    "maps": feature_maps,
    "feed": feed,
}
LIMITS = {
    "embed": 110,
    "perceptrons": 45,
    "linear": 60,
    "training": 50,
    "search": 40,
    "decoder": 100,
    "worthwhile": 100,
    "maps": 30,
    "feed": 60,
}
"""Seconds after which a row is stopped; one that might not end in time is not begun."""


# Sides


def _features(n: int, d: int) -> tuple[Any, Any]:
    """Return float32 features with a falling spectrum, and two classes that they tell."""
    random = np.random.default_rng(0)
    spectrum = np.arange(1, d + 1, dtype=np.float32) ** -0.7
    X = random.standard_normal((n, d), dtype=np.float32) * spectrum
    X = X @ np.linalg.qr(random.standard_normal((d, d), dtype=np.float32))[0]
    return X, (X @ random.standard_normal(d) / X.std() + random.standard_normal(n) > 0).astype(int)


def _fits(n: int, n_penalties: int) -> list[tuple[Any, dict[str, float]]]:
    """Return fits of penalties in 5 folds."""
    parts = np.array_split(np.random.default_rng(0).permutation(n), 5)
    folds = [np.sort(np.concatenate(parts[:i] + parts[i + 1 :])) for i in range(5)]
    return [(rows, {"C": float(C)}) for rows in folds for C in np.logspace(-6, 2, n_penalties)]


def _work_of(head: str, operations: float, d: int) -> tuple[Callable[[str], object], int, int]:
    """Return what fits (and for knn, predicts) on a device with about so many estimated operations; rows and columns.

    Rows are as many as that needs; beyond 50,000 they repeat.
    """
    trees = {"n_rounds": 50, "max_depth": 6, "patience": None}
    if head == "linear":
        n = operations / (4 * linear_heads.EVALUATIONS * 100 * 0.8 * d)
    elif head == "ridge":
        n = (operations - ridge.EIGEN * d**3) / (2 * d * d)
    elif head == "knn":
        n = (operations / (2 * d)) ** 0.5
    else:
        n = operations / (boosting.OPERATIONS * d * trees["n_rounds"] * trees["max_depth"])
    n = max(int(n), 60)
    X, y = _features(min(n, 50_000), d)
    X, y = (np.resize(values, (n, *values.shape[1:])) for values in (X, y))

    def work(device: str) -> object:
        if head == "linear":
            return LinearProbe(device=device).fit_many(X, y, _fits(n, 20))
        if head == "ridge":
            return Ridge(device=device).fit(X, y.astype(np.float64))
        if head == "knn":
            return KNN(device=device).fit(X, y).predict_proba(X)
        return XGBoost(device=device, **trees).fit(X, y)

    return work, n, d


@contextmanager
def _estimates() -> Iterator[list[float]]:
    """Give a list of the operations that heads estimate, which it fills."""
    estimates, choose = [], _backend.backend_for

    def kept(device: Any, work: float) -> Any:
        estimates.append(work)
        return choose(device, work)

    _backend.backend_for = kept
    try:
        yield estimates
    finally:
        _backend.backend_for = choose


def _seconds_to_start(device: str) -> float:
    """Return the seconds after which a new process has multiplied a matrix on a device."""
    code = f"import torch; x = torch.ones(64, 64, device={device!r}); print(float((x @ x).sum()))"
    if device == "cpu":
        code = "import numpy as np; x = np.ones((64, 64)); print((x @ x).sum())"
    return best(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True), 2)


def _shared(true: Any, found: Any) -> float:
    """Return the share of the true rows that were found."""
    return float((true[:, :, None] == found[:, None, :]).any(2).mean())


def _bare_step(bench: Bench, model: Any, encoder: Any, files: Sequence[Path], n: int) -> float:
    """Return seconds a step of a plain loop on ready tensors, for any encoder."""
    batch, device = bench.sizes.decoder_batch, bench.device
    prepared = [encoder.prepare("image", Content(key_of_file(file), file)) for file in files[:batch]]
    inputs = encoder.collate("image", prepared)
    y = torch.arange(batch, device=device).float()[:, None] % 2
    parameters = [p for p in encoder.module.parameters() if p.requires_grad]
    head = torch.nn.Linear(model.network.inputs[0].width, 1).to(device)
    optimiser = torch.optim.AdamW([*parameters, *head.parameters()], lr=1e-5, fused=True)
    started = time.perf_counter()
    for _ in range(n // batch):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            pooled = encoder.features(encoder.module, "image", inputs).pooled
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(pooled.float()), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*parameters, *head.parameters()], 1.0)
        optimiser.step()
        optimiser.zero_grad()
    bench.wait()
    return (time.perf_counter() - started) / (n // batch)


def _embedded(bench: Bench, encoder: Any, contents: list[Content], batch: int | None = None) -> float:
    """Return images a second from files to a finished feature set."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as store:
        features = create_store(Path(store) / "a.hw").require_features(
            "f/image", encoder.spec("image", "float16"), len(contents)
        )
        started = time.perf_counter()
        assert fill(features, encoder, contents, batch_size=batch or bench.sizes.batch).embedded == len(contents)
        return len(contents) / (time.perf_counter() - started)


def _plain_loop(bench: Bench, name: str) -> float:
    """Return images a second of timm as its documentation shows it, in fp32."""
    model = timm.create_model(name, num_classes=0).eval().to(bench.device)
    config = timm.data.resolve_model_data_config(model)
    dataset = Files(bench.files[: bench.sizes.n_plain], timm.data.create_transform(**config, is_training=False))
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=CORES, pin_memory=bench.device == "cuda")
    started = time.perf_counter()
    with torch.inference_mode():
        found = torch.cat([model(batch.to(bench.device)).cpu() for batch in loader])
    assert len(found) == len(dataset)
    return len(dataset) / (time.perf_counter() - started)


def _prepare_process(config: dict[str, Any]) -> None:
    global _TRANSFORM
    torch.set_num_threads(1)
    _TRANSFORM = timm.data.create_transform(**config, is_training=False)


def _decoded(path: str) -> int:
    from PIL import Image

    return int(_TRANSFORM(Image.open(path).convert("RGB")).shape[0])


# The run


def measured(bench: Bench, names: list[str], seconds: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure rows one after the other while there is time; save what there is after each."""
    device = torch.cuda.get_device_name() if bench.device == "cuda" else "CPU"
    found: dict[str, Any] = {"machine": machine(), "device": device, "torch": torch.__version__, "rows": [], "left": {}}
    found["skipped"], found["seconds"] = bench.skipped, {}
    started = time.monotonic()
    for number, name in enumerate(names):
        begun = time.monotonic()
        if number and begun - started + LIMITS[name] > seconds:
            found["left"][name] = "no time was left"
            continue
        try:
            with _stopped_after(LIMITS[name]):
                for row in ROWS[name](bench):
                    found["rows"].append({**asdict(row), "ratio": row.ratio})
                    print(line_of(row), flush=True)
                    save(found)
        except Exception as error:  # noqa: BLE001  a row that cannot be measured takes none of the others with it
            if not isinstance(error, ImportError | MemoryError | TimeoutError | torch.OutOfMemoryError):
                traceback.print_exc()
            found["left"][name] = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
        bench.clear()
        found["seconds"][name] = time.monotonic() - begun
        save(found)
    for name, why in found["left"].items():
        print(f"{name}: not measured ({why})")
    return found


@contextmanager
def _stopped_after(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the body after some seconds, as soon as Python goes on."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def line_of(row: Row) -> str:
    """Write a row for people."""
    aim = (
        ""
        if row.at_least is None
        else f" (at least {row.at_least}x: {'met' if row.ratio >= row.at_least else 'MISSED'})"
    )
    also = ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in row.also.items())
    return (
        f"{row.name} against {row.against}: {row.ours:.4g} against {row.theirs:.4g} {row.unit}, {row.ratio:.2f}x{aim}"
        + (f"\n    {also}" if also else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="all rows end within these, unless the first is longer"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--json", type=Path, help="the file to write")
    given = parser.parse_args()
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    def save(found: dict[str, Any]) -> None:
        if given.json is not None:
            given.json.write_text(json.dumps(found, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, TINY if given.tiny else Sizes(), Path(folder))
        print(machine(), "|", torch.cuda.get_device_name() if device == "cuda" else "no GPU", "|", torch.__version__)
        measured(bench, given.rows, 60 * given.minutes, save)


if __name__ == "__main__":
    main()
