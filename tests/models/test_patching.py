"""Heads carried over from another run: beside hooks written out here, in fifteen families."""

import numpy as np
import pytest
import torch

from cogvsr_utils.dataset.cues import drawn
from cogvsr_utils.dataset.images import grey_pictures
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.patching import mean_difference, move_heads, patch_heads, path_attribution
from cogvsr_utils.models.scorer import TeacherForcedScorer
from tests.families import FAMILIES, build


def recorded_inputs(vlm, inputs):
    """What every output projection is given in a pass: name -> (rows, tokens, width)."""
    seen, modules = {}, dict(vlm.model.named_modules())
    hooks = [
        modules[name].register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0].clone()}))
        for name in vlm.heads.projections
    ]
    with torch.no_grad():
        vlm.model(**vlm.on_device(inputs))
    for hook in hooks:
        hook.remove()
    return seen


def carried(there, columns, rows, tokens):
    """A hook that writes some columns of another run where answers are predicted."""

    def hook(module, args):
        x = args[0].clone()
        for r, t in zip(rows, tokens, strict=True):
            x[r, t - 1, columns] = there[r, t - 1, columns]
        return (x,)

    return hook


def patched_by_hand(vlm, target, source, heads):
    """The sum of log-probabilities of each step's answer, one head after the other written into the whole model."""
    total, modules = np.zeros(len(target.index)), dict(vlm.model.named_modules())
    for (inputs, (row, token), owner), (others, *_) in zip(target.batches, source.batches, strict=True):
        there, hooks = recorded_inputs(vlm, others), []
        for name, start, stop in vlm.heads.locate(heads):
            first = vlm.heads.projections[name][0]
            hook = carried(there[name], slice(start - first, stop - first), row.tolist(), token.tolist())
            hooks.append(modules[name].register_forward_pre_hook(hook))
        with torch.no_grad():
            logits = vlm.model(**vlm.on_device(inputs)).logits
        for hook in hooks:
            hook.remove()
        for r, t, step in zip(row.tolist(), token.tolist(), owner.tolist(), strict=True):
            total[step] += float(logits[r, t - 1].double().log_softmax(0)[inputs["input_ids"][r, t]])
    return total


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"paligemma"}))  # which reads in both directions
def test_patched_heads_are_those_of_the_other_run(family, asked):
    vlm = build(family)
    target, source = TeacherForcedScorer(vlm, grey_pictures(asked)), TeacherForcedScorer(vlm, asked)
    pairs = vlm.heads.pairs
    sets = [[], [pairs[0]], [pairs[-1]], pairs[1::2]]
    found = patch_heads(target, source, sets, progress=False)
    for row, heads in zip(found, sets, strict=True):
        np.testing.assert_allclose(row, patched_by_hand(vlm, target, source, heads), atol=2e-4)
    assert np.abs(found[3] - found[0]).max() > 1e-3
    np.testing.assert_allclose(found[0], target.score().log_prob, atol=1e-5)
    np.testing.assert_allclose(patch_heads(target, target, sets, progress=False), found[[0] * 4], atol=1e-5)


def test_runs_whose_texts_differ_are_aligned_at_their_answers(vlm, items):
    """Batches fall otherwise where questions are longer; what is carried over is the same step's."""
    some = items[:5]
    longer = [type(item)(**vars(item) | {"question": f"{'Look. ' * n}{item.question}"}) for n, item in enumerate(some)]
    target, source = TeacherForcedScorer(vlm, some, batch_size=2), TeacherForcedScorer(vlm, longer, batch_size=3)
    heads = vlm.heads.pairs
    found = patch_heads(target, source, [[head for head in heads if head[0] == 7]], progress=False)[0]
    one = patch_heads(
        TeacherForcedScorer(vlm, some[2:3]),
        TeacherForcedScorer(vlm, longer[2:3]),
        [[head for head in heads if head[0] == 7]],
        progress=False,
    )[0]
    own = (target.index["uid"] == some[2].uid).to_numpy()
    np.testing.assert_allclose(found[own], one, atol=1e-4)
    with pytest.raises(ValueError, match="texts differ"):
        path_attribution(target, target.__class__(vlm, longer, batch_size=2), NAMES)


def test_runs_that_do_not_fit_are_refused(vlm, items):
    target = TeacherForcedScorer(vlm, items[:2])
    with pytest.raises(ValueError, match="same steps with the same answers"):
        patch_heads(target, TeacherForcedScorer(vlm, items[1:3]), [[]], progress=False)
    with pytest.raises(ValueError, match="one loaded model"):
        patch_heads(target, TeacherForcedScorer(load_vlm("nano-internvl"), items[:2]), [[]], progress=False)
    with pytest.raises(KeyError, match="no such heads"):
        patch_heads(target, target, [[(99, 0)]], progress=False)


