from copy import copy

import numpy as np
import pytest
import torch

from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.attribution import attribution_patching, image_attention, output_norms
from cogvsr_utils.models.head_edits import scale
from cogvsr_utils.models.interventions import intervene
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.scorer import TeacherForcedScorer


@pytest.fixture(scope="module")
def scorer(vlm, items):
    return TeacherForcedScorer(vlm, items[:6], batch_size=4)


def test_attribution_patching_is_what_a_small_ablation_changes(vlm, scorer):
    """By finite differences: a head made a little smaller, all else as it was."""
    found, step = attribution_patching(scorer, NAMES), 1e-2
    label = scorer.index["function"].to_numpy()
    heads = vlm.heads.pairs

    def log_odds(edit):
        total = np.zeros(len(label))
        for inputs, (row, token), owner in scorer.batches:
            with torch.no_grad(), intervene(vlm, edit):
                p = vlm.model(**vlm.on_device(inputs)).logits[row, token - 1].double().softmax(1).cpu()
            p = p.gather(1, inputs["input_ids"][row, token][:, None])[:, 0]
            np.add.at(total, owner, torch.log(p / (1 - p)).numpy())
        return total

    assert found.shape == (8, len(heads))
    for number in (0, 13, 47):
        slope = (log_odds(scale([heads[number]], 1 - step)) - log_odds(scale([heads[number]], 1 + step))) / (2 * step)
        for row, name in enumerate(NAMES):
            if (label == name).any():
                assert found[row, number] == pytest.approx(slope[label == name].mean(), rel=5e-2, abs=5e-3)


def test_attention_to_the_picture_is_the_model_s_own(vlm, scorer):
    found = image_attention(scorer, NAMES)
    present = [i for i, name in enumerate(NAMES) if (scorer.index["function"] == name).any()]
    assert np.isfinite(found[present]).all() and found[present].min() >= 0 and found[present].max() <= 1
    inputs, (row, token), owner = scorer.batches[0]
    vlm.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = vlm.model(**vlm.on_device(inputs), output_attentions=True, use_cache=False).attentions
    vlm.model.set_attn_implementation("sdpa")
    label = scorer.index["function"].to_numpy()
    only = copy(scorer)
    only.index, only.batches, only._items = scorer.index[: owner.max() + 1], scorer.batches[:1], scorer._items[:1]
    alone = image_attention(only, NAMES)
    steps = [s for s in range(owner.max() + 1) if label[s] == label[0]]
    picture = inputs["input_ids"] == vlm.image_token_id
    per_step = []
    for step in steps:
        tokens = [(int(r), int(t)) for r, t, o in zip(row, token, owner, strict=True) if o == step]
        per_step.append(np.mean([float(maps[2][r, 3, t - 1, picture[r]].sum()) for r, t in tokens]))
    assert alone[NAMES.index(label[0]), vlm.heads.pairs.index((2, 3))] == pytest.approx(np.mean(per_step), abs=1e-5)


@pytest.mark.parametrize("quantize", [None, "4bit"])
def test_norms_are_of_each_head_sent_alone_through_its_projection(items, quantize):
    vlm = load_vlm("nano-internvl", quantize=quantize, dtype=torch.float32)
    scorer, seen, modules = TeacherForcedScorer(vlm, items[:3]), {}, dict(vlm.model.named_modules())
    found = output_norms(scorer)
    hooks = [
        modules[name].register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
        for name in vlm.heads.projections
    ]
    ((inputs, *_),) = scorer.batches
    with torch.no_grad():
        vlm.forward(inputs)
    for hook in hooks:
        hook.remove()
    real = inputs["attention_mask"].bool().to(vlm.device)
    for number in (0, 19, 47):
        row = vlm.heads.table.loc[number]
        first, last = vlm.heads.projections[row["module"]]
        columns = slice(row["start"] - first, row["stop"] - first)
        alone = torch.zeros(int(real.sum()), last - first, device=vlm.device)
        alone[:, columns] = seen[row["module"]][real][:, columns].float()
        with torch.no_grad():
            written = modules[row["module"]](alone) - modules[row["module"]](torch.zeros_like(alone))
        assert found[number] == pytest.approx(float(written.norm(dim=1).mean()), rel=1e-3)
