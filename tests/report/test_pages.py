"""What pages are made of: tables, sentences chosen by numbers, figures of every kind."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from cogvsr_utils.analysis.accuracy import accuracy_table
from cogvsr_utils.analysis.head_scores import head_table
from cogvsr_utils.analysis.matching import KINDS
from cogvsr_utils.analysis.sparsity import scarcity
from cogvsr_utils.checks.known_heads import planted_truth
from cogvsr_utils.checks.planting import power
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import CROSSED, SELECTION
from cogvsr_utils.functions import FUNCTIONS, NAMES
from cogvsr_utils.paths import NANO
from cogvsr_utils.pipeline import baselines, comparisons, measured, planted, validation
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.report import effect_figures, figures, head_figures
from cogvsr_utils.report.figures import SHORT
from cogvsr_utils.report.pages import (
    agreement,
    damage_cells,
    measured_note,
    pair_cells,
    paragraph,
    show,
    span,
    specific_count,
    verdict,
    with_interval,
)

RNG = np.random.default_rng(0)


def cells(styled):
    table = BeautifulSoup(styled.to_html(), "html.parser")
    return [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]


def test_tables_show_shares_points_and_missing_values_and_escape_what_data_brings():
    table = pd.DataFrame({"a_name": ["<b>bold</b>"], "share": [0.1234], "change": [-0.05], "gap": [np.nan], "n": [3]})
    styled = show(table, percent=("share",), points=("change",))
    assert cells(styled) == [["a name", "share", "change", "gap", "n"], ["<b>bold</b>", "12.3%", "-5.0", "–", "3"]]
    assert "<b>bold</b>" not in styled.to_html()


@pytest.mark.parametrize(
    "low, high, words", [(-0.2, -0.1, "fewer"), (0.1, 0.2, "more"), (-0.1, 0.1, "open"), (0, 0, "open")]
)
def test_words_follow_the_interval(low, high, words):
    assert verdict(low, high, "fewer", "more", "open") == words


def test_spans_are_in_points():
    assert span(-0.4812, 0.003) == "-48.1 to +0.3" and span(1.234, 2, scale=1) == "+1.2 to +2.0"
    assert paragraph("a *b*").data == "a *b*"


def test_agreement_compares_rows_of_one_name():
    fresh, kept = (pd.DataFrame({"k": ["a", "b", "c"], "x": x}) for x in ([1.0, 2.0, 3.0], [1.0, 2.5, 3.0]))
    assert cells(agreement(fresh, kept.iloc[::-1], "k", ("x",), 0.5))[1] == ["x", "3", "0.500", "0.961", "yes"]
    assert cells(agreement(fresh, kept, "k", ("x",), 0.4))[1][-1] == "no"


def contrast(one, other):
    def luminance(color):
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_labels_on_the_functions_colours_can_be_read():
    for function in FUNCTIONS:
        text = {"white": "#ffffff", figures.DARK: "#111111"}[figures.text_on(function.color)]
        assert contrast(text, function.color) >= 4.5, function.name


@pytest.fixture(scope="module")
def heads():
    table = pd.DataFrame([(layer, head) for layer in range(3) for head in range(4)], columns=["layer", "head"])
    functions = sorted(NAMES)
    measures = {"importance": RNG.normal(size=(8, 12)), "auroc": RNG.uniform(0.5, 1, (8, 12)),
                "effect": RNG.normal(size=(8, 12))}  # fmt: skip
    return functions, measures, head_table(table, functions, measures)


def counts(functions, measures):
    draws = RNG.normal(size=(6, 8, 12))
    table = scarcity(measures["importance"], draws, draws, functions, np.repeat(range(3), 4))
    return pd.concat([table, table[table["statistic"] == "elbow"].assign(statistic="n_ablation")])


def null_curves(functions):
    """Of 12 heads: a band around a curve that falls from 1."""
    curve = np.linspace(1, 0.1, 12)
    return pd.concat(
        pd.DataFrame({"function": name, "place": np.arange(1, 13), "low": curve - 0.05, "high": curve + 0.05})
        for name in functions
    )


def test_figures_of_heads_are_drawn(heads):
    functions, measures, table = heads
    drawn = [
        *(head_figures.head_maps(table, column) for column in measures),
        head_figures.map_pair(table, NAMES[0]),
        head_figures.family_maps({"one": table, "other": table}),
        head_figures.curve_figure(table, null_curves(functions)),
        head_figures.count_figure({"m": counts(functions, measures)}, {"m": 12}),
        head_figures.sharing_figure({name: {(0, i % 4), (1, 0)} for i, name in enumerate(NAMES)}),
        head_figures.scatter_figure(table, "importance", "effect", "importance", "effect"),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)
    maps = drawn[2]  # the effect: one scale for harm and help, with its bar
    assert maps.axes[-1].get_ylabel().startswith("share of the largest change") and len(maps.axes) == 9
    assert all(axis.images[0].get_clim() == (-1, 1) for axis in maps.axes[:-1])
    signs = np.sign(maps.axes[0].images[0].get_array())
    expected = table[table["function"] == NAMES[0]].pivot(index="layer", columns="head", values="effect")
    np.testing.assert_array_equal(signs, np.sign(expected))


def test_figures_of_effects_are_drawn(answers, items):
    columns = [*NAMES, "Main question"]
    matrix = pd.DataFrame(
        {"head_set": a, "function": b, "change": RNG.normal() / 10, "q": RNG.random()} for a in NAMES for b in columns
    )
    controls = pd.DataFrame({"function": NAMES, "own": -0.1, "control_mean": -0.05, "control_low": -0.1,
                             "control_high": 0.0})  # fmt: skip
    quality = pd.DataFrame({"ranking": r, "function": f, "k": 5, "chance": 0.1, "precision": 0.2, "precision_low": 0.1,
                            "precision_high": 0.3, "spearman": 0.1, "spearman_low": 0.0, "spearman_high": 0.2}
                           for r in "ab" for f in NAMES)  # fmt: skip
    sets = pd.DataFrame({"set": ["a", "b"], "change": -0.2, "low": -0.3, "high": -0.1, "elsewhere": -0.1})
    trials = pd.DataFrame({"rule": ["max-T"] * 2, "strength": [0.0, 1.0], "planted": [0, 3], "selected": [1, 3],
                           "found": [0, 2], "crossed": [0, 1], "false": [1, 0], "functions": 8})  # fmt: skip
    forest = pd.DataFrame({"label": ["a", "b"], "kind": ["x", "y"], "value": [1.0, 2.0], "low": 0.0, "high": 3.0})
    drawn = [
        effect_figures.ablation_figure(matrix),
        effect_figures.control_figure(pd.concat([controls.assign(kind=kind) for kind in KINDS]), "points"),
        effect_figures.quality_figure(quality),
        effect_figures.set_figure(sets),
        effect_figures.power_figure(power(trials)),
        effect_figures.scaling_figure(pd.DataFrame({"items": [1, 2], "seconds": [1.0, 2.0], "peak_mb": [5.0, 5.0]})),
        figures.forest_figure({"title": forest}, "points", {"x": "o", "y": "s"}),
        figures.accuracy_figure({"one": accuracy_table(judge(answers))}),
        figures.scene_figure(items[:2]),
        figures.share_figure(dict.fromkeys(NAMES, 3)),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)
    marks = [text.get_text() for text in drawn[0].axes[0].texts]
    assert sum("•" in mark for mark in marks) == (matrix["q"] < 0.05).sum()


def test_verdicts_follow_the_numbers(monkeypatch):
    """Made-up tables: what is said of a step changes with them."""
    from cogvsr_utils.report.verdicts import reliance

    rankings = ["importance (paper)", "ablation on split A", "attribution patching"]
    tables = {
        "probe_baselines": pd.DataFrame({"predictor": ["all heads", "text", "untrained model", "grey picture"],
                                         "held_out": [0.9, 0.6, 0.5, 0.5], "held_beyond_low": [0.0, 0.1, 0.3, 0.3]}),
        "ranking_tests": pd.DataFrame({"ranking": rankings, "precision": [0.5, 0.6, 0.1],
                                       "p_precision": [0.01, 0.001, 0.4]}),
        "specific_damage-importance_paper": pd.DataFrame({"specific": ["yes"] * 7 + ["not tested"]}),
        "matched_controls-importance_paper": pd.concat(
            pd.DataFrame({"kind": kind, "function": "a", "set": range(50), "delta_log_prob": np.linspace(-0.1, 0, 50)})
            for kind in KINDS
        ),
        "null_models": pd.DataFrame({"case": ["untrained model"], "rule": ["max-T (strict)"], "selected": [0]}),
        "planted": pd.DataFrame({"rule": ["max-T", "elbow, joint probe"] * 40, "strength": [0.0] * 78 + [0.5] * 2,
                                 "false": [0, 5] * 40, "selected": [0, 5] * 40, "functions": 8, "crossed": 0,
                                 "found": [0] * 78 + [6, 6], "planted": [0] * 78 + [24, 24]}),
    }  # fmt: skip
    own = pd.DataFrame({"kind": ["own"], "function": "a", "set": -1, "delta_log_prob": -0.5})
    sets = tables["matched_controls-importance_paper"] = pd.concat([own, tables["matched_controls-importance_paper"]])
    monkeypatch.setattr("cogvsr_utils.report.verdicts.table", lambda experiment, result: tables[result.name])
    words = dict(reliance(Experiment("nano-internvl"))[["step", "rely on it"]].to_numpy())
    assert list(words.values()) == ["above these baselines", "as a hint", "no", "yes", "yes",
                                    "where words do not tell: not shown to exceed its 5 %",
                                    "yes, where it can be afforded", "not for single heads"]  # fmt: skip
    tables["probe_baselines"].loc[1, "held_beyond_low"] = -0.01
    tables["ranking_tests"].loc[0, "p_precision"] = 0.2
    tables["specific_damage-importance_paper"].loc[0, "specific"] = "no"
    sets.iloc[0, -1] = -0.05
    other = dict(reliance(Experiment("nano-internvl"))[["step", "rely on it"]].to_numpy())
    assert [other[step] != words[step] for step in words] == [True, True, False, True, True, False, False, False]


def test_shipped_measured_tables_are_of_these_weights():
    """Code may have moved on, which the page says; data and weights must be those that are shipped."""
    for folder in sorted(path for path in measured.FOLDER.glob("*") if path.is_dir()):
        experiment = Experiment(folder.name)
        made = measured.stamp(experiment)
        names = {result.name for result in measured.MEASURED}
        assert made["model"] == folder.name and made["profile"] == "full" and set(made["keys"]) <= names
        for result in measured.MEASURED:
            shipped = (folder / f"{result.name}.csv").is_file()
            assert shipped == (result.name in made["keys"]) == measured.is_measured(experiment, result)
            assert not shipped or len(measured.table(experiment, result)) > 0
        known = folder.name in measured.planted_models("light", "synth")
        assert known == (folder / "planted.json").is_file()
        if "weights" in made and folder.name in {path.name for path in NANO.iterdir()}:
            assert made["weights"] == experiment.weights_digest, f"measure {folder.name} anew, or say that it is older"
        # Where no head is planted, there are no parts of a set to ablate.
        parts = {planted.planted_parts} if known and not any(planted_truth(folder.name).heads.values()) else set()
        if not (NANO / folder.name).is_dir():  # they came after the weights of some were gone
            parts |= {planted.preset_scores, planted.planted_pairs}
        if folder.name == comparisons.TAUGHT:
            assert {*made["keys"]} == {result.name for result in comparisons.COMPARISONS}
            continue
        for result in set(planted.PLANTED) - parts if known else (validation.head_table,):
            table = measured.table(experiment, result)
            named = ("first", "second") if result is planted.planted_pairs else ("function",)
            assert {name for column in named for name in table[column]} == set(NAMES)


def test_the_note_is_about_the_tables_that_a_page_shows_as_measured():
    experiments = [Experiment("planted-joint"), Experiment("planted-joint", profile="full")]
    assert "planted-joint" in measured_note(experiments, planted.PLANTED).data
    for experiment, results in ((experiments[0], [validation.head_table]), (experiments[1], planted.PLANTED)):
        assert measured_note([experiment], results).data == "*Everything on this page was computed by this run.*"


def test_cells_of_damage_say_how_much_in_the_order_of_functions_and_dot_what_is_specific():
    names = list(reversed(NAMES))
    table = pd.DataFrame({"function": names, "difference": np.arange(8.0) - 4, "specific": ["yes", "no"] * 4})
    table["low"], table["high"] = table["difference"] - 0.5, table["difference"] + 0.25
    cells = damage_cells({"one": table, "two": table.iloc[:3]}).set_index("function")
    assert list(cells.index) == [SHORT[name] for name in NAMES] and list(cells) == ["one", "two"]
    assert (cells["two"] == "–").sum() == len(NAMES) - 3
    first, last = (cells.loc[SHORT[NAMES[n]], "one"].replace("\N{NO-BREAK SPACE}", " ") for n in (0, -1))
    wider = damage_cells({"one": table.assign(own=0.5, least=0.0, most=1.0)}, "own", "least", "most")
    assert wider["one"].str.startswith("+0.50").all() and wider["one"].str.endswith("•").sum() == 4
    assert last == "-4.00 (-4.50 to -3.75) •" and first == "+3.00 (+2.50 to +3.25)"


def test_specific_damage_is_counted_among_what_was_tested():
    table = pd.DataFrame({"specific": ["yes", "no", "not tested", "yes"], "difference": [-1.0, 0.5, np.nan, -2.5]})
    assert specific_count(table) == "2 of 3 (-1.00)"
    assert specific_count(table[table["specific"] == "not tested"]) == "0 of 0"


def test_cells_of_pairs_are_of_the_row_s_steps_and_dot_both_ways():
    rows = [(NAMES[0], NAMES[1], -1.04, -2.0, "yes"), (NAMES[2], NAMES[0], 0.5, -0.3, "no"),
            (NAMES[1], NAMES[2], np.nan, np.nan, "not tested")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["first", "second", "on_first", "on_second", "dissociated"])
    cells = pair_cells(table).set_index("steps of")
    first, second, third = (SHORT[name] for name in NAMES[:3])
    assert cells.loc[first, second] == "-1.0 •" and cells.loc[second, first] == "-2.0 •"
    assert cells.loc[third, first] == "+0.5" and cells.loc[first, third] == "-0.3"
    assert cells.loc[second, third] == cells.loc[third, second] == "–" and cells.loc[first, first] == ""


def test_words_do_not_tell_the_function_of_crossed_steps():
    """The gate that the crossed part has to pass, on the table that the first page shows."""
    gate = measured.table(Experiment("nano-internvl"), baselines.text_gate[CROSSED[SELECTION]]).set_index("predictor")
    majority = gate.loc["majority", "accuracy"]
    assert len(gate) == 3 and (gate["accuracy"] <= majority + 0.05).all() and majority < 0.25


def test_a_missing_value_is_a_dash():
    nan = np.nan
    table = pd.DataFrame({"x": [0.5, nan, 0.5], "ci_low": [0.4, nan, nan], "ci_high": [0.6, nan, nan]})
    first, missing, alone = with_interval(table, "x")["x"]
    assert first.startswith("50.0% (") and missing == "–" and alone == "50.0%"