def test_attribution_along_the_path_is_the_slope_between_the_pictures(vlm, items):
    """By finite differences: a head moved a little towards the other run, at each picture on the way."""
    some, step, n_points = items[:3], 1e-2, 3
    target, source = TeacherForcedScorer(vlm, grey_pictures(some)), TeacherForcedScorer(vlm, some)
    found = path_attribution(target, source, NAMES, n_points)
    label, modules = target.index["function"].to_numpy(), dict(vlm.model.named_modules())
    ((inputs, (row, token), owner),), ((others, *_),) = target.batches, source.batches
    here, there = recorded_inputs(vlm, inputs), recorded_inputs(vlm, others)

    def log_odds(between, name, columns, size):
        def move(module, args):
            x = args[0].clone()
            x[row, token - 1, columns] += size * (there[name] - here[name])[row, token - 1, columns]
            return (x,)

        hook = modules[name].register_forward_pre_hook(move)
        with torch.no_grad():
            p = vlm.model(**vlm.on_device(between)).logits[row, token - 1].double().softmax(1).cpu()
        hook.remove()
        p = p.gather(1, inputs["input_ids"][row, token][:, None])[:, 0]
        return np.bincount(owner, torch.log(p / (1 - p)).numpy(), minlength=len(label))

    for number in (30, 101, 190):
        ((name, start, stop),) = vlm.heads.locate([vlm.heads.pairs[number]])
        first = vlm.heads.projections[name][0]
        slope = 0.0
        for point in (np.arange(n_points) + 0.5) / n_points:
            mixed = (1 - point) * inputs["pixel_values"] + point * others["pixel_values"]
            ends = [
                log_odds(inputs | {"pixel_values": mixed}, name, slice(start - first, stop - first), s)
                for s in (step, -step)
            ]
            slope = slope + (ends[0] - ends[1]) / (2 * step * n_points)
        for function, value in zip(NAMES, found[:, number], strict=True):
            if (label == function).any():
                assert value == pytest.approx(slope[label == function].mean(), rel=5e-2, abs=2e-3)
    assert np.abs(path_attribution(target, target, NAMES, 2)).max() == 0


def test_the_mean_difference_is_that_of_the_two_runs(vlm, items):
    target, source = TeacherForcedScorer(vlm, grey_pictures(items[:2])), TeacherForcedScorer(vlm, items[:2])
    ((inputs, (row, token), owner),), ((others, *_),) = target.batches, source.batches
    name, start, stop = vlm.heads.locate([(5, 3)])[0]
    columns = slice(start - vlm.heads.projections[name][0], stop - vlm.heads.projections[name][0])
    there, here = (recorded_inputs(vlm, each)[name][row, token - 1, columns] for each in (others, inputs))
    own = torch.as_tensor(np.isin(target.index["function"].to_numpy()[owner], SPATIAL))
    (found,) = mean_difference(target, source, [(5, 3)], SPATIAL)
    np.testing.assert_allclose(found, (there - here)[own].mean(0).cpu().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="no steps of Nothing"):
        mean_difference(target, source, [(5, 3)], ["Nothing"])
    nowhere = move_heads(target, [{(5, 3): np.zeros(24)}])[0].log_prob
    np.testing.assert_allclose(nowhere, target.score().log_prob, atol=1e-5)


def test_moved_heads_are_moved_where_answers_are_predicted_alone(vlm, items):
    target, vector = TeacherForcedScorer(vlm, items[:3], batch_size=2), np.linspace(-3, 3, 24)
    moves, expected = [{(5, 3): vector, (6, 0): -vector}, {(2, 1): vector}], np.zeros(len(target.index))
    found, other = (each.log_prob for each in move_heads(target, moves, progress=False))
    np.testing.assert_allclose(other, move_heads(target, moves[1:], progress=False)[0].log_prob, atol=1e-4)
    assert np.abs(other - found).max() > 0.01
    modules = dict(vlm.model.named_modules())
    for inputs, (row, token), owner in target.batches:
        hooks = []
        for head, by in (((5, 3), vector), ((6, 0), -vector)):
            ((name, start, stop),) = vlm.heads.locate([head])
            first = vlm.heads.projections[name][0]

            def move(module, args, here=slice(start - first, stop - first), by=by, at=(row, token - 1)):
                x = args[0].clone()
                x[*at, here] += torch.as_tensor(by, dtype=x.dtype, device=x.device)
                return (x,)

            hooks.append(modules[name].register_forward_pre_hook(move))
        with torch.no_grad():
            logits = vlm.model(**vlm.on_device(inputs)).logits[row, token - 1].double().log_softmax(1).cpu()
        for hook in hooks:
            hook.remove()
        right = logits.gather(1, inputs["input_ids"][row, token][:, None])[:, 0]
        np.add.at(expected, owner, right.cpu().numpy())
    np.testing.assert_allclose(found, expected, atol=2e-4)


FROZEN = {
    "grey": [[-0.01211, -0.15759, 0.05280, -0.16158, 0.05578, -0.02616, 0.04644, -0.00242],
             [0.04956, -0.13708, 0.02379, -0.14392, -0.04176, 0.28030, 0.01454, -0.09450]],
    "misplaced boxes": [[-0.07995, 0.01052, 0.03650, 0.09962, -0.08486, 0.01526, -0.07389, 0.02123],
                        [0.07793, -0.03396, -0.17878, -0.14302, 0.01388, -0.05046, 0.05699, 0.07098]],
}  # fmt: skip


@pytest.mark.parametrize("start", FROZEN)
def test_attribution_of_a_frozen_case_is_what_it_was(start, asked):
    """Of a tiny seeded model, by figures of its first run: another release of a library must not change them unseen."""
    vlm, ends = build("internvl"), (grey_pictures(asked), asked)
    if start != "grey":
        places = (0.5, 0.5, 0.9, 0.8), (0.1, 0.1, 0.5, 0.4)
        ends = [drawn(asked, {item.uid: [("cube", place)] for item in asked}) for place in places]
    target, source = (TeacherForcedScorer(vlm, some) for some in ends)
    found = path_attribution(target, source, ["Low-Level Visual Perception", "Knowledge Recall"], 4)
    np.testing.assert_allclose(found, FROZEN[start], atol=2e-3)
