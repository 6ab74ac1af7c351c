from dataclasses import replace

from cogvsr_utils import answer, compare, confidence, judge, load_items, load_vlm
from cogvsr_utils.models.attention_edits import adaptvis

vlm = load_vlm("nano-internvl")
items = [replace(item, steps=[]) for item in load_items("synth", split="C", limit=100)]  # main questions alone
sure = confidence(vlm, items)  # the largest probability of a reply's first token, by uid
edits = {uid: adaptvis(vlm, value, threshold=sure.median()) for uid, value in sure.items()}  # one for each question
after = judge(answer(vlm, items, edits=edits))
print(compare(after, judge(answer(vlm, items)))[["function", "n", "change", "ci_low", "ci_high"]].round(3).to_string())
