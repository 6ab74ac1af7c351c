import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from cogvsr_utils.analysis.head_probes import HeadProbes, binary_accuracy
from cogvsr_utils.analysis.head_scores import COLUMNS, head_table, placement, top_heads
from cogvsr_utils.analysis.joint_probe import FunctionProbe, refitted_importance
from cogvsr_utils.analysis.sparsity import overlap
from cogvsr_utils.functions import NAMES
from cogvsr_utils.paths import ROOT
from cogvsr_utils.stats import gini, max_t_test

N_HEADS, DIM = 8, 6
LAYERS = np.repeat([0, 1], 4)
CLASSES = np.array(sorted(NAMES[:4]))


@pytest.fixture(scope="module")
def planted():
    """Noise, with the class written into head 2 alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, N_HEADS, DIM)).astype(np.float32)
    code = rng.integers(4, size=600)
    x[np.arange(600), 2, code] += 3.0
    return x, CLASSES[code], np.repeat(np.arange(150), 4)


@pytest.fixture(scope="module")
def fitted(planted):
    x, y, groups = planted
    return HeadProbes().fit(x, y, groups)


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_joint_probe_finds_the_planted_head_and_generalises(planted, protocol):
    x, y, groups = planted
    probe = FunctionProbe(protocol, epochs=30, n_seeds=2).fit(x[:400], y[:400], groups[:400], LAYERS)
    assert probe.score(x[400:], y[400:]) > 0.8 and probe.loss_[0][-1] < probe.loss_[0][0]
    assert probe.importance_.shape == (4, N_HEADS) and (np.abs(probe.importance_).argmax(1) == 2).all()
    np.testing.assert_allclose(probe.importance_, probe.importance_by_seed_.mean(0))
    assert not set(groups[:400][probe.read_]) & set(groups[:400][~probe.read_])


def test_importance_is_read_on_groups_that_fitting_never_saw(planted):
    """What stands on the rows held out for reading changes nothing of the fit."""
    x, y, groups = planted
    probe = FunctionProbe(epochs=3).fit(x, y, groups, LAYERS)
    other = x.copy()
    other[probe.read_] = 7.0
    again = FunctionProbe(epochs=3).fit(other, y, groups, LAYERS)
    assert np.array_equal(probe.predict(x), again.predict(x))


def test_strict_stops_early_and_paper_does_not(planted):
    x, y, groups = planted
    y = np.random.default_rng(1).permutation(y)
    paper, strict = (FunctionProbe(p, epochs=40).fit(x, y, groups, LAYERS) for p in ("paper", "strict"))
    assert len(paper.loss_[0]) == 40 and len(strict.loss_[0]) < 40
    with pytest.raises(ValueError, match="protocol is 'loose'"):
        FunctionProbe("loose")


def test_joint_probe_is_at_chance_on_noise_and_repeats_itself(planted):
    x, _, groups = planted
    y = CLASSES[np.random.default_rng(1).integers(4, size=600)]
    probes = [FunctionProbe(epochs=10).fit(x[:400], y[:400], groups[:400], LAYERS) for _ in range(2)]
    assert abs(probes[0].score(x[400:], y[400:]) - 0.25) < 0.1
    assert np.array_equal(probes[0].importance_, probes[1].importance_)


def test_refits_differ_as_much_as_probes_of_new_data_do():
    """Gini's index of each function's heads over six data sets of one making, beside refits to each of them."""
    found, spread = [], []
    for seed in range(6):
        rng, y = np.random.default_rng(seed), np.tile(CLASSES, 45)
        x = rng.normal(size=(len(y), N_HEADS, DIM))
        for f, name in enumerate(CLASSES):
            x[y == name, f : f + 2, f] += 0.8
        groups = np.arange(len(y)) // 6
        found.append([gini(heads) for heads in FunctionProbe("paper").fit(x, y, groups, LAYERS).importance_])
        refits = refitted_importance(x, y, groups, LAYERS, n_fits=4)
        assert not np.allclose(refits[0], refits[1])
        spread.append(np.std([[gini(heads) for heads in fit] for fit in refits], axis=0, ddof=1))
    assert 0.5 < np.mean(spread) / np.std(found, axis=0, ddof=1).mean() < 2


def test_refits_draw_again_where_a_function_is_missing_and_give_up_where_it_cannot_be_there():
    rng, y = np.random.default_rng(0), np.array([CLASSES[0]] * 40 + [CLASSES[1]] * 3)  # the second in few groups
    x, groups = rng.normal(size=(43, N_HEADS, DIM)), np.arange(43)
    assert refitted_importance(x, y, groups, LAYERS, n_fits=8).shape == (8, 2, N_HEADS)
    with pytest.raises(ValueError, match="none had every function on both sides"):
        refitted_importance(x[:41], y[:41], groups[:41], LAYERS, n_fits=1)


def test_importance_is_gradient_times_activation(planted):
    """Numerically: moving one head's 64 codes by a factor moves the score by gradient x activation."""
    import torch

    x, y, groups = planted
    probe = FunctionProbe(epochs=5).fit(x[:400], y[:400], groups[:400], LAYERS)
    network, truth, step = probe.networks_[0].double(), np.searchsorted(probe.classes_, y[400:410]), 1e-5
    codes = network.project(probe._inputs(torch.from_numpy(x[400:410])).double()).detach()
    changes = {}
    for h in (0, 2, 7):
        up, down = codes.clone(), codes.clone()
        up[:, h] *= 1 + step
        down[:, h] *= 1 - step
        with torch.no_grad():
            changes[h] = (network.head(up.flatten(1)) - network.head(down.flatten(1)))[range(10), truth] / (2 * step)
    network.float()
    each = probe.importance_by_item(x[400:410], y[400:410])[0]
    for h, change in changes.items():
        np.testing.assert_allclose(each[:, h] * 64, change, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("known", [False, True])
def test_head_probes_are_scikit_learns_ridge_in_a_loop(planted, known):
    x, y, groups = planted
    code, rng = np.searchsorted(CLASSES, y), np.random.default_rng(0)
    offset = np.eye(4)[np.where(rng.random(600) < 0.5, code, rng.integers(4, size=600))] if known else None
    target = np.eye(4)[code] - (np.eye(4)[code].mean(0) if offset is None else offset)
    scores = np.empty((600, N_HEADS, 4))
    for head in range(N_HEADS):
        scaled = (x[:, head] - x[:, head].mean(0)) / x[:, head].std(0, ddof=1)
        for train, test in GroupKFold(5, shuffle=True, random_state=0).split(code, code, groups):
            model = Ridge(alpha=10.0).fit(scaled[train], target[train])
            scores[test, head] = (scaled[test] - scaled[train].mean(0)) @ model.coef_.T
    fitted = HeadProbes().fit(x, y, groups, offset)
    np.testing.assert_allclose(fitted.scores_, scores.transpose(0, 2, 1), atol=2e-5)
    total = scores + (np.eye(4)[code].mean(0) if offset is None else offset[:, None])
    for head in range(N_HEADS):
        expected = [roc_auc_score(code == c, total[:, head, c]) for c in range(4)]
        np.testing.assert_allclose(fitted.auroc_[:, head], expected, atol=2e-4)
        strength = [np.corrcoef(scores[:, head, c], target[:, c])[0, 1] for c in range(4)]
        np.testing.assert_allclose(fitted.strength_[:, head], strength, atol=1e-4)
        guess = total[:, head].argmax(1)
        assert fitted.accuracy_[head] == pytest.approx(accuracy_score(code, guess), abs=5e-3)
        assert fitted.balanced_accuracy_[head] == pytest.approx(balanced_accuracy_score(code, guess), abs=5e-3)


def test_only_the_planted_head_passes(planted, fitted):
    x, y, groups = planted
    null = HeadProbes().permuted(x, y, groups, np.zeros(600), n=60)
    assert null.shape == (60, 4, N_HEADS) and abs(null.mean()) < 0.02
    test = max_t_test(fitted.strength_, null)
    assert (np.argwhere(test.p_max < 0.05)[:, 1] == 2).all() and (test.p_max[:, 2] < 0.05).all()
    assert (np.argwhere(test.q < 0.05)[:, 1] == 2).all()


def test_a_known_offset_leaves_a_head_nothing_to_tell(planted):
    """Where the text tells all, no head adds anything, however well it tells the class alone."""
    x, y, groups = planted
    known = np.eye(4)[np.searchsorted(CLASSES, y)]
    fitted = HeadProbes().fit(x, y, groups, offset=known)
    assert np.allclose(fitted.strength_, 0) and fitted.auroc_.min() == 1


def test_permutation_keeps_labels_within_their_stratum():
    """With one label a stratum nothing can be shuffled, so the null equals the fit."""
    rng = np.random.default_rng(0)
    x, code = rng.normal(size=(200, 2, 3)).astype(np.float32), np.arange(200) % 2
    y, groups = np.array(["a", "b"])[code], np.arange(200)
    null = HeadProbes().permuted(x, y, groups, strata=code, n=2)
    np.testing.assert_allclose(null[0], HeadProbes().fit(x, y, groups).strength_, atol=1e-6)


def test_strict_holds_its_level_where_step_and_scene_tell_but_no_head_does():
    """Labels and activations both hang on the step, and scenes colour the activations. Shuffled across steps all would
    pass."""
    strata, groups, across, hits = np.arange(120) % 4, np.arange(120) // 4, np.zeros(120), {"within": 0, "across": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        code = (strata + (rng.random(120) < 0.3)) % 4
        x = rng.normal(size=(120, 6, 4)) + rng.normal(size=(30, 1, 4))[groups] + 2 * np.eye(4)[strata][:, None]
        strength = HeadProbes(seed=seed).fit(x, code, groups).strength_
        for name, rows in {"within": strata, "across": across}.items():
            null = HeadProbes(seed=seed).permuted(x, code, groups, rows, n=39)
            hits[name] += (max_t_test(strength, null).p_max <= 0.05).any()
    assert binomtest(int(hits["within"]), 300, 0.05, alternative="greater").pvalue > 0.01, hits
    assert hits["across"] == 300


def test_chunks_of_heads_change_nothing(planted, fitted, monkeypatch):
    x, y, groups = planted
    monkeypatch.setattr("cogvsr_utils.analysis.head_probes.CHUNK", 3)
    np.testing.assert_allclose(HeadProbes().fit(x, y, groups).strength_, fitted.strength_, atol=1e-6)


def test_a_dead_head_is_at_chance(planted):
    """A dead head has the same score everywhere: all ties."""
    x, y, groups = planted
    x = x.copy()
    x[:, 5] = 0
    fitted = HeadProbes().fit(x, y, groups)
    np.testing.assert_allclose(fitted.auroc_[:, 5], 0.5)
    assert np.allclose(fitted.strength_[:, 5], 0)


def test_resampling_whole_groups_moves_around_the_strength(planted, fitted):
    _, _, groups = planted
    draws = fitted.bootstrap(groups, n=50)
    assert draws.shape == (50, 4, N_HEADS)
    np.testing.assert_allclose(draws.mean(0), fitted.strength_, atol=0.03)
    assert 0.01 < draws.std(0).mean() < 0.1


def test_binary_protocol_is_balanced(planted):
    x, y, groups = planted
    accuracy = binary_accuracy(x, y, groups)
    assert accuracy.shape == (4, N_HEADS) and (accuracy[:, 2] > 0.8).all()
    assert np.abs(np.delete(accuracy, 2, axis=1) - 0.5).max() < 0.12


def test_head_table_ranks_and_explains(planted):
    heads = _table()
    importance, effect = np.full((4, N_HEADS), 0.01), np.zeros((4, N_HEADS))
    importance[:, 2], effect[:, 5] = -1.0, -0.5
    auroc = np.tile(np.linspace(0.9, 0.5, N_HEADS), (4, 1))
    measures = {"importance": importance, "auroc": auroc, "effect": effect, "selectivity": np.arange(8.0)}
    table = head_table(heads, CLASSES, measures)
    assert len(table) == 4 * N_HEADS and set(table) - set(COLUMNS) == {"rank_importance", "rank_auroc", "rank_effect"}
    assert top_heads(table, CLASSES[0], 2, by="auroc") == [(0, 0), (0, 1)]
    for _, part in table.groupby("function"):
        assert sorted(part["rank_auroc"]) == list(range(1, N_HEADS + 1)) and part["rank_effect"].iloc[5] == 1
    assert top_heads(table, CLASSES[0], 1) == [(0, 2)] and top_heads(table, CLASSES[0], 1, by="effect") == [(1, 1)]
    shared = overlap(table, 1, np.stack([importance, np.roll(importance, 1, axis=0)]), CLASSES)
    assert (shared[["jaccard", "low", "high"]] == 1).all(axis=None) and len(shared) == 6
    apart = overlap(table, 2, np.random.default_rng(0).random((400, 4, N_HEADS)), CLASSES)
    assert (apart["low"] == 0).all() and apart["high"].between(0.3, 1).all()
    # Each function's two heads are of one layer of four, so by chance it has two of these four: both are another's in
    # one of six draws, one of them in four of six.
    expected = 1 / 6 + 4 / 6 / 3
    assert apart["chance"].to_numpy() == pytest.approx(expected, abs=0.04) and (apart["chance_high"] == 1).all()
    for bad, message in (({"colour": importance}, "no columns"), ({"auroc": importance.T}, "expected")):
        with pytest.raises((KeyError, ValueError), match=message):
            head_table(heads, CLASSES, bad)
    with pytest.raises(ValueError, match="no function 'x'"):
        top_heads(table, "x", 1)
    with pytest.raises(ValueError, match="by is 'selectivity'"):
        top_heads(table, CLASSES[0], 1, by="selectivity")


def test_shared_heads_are_held_against_models_with_as_many_in_each_layer():
    rng = np.random.default_rng(0)
    heads = pd.DataFrame({"layer": LAYERS, "head": np.tile(range(4), 2)})
    one, other = (head_table(heads, NAMES[:2], {"importance": rng.normal(size=(2, N_HEADS))}) for _ in range(2))
    found = placement(one, other, 3).set_index("function")
    for function in NAMES[:2]:
        top = [top_heads(each, function, 3) for each in (one, other)]
        assert found.loc[function, "shared"] == pytest.approx(len({*top[0]} & {*top[1]}) / 3)
        dealt = []  # the heads of each layer dealt anew, all orders of both layers
        for order in itertools.product(itertools.permutations(range(4)), repeat=2):
            dealt.append(len({*top[0]} & {(layer, order[layer][head]) for layer, head in top[1]}) / 3)
        assert found.loc[function, "due"] == pytest.approx(np.mean(dealt))
        means = [
            np.abs(each[each["function"] == function]["importance"].to_numpy()).reshape(2, 4).mean(1)
            for each in (one, other)
        ]
        assert found.loc[function, "layers"] == pytest.approx(spearmanr(*means)[0])
    assert placement(one, one, 3)["shared"].eq(1).all()
    with pytest.raises(ValueError, match="another order"):
        placement(one, other.iloc[::-1], 3)


def test_the_page_explains_every_column():
    page = (ROOT / "book" / "head_table.md").read_text()
    for name, meaning in COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in page


def _table():
    import pandas as pd

    rows = [
        (layer, h, 4, DIM, "ab"[layer], (4 * layer + h) * DIM, (4 * layer + h + 1) * DIM)
        for layer in (0, 1)
        for h in range(4)
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "n_heads", "head_dim", "module", "start", "stop"])
