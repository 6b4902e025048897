"""Tasks of the Language Model Evaluation Harness (Gao et al., 2021, https://doi.org/10.5281/zenodo.5371628):
its Python API, local task files, nothing downloaded that a task does not ask for."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.core.checkpoint import restore_rng, rng_state
from limbeck.errors import InputError, brief
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evaluation import evaluating

__all__ = ["harness", "load_tasks"]

ROWS = 8  # of a forward pass
SEED = 1234  # of the examples in a prompt: lm-eval's own


def harness(model: CausalLM, tasks: Sequence[str]) -> dict[str, float]:
    """What lm-eval says of a model: ``{"task/metric": number}``.

    Args:
        model: left in the mode it was in; global random generators, too, are left as they were.
        tasks: names that lm-eval knows, or paths of ``.yaml`` task files.

    Raises:
        InputError: when lm-eval is not installed, or a task cannot be had.
    """
    loaded, net = load_tasks(tuple(tasks)), model.net
    with _calling(tasks, "cannot be evaluated"), evaluating(model):
        from lm_eval import evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

        for task in loaded["tasks"].values():
            task.set_fewshot_seed(SEED)
        face = HFLM(pretrained=net, tokenizer=model.tokenizer, batch_size=ROWS, max_length=model.context)
        found: Any = evaluate(face, loaded, bootstrap_iters=0, log_samples=False)
    results: dict[str, dict[str, Any]] = found["results"]
    return {
        f"{task}/{key.removesuffix(',none')}": float(number)
        for task, numbers in results.items()
        for key, number in numbers.items()
        if "," in key and "_stderr," not in key and not isinstance(number, str)  # "metric,filter": the rest are facts
    }


@cache
def load_tasks(tasks: tuple[str, ...]) -> dict[str, Any]:
    """Tasks with their data, as lm-eval holds them; read once, for every model.

    Raises:
        InputError: when lm-eval is not installed, or a task cannot be had.
    """
    try:
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("lm_eval", tasks[0], "needs lm-eval; pip install 'limbeck[eval]'") from None
    with _calling(tasks, "cannot be had"):
        known = not all(Path(task).is_file() for task in tasks)  # to read all that it knows takes ten seconds
        return TaskManager(include_defaults=known).load(list(tasks))


@contextmanager
def _calling(tasks: Sequence[str], failed: str) -> Generator[None]:
    """Without its progress bars; a task's code, its data, the network: each has exceptions of its own."""
    before = rng_state()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        raise InputError("lm_eval", ", ".join(tasks), f"{failed}: {brief(error)}") from None
    finally:
        restore_rng(before)
