"""An edited model in lmms-eval itself, on a task of the test's own."""

import json

import pytest
import torch
from PIL import Image

from cogvsr_utils import Item, intervene, load_items, mask
from cogvsr_utils.models.generation import CachedGeneration
from cogvsr_utils.models.lmms_model import EditedModel, _cut

try:
    from lmms_eval.api.instance import Instance
except ImportError:
    Instance = None
needs_lmms = pytest.mark.skipif(Instance is None, reason="lmms-eval is not installed")


def test_without_lmms_eval_it_is_said(vlm):
    if Instance is None:
        with pytest.raises(ImportError, match="lmms-eval is not installed"):
            EditedModel("nano-internvl")


def test_a_reply_ends_at_the_first_stop_string():
    assert _cut("a\nb. c", ["\n", "."]) == "a" and _cut("a", None) == "a" and _cut("a.b", ".") == "a"
    assert _cut("first\n\nthen", ["\n\n"]) == "first\n\nthen", "a reply may reason first"


@pytest.fixture(scope="module")
def documents(small_set):
    items = load_items(small_set)[:6]
    return [{"question": item.question, "answer": item.answer, "image": item.image} for item in items]


def pictures(document):
    return [document["image"]]


def requests(kind, documents, given):
    return [
        Instance(request_type=kind, arguments=(each["question"], given(each), pictures, n, "mine", "test"),
                 idx=0, metadata={"task": "mine", "doc_id": n, "repeats": 1})
        for n, each in enumerate(documents)
    ]  # fmt: skip


def chat(question):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


@needs_lmms
def test_replies_are_those_of_the_model_with_its_heads_edited(vlm, documents, tmp_path):
    heads = [(int(layer), int(head)) for layer, head in vlm.heads.pairs[:90]]
    (tmp_path / "edits.jsonl").write_text(mask(heads).to_json() + "\n")
    plain = EditedModel("nano-internvl", batch_size=4)
    edited = EditedModel("nano-internvl", edits=str(tmp_path / "edits.jsonl"), batch_size=4)
    for model in (plain, edited):
        model.task_dict = {"mine": {"test": documents}}
    asked = requests("generate_until", documents, lambda _: {"max_new_tokens": 6, "until": ["\n"]})
    for model, edits in ((plain, []), (edited, mask(heads))):
        expected = []
        for each in documents:
            item = Item("1", "mine", "1", each["question"], "", "text", [], image=each["image"])
            with intervene(vlm, edits):
                expected += CachedGeneration(vlm, [item], 6).reply([chat(each["question"])])
        assert model.generate_until(asked) == expected
    assert plain.generate_until(asked) != edited.generate_until(asked)
    with pytest.raises(ValueError, match="2 pictures"):
        two = requests("generate_until", documents[:1], lambda _: {})
        two[0].arguments = (*two[0].args[:2], lambda doc: [doc["image"]] * 2, *two[0].args[3:])
        plain.generate_until(two)


@needs_lmms
def test_a_continuation_has_the_loss_that_the_model_gives_it(vlm, documents):
    model = EditedModel("nano-internvl")
    model.task_dict = {"mine": {"test": documents}}
    for option in ("red", "yes"):
        token = vlm.tokenizer.convert_tokens_to_ids(option)
        found = model.loglikelihood(requests("loglikelihood", documents, lambda _, option=option: option))
        for document, (loss, greedy) in zip(documents, found, strict=True):
            with Image.open(document["image"]) as picture:
                inputs = vlm.encode([vlm.render(chat(document["question"]), prompt=True)], [picture.convert("RGB")])
            with torch.inference_mode():
                expected = vlm.model(**inputs).logits[0, -1].float().log_softmax(0)
            assert loss == pytest.approx(-float(expected[token]), abs=1e-3)
            assert greedy == (int(expected.argmax()) == token)


@needs_lmms
def test_lmms_eval_runs_it_on_a_task(documents, tmp_path):
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    rows = tmp_path / "rows.json"
    rows.write_text("\n".join(json.dumps(each) for each in documents))
    (tmp_path / "mine.py").write_text(
        "def pictures(doc):\n    return [doc['image']]\n\n\ndef text(doc, **_):\n    return doc['question']\n\n\n"
        "def score(doc, replies):\n    return {'right': float(replies[0] == doc['answer'])}\n"
    )
    (tmp_path / "mine.yaml").write_text(
        f"dataset_path: json\ndataset_kwargs:\n  data_files: {{test: {rows}}}\ntask: mine\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_visual: !function mine.pictures\ndoc_to_text: !function mine.text\n"
        "doc_to_target: answer\nprocess_results: !function mine.score\ngeneration_kwargs: {max_new_tokens: 6}\n"
        "metric_list:\n  - {metric: right, aggregation: mean, higher_is_better: true}\n"
    )
    found = evaluator.simple_evaluate(
        model="cogvsr", model_args="pretrained=nano-internvl", tasks=["mine"], batch_size=2,
        task_manager=TaskManager(include_path=str(tmp_path)), log_samples=True,
    )  # fmt: skip
    scored = [row["right"] for row in found["samples"]["mine"]]
    assert found["results"]["mine"]["right,none"] == pytest.approx(sum(scored) / len(documents))
