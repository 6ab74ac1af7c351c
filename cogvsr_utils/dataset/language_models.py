"""Language models that judge replies and take questions apart: any OpenAI-compatible endpoint, or one in this process.

Prompt                                  what a model is asked, and the form that its reply has to have
Endpoint(model), LocalModel(name)       a model behind an address, and a transformers model here
ask(model, prompts, cache)              replies in order; kept by content, so that a stopped run goes on
estimate(model, prompts, cache)         what that would send and cost

The key of an endpoint comes from the environment alone and is never written, shown or kept.
"""

from __future__ import annotations

import base64
import io
import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import jsonschema
from PIL import Image
from tqdm import tqdm

from cogvsr_utils.files import digest, read_json, replacing

ATTEMPTS = 3  # replies in a wrong form before a prompt is given up
LETTERS_A_TOKEN = 3  # a cautious guess, so that costs are not underrated


@dataclass(frozen=True)
class Prompt:
    """``system`` and ``user`` text, the JSON Schema that the reply's object has to meet, and a picture (bytes) if
    any."""

    system: str
    user: str
    schema: dict
    image: bytes | None = None

    def messages(self, complaint: str = "") -> list[dict]:
        """Chat messages; ``complaint`` says what was wrong with the last reply."""
        user: str | list = self.text() + (f"\n\nYour last reply was refused: {complaint}" if complaint else "")
        if self.image is not None:
            kind = Image.open(io.BytesIO(self.image)).get_format_mimetype()
            address = f"data:{kind};base64," + base64.b64encode(self.image).decode()
            user = [{"type": "text", "text": user}, {"type": "image_url", "image_url": {"url": address}}]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    def text(self) -> str:
        """The user's text with the form of the reply."""
        return f"{self.user}\n\nReply with one JSON object and nothing else. Its JSON Schema: {json.dumps(self.schema)}"


@dataclass(frozen=True)
class Reply:
    """What a model answered: the ``value`` (None where no reply had the form), why there is none (``error``), and the
    tokens that were sent and received, 0 where the model does not count them."""

    value: dict | None
    error: str = ""
    sent: int = 0
    received: int = 0


class LanguageModel(Protocol):
    """``name`` tells models apart in the cache, ``workers`` are asked at once, a reply has ``max_tokens`` at most, a
    million tokens sent and received cost ``prices``; ``complete`` answers chat messages with text and both counts."""

    name: str
    workers: int
    max_tokens: int
    prices: tuple[float, float] | None

    def complete(self, messages: list[dict]) -> tuple[str, int, int]: ...


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible address.

    The key is read from the environment variable ``key_variable`` at the first request. ``per_minute`` bounds how often
    requests are sent, ``workers`` how many are under way; where the network fails or the server asks for patience, they
    are sent again up to ``retries`` times, ever later. ``prices`` are those of a million tokens sent and received.

    >>> Endpoint("gpt-4o-mini", prices=(0.15, 0.6)).name
    'gpt-4o-mini @ https://api.openai.com/v1'
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    workers: int = 4
    per_minute: float = 60.0
    retries: int = 5
    max_tokens: int = 1024
    timeout: float = 120.0
    prices: tuple[float, float] | None = None
    _pace: _Pace = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for name in ("workers", "per_minute", "max_tokens", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        object.__setattr__(self, "_pace", _Pace(60 / self.per_minute))

    @property
    def name(self) -> str:
        """The model and where it is."""
        return f"{self.model} @ {self.base_url}"

    @cached_property
    def _client(self):
        from openai import OpenAI

        key = os.environ.get(self.key_variable)
        if not key:
            raise OSError(
                f"no key in the environment variable {self.key_variable}; set it, or name another by key_variable "
                "(any text will do for a server that asks for none)"
            )
        return OpenAI(api_key=key, base_url=self.base_url, max_retries=self.retries, timeout=self.timeout)

    def complete(self, messages: list[dict]) -> tuple[str, int, int]:
        """The reply's text and the tokens sent and received."""
        client = self._client
        self._pace.wait()
        done = client.chat.completions.create(
            model=self.model, messages=messages, temperature=0, max_tokens=self.max_tokens
        )
        tokens = (done.usage.prompt_tokens, done.usage.completion_tokens) if done.usage else (0, 0)
        return done.choices[0].message.content or "", *tokens


class LocalModel:
    """A transformers text model in this process, by its folder or hub id; it sees no pictures.

    Raises OSError where there is none, ValueError where its tokenizer has no chat template.
    """

    workers = 1

    def __init__(self, name: str, max_tokens: int = 1024, device: str | None = None):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name, self.max_tokens, self.prices = name, max_tokens, (0.0, 0.0)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        if not self._tokenizer.chat_template:
            raise ValueError(f"{name!r} has no chat template; expected a model that was trained to chat")
        self._model = AutoModelForCausalLM.from_pretrained(name, dtype="auto").to(place).eval()

    def complete(self, messages: list[dict]) -> tuple[str, int, int]:
        """The reply's text and the tokens read and written."""
        import torch

        inputs = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        n_read = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            ids = self._model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)[0, n_read:]
        return self._tokenizer.decode(ids, skip_special_tokens=True), n_read, len(ids)


