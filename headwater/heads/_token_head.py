"""The base class of heads over token features: settings, fitting, predicting, explaining and saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._backend import on_device
from headwater._devices import Device, HeadPrecision, fast_at_bf16, resolve_device
from headwater._extras import need
from headwater.errors import HeadError
from headwater.heads._attention import Aggregator, Pool, Tokenizer, TokenShape, forward
from headwater.heads._classifier import Classifier, encode_labels, is_plain, probabilities, require_two, validated
from headwater.heads._objective import ClassWeight, Loss, class_weights, objective_of, targets_of
from headwater.heads._race import Pausable, raced, scored
from headwater.heads._settings import plain_class_weight, require_above_0, require_one_of, require_training
from headwater.heads._stopping import RowsToStopBy
from headwater.heads.base import Fit, Input, Judge, Raced, SearchSpace, State, is_several, n_rows
from headwater.heads.tokens import token_count, token_width

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.heads._token_training import Reader, TokenNetwork
    from headwater.heads._training import Schedule

PREDICTED_ROWS = 256
Result = TypeVar("Result")


class TokenHead(Classifier):
    """A network over token features of one input or several; subclasses differ in how tokens are combined.

    An input is an array-like of tokens ``(n, t, d)``, of vectors ``(n, d)`` (one token each), or has
    ``padded(rows)``, such as the ragged tokens of texts, `Bags` and `Masked`. Tokens are standardised on the training
    rows and projected to a common width, without position embeddings. With several inputs, an item may lack some.
    Training is as in `MLP` (AdamW, warm-up, cosine schedule, early stopping by group), with gradients clipped to a norm
    of 1. Rows are read when needed, so tokens may be larger than memory.

    Parameters
    ----------
    tokenizer
        How an input becomes tokens of the common width. ``project`` projects each token. ``mix`` then makes
        ``n_tokens`` by a linear layer over tokens (ragged ones are first averaged down to at most that number).
        ``average`` and ``max`` pool adaptively to ``n_tokens``. ``pooled-linear`` and ``pooled-mlp`` make ``n_tokens``
        from the mean of an item's tokens, or from its pooled feature.
    n_tokens
        Number of tokens, except for ``project``.
    width
        Columns of tokens after projection; a multiple of ``heads``.
    blocks, heads
        Number of attention blocks, and of heads in each; for `EfficientProbing`, ``heads`` is the number of queries.
    pool
        How each input's tokens become one vector: ``max``, ``mean``, or ``attention`` (gated).
    hidden
        Units of the hidden layers (GELU) between pooling and logits.
    dropout
        Dropout rate of each residual branch and before each layer after pooling.
    lr, weight_decay, epochs, batch_size, warmup, patience, stop_share, loss, gamma, label_smoothing, class_weight, \
