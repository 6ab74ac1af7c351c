"""What a nano model can do on scenes that it never saw: ``python -m cogvsr_utils.nano.report nano-internvl``.

Writes two tables beside its weights, both for full precision and NF4, answering step by step with its own earlier
answers: ``accuracy.csv``, by function on split C, ``kinds.csv``, main questions by kind on C and hard, and for a model
that knows their words ``crossed.csv``, by function on C in crossed wording.
"""

import pandas as pd
import typer

from cogvsr_utils.analysis.accuracy import accuracy_table
from cogvsr_utils.dataset.splits import CROSSED, TEST
from cogvsr_utils.functions import MAIN, MAIN_NAME, SPATIAL
from cogvsr_utils.paths import NANO
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import answers


def main(name: str = typer.Argument("nano-internvl"), crossed: bool = True) -> None:
    """Answer splits C and hard, or take kept answers, and write the tables."""
    by_function, by_kind, by_crossed = [], [], []
    for quantize in (None, "4bit"):
        experiment = Experiment(name, quantize)
        judged, hard = answers[TEST](experiment), answers["hard"](experiment)
        pooled = judged[~judged["function"].isin([*SPATIAL, MAIN_NAME])]
        judged = pd.concat([judged, pooled.assign(function="Six non-spatial functions")])
        mains = pd.concat([judged, hard])
        mains = mains[mains["step"] == MAIN]
        by_function.append(accuracy_table(judged).assign(quantize=quantize or "none"))
        by_kind.append(accuracy_table(mains, by="subset").assign(quantize=quantize or "none"))
        if crossed:
            table = accuracy_table(answers[CROSSED[TEST]](experiment))
            by_crossed.append(table.assign(quantize=quantize or "none"))
    for tables, file in ((by_function, "accuracy.csv"), (by_kind, "kinds.csv"), (by_crossed, "crossed.csv")):
        if tables:
            pd.concat(tables).to_csv(NANO / name / file, index=False, float_format="%.4f")


if __name__ == "__main__":
    typer.run(main)
