"""What lm-eval says of a model is what the model says: its likelihoods are computed here as well."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.tiny_lm import byte_tokenizer, llama

pytest.importorskip("lm_eval")

TEXTS = ["The sun rises in the east.", "A dog is an animal."]
ASKED = [("Two and two is", [" four", " six", " eighteen"], 0), ("Snow is", [" black", " white"], 1)]
DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
"""
ROLLING = """
task: whole_texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""
CHOICE = """
task: choices
output_type: multiple_choice
doc_to_text: "{{asked}}"
doc_to_choice: choices
doc_to_target: right
target_delimiter: ""
metric_list: [{metric: acc}]
"""


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def task_file(folder: Path, task: str, rows: list[dict[str, object]]) -> str:
    """A task of lm-eval and its data; the file's name is not the task's."""
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    path = folder / "a_file.yaml"
    path.write_text(DATA.format(file=folder / "rows.jsonl") + task)
    return str(path)


def model() -> CausalLM:
    torch.manual_seed(0)
    return llama(32, 2, byte_tokenizer()).train()


def log_probability(lm: CausalLM, before: list[int], said: str) -> float:
    ids = lm.tokenizer(said, add_special_tokens=False).input_ids
    with torch.no_grad():
        log = lm.net.eval()(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    return float(sum(log[len(before) + k - 1, word] for k, word in enumerate(ids)))


def test_bits_per_byte_are_those_of_the_models_likelihoods(tmp_path: Path) -> None:
    from limbeck.run.language.harness import harness

    lm, task = model(), task_file(tmp_path, ROLLING, [{"text": text} for text in TEXTS])
    drawn = random.getstate(), torch.get_rng_state()
    found = harness(lm, [task])
    assert lm.training
    assert random.getstate() == drawn[0] and torch.equal(torch.get_rng_state(), drawn[1])
    nats = sum(log_probability(lm, [lm.eos], text) for text in TEXTS)
    bits = -nats / math.log(2) / sum(len(text) for text in TEXTS)
    assert found == {"whole_texts/bits_per_byte": pytest.approx(bits, abs=1e-4)}
    assert harness(lm, [task]) == found  # tasks are read once, and asked again


def test_the_likelier_choice_is_the_answer(tmp_path: Path) -> None:
    from limbeck.run.language.harness import harness

    rows = [{"asked": asked, "choices": choices, "right": right} for asked, choices, right in ASKED]
    lm = model()
    found = harness(lm, [task_file(tmp_path, CHOICE, rows)])
    right = 0
    for asked, choices, wanted in ASKED:
        before = lm.tokenizer(asked, add_special_tokens=False).input_ids
        likely = [log_probability(lm, before, choice) for choice in choices]
        right += likely.index(max(likely)) == wanted
    assert found == {"choices/acc": right / len(ASKED)}


def test_a_task_without_its_data_is_refused_in_one_line(tmp_path: Path) -> None:
    from limbeck.run.language.harness import load_tasks

    task = task_file(tmp_path, CHOICE, [])
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(InputError, match=r"cannot be had: .*rows\.jsonl") as caught:
        load_tasks((task,))
    assert "\n" not in str(caught.value)
