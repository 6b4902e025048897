"""The teacher-signal store: what comes back, in any order, after any kill, from anywhere; what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import textwrap
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from limbeck.core.method import Clock
from limbeck.core.modules import freeze
from limbeck.data.signals import Store, StoredTeacher, capture, describe, open_store, tokenizer_hash
from limbeck.data.signals.kinds import Hidden, Likeliest, rotation
from limbeck.data.text import Span, TextSet, arithmetic, manual
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, TokenSet
from limbeck.errors import InputError
from limbeck.losses.vocabulary import JSD, ForwardKL, Sampled, TopK, Words, token_loss
from limbeck.methods.language.gkd import GKD
from limbeck.models.causal_lm import CausalLM
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, gpt2, llama


@pytest.fixture(scope="module")
def data() -> TokenSet:
    return tokenise(arithmetic(60).train, byte_tokenizer(), 32)


@pytest.fixture(scope="module")
def teacher() -> CausalLM:
    torch.manual_seed(0)
    made = llama(32, 1, byte_tokenizer())
    with torch.no_grad():
        made.net.get_output_embeddings().weight.mul_(20)  # a teacher that is sure of something
    return made


@pytest.fixture(scope="module")
def stores(teacher: CausalLM, data: TokenSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in ("hidden", "topk", "sampled"):
        made[kind] = tmp_path_factory.mktemp(kind) / "store"
        capture(teacher, data, made[kind], kind=kind, batch=8)
    return made


def everything(store: Store) -> dict[int, dict[str, list]]:
    """By key: what is stored, whichever shard it is in."""
    found = {}
    for number in range(len(store.shards)):
        part = store._shard(number)
        for row, key in enumerate(part["key"].tolist()):
            assert key not in found, "stored twice"
            begin, end = part["start"][row : row + 2].tolist()
            found[key] = {name: part[name][begin:end].tolist() for name in store.fields}
    return found


def test_a_stored_teacher_is_the_teacher_in_any_order(teacher, data, stores):
    stored = StoredTeacher(open_store(stores["hidden"], data.tokenizer))
    assert not list(stored.parameters())
    assert not stored.state_dict()
    for batch in TokenBatches(data, 7, seed=3):
        with torch.no_grad():
            live, kept = teacher(batch), stored(batch)
        p, q = live.log_probs()[batch.mask], kept.log_probs()[batch.mask]
        assert isinstance(kept, Words)
        assert p.exp().amax(-1).mean() > 0.3  # or the comparison would be of two flat distributions
        kl = (p.exp() * (p - q)).sum(-1)
        assert kl.max() < 1e-2
        assert kl.mean() < 1e-3
    student = llama(16, 1, byte_tokenizer())
    said = [token_loss(JSD(0.5), s, student(batch), batch.weight).total.item() for s in (live, kept)]
    assert said[0] == pytest.approx(said[1], rel=1e-2)


def test_a_method_runs_from_it_unchanged(teacher, data, stores):
    batch = data.take(torch.arange(8))
    torch.manual_seed(1)
    student = llama(16, 1, byte_tokenizer())
    found = []
    for source in (copy.deepcopy(teacher), StoredTeacher(open_store(stores["hidden"]))):
        method = GKD(copy.deepcopy(student), source, lmbda=0.0)
        method.train()
        [update] = [update for update in method.updates(batch, Clock(0, 10))]
        update.loss.backward()
        found.append((update.loss.item(), method.student.net.model.norm.weight.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-2)
    assert torch.nn.functional.cosine_similarity(found[0][1], found[1][1], 0) > 0.999


def test_the_codes_are_the_rotated_states_to_half_a_step(teacher, data, stores):
    """|h R - s c| <= s / 2, and R is orthogonal: the slow form of what ``Hidden`` says."""
    turn = rotation(32, 0)
    assert torch.allclose(turn @ turn.T, torch.eye(32), atol=1e-5)
    kept = StoredTeacher(open_store(stores["hidden"]))
    batch = data.take(torch.arange(8))
    with torch.no_grad():
        h, back = (said.hidden[batch.mask] for said in (teacher(batch), kept(batch)))
    step = (h @ turn).abs().amax(-1, keepdim=True) / 127
    assert ((h @ turn - back).abs() <= step * 0.51).all()
    assert (h @ turn - back).abs().max() > 0  # it is rounded


@pytest.mark.parametrize("width", [5, 32])
def test_six_bits_pack_four_in_three(width):
    head = Words(torch.zeros(0, width), torch.eye(width))
    kind = Hidden(6, head, torch.eye(width))
    codes = torch.randint(-31, 32, (9, width))
    codes[:, 0] = 31
    said = kind.encode(Words(codes.float(), torch.eye(width)), [9], [1])
    assert said["code"].shape == (9, -(-width // 4) * 3)
    back = kind.decode(said).hidden
    assert torch.equal(back, codes.float())


def test_topk_and_its_tail(teacher, data, stores):
    kept = StoredTeacher(open_store(stores["topk"]))
    batch = data.take(torch.arange(8))
    with torch.no_grad():
        p, said = teacher(batch).log_probs(), kept(batch)
    assert isinstance(said, TopK)
    top = p.topk(64, -1)
    at = batch.mask
    assert torch.allclose(said.log_prob[at], top.values[at], atol=4e-3)
    assert torch.allclose(p.gather(-1, said.index)[at], top.values[at], atol=1e-5)
    assert torch.allclose(said.log_probs().exp().sum(-1), torch.ones(at.shape), atol=1e-3)  # masked positions too


def test_a_sure_teacher_leaves_the_others_possible(tmp_path):
    """Half precision says that a word of probability 0.99999 is certain; then KL(q || p) would be infinite."""
    kind = Likeliest(4, 100, "uniform")
    p = torch.full((3, 100), -30.0)
    p[:, 7] = torch.tensor([0.0, 11.5 - 30 + 4.6, 20.0])
    p = p.log_softmax(-1)
    back = kind.decode(kind.encode(Words(p, None), [3], [1])).log_probs()
    assert back.isfinite().all()
    left = 1 - back.exp()[:, 7]
    assert torch.allclose(left[1], 1 - p[1, 7].exp(), rtol=1e-2)
    assert (left < 1e-2 + 1 - p[:, 7].exp()).all()
    assert torch.allclose(kind.decode(kind.blank).log_probs().exp(), torch.full((100,), 0.01), atol=1e-4)


def test_drawn_words_are_unbiased_and_small(teacher, data, tmp_path):
    few = data.subset(range(2))
    batch = few.take(torch.arange(2))
    with torch.no_grad():
        p = teacher(batch).log_probs().exp()[batch.mask]
    mean = torch.zeros_like(p)
    for seed in range(100):
        store = capture(teacher, few, tmp_path / str(seed), kind="sampled", k=8, seed=seed)
        said = StoredTeacher(store)(batch)
        assert isinstance(said, Sampled)
        mean += said.probs()[batch.mask] / 100
    spread = (p * (1 - p) / 8 / 100).sqrt()  # of independent draws; systematic ones are closer
    assert ((mean - p).abs() <= 4 * spread + 2e-3).all()
    assert (mean - p).abs().max() < 0.05
    default = capture(teacher, few, tmp_path / "default", kind="sampled").describe()
    assert default.bytes_per_token == 64
    token_loss(ForwardKL(), said, teacher(batch), batch.weight).total.backward()


def test_resumed_after_kills_it_is_the_undisturbed_store(teacher, tmp_path):
    """SIGKILL at random moments, in shards of two batches, until it ends by itself."""
    script = textwrap.dedent("""
        import sys, torch
        torch.set_num_threads(1)
        from limbeck.data.signals import capture
        from limbeck.data.text import arithmetic
        from limbeck.data.tokenising import tokenise
        from limbeck.models.tiny_lm import byte_tokenizer, llama
        torch.manual_seed(0)
        data, teacher = tokenise(arithmetic(40).train, byte_tokenizer(), 32), llama(32, 1, byte_tokenizer())
        def run(folder):
            for kind in ("hidden", "sampled"):
                capture(teacher, data, f"{folder}/{kind}", kind=kind, batch=3, shard=1)
    """)
    space = {}
    exec(script, space)
    space["run"](tmp_path / "whole")
    # one warm process forks the victims: to import takes longer than to capture
    killer = script + textwrap.dedent("""
        import os, random, signal, time
        run(sys.argv[1] + "-warm")
        begun = time.perf_counter()
        run(sys.argv[1] + "-timed")
        whole = time.perf_counter() - begun  # kills within a fifth of it: three at least, however fast the machine is
        drawn = random.Random(0)
        for attempt in range(60):
            child = os.fork()
            if child == 0:
                run(sys.argv[1])
                os._exit(0)
            time.sleep(whole * drawn.uniform(0.02, 0.2))
            os.kill(child, signal.SIGKILL)
            if os.waitpid(child, 0)[1] == 0:
                break
            print(attempt, flush=True)
        run(sys.argv[1])
    """)
    done = subprocess.run(
        [sys.executable, "-c", killer, str(tmp_path / "killed")], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3, "it was not killed"
    for kind in ("hidden", "sampled"):
        assert everything(Store(tmp_path / "killed" / kind)) == everything(Store(tmp_path / "whole" / kind))
        assert not list((tmp_path / "killed" / kind).glob("*.part*"))


def test_rows_that_are_there_are_skipped_and_more_are_added(teacher, data, tmp_path):
    seen = []
    capture(teacher, data.subset(range(10)), tmp_path, kind="topk", progress=lambda *p: seen.append(p))
    assert seen[-1] == (10, 10)
    again = []
    store = capture(teacher, data.subset(range(20)), tmp_path, kind="topk", progress=lambda *p: again.append(p))
    assert again[0] == (10, 20)
    assert len(store) == 20
    assert len(everything(store)) == 20
    assert json.loads((tmp_path / "manifest.json").read_text())["rows"] == 20


def test_only_what_is_learnt_is_kept_unless_all_is_asked_for(teacher, data, tmp_path):
    rows = data.subset(range(4))
    batch = rows.take(torch.arange(4))
    assert capture(teacher, rows, tmp_path, kind="topk").describe().tokens == int(batch.mask.sum())
    every = batch._replace(y=batch.x)
    with pytest.raises(InputError, match="lacks positions"):
        StoredTeacher(open_store(tmp_path))(every)
    store = capture(teacher, rows, tmp_path, kind="topk", positions="all")
    at = batch.segment > 0
    with torch.no_grad():
        live = teacher(batch).log_probs().topk(64, -1).values[at]
    assert torch.allclose(
        StoredTeacher(store)(batch._replace(y=torch.where(at, batch.x, -100))).log_prob[at], live, atol=4e-3
    )


def test_another_teacher_tokenizer_kind_or_precision_is_refused(teacher, data, stores, tmp_path):
    changed = copy.deepcopy(teacher)
    with torch.no_grad():
        changed.net.model.norm.weight[0] += 1e-3
    for fix, call in {
        "another teacher": partial(capture, changed, data, stores["topk"], kind="topk"),
        "kind topk, not sampled": partial(capture, teacher, data, stores["topk"], kind="sampled"),
        "has k 64, not 5": partial(capture, teacher, data, stores["topk"], kind="topk", k=5),
        "is not one of": partial(capture, teacher, data, stores["topk"], kind="logits"),
    }.items():
        with pytest.raises(InputError, match=fix) as caught:
            call()
        assert "\n" not in str(caught.value)
    other = bpe_tokenizer(["a man and a plan"], 264)
    assert tokenizer_hash(other) != tokenizer_hash(byte_tokenizer()) == tokenizer_hash(copy.deepcopy(byte_tokenizer()))
    theirs = tokenise(TextSet(((Span("a man"),),)), other, 32)
    with pytest.raises(InputError, match="other tokens"):
        capture(teacher, theirs, tmp_path)
    with pytest.raises(InputError, match="another tokenizer"):
        capture(llama(32, 1, other), theirs, stores["hidden"])
    with pytest.raises(InputError, match="another tokenizer"):
        open_store(stores["hidden"], other)


def test_damage_is_named_with_its_fix(teacher, data, tmp_path):
    capture(teacher, data, tmp_path, kind="topk", batch=8, shard=1)
    whole, batch = everything(Store(tmp_path)), data.take(torch.arange(len(data)))
    shard = tmp_path / "shard-00001.safetensors"
    written = shard.read_bytes()
    for damaged in (written[:-9], written[:500] + bytes([written[500] ^ 1]) + written[501:], b""):
        shard.write_bytes(damaged)
        for call in (
            lambda: StoredTeacher(open_store(tmp_path))(batch),
            lambda: capture(teacher, data, tmp_path, kind="topk"),
        ):
            with pytest.raises(InputError, match=r"shard-00001.safetensors.*delete it and capture again") as caught:
                call()
            assert "\n" not in str(caught.value)
    shard.unlink()
    with pytest.raises(InputError, match="capture again"):
        StoredTeacher(open_store(tmp_path))(batch)
    capture(teacher, data, tmp_path, kind="topk", batch=8)
    assert everything(Store(tmp_path)).keys() == whole.keys()
    # a line that was being written when the process died is as if not written
    with (tmp_path / "shards.jsonl").open("ab") as file:
        file.write(b'{"name": "shard-0')
    assert len(open_store(tmp_path)) == len(whole)
    capture(teacher, data, tmp_path, kind="topk")
    assert (tmp_path / "shards.jsonl").read_bytes().endswith(b"\n")
    lines = (tmp_path / "shards.jsonl").read_bytes()
    (tmp_path / "shards.jsonl").write_bytes(b"{]\n" + lines)
    with pytest.raises(InputError, match=r"damaged shards\.jsonl"):
        open_store(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged manifest"):
        open_store(tmp_path)
    with pytest.raises(InputError, match="is no store"):
        open_store(tmp_path / "nothing")


def test_a_row_that_is_not_stored_says_capture(teacher, data, stores):
    stored = StoredTeacher(open_store(stores["hidden"]))
    batch = tokenise(manual().train.subset([0]), byte_tokenizer(), 32).take(torch.tensor([0]))
    with pytest.raises(InputError, match="capture this data"):
        stored(batch)
    with pytest.raises(InputError, match="live teacher"):
        stored(batch._replace(key=batch.key * 0))


def test_copies_frozen_and_in_another_process(data, stores):
    batch = data.take(torch.arange(3))
    stored = freeze(StoredTeacher(open_store(stores["hidden"])))
    first = stored(batch).logits()
    assert torch.equal(copy.deepcopy(stored).train()(batch).logits(), first)
    sent = pickle.loads(pickle.dumps(stored))  # as a worker process gets it: in memory, from ourselves, never a file
    assert torch.equal(sent(batch).logits(), first)
    script = textwrap.dedent("""
        import sys, torch
        from limbeck.data.signals import StoredTeacher, open_store
        from limbeck.data.tokens import Tokens
        store = open_store(sys.argv[1])
        key = torch.tensor([int(sys.argv[2])])
        x = torch.zeros(1, len(store.mask(int(key))), dtype=torch.int64)
        print(StoredTeacher(store)(Tokens(x, x - 100, x, key, key)).hidden.sum().item())
    """)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(stores["hidden"]), str(int(batch.key[0]))], stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for run in runs:
        assert float(run.communicate(timeout=100)[0]) == pytest.approx(
            stored(batch).hidden[0].sum().item(), rel=1e-4, abs=1e-4
        )


def test_from_memory_and_over_http(data, stores):
    import fsspec

    batch = data.take(torch.arange(3))
    there = fsspec.filesystem("memory")
    there.put(str(stores["topk"]) + "/", "/signals/", recursive=True)
    expected = StoredTeacher(open_store(stores["topk"]))(batch).log_prob
    assert torch.equal(StoredTeacher(open_store("memory://signals"))(batch).log_prob, expected)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(stores["topk"]))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert torch.equal(StoredTeacher(open_store(url))(batch).log_prob, expected)
        with pytest.raises(InputError, match="is no store"):
            open_store(url + "/nothing")
        server.shutdown()
    with pytest.raises(InputError, match=r"gives no manifest\.json"):
        open_store(url)


def test_two_do_not_capture_into_one_folder(teacher, data, tmp_path):
    def inner(done: int, rows: int) -> None:
        with pytest.raises(InputError, match="another process"):
            capture(teacher, data, tmp_path, kind="topk")

    capture(teacher, data.subset(range(4)), tmp_path, kind="topk", progress=inner)


def test_dropout_is_off_and_comes_back(data, tmp_path):
    noisy = gpt2(32, 1, byte_tokenizer()).train()
    store = capture(noisy, data.subset(range(4)), tmp_path, bits=6)
    assert noisy.training
    assert all(m.training for m in noisy.modules())
    batch = data.take(torch.arange(4))
    with torch.no_grad():
        live = noisy.eval()(batch).log_probs()[batch.mask]
    assert (live - StoredTeacher(store)(batch).log_probs()[batch.mask]).abs().max() < 0.1
    assert describe(tmp_path).precision == "6 bits"
