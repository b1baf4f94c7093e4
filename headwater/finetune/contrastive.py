"""Contrastive training on pairs of images and texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.finetune.adapt import Adapted
from headwater.finetune.data import InputSource, Part, Rows, batches
from headwater.finetune.loop import LoopSettings, parts_of
from headwater.finetune.team import Team

if TYPE_CHECKING:
    from torch import Tensor, nn

ContrastiveLoss = Literal["clip", "siglip"]
MOST_SCALE = 100.0  # largest logit scale; beyond it training is unstable (Radford et al., 2021, section 2.5)
RANKS = (1, 5, 10)
PROJECTIONS = ("project_image", "project_text")


class Pairing:
    """An image and a text tower, of one encoder or of two, trained to align the vectors of pairs.

    Parameters
    ----------
    adapted
        The trained encoders.
    image, text
        The inputs of the rows; with ``stored`` features for a frozen tower.
    joined
        Dimensions of the image vectors, the text vectors and the joint embedding, if two separate encoders are joined
        by two linear projections; None for one dual encoder.
    logit_scale, logit_bias
        Initial scale of cosines, and (``siglip``) initial bias.
    seed
        Seed for the initial projections.
    """

    def __init__(
        self,
        adapted: Sequence[Adapted],
        image: InputSource,
        text: InputSource,
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
        """The parameters that are trained at the head's learning rate; see `loop._optimiser`."""
        return self.own

    @property
    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters of the encoders, by the encoder's number and the parameter's name."""
        return {f"{i}.{name}": p for i, part in enumerate(self.adapted) for name, p in part.parameters.items()}

    def training(self, on: bool) -> None:
        """Switch training mode (dropout and running statistics) on in the trained parts, or off everywhere."""
        for part in self.adapted:
            part.training(on)

    def state(self) -> dict[str, Tensor]:
        """Return copies of everything that training changes."""
        own = {f"own.{name}": p.detach().clone() for name, p in self.own.items()}
        return own | {f"{i}.{name}": t for i, part in enumerate(self.adapted) for name, t in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a `state`."""
        with need("torch", "encoders").no_grad():
            for name, parameter in self.own.items():
                parameter.copy_(state[f"own.{name}"])
        for i, part in enumerate(self.adapted):
            part.load({n.removeprefix(f"{i}."): t for n, t in state.items() if n.startswith(f"{i}.")})


