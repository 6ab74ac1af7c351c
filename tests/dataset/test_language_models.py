"""Language models behind a real server: what is sent, kept, tried again and never shown."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from chat_server import chat_server
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cogvsr_utils.dataset.language_models import ATTEMPTS, Endpoint, LocalModel, Prompt, ask, estimate
from cogvsr_utils.models.loading import load_vlm

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
PROMPTS = [Prompt("You count.", f"<n>{number}</n>", SCHEMA) for number in range(6)]
KEY = "sk-secret-of-the-test"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def number_of(request):
    content = request["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return int(re.search(r"<n>(\d+)</n>", text)[1])


def model_at(address, **given):
    return Endpoint("counter", address, **{"per_minute": 60_000, "retries": 2, **given})


def test_replies_come_in_order_and_are_asked_for_once(tmp_path):
    with chat_server(lambda request: f'{{"n": {number_of(request)}}}') as (address, requests):
        model = model_at(address)
        assert estimate(model, PROMPTS, tmp_path).prompts == 6
        replies = ask(model, [*PROMPTS, PROMPTS[2]], tmp_path)
        assert [reply.value["n"] for reply in replies] == [0, 1, 2, 3, 4, 5, 2]
        assert len(requests) == 6 and replies[0].sent == 7 and replies[0].received == 3
        assert ask(model, PROMPTS, tmp_path) == replies[:6] and len(requests) == 6
        assert estimate(model, PROMPTS, tmp_path).kept == 6
        ask(replace(model, model="another"), PROMPTS[:1], tmp_path)
        assert len(requests) == 7  # another model is another judge
    assert {request["temperature"] for request in requests} == {0} and requests[0]["path"] == "/v1/chat/completions"


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    broken = [True]

    def reply(request):
        number = number_of(request)
        return (400, {}) if number == 3 and broken[0] else f'{{"n": {number}}}'

    with chat_server(reply) as (address, requests):
        model = model_at(address, workers=1)
        with pytest.raises(openai.BadRequestError):
            ask(model, PROMPTS, tmp_path)
        assert 3 <= len(list(tmp_path.glob("*.json"))) <= 5  # those after it may have been under way
        broken[0] = False
        assert [each.value["n"] for each in ask(model, PROMPTS, tmp_path)] == list(range(6))
    assert Counter(map(number_of, requests)) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}


def test_a_server_that_asks_for_patience_is_asked_again(tmp_path):
    seen = Counter()

    def reply(request):
        seen[number_of(request)] += 1
        return (429, {"Retry-After": "0.01"}) if seen[number_of(request)] < 3 else f'{{"n": {number_of(request)}}}'

    with chat_server(reply) as (address, _):
        assert [each.value["n"] for each in ask(model_at(address), PROMPTS[:2], tmp_path)] == [0, 1]
        with pytest.raises(openai.RateLimitError):
            ask(model_at(address, retries=1), [Prompt("You count.", "<n>9</n>", SCHEMA)], tmp_path)


def test_a_reply_in_a_wrong_form_is_refused_with_the_reason_and_given_up_in_the_end(tmp_path):
    wrong = ["I think it is", '{"n": "one"}', 'So: {"n": 4} as asked']
    with chat_server(lambda request: wrong[min(len(requests) - 1, 2)]) as (address, requests):
        (reply,) = ask(model_at(address), PROMPTS[:1], tmp_path)
        assert reply.value == {"n": 4} and reply.sent == 21
    complaints = [request["messages"][-1]["content"].rpartition("refused: ")[2] for request in requests[1:]]
    assert "no JSON object in 'I think it is'" in complaints[0] and "'one' is not of type 'integer'" in complaints[1]
    with chat_server(lambda request: "[]") as (address, requests):
        (reply,) = ask(model_at(address), PROMPTS[:1], tmp_path)
        assert reply.value is None and "no JSON object" in reply.error and len(requests) == ATTEMPTS


def test_the_key_is_read_from_the_environment_and_kept_nowhere(tmp_path, monkeypatch):
    with chat_server(lambda request: '{"n": 1}') as (address, requests):
        model = model_at(address)
        ask(model, PROMPTS[:2], tmp_path)
        assert requests[0]["key"] == f"Bearer {KEY}"
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in kept + repr(model) + str(model) and json.loads(next(tmp_path.glob("*.json")).read_text())
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(OSError, match="no key in the environment variable OPENAI_API_KEY; set it, or name another"):
        ask(model_at("http://127.0.0.1:9"), PROMPTS[:1], tmp_path)


def test_pictures_go_along_as_they_are(tmp_path, items):
    from cogvsr_utils.dataset.images import image_bytes

    picture = image_bytes(items[0])
    with chat_server(lambda request: '{"n": 1}') as (address, requests):
        ask(model_at(address), [replace(PROMPTS[0], image=picture)], tmp_path)
    text, image = requests[0]["messages"][-1]["content"]
    assert text["type"] == "text" and image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def test_costs_are_counted_by_hand(tmp_path):
    model = Endpoint("counter", max_tokens=100, prices=(2.0, 10.0))
    found = estimate(model, PROMPTS[:2], tmp_path)
    letters = sum(len(each.system) + len(each.text()) for each in PROMPTS[:2])
    assert (found.sent, found.received_at_most) == (letters // 3, 200)
    assert found.cost_at_most == pytest.approx((found.sent * 2 + 200 * 10) / 1e6)
    assert estimate(Endpoint("counter"), PROMPTS, tmp_path).cost_at_most is None


def test_requests_keep_their_distance(tmp_path):
    times = []
    with chat_server(lambda request: times.append(time.monotonic()) or '{"n": 1}') as (address, _):
        ask(model_at(address, per_minute=1200, workers=6), PROMPTS, tmp_path)
    assert times[-1] - times[0] >= 5 * 0.05 * 0.9


@pytest.mark.parametrize("given", [{"workers": 0}, {"per_minute": -1}, {"max_tokens": 0}])
def test_settings_that_make_no_sense_are_refused(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} is .*; expected more than 0"):
        Endpoint("counter", **given)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A text model of a few thousand random weights, with the words of the nano models."""
    folder = tmp_path_factory.mktemp("text")
    known = load_vlm("nano-internvl").tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=known.backend_tokenizer, eos_token=known.eos_token, pad_token=known.pad_token
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
    config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_model_answers_in_words_of_its_own(small_model, tmp_path):
    model = LocalModel(str(small_model), max_tokens=5, device="cpu")
    (reply,) = ask(model, PROMPTS[:1], tmp_path)
    assert reply.value is None and "no JSON object" in reply.error and 0 < reply.received <= 5 * ATTEMPTS
    assert estimate(model, PROMPTS[1:], tmp_path).cost_at_most == 0


def test_the_protocol_of_a_server_that_others_wrote(small_model, tmp_path):
    """``transformers serve``, whose small model has nothing to say: what comes back is refused by form alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port),
            "--device", "cpu"]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(call, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(240):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        model = Endpoint(str(small_model), f"http://127.0.0.1:{port}/v1", max_tokens=4, per_minute=6000)
        (reply,) = ask(model, PROMPTS[:1], tmp_path / "kept")
    finally:
        server.kill()
        server.wait()
    assert reply.value is None and "no JSON object" in reply.error, (tmp_path / "log").read_text()[-2000:]
