"""Contrastive training on pairs of images and texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.errors import HeadError
from headwater.finetune.adapt import Adapted
from headwater.finetune.checkpoint import Checkpoint
from headwater.finetune.data import Part, Rows, Source, batches
from headwater.finetune.loop import Curve, Settings, Tuned, factor, optimiser_of, require_numbers
from headwater.finetune.team import Team

if TYPE_CHECKING:
    from torch import Tensor, nn

ContrastiveLoss = Literal["clip", "siglip"]
MOST_SCALE = 100.0  # of cosines; beyond it training is unstable (Radford et al., 2021, section 2.5)
CHECK_EVERY = 16  # steps between looks at whether losses are numbers
RANKS = (1, 5, 10)
PROJECTIONS = ("project_image", "project_text")


class Pairing:
    """Two towers that are trained to give a pair the same direction: of one encoder, or of two.

    Parameters
    ----------
    adapted
        The encoders that are trained.
    image, text
        What the rows have of each; with ``stored`` features where a tower is locked.
    joined
        Lengths of images' and texts' vectors, and of the common ones, where two encoders that were not made for each
        other are joined by two linear projections; None where one encoder makes both.
    logit_scale, logit_bias
        What cosines are multiplied by, and (``siglip``) what is added, to begin with.
    seed
        Of the projections.
    """

    def __init__(
        self,
        adapted: Sequence[Adapted],
        image: Source,
        text: Source,
        *,
        joined: tuple[int, int, int] | None = None,
        logit_scale: float,
        logit_bias: float,
        device: str,
        seed: int = 0,
    ) -> None:
        torch = need("torch", "encoders")
        self.adapted = list(adapted)
        self.sources = [image, text]
        own = {"logit_scale": torch.tensor(math.log(logit_scale)), "logit_bias": torch.tensor(logit_bias)}
        if joined is not None:
            generator = torch.Generator().manual_seed(seed)
            *widths, dim = joined
            for name, d in zip(PROJECTIONS, widths, strict=True):
                own[name] = torch.randn(dim, d, generator=generator) * d**-0.5
        self.module: Any = _module(self, own, device)

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The parameters that belong to no encoder, by name."""
        return dict(self.module.own.items())

    @property
    def head(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained at the head's rate; see `loop.optimiser_of`."""
        return self.own

    @property
    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the encoders, by the number of the encoder and the name."""
        return {f"{i}.{name}": p for i, part in enumerate(self.adapted) for name, p in part.parameters.items()}

    def training(self, on: bool) -> None:
        """Let dropout act, and running statistics run, in what is trained; or nowhere."""
        for part in self.adapted:
            part.training(on)

    def state(self) -> dict[str, Tensor]:
        """Return copies of all that training changes."""
        own = {f"own.{name}": p.detach().clone() for name, p in self.own.items()}
        return own | {f"{i}.{name}": t for i, part in enumerate(self.adapted) for name, t in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a `state`."""
        with need("torch", "encoders").no_grad():
            for name, parameter in self.own.items():
                parameter.copy_(state[f"own.{name}"])
        for i, part in enumerate(self.adapted):
            part.load({n.removeprefix(f"{i}."): t for n, t in state.items() if n.startswith(f"{i}.")})


def _module(pairing: Pairing, own: Mapping[str, Any], device: str) -> Any:
    """Return one torch module: a batch in, unit vectors of images and texts out."""
    torch = need("torch", "encoders")
    nn = torch.nn

    class Both(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleList([part.encoder.module for part in pairing.adapted])
            self.own = nn.ParameterDict({name: nn.Parameter(p) for name, p in own.items()}).to(device)

        def forward(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
            found = []
            for source, part, project in zip(pairing.sources, parts, PROJECTIONS, strict=True):
                values, _ = source.tokens_of(part)
                vectors = values[:, 0].float()
                if project in self.own:
                    vectors = vectors @ self.own[project].float().T
                found.append(nn.functional.normalize(vectors.float(), dim=1))
            return found[0], found[1]

    return Both()


def contrast(
    loss: ContrastiveLoss, images: Tensor, texts: Tensor, same: Tensor, log_scale: Tensor, bias: Tensor
) -> Tensor:
    """Return the loss of unit vectors, a scalar.

    Parameters
    ----------
    images, texts
        Of shape ``(n, d)``.
    same
        Which image goes with which text, bool, of shape ``(n, n)``: its diagonal, and whatever else shares a text or
        an image. With several, ``clip`` has each as likely.
    log_scale, bias
        Of the logits, scalars; ``clip`` has no bias.

    References
    ----------
    Radford et al., Learning transferable visual models from natural language supervision, 2021, figure 3; Zhai et al.,
    Sigmoid loss for language image pre-training, 2023, algorithm 1.
    """
    torch = need("torch", "encoders")
    logits = log_scale.exp().clamp(max=MOST_SCALE) * images @ texts.T
    if loss == "siglip":
        signs = same.to(logits.dtype) * 2 - 1
        total: Tensor = torch.nn.functional.softplus(-signs * (logits + bias)).sum() / len(logits)
        return total
    truth = same.to(logits.dtype)
    across = -(torch.log_softmax(logits, 1) * truth / truth.sum(1, keepdim=True)).sum(1).mean()
    down = -(torch.log_softmax(logits, 0) * truth / truth.sum(0, keepdim=True)).sum(0).mean()
    both: Tensor = (across + down) / 2
    return both


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which rows go together: the number of each row's image and text, int64, of shape ``(n,)``."""

    image: NDArray[np.int64]
    text: NDArray[np.int64]

    def same(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which image of some rows goes with which text of them, of shape ``(n, n)``."""
        image, text = self.image[rows], self.text[rows]
        same: NDArray[np.bool_] = (text[:, None] == text) | (image[:, None] == image)
        return same


def tune_pairs(
    model: Pairing,
    rows: Rows,
    stop: Rows,
    pairs: Pairs,
    loss: ContrastiveLoss,
    settings: Settings,
    *,
    checkpoint: Checkpoint | None = None,
    team: Team,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> Tuned:
    """Train on pairs, and leave the model in its best state by the loss of the rows held out.

    A step sees ``batch_size`` pairs against each other. With ``accumulate`` above 1, or several processes, its
    vectors are first made part by part without gradients, then the loss is differentiated by the vectors, and then each
    part is made again for the gradients of the encoders: the same step with the memory of one part.

    Raises
    ------
    HeadError
        When the loss is no longer a number (naming what to lower).

    References
    ----------
    Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021 (gradient caching).
    """
    torch = need("torch", "encoders")
    optimiser = optimiser_of(model, settings)
    dtype = team.dtype(settings.precision)
    scaler = torch.amp.GradScaler(team.device, enabled=dtype == torch.float16)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    n_steps = math.ceil(len(rows) / settings.batch_size)
    n_parts = team.size * settings.accumulate
    if len(rows) // n_steps < max(n_parts, 2):
        raise HeadError(
            f"steps of {len(rows) // n_steps} pairs cannot be divided into {n_parts} parts: raise batch_size (now "
            f"{settings.batch_size}) or lower accumulate (now {settings.accumulate})."
        )

    def vectors(parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
        with torch.autocast(team.device, dtype=dtype, enabled=dtype != torch.float32):
            images, texts = model.module(parts)
        return images.float(), texts.float()

    def loss_of(images: Tensor, texts: Tensor, some: Rows) -> Tensor:
        same = torch.from_numpy(pairs.same(some)).to(images.device)
        return contrast(loss, images, texts, same, model.own["logit_scale"], model.own["logit_bias"])

    def evaluated() -> tuple[float, float] | None:
        if len(stop) < 2:
            return None
        images, texts = (torch.from_numpy(v) for v in embed_pairs(model, stop, settings, team))
        size = min(settings.batch_size, len(stop))
        parts = np.array_split(np.arange(len(stop)), math.ceil(len(stop) / size))
        with torch.no_grad():
            device = model.own["logit_scale"].device
            losses = [float(loss_of(images[p].to(device), texts[p].to(device), stop[p])) * len(p) for p in parts]
        return sum(losses) / len(stop), retrieval(images.numpy(), texts.numpy(), pairs, stop)["image_to_text_r1"]

    curve = Curve()
    best, best_loss, best_epoch, start = model.state(), math.inf, 0, 0
    if checkpoint is not None and (found := checkpoint.read()) is not None:
        model.load(found.now)
        optimiser.load_state_dict(found.optimiser)
        scaler.load_state_dict(found.scaler)
        curve, best, best_loss, best_epoch = Curve(**found.curve), found.best, found.best_loss, found.best_epoch
        start = len(curve.epoch) - 1
    else:
        began = time.monotonic()
        first = evaluated()
        curve.add(None, first, None, time.monotonic() - began)
        best_loss = math.inf if first is None else first[0]

    for epoch in range(start, settings.epochs):
        if len(stop) and settings.patience is not None and epoch - best_epoch >= settings.patience:
            break
        began = time.monotonic()
        random = np.random.default_rng([settings.seed, epoch])
        torch.manual_seed(int(random.integers(2**31)) + team.rank)
        steps = np.array_split(random.permutation(rows), n_steps)
        mine = [part for step in steps for part in np.array_split(step, n_parts)[team.rank :: team.size]]
        coming = batches(model.sources, mine, seed=(settings.seed, epoch), workers=settings.workers)
        model.training(True)
        step_losses = torch.zeros(n_steps, device=team.device)
        for number, step in enumerate(steps):
            lr_factor = factor(epoch + (number + 1) / n_steps, settings)
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * lr_factor
            parts = [next(coming) for _ in range(settings.accumulate)]
            if n_parts == 1:
                value = loss_of(*vectors(parts[0][1]), step)
                scaler.scale(value).backward()
            else:
                value = _cached(vectors, loss_of, parts, step, n_parts, scaler, team)
                if not team.leads:  # every process has the whole of these
                    model.own["logit_scale"].grad = model.own["logit_bias"].grad = None
                team.add_gradients(trained)
            step_losses[number] = value.detach()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(trained, settings.clip)
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            with torch.no_grad():
                model.own["logit_scale"].clamp_(max=math.log(MOST_SCALE))
            if number % CHECK_EVERY == CHECK_EVERY - 1 or number == n_steps - 1:
                require_numbers(step_losses, epoch, settings)
            progress(epoch * len(rows) + sum(map(len, steps[: number + 1])), 0)
        model.training(False)
        now = evaluated()
        curve.add(float(step_losses.mean()), now, settings.lr * lr_factor, time.monotonic() - began)
        if now is None or now[0] < best_loss:
            best, best_epoch = model.state(), epoch + 1
            best_loss = math.inf if now is None else now[0]
        if checkpoint is not None and team.leads:
            checkpoint.write(model.state(), best, best_loss, best_epoch, optimiser, scaler, curve)
    model.load(best)
    return Tuned(best, best_epoch, curve)


def _cached(
    vectors: Callable[[Sequence[Part]], tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor, Rows], Tensor],
    parts: Sequence[tuple[Rows, list[Part]]],
    step: Rows,
    n_parts: int,
    scaler: Any,
    team: Team,
) -> Tensor:
    """Leave the gradients of a step's loss that this process's parts have, and return the loss.

    Those of the logits' scale and bias are the whole step's.
    """
    torch = need("torch", "encoders")
    found, states = [], []
    with torch.no_grad():
        for _, tensors in parts:
            states.append(_random_state(team))
            found.append(vectors(tensors))
    own = [torch.cat(v) for v in zip(*found, strict=True)]
    every: list[list[Tensor]] = team.gathered([v.cpu() for v in own]) if team.size > 1 else [own]
    # rows of all parts, process by process, in the order in which their vectors stand
    split = np.array_split(step, n_parts)
    order = np.concatenate([np.concatenate(split[rank :: team.size]) for rank in range(team.size)])
    leaves = [torch.cat([share[i].to(team.device) for share in every]).requires_grad_() for i in range(2)]
    value = loss_of(leaves[0], leaves[1], order)
    scaler.scale(value).backward()
    start = sum(len(share[0]) for share in every[: team.rank])
    for (_, tensors), state, made in zip(parts, states, found, strict=True):
        _set_random_state(state, team)
        again = vectors(tensors)
        stop = start + len(made[0])
        pulled = [v for v in again if v.requires_grad]
        gradients = [leaf.grad[start:stop] for v, leaf in zip(again, leaves, strict=True) if v.requires_grad]
        torch.autograd.backward(pulled, gradients)
        start = stop
    return value


def _random_state(team: Team) -> list[Tensor]:
    torch = need("torch", "encoders")
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if team.device == "cuda" else [])]


def _set_random_state(state: Sequence[Tensor], team: Team) -> None:
    torch = need("torch", "encoders")
    torch.set_rng_state(state[0])
    if team.device == "cuda":
        torch.cuda.set_rng_state(state[1])


def embed_pairs(
    model: Pairing, rows: Rows, settings: Settings, team: Team
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return unit vectors of the images and the texts of some rows, of shape ``(n_rows, d)``, without gradients."""
    torch = need("torch", "encoders")
    model.training(False)
    dtype = team.dtype(settings.precision)
    mine = rows[team.rank :: team.size]
    size = max(1, settings.batch_size // (team.size * settings.accumulate))
    found: tuple[list[Any], list[Any]] = ([], [])
    parts = [mine[i : i + size] for i in range(0, len(mine), size)]
    for _, tensors in batches(model.sources, parts, workers=settings.workers):
        with torch.no_grad(), torch.autocast(team.device, dtype=dtype, enabled=dtype != torch.float32):
            for kept, made in zip(found, model.module(tensors), strict=True):
                kept.append(made.float().cpu().numpy())
    gathered = team.gathered([np.concatenate(kept) if kept else None for kept in found])
    out = []
    for i in range(2):
        d = next(share[i].shape[1] for share in gathered if share[i] is not None)
        values = np.empty((len(rows), d), np.float32)
        for rank, share in enumerate(gathered):
            if share[i] is not None:
                values[rank :: team.size] = share[i]
        out.append(values)
    return out[0], out[1]


def retrieval(
    images: NDArray[np.floating[Any]], texts: NDArray[np.floating[Any]], pairs: Pairs, rows: Rows
) -> dict[str, float]:
    """Return how well the texts of some rows are found by their images, and the other way round.

    Parameters
    ----------
    images, texts
        Unit vectors of the rows, of shape ``(n_rows, d)``.

    Returns
    -------
    dict
        ``image_to_text_r1``, ``_r5``, ``_r10``: the share of distinct images that have a text of theirs among the 1, 5
        or 10 nearest distinct texts; ``image_to_text_median_rank``, of the nearest text of theirs, from 1 on; and
        ``text_to_image_…``.
    """
    _, first_image, image = np.unique(pairs.image[rows], return_index=True, return_inverse=True)
    _, first_text, text = np.unique(pairs.text[rows], return_index=True, return_inverse=True)
    similarity = images[first_image] @ texts[first_text].T
    together = np.zeros(similarity.shape, bool)
    together[image, text] = True
    out: dict[str, float] = {}
    for name, s, t in (("image_to_text", similarity, together), ("text_to_image", similarity.T, together.T)):
        best = np.where(t, s, -np.inf).max(1)
        rank = 1 + (np.where(t, -np.inf, s) >= best[:, None]).sum(1)  # ties count against it
        out |= {f"{name}_r{k}": float((rank <= k).mean()) for k in RANKS}
        out[f"{name}_median_rank"] = float(np.median(rank))
    return out
