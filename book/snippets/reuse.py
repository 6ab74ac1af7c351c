from cogvsr_utils import answer, capture, compare, judge, load_items, load_vlm, mask

vlm = load_vlm("nano-internvl")  # or a hub id, with quantize="4bit"
items = load_items("synth", split="C", limit=20)
before = judge(answer(vlm, items))
after = judge(answer(vlm, items, edits=mask((1, head) for head in range(12))))
print(compare(after, before)[["function", "n", "change", "ci_low", "ci_high"]])
activations = capture(vlm, items, store="activations", answers=before)
print(activations.by_head().shape)  # (steps, heads, head_dim)
