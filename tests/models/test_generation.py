"""A chat that goes on from what was read says what the chat read at once says."""

import pytest
import torch
from families import FAMILIES, build

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.generation import CachedGeneration
from cogvsr_utils.models.head_edits import SCOPES, mask
from cogvsr_utils.models.interventions import intervene

# Recurrent layers, a short window, a prompt read in both directions, cross-attention: these read the whole chat anew.
ANEW = {"qwen3_5", "gemma3", "paligemma", "mllama"}


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request):
    return build(request.param)


def at_once(vlm, chats, images, edits=None):
    """Replies to whole chats by the model's own generate."""
    inputs = vlm.encode([vlm.render(chat, prompt=True) for chat in chats], images)
    with torch.no_grad(), intervene(vlm, edits):
        out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=4)
    said = vlm.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in said]


def converse(vlm, items, edits=None):
    """The chats of every turn, the pictures, and the replies that Turns gave."""
    images, said, asked = [open_image(item) for item in items], [[] for _ in items], []
    turns = CachedGeneration(vlm, items, max_new_tokens=4)
    for number in range(2):
        asked.append([conversation(item, replies, number) for item, replies in zip(items, said, strict=True)])
        with intervene(vlm, edits):
            for before, reply in zip(said, turns.reply(asked[-1]), strict=True):
                before.append(reply)
    return asked, images, [list(replies) for replies in zip(*said, strict=True)]


@pytest.mark.parametrize("n_items", [1, 4])
def test_same_replies(tiny, asked, n_items):
    chats, images, replies = converse(tiny, asked[:n_items])
    assert replies == [at_once(tiny, turn, images) for turn in chats]


@pytest.mark.parametrize("scope", SCOPES)
def test_same_replies_under_edits(vlm, items, scope):
    edit = mask(vlm.heads.pairs, scope=scope)
    chats, images, replies = converse(vlm, items, edit)
    assert replies == [at_once(vlm, turn, images, edit) for turn in chats]
    assert scope == "image" or replies != converse(vlm, items)[2]


def test_what_was_read_is_not_read_again(tiny, asked):
    read, looks = [], []
    first = tiny.model.get_submodule(next(iter(tiny.heads.projections)))
    first.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[1]))
    tower = tiny.model.get_encoder(modality="image")
    tower.forward = lambda *args, forward=tower.forward, **kwargs: looks.append(1) or forward(*args, **kwargs)
    chats, images, _ = converse(tiny, asked)
    one, two = (n for n in read if n > 1)
    whole = tiny.encode([tiny.render(chat, prompt=True) for chat in chats[1]], images)["input_ids"].shape[1]
    assert one < whole and (two == whole if tiny.name in ANEW else two < whole / 2), (one, two, whole)
    assert len(looks) == 1
    del tower.forward
