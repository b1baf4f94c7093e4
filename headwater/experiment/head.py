"""A kind of head with its parameters: fixed values, and lists to select among."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from headwater._devices import Device, require_device
from headwater._extras import need
from headwater.errors import InputError
from headwater.evaluate import TPE, Grid, Refined, Searches
from headwater.evaluate.options import Protocol
from headwater.heads import ClassTexts, Head, head_class, make_head

DEFAULT_HEAD = {
    "auto": "linear",
    "regression": "ridge",
    "survival": "cox",
    "ordinal": "ordinal",
}  # by the protocol's task


@dataclass(frozen=True)
class HeadChoice:
    """A kind of head, and how its parameters are set or selected.

    Attributes
    ----------
    kind
        Kind of head.
    fixed
        Parameters with one given value.
    lists
        Parameters to select from several values.
    trials
        How many settings Optuna proposes for each set of training rows; None for a grid.
    fine
        Whether a finer grid around the best value follows the head's own grid.
    regression
        Whether the head predicts numbers.
    survival
        Whether the head predicts the risk of an event.
    device
        Where heads are fitted; a head that has no such parameter is fitted on the CPU.
    """

    kind: str
    fixed: Mapping[str, Any]
    lists: Mapping[str, Sequence[Any]]
    trials: int | None = None
    fine: bool = False
    regression: bool = False
    device: Device = "auto"
    survival: bool = False

    @classmethod
    def of(
        cls,
        kind: str,
        params: Mapping[str, Any],
        trials: int | None = None,
        *,
        fine: bool = False,
        regression: bool = False,
        device: Device = "auto",
        option: str = "--set ",
        survival: bool = False,
    ) -> HeadChoice:
        """Sort parameters into fixed values and lists to select among, by the types of the head's parameters.

        A list is one value if the parameter is itself a list (``hidden=[512, 512]``). Otherwise it holds values to
        select among (``lr=[0.001, 0.01]``, ``hidden=[[64], [128, 128]]``).

        Raises
        ------
        HeadError, InputError
            For an unknown head or parameter, and a value of the wrong type.
        """
        if kind.startswith("zero-shot"):
            raise InputError(f"--head {kind} has nothing to fit: run headwater zero-shot.")
        if trials is not None and trials < 1:
            raise InputError(f"--trials must be at least 1, but is {trials}.")
        if trials is not None:
            need("optuna", "sweep")  # before anything is fitted
        if "device" in params:
            raise InputError(f"{option}device=…: leave it out, and pass --device {params['device']}.")
        require_device(device)  # refuses a GPU that is not there, before anything is read
        hints = get_type_hints(head_class(kind, regression=regression, survival=survival).__init__)
        make_head(kind, dict(params), regression=regression, survival=survival)  # refuses unknown names
        fixed: dict[str, Any] = {}
        lists: dict[str, Sequence[Any]] = {}
        for name, given in params.items():
            value = given.tolist() if hasattr(given, "tolist") else given  # NumPy values
            hint = hints.get(name, Any)
            if _is_a(value, hint):
                fixed[name] = value
            elif isinstance(value, (list, tuple)) and value and all(_is_a(v, hint) for v in value):
                lists[name] = list(value)
            else:
                raise InputError(f"{option}{name}={value}: {name} must be {_worded(hint)}, or a list of such.")
        found = cls(kind, fixed, lists, trials, fine, regression, device, survival)
        if fine and (trials is not None or found._penalties is None):
            raise InputError(
                "--fine goes with a head whose grid has one penalty, such as linear, and without --trials or lists of "
                "values."
            )
        return found

    @classmethod
    def under(
        cls,
        protocol: Protocol,
        kind: str | None,
        params: Mapping[str, Any],
        *,
        device: Device = "auto",
        option: str = "--set ",
    ) -> HeadChoice:
        """Choose a head for a protocol: its task, and how its parameters are searched; see `of`."""
        kind = kind or DEFAULT_HEAD.get(protocol.task, "linear")
        if kind == "ordinal" and protocol.task == "auto":
            raise InputError("--head ordinal is for grades, classes with an order: pass --task ordinal too.")
        if "order" in params:
            raise InputError(f"{option}order=…: leave it out, and pass --order LOWEST,…,HIGHEST.")
        return cls.of(
            kind,
            params,
            protocol.trials,
            fine=protocol.fine,
            regression=protocol.regression,
            device=device,
            option=option,
            survival=protocol.survival,
        )

    @property
    def _penalties(self) -> tuple[str, list[float]] | None:
        """The single positive parameter of the head's own grid, with its values; None if there is no such parameter."""
        names = {name for params in self.head().default_grid() for name in params}
        if len(names) != 1 or names & self.given or self.lists:
            return None
        (name,) = names
        if self.head().search_space.get(name, ("",))[0] != "log":
            return None
        return name, [float(params[name]) for params in self.head().default_grid()]

    @property
    def given(self) -> frozenset[str]:
        """Names of the parameters that the user set, as a value or a list."""
        return frozenset(self.fixed) | frozenset(self.lists)

    def instead(self, kind: str) -> HeadChoice:
        """Return the same choice for another kind of head with the same parameters."""
        return replace(self, kind=kind)

    def head(self, seed: int | None = None) -> Head:
        """Build an unfitted head; a head with a random seed gets this one, unless the user set its seed."""
        head = make_head(self.kind, dict(self.fixed), regression=self.regression, survival=self.survival)
        own = head.get_params()
        if seed is not None and "seed" in own and "seed" not in self.fixed:
            head.set_params(seed=seed)
        if "device" in own:
            head.set_params(device=self.device)
        return head

    @property
    def ignores_gpu(self) -> bool:
        """Whether a GPU was requested for a head that is fitted on the CPU."""
        return self.device == "cuda" and "device" not in self.head().get_params()

    def searches(self, seed: int) -> Searches:
        """Return the settings to search: lists times the head's own grid, or Optuna in the head's search space."""
        head = self.head()
        if self.trials is not None:
            free = {name: where for name, where in head.search_space.items() if name not in self.given}
            choices = {name: ("choice", tuple(values)) for name, values in self.lists.items()}
            return TPE({**free, **choices}, self.trials, seed) if free or choices else Grid([{}])
        if self.fine and self._penalties is not None:
            return Refined(*self._penalties)
        own = [params for params in head.default_grid() if not set(params) & self.given] or [{}]
        listed = [dict(zip(self.lists, values, strict=True)) for values in product(*self.lists.values())]
        return Grid([{**params, **chosen} for chosen in listed for params in own])


def _worded(hint: Any) -> str:
    """Describe a type in the words of JSON."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(_worded, parts))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each part {_worded(parts[0])}"
    return _WORDS.get(hint, str(hint))


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    type(None): "null",
    ClassTexts: "given by --prompts FILE.toml",
}


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON has a type; an integer counts as a float, a boolean does not."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and all(_is_a(part, parts[0]) for part in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return not isinstance(hint, type) or isinstance(value, (int, float) if hint is float else hint)
