from cogvsr_utils import Experiment
from cogvsr_utils.pipeline import ablation, selection, validation

experiment = Experiment("nano-internvl", source="mine.jsonl")  # or a hub id and "4bit"
print(validation.head_table(experiment))
print(ablation.ablation_matrix(experiment))
print(ablation.against_controls(ablation.matched_controls[selection.IMPORTANCE](experiment)))
