"""Where the user's turns stand in chats, by templates of several kinds."""

import pytest
import torch
from families import FAMILIES, build
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.passes import question_tokens, turn_marks
from cogvsr_utils.models.vlm import VLM

TEMPLATES = {
    "chatml": "<|im_start|>system\nWhere is it? There. Which?<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for c in m.content %}{{ c.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "plain words": "{% for m in messages %}{{ 'USER' if m.role == 'user' else 'ASSISTANT' }}: "
    "{% for c in m.content %}{{ c.text }}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_user_says_is_found_in_padded_chats(name, asked):
    vlm = build(name)
    replies = [[], ["red"], ["red"], []]
    chats = [conversation(item, said, len(said)) for item, said in zip(asked, replies, strict=True)]
    for side in ("left", "right"):
        texts = [vlm.render(chat, prompt=True) for chat in chats]
        ids = vlm.encode(texts, [open_image(item) for item in asked], side=side)["input_ids"]
        for row, found, chat in zip(ids, question_tokens(vlm, ids), chats, strict=True):
            said = [part["text"] for m in chat if m["role"] == "user" for part in m["content"] if "text" in part]
            words = vlm.tokenizer.convert_ids_to_tokens(row[found])
            assert words == [word for word in vlm.tokenizer.tokenize(" ".join(said)) if word != "\n"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_with_and_without_special_tokens(name):
    tokenizer = Tokenizer(
        models.BPE(vocab={c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATES[name])
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    chat = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "Is it red? Which?"), ("assistant", "no, There"), ("user", "Where then?\nA. up"))
    ]

    class Processor:
        image_processor, tokenizer, chat_template = None, fast, TEMPLATES[name]

        def apply_chat_template(self, *args, **kwargs):
            return fast.apply_chat_template(*args, **kwargs)

    vlm = VLM("made up", torch.nn.Module(), Processor())
    vlm.model.config = object()
    ids = torch.tensor([fast(vlm.render(chat, prompt=True), add_special_tokens=False)["input_ids"]])
    said = fast.decode(ids[question_tokens(vlm, ids)])
    assert "".join(said.split()) == "Isitred?Which?Wherethen?A.up"
    fast.chat_template = "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"
    with pytest.raises(ValueError, match="sets no marks around turns"):
        turn_marks(vlm)
