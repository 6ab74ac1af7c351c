"""Where in a finished chat the tokens of a question or of an answer stand.

    chat_spans(vlm, item, replies)       the chat as text, and the characters of each reply in it
    token_spans(vlm, text, spans, ids)   the tokens of each character span
    locate(vlm, item, text, ...)         the tokens that a named position means, one list a step
    encode_chats(vlm, items, replies)    all of it for a batch: tensors, and the places of tokens in them

Positions: ``answer`` (the reply), ``answer_content`` (its most informative tokens), ``prompt_last`` (the last token
before the reply), ``question`` (the step's own question) and ``image`` (the picture's tokens).
"""

import numpy as np

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.vlm import VLM

POSITIONS = ("answer", "answer_content", "prompt_last", "question", "image")
Span = tuple[int, int]


def chat_spans(vlm: VLM, item: Item, replies: list[str]) -> tuple[str, list[Span]]:
    """The finished chat as text, and the characters (start, stop) that each reply takes in it.

    Raises ValueError where the template rewrites earlier turns, so that a reply stands elsewhere in the whole chat
    than it was given, and where a model reads a text in both directions, so that a later answer would change the
    activations at an earlier one.
    """
    require_causal(vlm)
    last = len(replies) - 1
    whole = vlm.render(conversation(item, replies[:last], last), prompt=True) + replies[last]
    spans = []
    for step, reply in enumerate(replies):
        prompt = vlm.render(conversation(item, replies[:step], step), prompt=True)
        if not whole.startswith(prompt + reply):
            raise ValueError(
                f"item {item.uid!r}, step {step}: the chat template does not keep earlier turns as they were"
            )
        spans.append((len(prompt), len(prompt) + len(reply)))
    return whole, spans


def require_causal(vlm: VLM) -> None:
    """Raise ValueError for a model whose activations at a token depend on later tokens."""
    if not vlm.causal:
        raise ValueError(
            f"{vlm.name} reads its prompt in both directions; expected a causal model, to be read in one pass"
        )


def token_spans(vlm: VLM, text: str, spans: list[Span], ids: list[int]) -> list[list[int]]:
    """Tokens of each character span in ``ids``, the unpadded row that the processor made of ``text``.

    The processor lets image marks grow, which stand before every answer, so tokens are counted from the end. A span
    whose tokens are not the ones found there is given none.
    """
    encoded = vlm.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    offsets = np.asarray(encoded["offset_mapping"])
    grown = len(ids) - len(offsets)
    found = []
    for start, stop in spans:
        inside = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start) & (offsets[:, 1] > offsets[:, 0]))
        same = all(ids[i + grown] == encoded["input_ids"][i] for i in inside if i + grown >= 0)
        found.append([int(i) + grown for i in inside] if same and grown >= 0 else [])
    return found


def locate(vlm: VLM, item: Item, text: str, answers: list[Span], ids: list[int], position: str) -> list[list[int]]:
    """Tokens of ``position`` in ``ids``, one list a step, empty where it cannot be located.

    ``answers`` are the replies' spans as ``chat_spans`` gives them. Raises ValueError for the picture's tokens where
    a model reads the picture through cross-attention and has none.
    """
    if position in ("answer", "answer_content"):
        return token_spans(vlm, text, answers, ids)
    if position == "prompt_last":
        # One character before the reply: the end of the mark that opens it.
        return [tokens[-1:] for tokens in token_spans(vlm, text, [(start - 1, start) for start, _ in answers], ids)]
    if position == "question":
        spans, since = [], 0
        for step, (start, stop) in zip(item.steps, answers, strict=True):
            at = text.rfind(step.question, since, start)
            spans.append((at, at + len(step.question)) if at >= 0 else (0, 0))
            since = stop
        return token_spans(vlm, text, spans, ids)
    if item.image is None:
        return [[] for _ in answers]
    image = [i for i, token in enumerate(ids) if token == vlm.image_token_id]
    if len(image) < 2:
        raise ValueError(f"{vlm.name} has no image tokens in its chat; expected a model that reads pictures in line")
    return [image] * len(answers)


def encode_chats(
    vlm: VLM, items: list[Item], replies: dict[str, list[str]], position: str = "answer", side: str = "right"
) -> tuple[dict, np.ndarray]:
    """A batch of finished chats as tensors, and the tokens of ``position`` in it.

    ``replies`` maps an item's uid to its replies, ``side`` is that of the padding. Returns the inputs and an array
    (tokens, [row of the batch, token in the row, step, how many-th token of the step]).
    """
    texts, spans = zip(*(chat_spans(vlm, item, replies[item.uid]) for item in items), strict=True)
    inputs = vlm.encode(list(texts), [open_image(item) for item in items], side=side)
    places = []
    for row, (item, text, where) in enumerate(zip(items, texts, spans, strict=True)):
        real = inputs["attention_mask"][row].nonzero().flatten()
        ids, first = inputs["input_ids"][row, real].tolist(), int(real[0])
        for step, tokens in enumerate(locate(vlm, item, text, where, ids, position)):
            places += [(row, first + token, step, i) for i, token in enumerate(tokens)]
    return inputs, np.array(places, dtype=int).reshape(-1, 4)


def group_steps(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps in an array of ``encode_chats``, (steps, [row, step]), and which of them each token is of."""
    steps, owner = np.unique(places[:, [0, 2]], axis=0, return_inverse=True)
    return steps, owner.ravel()
