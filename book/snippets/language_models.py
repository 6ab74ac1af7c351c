from cogvsr_utils import (
    Endpoint,
    answer,
    decompose,
    decompose_prompts,
    estimate,
    export_review,
    judge,
    judge_agreement,
    judge_with,
    load_items,
    load_vlm,
    sample_items,
    write_items,
)  # fmt: skip

model = Endpoint("gpt-4o-mini", prices=(0.15, 0.6))  # or base_url="http://localhost:8000/v1" for one of your own

items = load_items("synth", split="C", limit=20)
replies = answer(load_vlm("nano-internvl"), items)
judged = judge_with(replies, items, model, "kept/judge")
print(judge_agreement(judged, judge(replies)).to_string(index=False))

questions = sample_items(load_items("vsr:vsr/test.jsonl"), n=400)
print(estimate(model, decompose_prompts(questions), "kept/steps"))
built = decompose(questions, model, "kept/steps")
write_items("mine.jsonl", built.items)
export_review(built.items, "review")
print(built.rejected["reason"].value_counts())
