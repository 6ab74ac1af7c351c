from cogvsr_utils import (
    FunctionProbe,
    HeadProbes,
    answer,
    capture,
    compare,
    head_table,
    judge,
    load_items,
    load_vlm,
    mask,
    top_heads,
)

vlm, items = load_vlm("nano-internvl"), load_items("mine.jsonl", split="A")
activations = capture(vlm, items, store="mine-activations", answers=answer(vlm, items))
heads, index = activations.heads.table, activations.index  # one row a head, one row a step
x, y, groups = activations.by_head(), index["function"], index["group_id"]
single, joint = HeadProbes().fit(x, y, groups), FunctionProbe().fit(x, y, groups, heads["layer"])
table = head_table(heads, single.classes_, {"importance": joint.importance_, "auroc": single.auroc_})
spatial = top_heads(table, "Spatial Perception", k=5)

test = load_items("mine.jsonl", split="C")
before, after = (judge(answer(vlm, test, edits=edits)) for edits in (None, mask(spatial)))
print(spatial, compare(after, before), sep="\n")