def _module(pairing: Pairing, own: Mapping[str, Any], device: str) -> Any:
    """Return one torch module that maps a batch to unit vectors of images and texts."""
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
    """Return the contrastive loss of unit vectors, a scalar.

    Parameters
    ----------
    images, texts
        Of shape ``(n, d)``.
    same
        Positive pairs, bool, of shape ``(n, n)``: the diagonal, and all others that share a text or an image. ``clip``
        gives several positives equal target probabilities.
    log_scale, bias
        Log scale and bias of the logits, scalars; ``clip`` has no bias.

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
    """The pairs: the index of each row's image and text, int64, of shape ``(n,)``."""

    image: NDArray[np.int64]
    text: NDArray[np.int64]

    def same(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which images and texts of some rows are positive pairs, of shape ``(n, n)``."""
        image, text = self.image[rows], self.text[rows]
        same: NDArray[np.bool_] = (text[:, None] == text) | (image[:, None] == image)
        return same


class Pairwise:
    """Contrastive training of a model.

    A step contrasts ``batch_size`` pairs. With several parts or processes, vectors are first computed part by part
    without gradients; then the gradient of the loss with respect to the vectors is computed; then each part is encoded
    again for the gradients of the encoders. The result is the same step with the memory of one part.

    References
    ----------
    Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021 (gradient caching).
    """

    least_rows = 2

    def __init__(self, model: Pairing, pairs: Pairs, loss: ContrastiveLoss, settings: LoopSettings, team: Team) -> None:
        self.model, self.pairs, self.loss = model, pairs, loss
        self.settings, self.team = settings, team

    def backward(self, step: Rows, parts: Iterator[tuple[Rows, list[Part]]], scaler: Any) -> Tensor:
        """Accumulate the gradients of a step's loss, and return the loss; its parts are encoded twice, and kept."""
        if self.team.size * self.settings.accumulate == 1:
            value = self._loss_of(*self._vectors(next(parts)[1]), step)
            scaler.scale(value).backward()
            return value.detach()
        value = self._cached(step, list(parts), scaler)
        own = self.model.own
        if not self.team.leads:  # every process has the full gradient of these
            own["logit_scale"].grad = own["logit_bias"].grad = None
        self.team.add_gradients([*self.model.encoder_parameters.values(), *own.values()])
        return value

    def after_step(self) -> None:
        """Clamp the logit scale to its bound."""
        with need("torch", "encoders").no_grad():
            self.model.own["logit_scale"].clamp_(max=math.log(MOST_SCALE))

    def evaluate(self, rows: Rows) -> tuple[float, float]:
        """Return the mean loss of batches of rows, and the image-to-text recall at 1."""
        torch = need("torch", "encoders")
        images, texts = embed_pairs(self.model, rows, self.settings, self.team)
        device = self.model.own["logit_scale"].device
        parts = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / self.settings.batch_size))
        total = 0.0
        with torch.no_grad():
            for part in parts:
                seen, read = (torch.from_numpy(v[part]).to(device) for v in (images, texts))
                total += float(self._loss_of(seen, read, rows[part])) * len(part)
        return total / len(rows), retrieval(images, texts, self.pairs, rows)["image_to_text_r1"]

    def _vectors(self, tensors: Sequence[Part]) -> tuple[Tensor, Tensor]:
        with self.team.computing(self.settings.precision):
            images, texts = self.model.module(tensors)
        return images.float(), texts.float()

    def _loss_of(self, images: Tensor, texts: Tensor, rows: Rows) -> Tensor:
        same = need("torch", "encoders").from_numpy(self.pairs.same(rows)).to(images.device)
        own = self.model.own
        return contrast(self.loss, images, texts, same, own["logit_scale"], own["logit_bias"])

    def _cached(self, step: Rows, parts: Sequence[tuple[Rows, list[Part]]], scaler: Any) -> Tensor:
        """Accumulate the gradients of this process's parts; those of scale and bias are for the whole step."""
        torch, team = need("torch", "encoders"), self.team
        found, states = [], []
        with torch.no_grad():
            for _, tensors in parts:
                states.append(_random_state(team))
                found.append(self._vectors(tensors))
        own = [torch.cat(v) for v in zip(*found, strict=True)]
        every: list[list[Tensor]] = team.gathered([v.cpu() for v in own]) if team.size > 1 else [own]
        # rows of all parts, process by process, in the order of their vectors
        split = np.array_split(step, team.size * len(parts))
        order = np.concatenate([np.concatenate(split[rank :: team.size]) for rank in range(team.size)])
        leaves = [torch.cat([share[i].to(team.device) for share in every]).requires_grad_() for i in range(2)]
        value = self._loss_of(leaves[0], leaves[1], order)
        scaler.scale(value).backward()
        start = sum(len(share[0]) for share in every[: team.rank])
        for (_, tensors), state, made in zip(parts, states, found, strict=True):
            _set_random_state(state, team)
            again = self._vectors(tensors)
            stop = start + len(made[0])
            pulled = [v for v in again if v.requires_grad]
            gradients = [leaf.grad[start:stop] for v, leaf in zip(again, leaves, strict=True) if v.requires_grad]
            torch.autograd.backward(pulled, gradients)
            start = stop
        return value.detach()


def _random_state(team: Team) -> list[Tensor]:
    torch = need("torch", "encoders")
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if team.device == "cuda" else [])]


def _set_random_state(state: Sequence[Tensor], team: Team) -> None:
    torch = need("torch", "encoders")
    torch.set_rng_state(state[0])
    if team.device == "cuda":
        torch.cuda.set_rng_state(state[1])


def embed_pairs(
    model: Pairing, rows: Rows, settings: LoopSettings, team: Team
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return unit vectors of the images and the texts of some rows, of shape ``(n_rows, d)``, without gradients."""
    torch = need("torch", "encoders")
    model.training(False)
    mine = rows[team.rank :: team.size]
    found: tuple[list[Any], list[Any]] = ([], [])
    for _, tensors in batches(model.sources, parts_of(mine, settings, team), workers=settings.workers):
        with torch.no_grad(), team.computing(settings.precision):
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
    """Return image-to-text and text-to-image retrieval metrics on some rows.

    Parameters
    ----------
    images, texts
        Unit vectors of the rows, of shape ``(n_rows, d)``.

    Returns
    -------
    dict
        ``image_to_text_r1``, ``_r5``, ``_r10``: the share of distinct images with one of their texts among the 1, 5 or
        10 nearest distinct texts (recall at k). ``image_to_text_median_rank``: the median rank, from 1, of an image's
        nearest own text. And the same for ``text_to_image_…``.
    """
    _, first_image, image = np.unique(pairs.image[rows], return_index=True, return_inverse=True)
    _, first_text, text = np.unique(pairs.text[rows], return_index=True, return_inverse=True)
    similarity = images[first_image] @ texts[first_text].T
    together = np.zeros(similarity.shape, bool)
    together[image, text] = True
    out: dict[str, float] = {}
    for name, s, t in (("image_to_text", similarity, together), ("text_to_image", similarity.T, together.T)):
        best = np.where(t, s, -np.inf).max(1)
        rank = 1 + (np.where(t, -np.inf, s) >= best[:, None]).sum(1)  # ties count as ranked above
        out |= {f"{name}_r{k}": float((rank <= k).mean()) for k in RANKS}
        out[f"{name}_median_rank"] = float(np.median(rank))
    return out