seed, precision, device
        See `MLP`.

    Attributes
    ----------
    classes_, multilabel_
        See `LinearProbe`.
    params_ : dict of str to float32 array
        Weights ``(units, fan_in)`` and biases ``(units,)``, for unstandardised tokens.
    inputs_ : dict of str to int, or None
        Columns of each input by name; None if X is one array.
    shape_ : TokenShape
        The architecture of the network.
    n_epochs_, curve_
        See `MLP`.
    """

    takes_inputs = True
    takes_tokens = True
    pausable = True
    aggregator: ClassVar[Aggregator]
    rectified: ClassVar[bool] = False
    search_space: ClassVar[SearchSpace] = {
        "lr": ("log", 1e-5, 1e-2),
        "weight_decay": ("log", 1e-4, 1.0),
        "dropout": ("uniform", 0.0, 0.5),
        "width": ("choice", (64, 128, 256)),
        "blocks": ("int", 1, 3),
        "pool": ("choice", ("max", "mean", "attention")),
    }

    def __init__(
        self,
        tokenizer: Tokenizer = "project",
        *,
        n_tokens: int = 64,
        width: int = 128,
        blocks: int = 2,
        heads: int = 4,
        pool: Pool = "max",
        hidden: Sequence[int] = (256,),
        dropout: float = 0.1,
        lr: float = 5e-4,
        weight_decay: float = 1e-2,
        epochs: int = 40,
        batch_size: int = 64,
        warmup: float = 1.0,
        patience: int | None = 8,
        stop_share: float = 0.15,
        loss: Loss = "cross-entropy",
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weight: ClassWeight = None,
        seed: int = 0,
        precision: HeadPrecision = "auto",
        device: Device = "auto",
    ) -> None:
        self.tokenizer = tokenizer
        self.n_tokens = n_tokens
        self.width = width
        self.blocks = blocks
        self.heads = heads
        self.pool = pool
        self.hidden = hidden
        self.dropout = dropout
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.warmup = warmup
        self.patience = patience
        self.stop_share = stop_share
        self.loss = loss
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.seed = seed
        self.precision = precision
        self.device = device

    def default_grid(self) -> list[dict[str, Any]]:
        """Return one setting, the head's own, since selection would train it for each inner fold and setting."""
        return [{}]

    def fit_many(
        self, X: Input, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Train networks one after the other; see `Head.fit_many`.

        Raises
        ------
        HeadError
            When a setting, a label or a row is invalid, or memory runs out; the message says what to lower.
        """
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        for head in heads:
            head._require_usable(X)
        labels = encode_labels(y)
        stop_by = RowsToStopBy(labels[0], groups)
        for (rows, _), head in zip(fits, heads, strict=True):
            head._train(X, rows, *labels, stop_by)
        return heads

    def race(
        self,
        X: Input,
        y: NDArray[Any],
        fits: Sequence[Fit],
        tests: Sequence[NDArray[np.int64]],
        judge: Judge,
        *,
        groups: NDArray[Any] | None = None,
    ) -> list[Raced]:
        """Train networks in turns, and drop some on the way; see `Head.race`.

        Raises
        ------
        HeadError
            As in `fit_many`; but a network whose training diverges is only dropped, unless all others are too.
        """
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        for head in heads:
            head._require_usable(X)
        labels = encode_labels(y)
        inputs, stop_by = _listed(X), RowsToStopBy(labels[0], groups)

        def on(device: str) -> list[Raced]:
            from headwater.heads._token_training import Reader

            reader = Reader(inputs, device, may_miss=len(inputs) > 1)
            parts = [
                _Racing(i, head._planned(inputs, rows, *labels, stop_by), reader, tests[i])
                for i, (head, (rows, _)) in enumerate(zip(heads, fits, strict=True))
            ]
            found = raced(parts, judge, device)
            if all(part.failed is not None for part in parts) and parts:
                raise parts[0].failed or HeadError("no network could be trained.")
            return found

        return self._on_device(on)

    def _on_device(self, compute: Callable[[str], Result]) -> Result:
        remedy = f"Lower batch_size (now {self.batch_size}), or store fewer tokens (embed --tokens N)"
        try:
            return on_device(compute, self.device, what="token heads", remedy=remedy)
        except RuntimeError as error:
            if "allocate memory" in str(error):
                raise HeadError(f"token heads: memory ran out. {remedy}.") from error
            raise

    def _train(
        self,
        X: Input,
        rows: NDArray[np.int64],
        codes: NDArray[Any],
        classes: NDArray[Any],
        multilabel: bool,
        stop_by: RowsToStopBy,
    ) -> None:
        from headwater.heads._token_training import Reader, train

        inputs = _listed(X)
        planned = self._planned(inputs, rows, codes, classes, multilabel, stop_by)

        def trained_on(device: str) -> Any:
            return train(*planned.network(Reader(inputs, device, may_miss=len(inputs) > 1), device))

        trained = self._on_device(trained_on)
        self.shape_, self.classes_, self.multilabel_ = planned.shape, planned.classes, multilabel
        self.params_, self.n_epochs_, self.curve_ = trained.params, trained.n_epochs, trained.curve
        self.inputs_ = {name: token_width(part) for name, part in X.items()} if is_several(X) else None
        self.n_features_in_ = sum(self.shape_.inputs)

    def _planned(
        self,
        inputs: Sequence[Any],
        rows: NDArray[np.int64],
        codes: NDArray[Any],
        classes: NDArray[Any],
        multilabel: bool,
        stop_by: RowsToStopBy,
    ) -> _Planned:
        """Return what a network is trained on and how."""
        seen = np.arange(len(classes)) if multilabel else np.unique(codes[rows])
        if not multilabel:
            require_two(seen, classes)
        shape = self._shape(inputs, len(seen), multilabel)
        stop = np.zeros(0, np.int64)
        if self.patience is not None:
            stop = rows[stop_by(rows, self.stop_share, self.seed)]
        training = np.setdiff1d(rows, stop, assume_unique=False) if len(stop) else rows
        known = np.array([0, 1]) if codes.ndim == 2 else classes[seen]
        weights = class_weights(codes[training], seen, known, shape.objective, self.class_weight)
        return _Planned(self, shape, training, stop, codes, seen, classes[seen], weights, multilabel)

    def _shape(self, inputs: Sequence[Any], n_seen: int, multilabel: bool) -> TokenShape:
        return TokenShape(
            inputs=tuple(map(token_width, inputs)),
            lengths=tuple(map(token_count, inputs)),
            tokenizer=self.tokenizer,
            n_tokens=int(self.n_tokens),
            aggregator=self.aggregator,
            width=int(self.width),
            blocks=int(self.blocks),
            heads=int(self.heads),
            pool=self.pool,
            hidden=tuple(int(h) for h in self.hidden),
            rectified=self.rectified,
            objective=objective_of(n_seen, multilabel, self.loss, self.gamma),
        )

    def _require_usable(self, X: Input) -> None:
        require_training(self)
        require_above_0(self, "n_tokens", "width", "heads")
        require_one_of(self, tokenizer=Tokenizer, pool=Pool, loss=Loss, precision=HeadPrecision, device=Device)
        if self.aggregator != "none" and self.width % self.heads:
            raise HeadError(f"width ({self.width}) must be a multiple of heads ({self.heads}).")
        if self.aggregator not in ("none", "queries"):
            require_above_0(self, "blocks")
        if self.aggregator == "queries" and self.tokenizer != "project":
            raise HeadError(
                f"tokenizer must be project, but is {self.tokenizer!r}: the queries attend to the stored tokens."
            )
        parts = _listed(X)
        if len(parts) < self.least_inputs:
            raise HeadError(
                f"{self.aggregator}-attention needs two inputs, such as image and text, but has one: add another, or "
                "use self-attention."
            )
        lengths = {len(part) for part in parts}
        if len(lengths) > 1:
            raise HeadError(f"inputs have different numbers of rows: {sorted(lengths)}.")

    # Predicting

    def logits(self, X: Input) -> NDArray[np.floating[Any]]:
        """Return logits; see `Classifier.logits`."""
        check_is_fitted(self)
        # scikit-learn validates two dimensions; tokens, with three, are validated when they are read
        of_vectors = is_plain(X) and len(getattr(X, "shape", ())) < 3
        if of_vectors and self.inputs_ is None:
            X = validated(self, X, reset=False)
        return self._logits(X)

    def _logits(self, X: Input) -> NDArray[np.float32]:
        return self._logits_of(X, np.arange(n_rows(X)))

    @classmethod
    def predict_proba_many(
        cls, heads: Sequence[Self], X: Input, rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.floating[Any]]]:
        """Return the probabilities that each head gives its rows of X."""
        every = zip(heads, rows, strict=True)
        return [probabilities(head._logits_of(X, part), head.multilabel_) for head, part in every]

    def _logits_of(self, X: Input, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        from headwater.heads._token_training import ahead

        torch = need("torch", "encoders")
        reader, params = self.reading(X)
        out = [np.zeros((0, self.shape_.objective.n_outputs), np.float32)]
        parts = [rows[start : start + PREDICTED_ROWS] for start in range(0, len(rows), PREDICTED_ROWS)]
        with torch.inference_mode():
            for _, tokens in ahead(reader, parts):
                out.append(forward(self.shape_, params, tokens)[0].cpu().numpy())
        return np.concatenate(out)

    def reading(self, X: Input) -> tuple[Any, dict[str, Tensor]]:
        """Return a reader of rows of X, and the parameters on the device."""
        from headwater.heads._token_training import Reader

        torch = need("torch", "encoders")
        if self.inputs_ is None:
            parts = _listed(X)
        elif is_several(X) and set(X) == set(self.inputs_):
            parts = [X[name] for name in self.inputs_]
        else:
            raise HeadError(f"this head needs a dict of {', '.join(self.inputs_)}.")
        widths = tuple(map(token_width, parts))
        if widths != self.shape_.inputs:
            have, want = " and ".join(map(str, widths)), " and ".join(map(str, self.shape_.inputs))
            raise HeadError(f"X has {have} features, but this head was fitted on {want}.")
        if self.tokenizer == "mix":
            counts = tuple(map(token_count, parts))
            if any(
                a is not None and b is not None and a != b for a, b in zip(counts, self.shape_.lengths, strict=True)
            ):
                raise HeadError(f"X has {counts} tokens per item, but this head mixes {self.shape_.lengths}.")
        device = resolve_device(self.device)
        params = {name: torch.from_numpy(p).to(device) for name, p in self.params_.items()}
        return Reader(parts, device, may_miss=len(parts) > 1), params

    # Saving

    def to_state(self) -> State:
        """Return a fitted network as plain JSON values and arrays."""
        check_is_fitted(self)
        values = {
            "params": {
                **self.get_params(),
                "hidden": list(self.hidden),
                "class_weight": plain_class_weight(self.class_weight),
            },
            "classes": self.classes_.tolist(),
            "multilabel": self.multilabel_,
            "inputs": self.inputs_,
            "widths": list(self.shape_.inputs),
            "lengths": list(self.shape_.lengths),
            "n_epochs": self.n_epochs_,
        }
        return values, {"curve": self.curve_, **{f"params.{name}": p for name, p in self.params_.items()}}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a network from `to_state`."""
        head = cls(**{**values["params"], "hidden": tuple(values["params"]["hidden"])})
        head.classes_ = np.array(values["classes"])
        head.multilabel_, head.inputs_, head.n_epochs_ = values["multilabel"], values["inputs"], values["n_epochs"]
        head.curve_ = arrays["curve"]
        head.params_ = {n.removeprefix("params."): np.array(p) for n, p in arrays.items() if n.startswith("params.")}
        head.shape_ = TokenShape(
            tuple(values["widths"]),
            tuple(values["lengths"]),
            head.tokenizer,
            head.n_tokens,
            cls.aggregator,
            head.width,
            head.blocks,
            head.heads,
            head.pool,
            tuple(head.hidden),
            cls.rectified,
            objective_of(len(head.classes_), head.multilabel_, head.loss, head.gamma),
        )
        head.n_features_in_ = sum(head.shape_.inputs)
        return head


class _Planned(NamedTuple):
    """What a network is trained on: its rows, rows to stop by, class numbers of all rows, and classes."""

    head: TokenHead
    shape: TokenShape
    rows: NDArray[np.int64]
    stop: NDArray[np.int64]
    codes: NDArray[Any]
    seen: NDArray[np.int64]
    classes: NDArray[Any]
    class_weight: NDArray[np.float32]
    multilabel: bool

    @property
    def schedule(self) -> Schedule:
        """The training schedule."""
        from headwater.heads._training import Schedule

        return Schedule(self.head.epochs, self.head.batch_size, self.head.warmup, self.head.patience)

    def network(self, reader: Reader, device: str) -> tuple[Any, ...]:
        """Return the arguments of `headwater.heads._token_training.TokenNetwork`."""
        from headwater.heads._token_training import TokenSettings

        torch, head = need("torch", "encoders"), self.head
        # On CPUs only on request: whether it speeds up attention and norms depends on the processor.
        fast = head.precision == "bf16" or (head.precision == "auto" and device == "cuda" and fast_at_bf16(device))
        settings = TokenSettings(head.lr, head.weight_decay, head.dropout, head.label_smoothing, head.seed)
        targets = targets_of(self.codes, self.seen, self.shape.objective, np.arange(len(self.codes)), device)
        dtype = torch.bfloat16 if fast else torch.float32
        return (
            self.shape, self.schedule, settings, self.rows, self.stop, reader, targets, self.class_weight, dtype
        )  # fmt: skip


class _Racing(Pausable):
    """A network in a race, with its number and the rows to score."""

    def __init__(self, number: int, planned: _Planned, reader: Reader, test: NDArray[np.int64]) -> None:
        self._number, self._planned, self._reader, self._test = number, planned, reader, test
        self._network: TokenNetwork | None = None
        self._epoch, self._dropped = 0, False
        self.failed: HeadError | None = None

    def advance(self, share: float) -> None:
        from headwater.heads._token_training import Diverged, TokenNetwork

        if self._dropped:
            return
        self._epoch = self._planned.schedule.epoch_at(share)
        if self.failed is None:
            try:
                if self._network is None:
                    self._network = TokenNetwork(*self._planned.network(self._reader, self._reader.device))
                self._network.advance(self._epoch)
            except Diverged as error:
                self.failed, self._network = error, None

    def scores(self) -> dict[int, Raced]:
        if self._dropped:
            return {}
        shape = len(self._test), self._planned.shape.objective.n_outputs
        logits = np.full(shape, np.nan, np.float32) if self._network is None else self._network.logits(self._test)
        found = scored(logits, self._planned.multilabel)
        return {self._number: Raced(found, self._planned.classes, self._epoch)}

    def drop(self, numbers: frozenset[int]) -> None:
        if self._number in numbers:
            self._network, self._dropped = None, True


def _listed(X: Input) -> list[Any]:
    return list(X.values()) if is_several(X) else [X]
