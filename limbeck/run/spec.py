"""The run file: everything that a run depends on, validated, as YAML."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Optional, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from limbeck.core.card import field_docs, find, method_class
from limbeck.core.method import hyperparameters
from limbeck.core.schedule import parse
from limbeck.errors import InputError, nearest

__all__ = ["RunSpec", "command", "make_spec", "read_yaml", "typed_values", "values_model", "write_yaml"]

M = TypeVar("M", bound=BaseModel)
VERSION = 1
LARGEST = 1_000_000  # bytes of a run file
Whole = Annotated[int, Field(ge=1, le=10**9)]
OF_IMAGES = ("size", "label_noise", "augment", "teacher_view")
OF_CLASSIFIERS = ("label_noise", "augment", "teacher_view")
OF_TEXT = ("context", "pack", "long", "tokenizer", "lm_eval")


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, given: Any, info: ValidationInfo) -> Any:
        """YAML reads ``yes`` as a bool, which pydantic would take for the number 1."""
        if isinstance(given, bool) and bool not in _parts(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("should not be a yes or no")
        parts = given if isinstance(given, list) else [given]
        lines = cls is not RunSpec  # a method's text, such as a prompt, may have several
        texts = [part.replace("\n", "") if lines else part for part in parts if isinstance(part, str)]
        if not all(text.isprintable() for text in texts):
            raise ValueError("has characters that cannot be printed")
        return given


class RunSpec(_Checked):
    """A run. The same names are the command line's flags; ``values`` are its ``--method.*``."""

    version: Literal[1] = VERSION
    method: str = Field(description="the method's key; `limbeck methods` lists them")
    values: dict[str, Any] = Field({}, description="the method's hyper-parameters")
    student: str = Field(
        "",
        description="what is trained: a small network (cnn-8-16, llama-64x2, unet-32-64), layers-6@MODEL, "
        "lora-8@MODEL, pkg.module:factory, folder or Hub id; for diffusion a copy of the teacher by default",
    )
    teacher: Annotated[list[str], BeforeValidator(lambda t: [t] if isinstance(t, str) else t)] = Field(
        [],
        description="a pretrained network: a folder, file or Hub id; store:FOLDER; http://host/v1#model; "
        "again for several",
    )
    data: str = Field(
        description="images: digits, a folder, a .parquet or .npz file, a Hub data set; "
        "text: manual, arithmetic, a .txt, .jsonl or .parquet file, train,test, a Hub data set"
    )
    limit: Whole | None = Field(
        None, description="keep this many training images, every class in proportion, or documents"
    )
    size: Annotated[int, Field(ge=1, le=4096)] | None = Field(None, description="resize images to this square")
    label_noise: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of training labels made wrong")
    augment: str = Field("none", description="of training images, by kornia, such as crop+flip")
    teacher_view: Literal["same", "separate", "clean"] = Field("same", description="the view the teacher sees")
    context: Annotated[int, Field(ge=8, le=2**20)] | None = Field(
        None, description="tokens of a row of text, at most; 256 by default"
    )
    pack: bool | None = Field(
        None, description="fill rows with several documents; by default for plain text, never for prompts"
    )
    long: Literal["refuse", "truncate", "drop"] | None = Field(
        None, description="what happens to a prompt with completion longer than the context; refuse by default"
    )
    tokenizer: str | None = Field(
        None, description="of a student without one: bytes, bpe-1024, a folder, a Hub id; the teacher's by default"
    )
    lm_eval: list[str] = Field([], description="a task of lm-eval, by its name or its .yaml file; repeat for several")
    transfer: list[Literal["search", "continual"]] = Field(
        [],
        description="what else a distilled set is tried for: to rank architectures, to remember classes that come in "
        "turn; repeat for both",
    )
    steps: Whole | None = Field(None, description="optimiser steps of one training")
    epochs: Annotated[float, Field(gt=0, le=10**6)] | None = Field(
        None, description="passes over the data, instead of --steps; 30 for images, 3 for text, when neither is given"
    )
    batch: Whole | None = Field(None, description="images, or rows of text, a batch; 64 images, 16 rows by default")
    accumulate: Annotated[int, Field(ge=1, le=10**4)] = Field(1, description="batches averaged into one step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="of the method and of its control")
    lr: Annotated[float, Field(gt=0)] | None = Field(
        None, description="peak learning rate; 0.003 (adamw), 0.1 (sgd); trained language models 0.0001"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd, unused by adamw")
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="decoupled for adamw, L2 for sgd")
    schedule: Literal["cosine", "constant", "step"] = Field(
        "cosine", description="of the learning rate; step: a tenth at 1/2 and again at 3/4"
    )
    clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest norm of a player's gradient")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast of the forward passes")
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(3, description="how many; each trains control and student")
    first_seed: Annotated[int, Field(ge=0, le=2**31)] = Field(0, description="they count up from here")
    eval_every: Whole | None = Field(None, description="steps between test accuracies; a 20th of the run by default")
    checkpoint_seconds: Annotated[float, Field(gt=0)] = Field(30.0, description="the most work that a kill may cost")
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = Field([], description="where to log as well; repeat")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:1 or mps")

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise InputError("steps", self.steps, "and epochs are both given; leave one out")
        return self


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _text(weight: Any) -> float | str:
    return weight if isinstance(weight, float) else repr(weight)


AsText = Annotated[Any, BeforeValidator(parse), PlainSerializer(_text)]


@cache
def values_model(key: str) -> type[BaseModel]:
    """A method's hyper-parameters as a pydantic model: its ranges, choices, defaults and docstrings."""
    card = find(key)
    cls, docs = method_class(card), field_docs(card)
    hints = get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for name, field in hyperparameters(cls).items():
        hint = hints[name]
        parts = _parts(get_args(hint)[0] if get_origin(hint) is Annotated else hint)
        if any(get_origin(part) is Callable for part in parts):  # a Weight; bounds on its numbers are the method's
            hint = Optional[AsText] if type(None) in parts else AsText  # noqa: UP045  an Annotated has no |
        factory = None if field.default_factory is MISSING else field.default_factory
        default: Any = {"default_factory": factory} if factory is not None else {"default": field.default}
        fields[name] = (hint, Field(description=docs.get(name, ""), **default))
    return create_model(f"{cls.__name__}Values", __base__=_Checked, **fields)


def make_spec(given: Mapping[str, Any]) -> RunSpec:
    """Validate a run's settings, as a run file or flags give them; the method's values come out complete.

    Raises:
        InputError: naming the first field that is wrong, its value and the fix.
    """
    version = given.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        raise InputError("version", version, f"is newer than this limbeck reads ({VERSION}); upgrade limbeck")
    spec = _validated(RunSpec, given, "")
    card = find(spec.method)
    kind, other = ("text", OF_IMAGES) if card.modality == "text" else ("images", OF_TEXT)
    other = (*OF_CLASSIFIERS, *OF_TEXT) if card.modality == "diffusion" else other
    if not spec.student and card.modality != "diffusion":
        raise InputError("student", "", "is missing; " + (RunSpec.model_fields["student"].description or ""))
    for name in other:
        if (held := getattr(spec, name)) != RunSpec.model_fields[name].get_default(call_default_factory=True):
            raise InputError(name, str(held), f"does not apply: {spec.method} learns from {kind}; leave it out")
    if spec.transfer and card.modality != "dataset":
        raise InputError(
            "transfer", ", ".join(spec.transfer), f"does not apply: {spec.method} makes no data set; leave it out"
        )
    model = values_model(card.key)
    return spec.model_copy(update={"values": _validated(model, spec.values, "method.").model_dump(mode="json")})


def typed_values(spec: RunSpec) -> dict[str, Any]:
    """The method's hyper-parameters as it takes them: schedules as schedules."""
    values = values_model(spec.method)(**spec.values)
    return {name: getattr(values, name) for name in type(values).model_fields}


def command(spec: RunSpec, out: str) -> str:
    """The command that repeats a run: what differs from the defaults."""
    words = ["limbeck", "run", spec.method]
    settings = {name: value for name, value in spec if name not in ("version", "method", "values")}
    for prefix, model, given in (("", RunSpec, settings), ("method.", values_model(spec.method), typed_values(spec))):
        for name, field in model.model_fields.items():
            if name not in given or given[name] == field.get_default(call_default_factory=True):
                continue
            for value in given[name] if isinstance(given[name], list | tuple) else [given[name]]:
                words += [f"--{prefix}{name}".replace("_", "-"), str(value)]
    return shlex.join([*words, "--out", out])


def _validated(model: type[M], given: Mapping[str, Any], prefix: str) -> M:
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise _one_line(error, model, prefix) from None


def _one_line(error: ValidationError, model: type[BaseModel], prefix: str) -> InputError:
    first = error.errors(include_url=False)[0]
    name = prefix + str(first["loc"][0]) if first["loc"] else ""
    cause = first.get("ctx", {}).get("error")
    match first["type"]:
        case "extra_forbidden":
            return InputError(name, first["input"], "is not known" + nearest(str(first["loc"][0]), model.model_fields))
        case "missing":
            return InputError(name, "", "is missing; " + (model.model_fields[str(first["loc"][0])].description or ""))
        case _ if isinstance(cause, InputError):
            return InputError(name or cause.field, cause.value, cause.fix)
        case _:
            return InputError(name, first["input"], str(cause or first["msg"].removeprefix("Input ")))


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key appears once and nothing refers to something else (no bombs of aliases)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1} has an alias (*); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {key!r} is there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """What a run file says, not yet validated.

    Raises:
        InputError: when it cannot be read, is too large or is no YAML mapping.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError("run file", str(path), f"has more than {LARGEST:,} bytes; is it a run file?")
        said = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a safe loader
    except InputError:
        raise
    except OSError as error:
        raise InputError("run file", str(path), f"cannot be read ({error.strerror})") from None
    except Exception as error:  # PyYAML lets many kinds through; whatever it is, the file is what is wrong
        why = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise InputError("run file", str(path), f"is not YAML: {why}") from None
    if not isinstance(said, dict) or not all(isinstance(key, str) for key in said):
        raise InputError("run file", str(path), "must hold names and values, such as 'method: kd'")
    return said


def write_yaml(spec: RunSpec) -> str:
    """The run file of a run: :func:`read_yaml` and :func:`make_spec` give the same run back."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
