"""What a method is: a module bound to its models, whose step is a generator of updates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, dataclass_transform, get_args, get_origin, get_type_hints

import torch
from annotated_types import Ge, Gt, Interval, Le, Lt
from torch import Tensor, nn

from limbeck.core.modules import is_frozen
from limbeck.core.schedule import Clock, Schedule, Weight, value
from limbeck.errors import InputError

__all__ = [
    "Clock", "Count", "Fraction", "MakeOptimizer", "Method", "NonNegative", "Positive", "Schedule", "Setting",
    "Update", "Weight", "hyperparameters", "roles", "value",
]  # fmt: skip

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Ge(1)]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Update:
    """One optimiser step for one player.

    Args:
        terms: named scalar losses; the driver minimises their sum, or hands them one by one to an optimiser that asks.
            Without terms no step is taken: the update only logs (a round of clients, whose optimisers are their own).
        player: whose parameters move.
        logs: further detached scalars to record.
    """

    terms: Mapping[str, Tensor]
    player: str = "student"
    logs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def loss(self) -> Tensor:
        """The sum of the terms."""
        first, *rest = self.terms.values()
        return sum(rest, first)


@dataclass(frozen=True)
class Setting:
    """What a run hands to :meth:`Method.distil`.

    Args:
        student: makes a fresh student; every call is initialised anew, reproducibly.
        teachers: the run's teachers, frozen, perhaps none.
        data: the training batches (:class:`limbeck.data.batches.Batches` or any iterable).
        steps: optimiser steps of one full schedule.
        fit: trains a method under the run's optimiser; ``name`` keeps the checkpoints of several fits apart, ``data``
            and ``steps`` replace the run's. A fit that is already complete on disk is loaded, so a killed procedure is
            resumed by running it again.
    """

    student: Callable[[], nn.Module]
    teachers: Sequence[nn.Module]
    data: Iterable[Any]
    steps: int
    fit: Callable[..., None]


@dataclass_transform()
class Method(nn.Module):
    """Base of every method. A subclass is a dataclass: models first, then ``_: KW_ONLY`` and the hyper-parameters.

    Override :meth:`loss` for one player and one step; :meth:`updates` for anything else; :meth:`distil` when the
    whole procedure is more than one fit (generations, selections, warm starts).
    """

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        self = super().__new__(cls)
        nn.Module.__init__(self)  # fields are assigned by the dataclass before any user code could call it
        return self

    def __init_subclass__(cls) -> None:
        """Make the subclass a dataclass whose fields are checked against their annotated ranges."""
        if Method not in cls.__bases__:
            raise TypeError(f"{cls.__name__}: a concrete method is never subclassed; move what is shared down")
        for name in inspect.get_annotations(cls):
            if hasattr(Method, name) or name in vars(nn.Module()):
                raise TypeError(f"{cls.__name__}.{name}: a field of that name would shadow Method.{name}; rename it")
        after = cls.__dict__.get("__post_init__")

        def __post_init__(self: Method) -> None:
            check(self)
            if after is not None:
                after(self)

        cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
        dataclass(eq=False, repr=False)(cls)
        for f in fields(cls):  # type: ignore[arg-type]
            if f.default is None and f.name in vars(cls):
                delattr(cls, f.name)  # as a class attribute it would hide a module that nn.Module keeps elsewhere

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Who moves: names to parameters. Default: everything trainable, as ``student``."""
        return {"student": [p for p in self.parameters() if p.requires_grad]}

    def optimizers(self, make: MakeOptimizer) -> dict[str, torch.optim.Optimizer]:
        """One optimiser a player. Override when the method *is* an optimiser."""
        return {player: make(parameters) for player, parameters in self.players().items()}

    def loss(self, batch: Any, clock: Clock) -> Tensor | Mapping[str, Tensor]:
        """The student's loss on one batch: a scalar, or named scalar terms whose sum is minimised."""
        raise NotImplementedError(f"{type(self).__name__} must define loss or updates")

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        """Yield one :class:`Update` per optimiser step; what follows a ``yield`` runs after that step.

        The value of a ``yield`` is whether the step was taken (``False`` while gradients accumulate).
        """
        loss = self.loss(batch, clock)
        yield Update(loss if isinstance(loss, Mapping) else {"loss": loss})

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Run the whole procedure and return the finished student. Default: build the method and fit it once."""
        method = cls(**roles(cls, setting), **values)
        setting.fit(method)
        student = method.student
        assert isinstance(student, nn.Module)
        return student

    def train(self, mode: bool = True) -> Self:
        """Like ``nn.Module.train``, but what :func:`limbeck.freeze` froze stays in eval mode."""
        super().train(mode)
        for module in self.modules():
            if is_frozen(module):
                module.eval()
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """State of fields that are not modules but keep some: they have ``state_dict`` and ``load_state_dict``."""
        return {name: held.state_dict() for name, held in self._stateful().items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, held in self._stateful().items():
            held.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        return {n: v for n, v in vars(self).items() if hasattr(v, "state_dict") and hasattr(v, "load_state_dict")}


def hyperparameters(cls: type[Method]) -> dict[str, Field[Any]]:
    """The keyword-only fields of a method: what flags and run files may set."""
    return {f.name: f for f in fields(cls) if f.kw_only and f.init}  # type: ignore[arg-type]


def roles(cls: type[Method], setting: Setting) -> dict[str, Any]:
    """The models of a run by the names of a method's positional fields: ``student``, ``teacher``, ``teachers``."""
    positional = [f for f in fields(cls) if not f.kw_only and f.init]  # type: ignore[arg-type]
    given = len(setting.teachers)
    wanted = [f.name for f in positional if given or f.default is not None]  # a role whose default is None may be empty
    if "teacher" in wanted and given != 1:
        raise InputError("teacher", given, "teachers were given; this method takes exactly one")
    if "teachers" in wanted and not given:
        raise InputError("teacher", given, "teachers were given; this method takes one or more")
    made: dict[str, Any] = {}
    for name in wanted:
        match name:
            case "student":
                made[name] = setting.student()
            case "teacher":
                made[name] = setting.teachers[0]
            case "teachers":
                made[name] = nn.ModuleList(setting.teachers)
            case _:
                pass  # no model but a table (class means, how many rows there are): its ``distil`` fills it
    return made


