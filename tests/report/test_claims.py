"""Made-up tables: the verdict on every claim that can be tested goes both ways."""

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.analysis.matching import KINDS
from cogvsr_utils.analysis.sparsity import DIFFERENCE
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.pipeline.activation import BOTH
from cogvsr_utils.pipeline.cameras import OTHER, OWN
from cogvsr_utils.pipeline.cues import BOX, GREY, NEVER, NONE
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.measured import MISSING
from cogvsr_utils.pipeline.selection import IMPORTANCE
from cogvsr_utils.report.claims import CONTROLS, CROSSED, CUED, KNOWN, KNOWN_SPARSE, RESULTS, claim_table, verdicts


def made_up(good: bool) -> dict[str, pd.DataFrame]:
    """Tables in which everything is as the paper says, or nothing."""
    heads, others = (0.9, 0.5) if good else (0.5, 0.9)
    probes = pd.DataFrame({"predictor": ["all heads", "text", "untrained model", "grey picture"],
                           "held_out": [heads, others, 0.1, 0.1],
                           "held_beyond_low": [0.0, heads - others - 0.1, 0.2, 0.2]})  # fmt: skip
    moved = [("majority", ""), ("words and pairs", "crossed A"), ("joint probe (paper)", "plain A"),
             ("all heads, linear", "crossed A")]  # fmt: skip
    transfer = pd.DataFrame(moved, columns=["predictor", "trained_on"])
    transfer = transfer.assign(accuracy=[0.2, others, heads, 0.8], low=heads - 0.05, high=[0.21, others + 0.01, 1, 1])
    counts = np.arange(1.0, 9.0) if good else np.full(8, 90.0)
    change = np.where(np.eye(8, dtype=bool), -0.5 if good else 0.0, -0.1)
    own = pd.DataFrame({"kind": ["own"], "function": "a", "set": -1, "delta_log_prob": -3.0 if good else -0.5})
    random = [
        pd.DataFrame({"kind": kind, "function": "a", "set": range(99), "delta_log_prob": -np.linspace(0, 1, 99)})
        for kind in KINDS
    ]
    return {
        "probe_baselines": probes, "wording_transfer": transfer,
        "ranking_tests": pd.DataFrame({"ranking": [IMPORTANCE], "precision": 0.5, "p_precision": [0.5, 0.01][good]}),
        "head_table": pd.DataFrame({"head": range(8 * 192)}),
        "thresholds": pd.DataFrame({"rule": "importance above", "heads": counts, "null": 60.0}),
        "sparseness": pd.concat(
            pd.DataFrame({"statistic": name, "function": NAMES, "value": value, "low": value - 0.1,
                          "high": value + 0.1, "null_low": 20.0, "null_high": 40.0})
            for name, value in (("elbow", counts), ("gini", 60 - counts), ("participation", counts))
        ),
        "planted_sparsity": pd.concat(
            pd.DataFrame({"statistic": name, "value": value, "null_low": 20.0, "null_high": [40.0] * 8})
            for name, value in (("elbow", 5.0), ("gini", 50.0), ("participation", 5.0))
        ),
        "finder_scores": pd.DataFrame({"method": "importance above the paper's threshold", "selected": [9.0] * 8,
                                       "planted": 1, "chance_precision": 1 / 192}),
        "function_ranges": pd.DataFrame({"statistic": ["elbow", "depth"], "range": 7.0 if good else 5.0, "null": 4.0,
                                         "null_high": 6.0, "p": [0.01, 0.02]}),
        "overlaps": pd.DataFrame({"jaccard": [0.0 if good else 0.9] * 28, "chance_high": 0.2, "p_chance": 0.02}),
        "spatial_differences": pd.DataFrame({
            "reading": ["as it is", "as it is", "strict"], "scarcer": ["no", "no", "yes" if good else "open"]}),
        "refitted_spread": pd.DataFrame({
            "function": [*NAMES, DIFFERENCE] * 2, "statistic": ["elbow"] * 9 + ["depth"] * 9,
            "value": [*counts, -1.0] * 2, "refit_low": [*(counts - 0.1), -2.0] * 2,
            "refit_high": [*(counts + 0.1), -0.1] * 2, "scarcer": [*[""] * 8, "yes" if good else "open"] + [""] * 9}),
        "crossed_effects": pd.DataFrame({"ranking": IMPORTANCE, "difference": -0.5 if good else 0.5,
                                         "q": [0.01 if good else 0.5] * 8}),
        CONTROLS.name: pd.concat([own, *random]),
        "ablation_matrix": pd.DataFrame({"head_set": a, "function": b, "change": change[i, j]}
                                        for i, a in enumerate(NAMES) for j, b in enumerate(NAMES)),
        "cue_effects": pd.DataFrame({
            "kinds": NEVER, "condition": [BOX, BOX, f"{GREY}, {BOX}"], "against": ["box, misplaced", NONE, GREY],
            "change": [0.05, 0.05, 0.0], "low": [0.02, 0.02, -0.01] if good else -0.01,
            "high": [0.1, 0.1, 0.04 if good else 0.1]}),
        "latent_heads": pd.DataFrame({"latent": [good] * 3}),
        "latent_activation": pd.DataFrame({
            "method": [BOX, "steer", "steer"], "heads": [np.nan, "latent", "random"], "function": BOTH,
            "delta_log_prob": [0.5, 0.5, 0.4 if good else 0.6], "low": 0.3, "beyond": 0.1,
            "beyond_low": 0.05 if good else -0.05}),
        "specific_damage-importance_paper": pd.DataFrame({"specific": ["yes" if good else "no"] * 8}),
        "camera_gains": pd.DataFrame({
            "method": ["scale", "scale", "steer"], "heads": [OWN, OTHER, OWN], "direction": ["", "", "towards right"],
            "function": SPATIAL[0], "right": 0.6, "delta_log_prob": [0.5, 0.1, -0.5], "low": [0.2, 0.0, -0.9],
            "high": [0.8, 0.2, -0.2], "p": [np.nan, 0.01 if good else 0.4, np.nan],
            "change": 0.05, "change_low": 0.02, "change_high": 0.08}),
    }  # fmt: skip


