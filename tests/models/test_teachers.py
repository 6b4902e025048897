"""Teachers of every kind say what the network behind them says; a server that fails is asked again, or named."""

from __future__ import annotations

import copy
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from limbeck.core.modules import freeze
from limbeck.data.signals import StoredTeacher, capture, teacher_hash
from limbeck.data.text import arithmetic
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenSet, prompts
from limbeck.errors import InputError
from limbeck.losses.vocabulary import ForwardKL, Words, token_loss
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery.adapters import lora
from limbeck.models.surgery.bits import quantise
from limbeck.models.teachers import (
    CAPABILITIES,
    Ensemble,
    SelfTeacher,
    ServedTeacher,
    capabilities,
    mean_probabilities,
    offload,
    to_int8,
)
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, gpt2, llama


@pytest.fixture(scope="module")
def data() -> TokenSet:
    return tokenise(arithmetic(40).train, byte_tokenizer(), 32)


def made(seed: int, width: int = 32) -> CausalLM:
    torch.manual_seed(seed)
    model = llama(width, 2, byte_tokenizer())
    with torch.no_grad():
        model.net.get_output_embeddings().weight.mul_(10)
    return model.eval()


@pytest.fixture(scope="module")
def teacher() -> CausalLM:
    return made(0)


class TestInMemory:
    def test_an_ensemble_of_probabilities_is_their_mean(self, data):
        several, batch = [made(0), made(1, 16), made(2)], data.take(torch.arange(3))
        with torch.no_grad():
            said = Ensemble(several)(batch)
            mean = torch.stack([t(batch).log_probs().exp() for t in several]).mean(0)
            assert torch.allclose(said.log_probs().exp(), mean, atol=1e-6)
            small = mean_probabilities([t(batch) for t in several], tau=2.0, chunk=7)
        warm = torch.stack([t(batch).log_probs(2.0).exp() for t in several]).mean(0)
        assert torch.allclose(small.log_probs(2.0).exp(), warm, atol=1e-6)
        token_loss(ForwardKL(), said, made(3)(batch), batch.weight).total.backward()

    def test_an_ensemble_of_logits_is_their_mean(self, data):
        several, batch = [made(0), made(1, 16)], data.take(torch.arange(3))
        with torch.no_grad():
            said = Ensemble(several, "logits")(batch)
            assert torch.allclose(
                said.logits(), (several[0](batch).logits() + several[1](batch).logits()) / 2, atol=1e-4
            )
        with pytest.raises(InputError, match="another tokenizer"):
            Ensemble([made(0), llama(16, 1, bpe_tokenizer(["a man and a plan"], 264))])

    def test_a_student_without_its_adapter_is_what_it_was(self, data, teacher):
        batch = data.take(torch.arange(3))
        student = lora(copy.deepcopy(teacher), 4).train()
        with torch.no_grad():
            before = teacher(batch).logits()
            for name, weight in student.named_parameters():
                if "lora_" in name:
                    weight.normal_()
        method = torch.nn.ModuleDict({"student": student, "teacher": freeze(SelfTeacher(student))})
        known = teacher_hash(method["teacher"])
        with torch.no_grad():
            assert torch.allclose(method["teacher"](batch).logits(), before, atol=1e-5)
            assert (student(batch).logits() - before).abs().max() > 0.1
        assert any(p.requires_grad for p in student.parameters())  # freezing the teacher left it alone
        assert student.training
        other = copy.deepcopy(method)  # a copy's teacher is the copy's student
        with torch.no_grad():
            next(other["student"].parameters()).mul_(2)
            assert not torch.allclose(other["teacher"](batch).logits(), before, atol=1e-3)
            assert torch.allclose(method["teacher"](batch).logits(), before, atol=1e-5)
            for name, weight in student.named_parameters():
                if "lora_" in name:
                    weight.normal_()
        assert teacher_hash(method["teacher"]) == known
        with pytest.raises(InputError, match="no adapter"):
            SelfTeacher(teacher)

    @pytest.mark.parametrize("net", [llama, gpt2])
    def test_eight_bits_say_what_rounded_weights_say(self, data, net):
        torch.manual_seed(0)
        model, batch = net(32, 2, byte_tokenizer()).eval(), data.take(torch.arange(3))
        with torch.no_grad():
            exact, rounded = model(batch).logits(), quantise(copy.deepcopy(model), 8)(batch).logits()
            held = sum(t.nbytes for t in model.state_dict().values())
            small = to_int8(model)
            assert torch.allclose(small(batch).logits(), rounded, atol=1e-4)
        assert 1e-6 < (rounded - exact).abs().max() < 0.1
        assert sum(t.nbytes for t in small.state_dict().values()) < 0.7 * held
        assert capabilities(small) == CAPABILITIES - {"weights"}

    @pytest.mark.parametrize("disk", [False, True])
    def test_offloaded_weights_are_the_same_weights(self, data, teacher, disk, tmp_path):
        batch, known = data.take(torch.arange(3)), teacher_hash(teacher)
        away = offload(copy.deepcopy(teacher), tmp_path if disk else None)
        assert any(p.is_meta for p in away.parameters())
        with torch.no_grad():
            for copied in (away, copy.deepcopy(away)):
                assert torch.equal(copied(batch).logits(), teacher(batch).logits())
        assert teacher_hash(away) == known