def ask(model: LanguageModel, prompts: Sequence[Prompt], cache: Path | str, progress: bool = True) -> list[Reply]:
    """The model's replies, in order.

    Every reply is kept in the folder ``cache`` under a digest of model and prompt as soon as it is there, so nothing is
    asked, or paid for, twice. A reply that is not an object of the prompt's form is asked for again, with what was
    wrong with it; after ``ATTEMPTS`` there is no value, which is kept as well. Raises what the model raises: OSError
    without a key, the client's own errors where the network fails for good; replies that came before are kept.
    """
    paths = [_path(model, prompt, cache) for prompt in prompts]
    wanted = {path: prompt for path, prompt in zip(paths, prompts, strict=True) if not path.is_file()}

    def answer(path, prompt):
        reply = _valid_reply(model, prompt)
        with replacing(path) as partial:
            partial.write_text(json.dumps({"model": model.name, **asdict(reply)}, ensure_ascii=False) + "\n")

    with ThreadPoolExecutor(model.workers) as pool:
        futures = [pool.submit(answer, *each) for each in wanted.items()]
        try:
            for future in tqdm(futures, desc=model.name, disable=not progress):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [_read(path) for path in paths]


@dataclass(frozen=True)
class Estimate:
    """How many ``prompts`` are new and how many ``kept``, about how many tokens the new ones send, how many may come
    back at most, and what that costs at most (None without prices)."""

    prompts: int
    kept: int
    sent: int
    received_at_most: int
    cost_at_most: float | None


def estimate(model: LanguageModel, prompts: Sequence[Prompt], cache: Path | str) -> Estimate:
    """What ``ask`` would send, before anything is sent. Pictures are not counted, repeated attempts neither.

    >>> prompt = Prompt("You grade replies.", "Is it right?", {"type": "object"})
    >>> found = estimate(Endpoint("gpt-4o-mini", max_tokens=100), [prompt], "replies")
    >>> found.prompts, found.received_at_most, found.cost_at_most is None
    (1, 100, True)
    """
    by_path = {_path(model, prompt, cache): prompt for prompt in prompts}
    new = [prompt for path, prompt in by_path.items() if not path.is_file()]
    sent = sum(len(text) for prompt in new for text in (prompt.system, prompt.text())) // LETTERS_A_TOKEN
    received = len(new) * model.max_tokens
    cost = None if model.prices is None else (sent * model.prices[0] + received * model.prices[1]) / 1e6
    return Estimate(len(new), len(prompts) - len(new), sent, received, cost)


class _Pace:
    """Lets callers through no more often than once in ``seconds``."""

    def __init__(self, seconds: float):
        self._seconds, self._next, self._lock = seconds, 0.0, threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + self._seconds
            delay = self._next - self._seconds - now
        time.sleep(max(delay, 0))


def _valid_reply(model: LanguageModel, prompt: Prompt) -> Reply:
    complaint, sent, received = "", 0, 0
    for _ in range(ATTEMPTS):
        text, *tokens = model.complete(prompt.messages(complaint))
        sent, received = sent + tokens[0], received + tokens[1]
        try:
            value = _object_in(text)
            jsonschema.validate(value, prompt.schema)
            return Reply(value, "", sent, received)
        except (ValueError, jsonschema.ValidationError) as error:
            complaint = getattr(error, "message", str(error))
    return Reply(None, complaint, sent, received)


def _object_in(text: str) -> dict:
    """The first JSON object in a text; raises ValueError where there is none.

    >>> _object_in('Sure: {"verdict": "right"} as asked.')
    {'verdict': 'right'}
    """
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except ValueError:
            start = text.find("{", start + 1)
    raise ValueError(f"no JSON object in {text[:80]!r}")


def _path(model: LanguageModel, prompt: Prompt, cache: Path | str) -> Path:
    parts = [model.name, prompt.system, prompt.user, json.dumps(prompt.schema, sort_keys=True), prompt.image or b""]
    return Path(cache) / f"{digest(*parts)}.json"


def _read(path: Path) -> Reply:
    kept = read_json(path)
    return Reply(kept["value"], kept["error"], kept["sent"], kept["received"])
