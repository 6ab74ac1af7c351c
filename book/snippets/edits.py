from pathlib import Path

from cogvsr_utils import answer, attend, edit_from_json, intervene, load_items, load_vlm, mask

vlm = load_vlm("nano-internvl")  # or a hub id, with quantize="4bit"
items = load_items("synth", split="C", limit=20)
heads = [(layer, head) for layer in (3, 4, 5) for head in range(12)]
edits = [mask(heads), attend([(6, 0)], "add", 0.7)]  # heads off; one head sees more of the picture

before = answer(vlm, items)
with intervene(vlm, edits) as fired:  # around anything that runs the model, generate too
    after = answer(vlm, items)
print("the edit of heads acted", fired["all"], "times")
print("replies that change:", (before["prediction"] != after["prediction"]).sum(), "of", len(before))

Path("edits.jsonl").write_text("\n".join(edit.to_json() for edit in edits))
read = [edit_from_json(line) for line in Path("edits.jsonl").read_text().splitlines()]
print("the same edits:", read == edits, "- the same replies:", answer(vlm, items, edits=read).equals(after))