def verdicts_of(tables):
    return claim_table(Experiment("nano-internvl"), lambda experiment, result: tables[result.name])["verdict"].tolist()


def test_every_verdict_goes_both_ways():
    assert verdicts_of(made_up(True)) == ["not tested", *["holds"] * 6]
    assert verdicts_of(made_up(False)) == ["not tested", *["not supported"] * 6]


def test_where_nothing_is_as_a_claim_says_and_something_its_opposite_it_is_contradicted():
    """One table after the other; where anything else holds, the claim holds in part all the same."""
    good, bad = made_up(True), made_up(False)
    words = bad["wording_transfer"].assign(high=[0.21, 0.91, 0.5, 1.0], low=[0.1, 0.8, 0.4, 0.6])
    dense = {"refitted_spread": bad["refitted_spread"].replace({"scarcer": {"open": "no"}})}
    cue = bad["cue_effects"].assign(low=-0.1, high=-0.02)
    stronger = bad[CONTROLS.name].assign(delta_log_prob=lambda t: t["delta_log_prob"].where(t["kind"] != "own", 0.5))
    scaled = bad["camera_gains"].assign(delta_log_prob=[-0.5, 0.0, 0.5], low=-0.8, high=-0.2, p=[np.nan, 0.01, np.nan],
                                        change_low=-0.05, change_high=-0.01)  # fmt: skip
    opposites = [(1, {"wording_transfer": words}), (4, dense), (5, {"cue_effects": cue}),
                 (6, {CONTROLS.name: stronger}), (6, {"camera_gains": scaled}),
                 (6, {"crossed_effects": bad["crossed_effects"].assign(q=0.01)})]  # fmt: skip
    for claim, table in opposites:
        assert verdicts_of(bad | table)[claim] == "contradicted"
        assert verdicts_of(good | table)[claim] == ("partly" if claim != 4 else "not supported"), (
            "all C5 asks is one sign"
        )
    within = scaled.assign(p=[np.nan, 0.4, np.nan])  # no more than random heads do
    assert verdicts_of(bad | {"camera_gains": within})[6] == "not supported"
    less_sure = good["camera_gains"].assign(change_low=-0.01)  # likelier, and no more of them right
    assert verdicts_of(bad | {"camera_gains": less_sure})[6] == "not supported"
    assert verdicts_of(bad | {"camera_gains": good["camera_gains"]})[6] == "partly"