def check(method: Method) -> None:
    """Hold every field against the range or the choices its annotation states.

    Raises:
        InputError: naming the field, the value and the range.
    """
    hints = get_type_hints(type(method), include_extras=True)
    for f in fields(method):  # type: ignore[arg-type]
        hint, now = hints[f.name], getattr(method, f.name, None)
        if get_origin(hint) in (Union, UnionType):  # an optional number keeps its range
            hint = next((part for part in get_args(hint) if get_origin(part) is Annotated), hint)
        if get_origin(hint) is Literal and now not in get_args(hint):
            raise InputError(f.name, now, f"is not one of {', '.join(map(repr, get_args(hint)))}")
        elif get_origin(hints[f.name]) is Annotated and f.init:
            kind = get_args(hint)[0]
            if kind in (int, float) and (not isinstance(now, int | kind) or isinstance(now, bool)):
                raise InputError(f.name, now, f"must be a {'whole ' if kind is int else ''}number")
        if get_origin(hint) is Annotated and isinstance(now, int | float):
            for bound in (b for part in get_args(hint)[1:] for b in (part if isinstance(part, Interval) else [part])):
                match bound:
                    case Gt(low) if not now > low:  # type: ignore[operator]
                        raise InputError(f.name, now, f"must be greater than {low}")
                    case Ge(low) if not now >= low:  # type: ignore[operator]
                        raise InputError(f.name, now, f"must be at least {low}")
                    case Lt(high) if not now < high:  # type: ignore[operator]
                        raise InputError(f.name, now, f"must be less than {high}")
                    case Le(high) if not now <= high:  # type: ignore[operator]
                        raise InputError(f.name, now, f"must be at most {high}")
                    case _:
                        pass
