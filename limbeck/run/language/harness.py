"""Tasks of the Language Model Evaluation Harness (Gao et al., 2021, https://doi.org/10.5281/zenodo.5371628):
its Python API, local task files, nothing downloaded that a task does not ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, brief
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evaluation import evaluating

__all__ = ["harness"]

ROWS = 8  # of a forward pass


def harness(model: CausalLM, tasks: Sequence[str]) -> dict[str, float]:
    """What lm-eval says of a model: ``{"task/metric": number}``.

    Args:
        model: left in the mode it was in.
        tasks: names that lm-eval knows, or paths of ``.yaml`` task files.

    Raises:
        InputError: when lm-eval is not installed, or a task cannot be had.
    """
    try:
        from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("lm_eval", tasks[0], "needs lm-eval; pip install 'limbeck[eval]'") from None
    net: Any = model.net
    try:
        with evaluating(model):
            face = HFLM(pretrained=net, tokenizer=model.tokenizer, batch_size=ROWS, max_length=model.context)
            manager = TaskManager(
                include_path=sorted({str(Path(t).parent) for t in tasks if Path(t).is_file()}) or None
            )
            names = [Path(task).stem if Path(task).is_file() else task for task in tasks]
            found = simple_evaluate(face, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=False)
    except Exception as error:  # a task file, its data, the network: each with exceptions of its own
        raise InputError("lm_eval", ", ".join(tasks), f"cannot be evaluated: {brief(error)}") from None
    results: dict[str, dict[str, Any]] = (found or {})["results"]
    return {
        f"{task}/{metric.removesuffix(',none')}": float(number)
        for task, numbers in results.items()
        for metric, number in numbers.items()
        if isinstance(number, int | float) and "stderr" not in metric
    }