class Server(BaseHTTPRequestHandler):
    """A completions server around a tiny model, in one of several manners, with faults to come first."""

    teacher: CausalLM
    manner = "vllm"
    faults: list[str]
    seen: list[dict]
    lock = threading.Lock()
    extra = ()
    """Words that its tokenizer puts in front."""
    only = None
    """The word that all others are to its tokenizer."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.seen.append(asked | {"authorization": self.headers.get("Authorization"), "path": self.path})
            fault = self.faults.pop(0) if self.faults else ""
        if fault.isdigit():
            said = {"error": {"message": f"no, {self.headers.get('Authorization')}"}}
            return self.answer(json.dumps(said).encode(), int(fault))
        if fault == "drop":
            self.connection.close()
            return None
        whole = json.dumps({"choices": [] if fault == "empty" else [self.choice(asked)]}).encode()
        return self.answer(whole[: len(whole) // 2] if fault == "cut" else whole, 200)

    def answer(self, body: bytes, status: int):
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def choice(self, asked: dict) -> dict:
        words, ids = self.teacher.tokenizer, asked["prompt"]
        if isinstance(ids, str):
            ids = words(ids).input_ids
        ids = [*self.extra, *(ids if self.only is None else [self.only] * len(ids))]
        x = torch.tensor([ids])
        made = self.teacher.generate(x, torch.ones_like(x), longest=asked["max_tokens"], tau=0)[0].tolist()
        stopped = words.eos_token_id in made
        text = words.decode(made, skip_special_tokens=True)
        choice = {"text": text, "finish_reason": "stop" if stopped else "length", "logprobs": None}
        with torch.no_grad():
            log = self.teacher(batch_of(x)).log_probs()[0]
        if self.manner == "vllm" and "prompt_logprobs" in asked:
            choice["prompt_logprobs"] = [None] + [
                {
                    str(w): {"logprob": log[t, w].item()}
                    for w in {*log[t].topk(asked["prompt_logprobs"]).indices.tolist(), ids[t + 1]}
                }
                for t in range(len(ids) - 1)
            ]
        if self.manner == "echo" and asked.get("echo"):
            top = [
                {words.decode([w]): log[t, w].item() for w in log[t].topk(asked["logprobs"]).indices.tolist()}
                for t in range(len(ids))
            ]
            choice["logprobs"] = {"tokens": [words.decode([w]) for w in [*ids, made[0]]], "top_logprobs": [None, *top]}
        if self.manner in ("llama.cpp", "openai") and "logprobs" in asked:  # echo is not looked at
            likely = log[-1].topk(asked["logprobs"])
            pairs = list(zip(likely.indices.tolist(), likely.values.tolist()))
            if self.manner == "llama.cpp":
                held = [{"id": w, "token": words.decode([w]), "logprob": v} for w, v in pairs]
                choice["logprobs"] = {"content": [{"id": made[0], "logprob": 0.0, "top_logprobs": held}]}
            else:
                choice["logprobs"] = {"tokens": [""], "top_logprobs": [{words.decode([w]): v for w, v in pairs}]}
        return choice


def batch_of(x):
    from limbeck.data.tokens import Tokens

    return Tokens(x, x * 0 - 100, torch.ones_like(x), x[:, 0] * 0 - 1, x[:, 0] * 0)


@contextmanager
def serving(teacher, manner="vllm", faults=(), **more):
    handler = type(
        "Here", (Server,), {"teacher": teacher, "manner": manner, "faults": list(faults), "seen": [], **more}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", handler
        server.shutdown()


def asking(url, **settings) -> ServedTeacher:
    return ServedTeacher(url, "tiny", byte_tokenizer(), **{"top": 12, "wait": 0.01, "timeout": 20.0} | settings)


class TestServed:
    def test_the_likeliest_words_are_the_networks(self, data, teacher):
        batch = data.take(torch.arange(4))
        with serving(teacher) as (url, handler), torch.no_grad():
            said, live = asking(url)(batch), teacher(batch).log_probs()
            assert len(handler.seen) == 4
        top = live.topk(12, -1)
        assert torch.equal(said.index[batch.mask], top.indices[batch.mask])
        assert torch.allclose(said.log_prob[batch.mask], top.values[batch.mask], atol=1e-5)
        assert torch.allclose(said.log_probs().exp().sum(-1), torch.ones(batch.x.shape), atol=1e-4)

    @pytest.mark.parametrize(("manner", "ask"), [("echo", "auto"), ("llama.cpp", "steps"), ("openai", "steps")])
    def test_other_manners_of_asking(self, data, teacher, manner, ask):
        batch = data.take(torch.arange(3))
        with serving(teacher, manner) as (url, _), torch.no_grad():
            said, live = asking(url, ask=ask)(batch), teacher(batch).log_probs()
        at = batch.mask
        gap = (said.log_prob - live.gather(-1, said.index))[at]
        named = gap.abs() < 1e-4  # the others share the mass that has no name: bytes that are no text alone
        if manner == "llama.cpp":
            assert named.all()
        likeliest, texts = live.argmax(-1)[at], [teacher.tokenizer.decode([w]) for w in range(teacher.size)]
        own = torch.tensor([texts.count(texts[w]) == 1 for w in likeliest.tolist()])
        assert own.any()
        assert torch.equal(said.index[at][:, 0][own], likeliest[own])
        assert named.any(1)[own].all()
        assert torch.allclose(said.log_probs().exp().sum(-1), torch.ones(at.shape), atol=1e-4)

    def test_documents_of_a_packed_row_are_asked_for_alone(self, teacher):
        packed = tokenise(arithmetic(40).train, byte_tokenizer(), 32, pack=True)
        batch = packed.take(torch.arange(2))
        assert batch.packed
        with serving(teacher) as (url, _), torch.no_grad():
            said, live = asking(url)(batch), teacher(batch).log_probs().topk(12, -1)
        assert torch.allclose(said.log_prob[batch.mask], live.values[batch.mask], atol=1e-4)

    def test_it_asks_again_after_what_passes(self, data, teacher):
        batch = data.take(torch.arange(1))
        faults = ["429", "500", "cut", "drop", "503"]
        with serving(teacher, faults=faults) as (url, handler), torch.no_grad():
            said = asking(url)(batch)
            assert len(handler.seen) == len(faults) + 1
            assert torch.allclose(
                said.log_prob[batch.mask], teacher(batch).log_probs().topk(12).values[batch.mask], atol=1e-4
            )

    @pytest.mark.parametrize(
        ("manner", "faults", "said", "tries"),
        [
            ("vllm", ["429"] * 9, r"no answer after 3 tries \(status 429", 3),
            ("vllm", ["500"] * 9, r"no answer after 3 tries \(status 500", 3),
            ("vllm", ["cut"] * 9, "no answer after 3 tries", 3),
            ("vllm", ["401"] * 9, r"refuses: status 401, no, Bearer \[redacted\]", 1),
            ("vllm", ["302"] * 9, "refuses: status 302", 1),
            ("vllm", ["empty"] * 9, "answers without choices", 1),
            ("silent", [], "returns no log-probabilities of what it is given; use ask='steps'", 2),
            ("llama.cpp", [], "returns no log-probabilities of what it is given; use ask='steps'", 2),
        ],
    )
    def test_what_does_not_pass_is_said_in_one_line(
        self, data, teacher, monkeypatch, caplog, manner, faults, said, tries
    ):
        monkeypatch.setenv("LIMBECK_TEST_KEY", "secret-123456")
        with serving(teacher, manner, faults) as (url, handler):
            asked = asking(url, tries=3, key="LIMBECK_TEST_KEY")
            with pytest.raises(InputError, match=said) as caught:
                asked(data.take(torch.arange(1)))
            assert len(handler.seen) == tries
            assert handler.seen[0]["authorization"] == "Bearer secret-123456"
            assert {one["path"] for one in handler.seen} == {"/v1/completions"}  # a redirect is not followed
        assert "\n" not in str(caught.value)
        for text in (str(caught.value), caplog.text, repr(asked), repr(vars(asked))):
            assert "secret-123456" not in text

    def test_no_server_another_tokenizer_and_bad_urls(self, data, teacher):
        batch = data.take(torch.arange(1))
        for manner in ("vllm", "echo"):  # the served model's tokenizer puts a word of its own in front
            with (
                serving(teacher, manner, extra=[7]) as (url, _),
                pytest.raises(InputError, match="other tokens than the tokenizer given"),
            ):
                asking(url)(batch)
        with serving(teacher, only=7) as (url, _), pytest.raises(InputError, match="other tokens than the tokenizer"):
            asking(url)(batch)
        with pytest.raises(InputError, match=r"no answer after 2 tries.*refused"):
            asking(url, tries=2)(batch)
        with pytest.raises(InputError, match="is no URL"):
            asking("localhost:8000")
        with pytest.raises(InputError, match="password") as caught:
            asking("http://me:hunter2@localhost:8000")
        assert "hunter2" not in str(caught.value)

    def test_it_writes(self, data, teacher):
        ids, mask = prompts(data.take(torch.arange(3)), teacher.pad)
        live = teacher.generate(ids, mask, longest=5, tau=0)
        texts = teacher.tokenizer.batch_decode(live, skip_special_tokens=True)
        with serving(teacher, faults=["500"]) as (url, _):
            served = asking(url)
            asked = teacher.tokenizer.batch_decode([row[m.bool()] for row, m in zip(ids, mask)])
            assert served.complete(asked, longest=5, tau=0) == texts
            back = served.generate(ids, mask, longest=5, tau=0)
        assert teacher.tokenizer.batch_decode(back, skip_special_tokens=True) == texts
        assert served.capabilities == {"text", "topk"}

    def test_its_answers_are_stored(self, data, teacher, tmp_path):
        few = data.subset(range(4))
        with serving(teacher) as (url, _):
            store = capture(asking(url), few, tmp_path, kind="topk", k=10)
            with pytest.raises(InputError, match="use topk"):
                capture(asking(url), few, tmp_path / "other", kind="hidden")
        batch = few.take(torch.arange(4))
        with torch.no_grad():
            live = teacher(batch).log_probs().topk(10).values
        assert torch.allclose(StoredTeacher(store)(batch).log_prob[batch.mask], live[batch.mask], atol=1e-2)


def test_a_network_can_be_asked_for_everything(teacher):
    assert capabilities(teacher) == CAPABILITIES
    assert isinstance(teacher(teacher.example), Words)
