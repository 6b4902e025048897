"""Schedules are pure functions of the clock, and read what they print."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.schedule import Clock, Cosine, Linear, Piecewise, Warmup, parse, value
from limbeck.errors import InputError

numbers = st.floats(-1e6, 1e6, allow_nan=False)
schedules = st.one_of(
    st.builds(Linear, numbers, numbers),
    st.builds(Cosine, numbers, numbers),
    st.builds(Warmup, st.floats(0, 1), numbers),
    st.builds(Piecewise, st.dictionaries(st.floats(0, 1), numbers, max_size=4), numbers),
)


def values(schedule: object, steps: int) -> list[float]:
    return [schedule(Clock(step, steps)) for step in range(steps)]  # type: ignore[operator]


def test_values() -> None:
    assert values(Linear(0, 1), 5) == [0, 0.25, 0.5, 0.75, 1]
    assert values(Cosine(), 3) == pytest.approx([1, 0.5, 0])
    assert values(Cosine(0, 2), 5)[1] == pytest.approx(2 * (1 - math.cos(math.pi / 4)) / 2)
    assert values(Warmup(0.5), 8) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert values(Piecewise({0.75: 0.01, 0.5: 0.1}), 8) == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert value(3.0, Clock(0, 1)) == 3 and value(Linear(2, 4), Clock(9, 10)) == 4


def test_fraction_is_below_one() -> None:
    assert [Clock(step, 4).fraction for step in range(4)] == [0, 0.25, 0.5, 0.75]
    assert Clock(0, 0).fraction == 0


@given(schedules, st.integers(1, 50))
def test_a_run_of_any_length_has_finite_values(schedule: object, steps: int) -> None:
    assert all(math.isfinite(number) for number in values(schedule, steps))


@given(schedules)
def test_what_is_printed_is_read(schedule: object) -> None:
    assert parse(repr(schedule)) == schedule


@given(numbers)
def test_numbers_are_read(number: float) -> None:
    assert parse(repr(number)) == parse(number) == number


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("Linear(0, 1)", Linear(0, 1)), ("cosine()", Cosine()), (" Warmup(0.2) ", Warmup(0.2)), ("1e-3", 1e-3),
        ("Piecewise({0.5: 0.1, 0.75: 0.01}, first=2)", Piecewise({0.5: 0.1, 0.75: 0.01}, 2)),
        ("Linear(start=1, end=-1)", Linear(1, -1)),
    ],
)  # fmt: skip
def test_what_people_write(text: str, schedule: object) -> None:
    assert parse(text) == schedule


@pytest.mark.parametrize(
    "text",
    [
        "", "nan", "inf", "-inf", "Linear", "Linear()", "Linear(0)", "Linear(0, 1, 2)", "Linear('a', 1)", "Linear(0, 1",
        "Linear(0, nan)", "Linear(0, 1e999)", "Linear(0, 1j)", "Linear(None, 1)", "Linear(0, 1); import os",
        "Linear(*[0, 1])", "Linear(**{'start': 0, 'end': 1})", "Linaer(0, 1)", "__import__('os').getcwd()",
        "Piecewise(3)", "Piecewise({'a': 1})", "Piecewise({0.95: 'x'})", "Piecewise({1.5: 1})", "Piecewise({0.5: [1]})",
        "(" * 500, "\0", "lambda clock: 1", "Linear(0, 1)(2)", "9" * 5000, "Cosine(" + "9" * 5000 + ")",
    ],
)  # fmt: skip
def test_garbage_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(InputError, match="did you mean 'Linear'"):
        parse("Linaer(0, 1)")


@given(st.one_of(st.text(), st.text("LinearCosPw(){}[]:,.0123456789eE-+'*jx ", max_size=40)))
def test_any_text_is_a_finite_weight_or_refused(text: str) -> None:
    try:
        weight = parse(text)
    except InputError:
        return
    assert math.isfinite(value(weight, Clock(3, 10)))
