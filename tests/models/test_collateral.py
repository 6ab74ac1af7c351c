"""Side effects of edits against probabilities taken one prompt at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.models.attention_edits import attend
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.collateral import PICTURES, TEXT, side_effects
from cogvsr_utils.models.head_edits import SCOPES, mask, scale, steer
from cogvsr_utils.models.interventions import intervene

HEADS = [(layer, head) for layer in range(3, 8) for head in range(24)]


def first_token(vlm, item, step, edits):
    """Probabilities of a reply's first token, and the right answer's."""
    replies = [each.answer for each in item.steps]
    prompt = vlm.render(conversation(item, replies[:step], step), prompt=True)
    inputs = vlm.encode([prompt], [open_image(item)])
    with torch.inference_mode(), intervene(vlm, edits):
        logits = vlm.model(**inputs).logits[0, -1].double().cpu()
    right = vlm.tokenizer(prompt + replies[step])["input_ids"][len(vlm.tokenizer(prompt)["input_ids"])]
    return logits.softmax(0).numpy(), right


def test_side_effects_are_those_of_each_prompt_alone(vlm, items):
    some, edit = items[:5], scale(HEADS, 0.5)
    table = side_effects(vlm, some, {"weaker": edit}, batch_size=3, progress=False)
    for kind, asked in ((PICTURES, some), (TEXT, [replace(item, image=None) for item in some])):
        kl, hits, moved = {}, {}, {}
        for item in asked:
            for number, step in enumerate(item.steps):
                (p, right), (q, _) = (first_token(vlm, item, number, each) for each in (None, edit))
                kl.setdefault(step.function, []).append((p * np.log(p / q)).sum())
                hits.setdefault(step.function, []).append([p.argmax() == right, q.argmax() == right])
                moved.setdefault(step.function, []).append(p.argmax() != q.argmax())
        rows = table[table["prompts"] == kind].set_index("function")
        assert rows["n"].to_dict() == {name: len(each) for name, each in kl.items()}
        for name, values in kl.items():
            before, after = np.mean(hits[name], axis=0)
            assert rows.loc[name, "kl"] == pytest.approx(np.mean(values), rel=1e-2, abs=1e-4)
            assert rows.loc[name, ["before", "change", "moved"]].tolist() == pytest.approx(
                [before, after - before, np.mean(moved[name])]
            )
    assert (table["kl"] > 1e-3).any()


def test_edits_that_do_nothing_have_no_side_effects_whatever_their_scope(vlm, items):
    heads = HEADS[:3]
    edits = {"one": scale(heads, 1.0), "nowhere": steer(heads, [np.ones(24)] * 3, 0.0)}
    off = {scope: mask(HEADS, scope=scope) for scope in SCOPES} | {"sees": attend(HEADS, "add", 3.0)}
    table = side_effects(vlm, items[:3], edits | off, progress=False)
    still = table[table["edit"].isin(edits)]
    assert (still[["kl", "moved", "change"]] == 0).all(axis=None) and (still["most"] == still["most_before"]).all()
    most = table.groupby(["edit", "prompts"])["kl"].max()
    for name in off:
        assert most[name, PICTURES] > 0 and (most[name, TEXT] > 0) == (name not in ("image", "sees")), name
    with pytest.raises(TypeError, match="edits are Edit; expected a mapping"):
        side_effects(vlm, items[:3], mask(HEADS))
