"""What each step of the paper, and of the strict reading, can be relied on for: words chosen by the numbers.

reliance(experiment)    one row a step: what was found, and whether to rely on it
departures()            where this book departs from the paper's protocol, and why
"""

import pandas as pd

from cogvsr_utils.checks.planting import power, selections_of_nothing
from cogvsr_utils.pipeline import ablation, baselines, damage, prediction, selection, validation
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.measured import table
from cogvsr_utils.report.pages import NO_DIFFERENCE
from cogvsr_utils.stats import ALPHA


def reliance(experiment: Experiment) -> pd.DataFrame:
    """Columns: step, found, rely on it. Numbers are those of ``measured.table``.

    A ranking is called a hint where its precision beats chance with p below 5 % over all rankings.
    """
    probes = table(experiment, baselines.probe_baselines).set_index("predictor")
    accuracy = probes["held_out"]
    tests = table(experiment, prediction.ranking_tests).set_index("ranking")
    specific = table(experiment, damage.specific_damage[selection.IMPORTANCE])["specific"]
    tested, shown = int((specific != "not tested").sum()), int((specific == "yes").sum())
    sets = table(experiment, ablation.matched_controls[selection.IMPORTANCE])
    controls = ablation.all_against_controls(sets).iloc[0]  # of the three kinds the hardest
    trials = table(experiment, validation.planted)
    nothing, found = selections_of_nothing(trials).set_index("rule"), power(trials).set_index(["rule", "strength"])
    found = found.loc["max-T", "power"].dropna()
    of_elbow, max_t = nothing.loc["elbow, joint probe"], nothing.loc["max-T"]
    elbow = of_elbow["heads_a_function"]
    precision, p = tests["precision"], tests["p_precision"]
    above = (probes.loc[["text", "untrained model", "grey picture"], "held_beyond_low"] > 0).all()

    def hint(ranking):
        return "as a hint" if p[ranking] < ALPHA else "not for single heads"

    rows = [
        ("a joint probe reads the function from the heads",
         f"on wordings held out, all heads {accuracy['all heads']:.1%} of the steps, the text alone "
         f"{accuracy['text']:.1%}, an untrained model's heads {accuracy['untrained model']:.1%}, heads that see a grey "
         f"picture {accuracy['grey picture']:.1%}",
         "above these baselines" if above else "only for what is above these"),
        ("gradient × activation ranks the heads",
         f"{precision[selection.IMPORTANCE]:.0%} of its top heads are among those whose ablation costs most "
         f"(p {p[selection.IMPORTANCE]:.4f})", hint(selection.IMPORTANCE)),
        ("the elbow counts functional heads",
         f"{elbow:.1f} heads a function with shuffled labels and nothing planted (trials: {of_elbow['repeats']:.0f}); "
         "every curve has an elbow", "no" if elbow > 0.5 else "yes"),
        ("ablating a function's heads breaks it",
         f"log-probability of its own steps {controls['own']:+.2f}, {controls['mean']:+.2f} for random sets "
         f"({controls['kind']}, p {controls['p']:.3f})",
         "yes" if controls["p"] < ALPHA and controls["own"] < controls["mean"] else NO_DIFFERENCE),
        ("and breaks that function rather than others",
         f"shown for {shown} of the {tested} functions that can be tested, over wordings and scenes",
         "yes" if shown == tested > 0 else "not without this test" if shown else NO_DIFFERENCE),
        ("strict: max-T of each head's strength",
         f"selects anything in {max_t['any_selected']:.1%} of {max_t['repeats']:.0f} trials with nothing planted "
         f"({max_t['ci_low']:.1%} to {max_t['ci_high']:.1%}); of heads planted at "
         f"{found.index[-1]:g} standard deviations it finds {found.iloc[-1]:.0%}, at {found.index[0]:g} "
         f"{found.iloc[0]:.0%}",
         "where words do not tell: not shown to exceed its 5 %" if max_t["ci_low"] <= ALPHA else "no"),
        ("strict: ablation of each head, on other scenes",
         f"{precision[selection.ABLATION]:.0%} of its top heads are confirmed on split C "
         f"(p {p[selection.ABLATION]:.4f})",
         "yes, where it can be afforded" if p[selection.ABLATION] < ALPHA else "not for single heads"),
        ("a cheap approximation: attribution patching",
         f"{precision['attribution patching']:.0%} of its top heads (p {p['attribution patching']:.4f})",
         hint("attribution patching")),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["step", "found", "rely on it"])


def departures() -> pd.DataFrame:
    """Columns: step, paper, here, why, undone (whether the tables below it undo it)."""
    rows = [
        ("tokens", "three of an answer, where they stand",
         "all of the answer, one to the left, where they are predicted",
         "what predicts an answer comes before it; most answers here are one word", "yes"),
        ("which three", "those that a language model finds important", "the least expected ones",
         "no other model is needed", "no"),
        ("inputs", "as they are", "standardised", "heads differ in size, which is no matter of function", "yes"),
        ("optimiser", "Adam at 0.0001; in its predecessor's code one step at a time", "Adam at 0.001, 128 at a time",
         "100 epochs in seconds", "with 32 at a time, so fewer updates"),
        ("importance", "on test samples", "on scenes of split A kept out of fitting", "no head is selected on C", "no"),
        ("how many heads", "those before the elbow", "a tenth of all, the elbow beside it",
         "equal numbers compare functions; an elbow finds some in noise", "yes"),
        ("ablation", "the last position, at each token", "every token",
         "a head reads the picture long before the answer", "yes"),
        ("what is right", "likeness to the reply before, or a judge", "the answer itself", "unlike is not wrong", "no"),
        ("steering", "0.1 standard deviations", "0.5 to 2, tuned on split B",
         "the strength is chosen on other items", "no"),
        ("random sets", "drawn from all other heads", "drawn jointly, of three kinds, two-sided",
         "heads differ by layer and size", "no"),
        ("cues of both kinds", "boxes, and a second picture of masks", "boxes, and their places in words",
         "one picture a question, with its placebo", "no"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["step", "paper", "here", "why", "undone"])