@pytest.mark.parametrize("name, claim", [("wording_transfer", 1), ("thresholds", 2), ("sparseness", 2),
                                         ("overlaps", 3), ("refitted_spread", 3), ("function_ranges", 3),
                                         ("refitted_spread", 4), ("spatial_differences", 4), ("camera_gains", 6),
                                         (CONTROLS.name, 6), ("crossed_effects", 6),
                                         ("specific_damage-importance_paper", 6),
                                         ("cue_effects", 5), ("latent_heads", 5),
                                         ("latent_activation", 5)])  # fmt: skip
def test_one_thing_that_does_not_come_out_leaves_part_of_a_claim(name, claim):
    tables = made_up(True) | {name: made_up(False)[name]}
    assert verdicts_of(tables)[claim] == "partly"


def test_it_reads_no_other_results_than_it_names():
    assert set(made_up(True)) == {result.name for result in (*RESULTS, *CROSSED, *CUED, *KNOWN)}


def test_what_is_denied_of_a_model_that_is_known_to_be_sparse_does_not_count():
    """Neither for the claim nor against it."""
    tables = made_up(True)
    assert verdicts_of(made_up(False) | {name: tables[name] for name in ("planted_sparsity",)})[2] == "not supported"
    blind = tables["planted_sparsity"].assign(value=30.0)
    dense = tables["finder_scores"].assign(selected=100.0)
    for good in (True, False):
        assert verdicts_of(made_up(good) | {"planted_sparsity": blind, "finder_scores": dense})[2] == "not tested"
    elbow = blind.assign(value=[5.0] * 8 + [30.0] * 16)  # the elbow alone can tell
    others = made_up(False)["sparseness"]
    mixed = pd.concat([tables["sparseness"].query("statistic == 'elbow'"), others.query("statistic != 'elbow'")])
    told = made_up(False) | {"planted_sparsity": elbow, "finder_scores": dense, "sparseness": mixed}
    assert verdicts_of(told)[2] == "holds"


def test_models_stand_side_by_side_as_far_as_they_are_measured(tmp_path, monkeypatch):
    """One model with all tables, one with some, and of that one an older."""
    monkeypatch.setattr("cogvsr_utils.pipeline.measured.FOLDER", tmp_path)
    few = ("thresholds", "head_table", "sparseness", "refitted_spread", "overlaps")
    for name, kept in (("all", made_up(True)), ("some", made_up(False)), (KNOWN_SPARSE, made_up(True))):
        (tmp_path / name).mkdir()
        for table_name, values in kept.items():
            if name != "some" or table_name in few:
                values.to_csv(tmp_path / name / f"{table_name}.csv", index=False, na_rep=MISSING)
    monkeypatch.setattr("cogvsr_utils.report.claims.stamp",
                        lambda each: {"changed": ["overlaps"] if each.model == "some" else []})  # fmt: skip
    table = verdicts([Experiment("all"), Experiment("some")])
    assert table["all"].tolist() == ["not tested", *["holds"] * 6]
    assert table["some"].tolist() == ["not tested", "not measured", "not supported", *["not measured"] * 4]
