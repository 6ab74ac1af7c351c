import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from cogvsr_utils import FunctionProbe, HeadProbes, head_table, scarcity, top_heads
from cogvsr_utils.functions import NAMES
from cogvsr_utils.heads import HeadMap
from cogvsr_utils.scarcity import overlap, spatial_difference

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


def test_joint_probe_finds_the_planted_head_and_generalises(planted):
    x, y, _ = planted
    probe = FunctionProbe(epochs=30).fit(x[:400], y[:400], LAYERS)
    assert probe.score(x[400:], y[400:]) > 0.9 and probe.loss_[-1] < probe.loss_[0]
    importance = np.abs(probe.importance(x[400:], y[400:]))
    assert importance.shape == (4, N_HEADS) and (importance.argmax(1) == 2).all()


def test_joint_probe_is_at_chance_on_noise_and_repeats_itself(planted):
    x, _, _ = planted
    y = CLASSES[np.random.default_rng(1).integers(4, size=600)]
    probes = [FunctionProbe(epochs=10).fit(x[:400], y[:400], LAYERS) for _ in range(2)]
    assert abs(probes[0].score(x[400:], y[400:]) - 0.25) < 0.1
    assert np.array_equal(probes[0].importance(x[400:], y[400:]), probes[1].importance(x[400:], y[400:]))


def test_importance_is_gradient_times_activation(planted):
    """Numerically: moving one head's 64 codes by a factor moves the score by gradient x activation."""
    import torch

    x, y, _ = planted
    probe = FunctionProbe(epochs=5).fit(x[:400], y[:400], LAYERS)
    codes = probe._codes(x[400:410]).detach().double()
    head = probe.head_.double()
    truth = np.searchsorted(probe.classes_, y[400:410])
    step = 1e-5
    for h in (0, 2, 7):
        up, down = codes.clone(), codes.clone()
        up[:, h] *= 1 + step
        down[:, h] *= 1 - step
        with torch.no_grad():
            change = (head(up.flatten(1)) - head(down.flatten(1)))[range(10), truth] / (2 * step)
        probe.head_.float()
        each = probe.importance_by_item(x[400:410], y[400:410])
        probe.head_.double()
        np.testing.assert_allclose(each[:, h] * 64, change, rtol=1e-2, atol=1e-3)


def test_head_probes_are_scikit_learns_ridge_in_a_loop(planted, fitted):
    x, y, groups = planted
    code = np.searchsorted(CLASSES, y)
    scores = np.empty((600, 4))
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(code, code, groups):
        for head in (2,):
            mean, std = x[train, head].mean(0), x[train, head].std(0, ddof=1)
            model = Ridge(alpha=10.0).fit((x[train, head] - mean) / std, np.eye(4)[code[train]] * 2 - 1)
            scores[test] = model.predict((x[test, head] - mean) / std)
    expected = [roc_auc_score(code == c, scores[:, c]) for c in range(4)]
    np.testing.assert_allclose(fitted.auroc_[2], expected, atol=2e-4)
    assert fitted.accuracy_[2] == pytest.approx((scores.argmax(1) == code).mean(), abs=5e-3)


def test_only_the_planted_head_passes(planted, fitted):
    x, y, groups = planted
    null = HeadProbes().permuted(x, y, groups, np.zeros(600), n=60)
    assert 0.47 < null.mean() < 0.51  # held-out scores of noise lean a little below one half
    heads = HeadMap(_table(), {0: "a", 1: "b"})
    importance = np.full((4, N_HEADS), 0.01)
    importance[:, 2] = 1.0
    table = head_table(heads, CLASSES, importance, fitted.auroc_, null)
    assert len(table) == 4 * N_HEADS
    passed = table[table["p_max"] < 0.05]
    assert set(zip(passed["layer"], passed["head"], strict=True)) == {(0, 2)} and len(passed) == 4
    assert top_heads(table, CLASSES[0], 1) == [(0, 2)]
    boot = np.repeat(importance[None], 5, axis=0)
    counts = scarcity(table, boot, boot, CLASSES)
    assert counts["elbow"].tolist() == [1] * 4 and counts["n_max_t"].tolist() == [1] * 4
    assert spatial_difference(boot, CLASSES)["difference"] == 0
    assert overlap(table, 1)["jaccard"].tolist() == [1.0] * 6
    with pytest.raises(ValueError, match="no function 'x'"):
        top_heads(table, "x", 1)


def test_permutation_keeps_labels_within_their_stratum():
    """With one label a stratum nothing can be shuffled, so the null equals the fit."""
    rng = np.random.default_rng(0)
    x, code = rng.normal(size=(200, 2, 3)).astype(np.float32), np.arange(200) % 2
    y, groups = np.array(["a", "b"])[code], np.arange(200)
    null = HeadProbes().permuted(x, y, groups, strata=code, n=2)
    np.testing.assert_allclose(null[0], HeadProbes().fit(x, y, groups).auroc_, atol=1e-6)


def _table():
    import pandas as pd

    rows = [(layer, h, 4, DIM, "ab"[layer], (4 * layer + h) * DIM, (4 * layer + h + 1) * DIM)
            for layer in (0, 1) for h in range(4)]  # fmt: skip
    return pd.DataFrame(rows, columns=["layer", "head", "n_heads", "head_dim", "module", "start", "stop"])
