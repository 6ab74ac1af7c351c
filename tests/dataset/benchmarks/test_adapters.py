"""Every benchmark from every container, with the faults that the published files have."""

import base64
import json
import shutil
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cogvsr_utils.dataset.benchmarks.benchmark import load_benchmark
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.dataset.benchmarks.spatialeval import by_question
from cogvsr_utils.dataset.benchmarks.vsr import shared_groups
from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.loading import BENCHMARKS, load_items


@pytest.fixture(scope="session")
def synth(small_set):
    return load_items(small_set)


@pytest.fixture(scope="session")
def written(synth, tmp_path_factory):
    return write_lookalikes(synth, tmp_path_factory.mktemp("lookalikes"))


@pytest.fixture
def copies(written, tmp_path):
    """The look-alikes, to be changed."""
    root = next(iter(written.values())).parents[1]
    shutil.copytree(root, tmp_path / "copies")
    return {name: tmp_path / "copies" / path.relative_to(root) for name, path in written.items()}


def load(name, path):
    return load_benchmark(BENCHMARKS[name], path)


def png(color=(200, 30, 30), size=(8, 6)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_look_alikes_come_back_with_their_answers_and_pictures(written, synth, name):
    loaded = load(name, written[name])
    own = [i for i in synth if name == "cogvsr" or i.meta.get("source_benchmark") == name]
    assert not loaded.skipped and load_items(f"{name}:{written[name]}") == loaded.items
    once = [i for i in loaded.items if name != "3dsrbench" or (i.meta["rotation"] == 0 and not i.meta["flip"])]
    assert sorted(i.answer for i in once) == sorted(i.answer for i in own)
    for item, like in zip(sorted(once, key=lambda i: i.answer), sorted(own, key=lambda i: i.answer), strict=True):
        assert open_image(item).size == open_image(like).size
    assert len({i.uid for i in loaded.items}) == len(loaded.items)
    assert all(i.benchmark == name for i in loaded.items)


def test_labelled_steps_come_back(written, synth):
    found = {i.question: i for i in load("cogvsr", written["cogvsr"]).items}
    for item in synth:
        steps = found[item.question].steps
        assert {s.function for s in steps} <= {s.function for i in synth for s in i.steps}
    assert sum(len(i.steps) for i in load("cogvsr", written["cogvsr"]).items) == sum(len(i.steps) for i in synth)


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"spatialeval"}))  # whose pictures are in its table
def test_a_missing_picture_costs_its_rows_alone_and_is_named(copies, name, caplog):
    whole = load(name, copies[name])
    folder = copies[name] if copies[name].is_dir() else copies[name].parent
    pictures = sorted(folder.rglob("*.png"))
    lost = {i.uid for i in whole.items if i.image == str(pictures[0])}
    pictures[0].unlink()
    rest = load(name, copies[name])
    assert lost and {i.uid for i in rest.items} == {i.uid for i in whole.items} - lost
    assert all(pictures[0].name in reason for _, reason in rest.skipped)
    assert f"{len(rest.skipped)} rows" in caplog.text


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_table_of_another_benchmark_is_refused(copies, name):
    other = "vsr" if name != "vsr" else "3dsrbench"
    title = BENCHMARKS[name].title
    with pytest.raises(ValueError, match=rf"has the fields \[.*\], without \[.*\]; expected a table of {title}"):
        load(name, copies[other])
    with pytest.raises(FileNotFoundError, match=f"no copy of {title}"):
        load_items(f"{name}:nowhere")


@pytest.mark.parametrize("content, message", [
    ("", "has no rows"), ("[", "is damaged"), ("[1, 2]", "is damaged .*expected a list of objects"),
])  # fmt: skip
def test_a_table_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=rf"t\.json {message}"):
        load("vsr", tmp_path / "t.json")


def test_what_else_lies_in_a_folder_is_passed_over_and_named(copies, caplog):
    folder = copies["vsr"].parent
    for name, content in (("notes.json", "[]"), ("meta_data.csv", "annotator,age\n1,30\n"), ("torn.jsonl", "{")):
        (folder / name).write_text(content)
    loaded = load("vsr", folder)
    assert len(loaded.items) == len(load("vsr", copies["vsr"]).items)
    assert [place for place, _ in loaded.skipped] == [f"vsr/{n}" for n in ("meta_data.csv", "notes.json", "torn.jsonl")]
    assert "3 rows or tables" in caplog.text


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder, color in (("a", (200, 0, 0)), ("b", (0, 0, 200))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes(png(color))
    rows = [cogqa_row(question=name, image=name) for name in ("a/0.png", "images/b/0.png", "0.png")]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    loaded = load("cogvsr", tmp_path / "t.json")
    assert [open_image(item).getpixel((0, 0)) for item in loaded.items] == [(200, 0, 0), (0, 0, 200)]
    assert "2 different pictures are named 0.png" in loaded.skipped[0][1]
    (tmp_path / "t.json").write_text(json.dumps([cogqa_row(), cogqa_row(question="?", image="000000451431")]))
    assert "nor a picture in base64" in load("cogvsr", tmp_path / "t.json").skipped[0][1]


def test_a_folder_without_tables_and_a_file_of_another_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table in"):
        load("vsr", tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is no table; expected one of"):
        load("vsr", tmp_path / "notes.txt")


# VSR


def vsr_row(**changes):
    return {"image": "1.jpg", "image_link": "http://images.cocodataset.org/val2017/1.jpg",
            "caption": "The horse is far away from the car.", "label": 0, "relation": "far away from", "subj": "orse",
            "obj": "car", "annotator_id": 1, "vote_true_validator_id": "[2, 9]", "vote_false_validator_id": [3],
            "reference_frame": 1.0} | changes  # fmt: skip


@pytest.fixture
def vsr(tmp_path):
    """Writes rows as a split of VSR, whose pictures are in the two folders of COCO beside ``splits``."""
    for folder, name in (("train2017", "0.jpg"), ("val2017", "1.jpg")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / folder / name)

    def write(*rows, split="test"):
        path = tmp_path / "splits" / "random" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return path

    return write


def test_vsr_subject_votes_frame_and_category(vsr):
    (item,) = load("vsr", vsr(vsr_row())).items
    assert item.answer == "no" and item.subset == "Proximity" and item.group_id == "1.jpg"
    assert item.meta["subject"] == "horse" and item.meta["votes_true"] == [2, 9] and item.meta["votes_false"] == [3]
    assert item.meta["reference_frame"] == 1.0 and item.split == "test"
    assert "val2017" in item.image
    (other,) = load("vsr", vsr(vsr_row(relation="congruent", caption="The cat is congruent with it."))).items
    assert other.subset == "Unlisted"
    (among,) = load("vsr", vsr(vsr_row(relation="among", caption="The cat is among the dogs."))).items
    assert among.subset == "Unallocated"


@pytest.mark.parametrize("change, reason", [
    ({"label": 2}, "label is 2; expected 0 or 1"), ({"relation": "under"}, "does not have the relation 'under'"),
    ({"image": "9.jpg"}, "the picture 9.jpg is not"), ({"image": None}, "no picture is named"),
])  # fmt: skip
def test_vsr_rows_that_cannot_be_used_are_named(vsr, change, reason):
    loaded = load("vsr", vsr(vsr_row(caption="The cat is near the far away from dog."), vsr_row(**change)))
    assert len(loaded.items) == 1
    ((place, why),) = loaded.skipped
    assert place == "test.jsonl, row 2" and reason in why


def test_vsr_splits_of_a_folder_and_what_leaks(vsr):
    vsr(vsr_row(caption="The pig is far away from the car."), split="train")
    path = vsr(vsr_row(), vsr_row(image="0.jpg"))
    items = load("vsr", path.parent).items
    parts = {split: [i for i in items if i.split == split] for split in ("train", "test")}
    assert len(items) == 3 and shared_groups(parts["train"], parts["test"]) == ["1.jpg"]
    again = load("vsr", vsr(vsr_row(), vsr_row()))
    assert len(again.items) == 1 and "is there already" in again.skipped[0][1]


# SpatialEval


def spatialeval_row(mode="vqa", **changes):
    row = {"id": f"mazenav.{mode}.7.2", "text": "A maze. Available options:\nA. Yes\nB. No.", "oracle_answer": "No",
           "oracle_option": "B", "oracle_full_answer": "B. No"}  # fmt: skip
    return row | ({} if mode == "tqa" else {"image": {"bytes": png(), "path": "7.png"}}) | changes


def test_spatialeval_modes_are_paired_and_group_by_picture(tmp_path):
    for mode in ("tqa", "vqa", "vtqa"):  # as the hub has them
        (tmp_path / mode).mkdir()
        pd.DataFrame([spatialeval_row(mode)]).to_parquet(tmp_path / mode / "test-00000-of-00001.parquet")
    items = load("spatialeval", tmp_path).items
    assert [i.image is None for i in items] == [True, False, False] and {i.group_id for i in items} == {"mazenav.7"}
    assert items[0].options == ["Yes", "No"] and items[0].subset == "mazenav 2"
    assert by_question(items) == {"mazenav.7.2": dict(zip(("tqa", "vqa", "vtqa"), items, strict=True))}
    pd.DataFrame(
        [spatialeval_row("vqa", oracle_answer="Yes", oracle_option="A", oracle_full_answer="A. Yes")]
    ).to_parquet(tmp_path / "vqa" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"the modes of mazenav\.7\.2 differ"):
        by_question(load("spatialeval", tmp_path).items)


@pytest.mark.parametrize("change, reason", [
    ({"oracle_option": "A"}, "disagree"), ({"oracle_full_answer": "B. Yes"}, "disagree"),
    ({"id": "mazenav.7.2"}, "expected task.mode.number.family"), ({"id": "chess.vqa.1.0"}, "expected task.mode"),
    ({"text": "A maze."}, "disagree"), ({"image": None}, "no picture"),
])  # fmt: skip
def test_spatialeval_rows_that_disagree_with_themselves_are_left_out(tmp_path, change, reason):
    rows = [spatialeval_row(), spatialeval_row(id="mazenav.vqa.8.2") | change]
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    loaded = load("spatialeval", tmp_path / "t.parquet")
    assert len(loaded.items) == 1 and reason in loaded.skipped[0][1]


# Spatial457


def spatial457_row(answer, number=100001, **changes):
    return {"image_filename": "superCLEVR_new_000001.png", "question": "Is it?", "answer": answer, "program": [],
            "question_index": number} | changes  # fmt: skip


@pytest.fixture
def spatial457(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "superCLEVR_new_000001.png").write_bytes(png())
    (tmp_path / "questions").mkdir()

    def write(*rows, name="L3_2D_spatial", wrapped=True):
        content = {"info": {}, "questions": list(rows)} if wrapped else list(rows)
        (tmp_path / "questions" / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_spatial457_types_and_both_spellings_of_a_level(spatial457):
    rows = [spatial457_row(a, n) for n, a in enumerate([True, "False", "Yes", 10, "3", "sedan", "left", "teal"])]
    items = load("spatial457", spatial457(*rows)).items
    assert [(i.answer_type, i.answer) for i in items] == [
        ("yesno", "yes"), ("yesno", "no"), ("yesno", "yes"), ("int", "10"), ("int", "3"), ("closed", "sedan"),
        ("closed", "left"), ("closed", "teal")]  # fmt: skip
    assert {i.subset for i in items} == {"L3_2d_spatial"}
    assert items[6].options == ["left", "right", "front", "back"] and items[7].options is None
    spatial457(spatial457_row(True), name="L3_2d_spatial", wrapped=False)
    again = load("spatial457", spatial457(spatial457_row("jet"), name="L4_occ"))
    assert {i.subset for i in again.items} == {"L3_2d_spatial", "L4_occ"}


def test_spatial457_a_program_that_ends_otherwise_and_a_file_without_a_level(spatial457):
    same = [(3, 3), (3, 3.0), ("3", 3), (True, "Yes"), ("yes", True), ("suv", None)]
    rows = [spatial457_row(answer, n, program=[{"_output": output}]) for n, (answer, output) in enumerate(same)]
    loaded = load("spatial457", spatial457(*rows, spatial457_row(3, 99, program=[{"_output": 4}])))
    assert len(loaded.items) == len(same) and "its program ends with 4" in loaded.skipped[0][1]
    with pytest.raises(ValueError, match=r"no row of .* can be used, such as all\.json, row 1: .* names no level"):
        load("spatial457", spatial457(spatial457_row(3), name="all") / "questions" / "all.json")


@pytest.mark.parametrize("column", ["category", "level"])
def test_spatial457_from_a_tsv_with_pictures_inside(tmp_path, column):
    row = {
        "index": 5,
        "image": base64.b64encode(png()).decode(),
        "question": "Is it?",
        "answer": "Yes",
        column: "L1_single",
    }
    pd.DataFrame([row]).to_csv(tmp_path / "Spatial457.tsv", sep="\t", index=False)
    (item,) = load("spatial457", tmp_path / "Spatial457.tsv").items
    assert item.subset == "L1_single" and item.meta["gold"] == "Yes" and open_image(item).size == (8, 6)


def test_spatial457_as_the_hub_has_it(tmp_path):
    """A folder for each level, and pictures in the tables: questions on one of them are one group."""
    for level in ("L1_single", "L5_6d_spatial"):
        (tmp_path / level).mkdir()
        rows = [
            {"image": {"bytes": png(), "path": None}, "question": f"{n}?", "answer": "True", "question_index": n}
            for n in range(3)
        ]
        pd.DataFrame(rows).to_parquet(tmp_path / level / "validation-00000-of-00001.parquet")
    items = load("spatial457", tmp_path).items
    assert len(items) == 6 and {i.subset for i in items} == {"L1_single", "L5_6d_spatial"}
    assert len({i.group_id for i in items}) == 1 and {i.meta["gold"] for i in items} == {"Yes"}


# 3DSRBench


def threedsr_row(index="VIN6MS3J", **changes):
    return {"index": index, "question": "Which is higher?", "A": "glove", "B": "hat", "C": None, "D": float("nan"),
            "answer": "B", "category": "height_higher", "image_source": "MS-COCO",
            "image_url": "http://images.cocodataset.org/train2017/1.png"} | changes  # fmt: skip


@pytest.fixture
def left_red(tmp_path):
    """A picture whose left half is red, where COCO's would be."""
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4, 0] = 255
    (tmp_path / "train2017").mkdir()
    Image.fromarray(pixels).save(tmp_path / "train2017" / "1.png")
    return pixels


def test_3dsrbench_mirrors_what_an_address_names_and_turns_options(tmp_path, left_red):
    pd.DataFrame([threedsr_row(), threedsr_row("VIN6MS3J-flip", answer="A")]).to_parquet(tmp_path / "t.parquet")
    items = load("3dsrbench", tmp_path / "t.parquet").items
    assert [i.uid for i in items] == ["VIN6MS3J#0/2", "VIN6MS3J#1/2", "VIN6MS3J-flip#0/2", "VIN6MS3J-flip#1/2"]
    assert [i.options for i in items[:2]] == [["glove", "hat"], ["hat", "glove"]]
    assert [i.answer for i in items] == ["hat", "hat", "glove", "glove"]
    assert "A. hat\nB. glove" in items[1].question and {i.group_id for i in items} == {"1.png"}
    np.testing.assert_array_equal(np.asarray(open_image(items[0])), left_red)
    np.testing.assert_array_equal(np.asarray(open_image(items[2])), left_red[:, ::-1])


def test_3dsrbench_embedded_pictures_are_as_they_are_and_rotations_in_a_table_are_not_doubled(tmp_path, left_red):
    file = BytesIO()
    Image.fromarray(left_red).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    names = ["R0T5UYLN", "R0T5UYLN-1", "R0T5UYLN-flip", "R0T5UYLN-flip-1"]
    rows = [threedsr_row(number, qid=name, image=picture) for number, name in enumerate(names)]
    pd.DataFrame(rows).to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    items = load("3dsrbench", tmp_path / "t.tsv").items
    assert len(items) == 4 and not any(i.mirror for i in items)
    np.testing.assert_array_equal(np.asarray(open_image(items[2])), left_red)


@pytest.mark.parametrize("missing", [None, float("nan"), "nan", ""])
def test_3dsrbench_options_that_are_not_there(tmp_path, left_red, missing):
    pd.DataFrame([threedsr_row(C=missing, D=missing)]).to_csv(tmp_path / "t.csv", index=False)
    assert load("3dsrbench", tmp_path / "t.csv").items[0].options == ["glove", "hat"]
    for answer in ("C", "", " ", "AB"):
        rows = [threedsr_row(), threedsr_row("OTHER", answer=answer, C=missing)]
        pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
        assert "expected one of the letters" in load("3dsrbench", tmp_path / "t.csv").skipped[0][1]


# CogVSR, CogVision, CogQA


def cogqa_row(**changes):
    return {"question": "Where?\\nOptions:\\n- yard", "answer": "Yard.\n", "generated": [
        {"subquestion": "What is it?", "answer": 3, "cognitive_skill": "Retrieval"}]} | changes  # fmt: skip


def test_cogqa_as_it_is_published(tmp_path):
    (tmp_path / "gsm8k_100.json").write_text(json.dumps(cogqa_row()) + "\n" + json.dumps(cogqa_row(question="Who?")))
    items = load("cogvsr", tmp_path / "gsm8k_100.json").items
    assert items[0].question == "Where?\nOptions:\n- yard" and items[0].answer == "Yard." and items[0].image is None
    (step,) = items[0].steps
    assert (step.answer, step.answer_type, step.function) == ("3", "int", "Information Extraction & Understanding")


@pytest.mark.parametrize("change, reason", [
    ({"generated": [{"subquestion": "?", "answer": "x", "type": "Induction"}]}, "unknown function 'Induction'"),
    ({"generated": [{"subquestion": "?", "answer": "x", "label": ["Retrieval", "Inference"]}]}, "expected one"),
    ({"generated": []}, "no steps"), ({"generated": [{"subquestion": "?", "answer": "x"}]}, "expected one of"),
    ({"images": ["a.png", "b.png"]}, "names 2 pictures"), ({"question": " "}, "blank"),
])  # fmt: skip
def test_cogqa_rows_that_cannot_be_used_are_named(tmp_path, change, reason):
    (tmp_path / "t.json").write_text(json.dumps([cogqa_row(), cogqa_row(question="Who?") | change]))
    loaded = load("cogvsr", tmp_path / "t.json")
    assert len(loaded.items) == 1 and reason in loaded.skipped[0][1]


@pytest.mark.parametrize("names", [
    ("generated", "subquestion", "cognitive_skill"), ("steps", "question", "function"),
    ("subqas", "sub_question", "label"), ("sub_questions", "question", "type"),
])  # fmt: skip
def test_cogvsr_by_any_of_its_likely_names(tmp_path, names):
    steps, question, function = names
    (tmp_path / "1.png").write_bytes(png())
    row = {"question": "Where is it?", "answer": "left", "image_path": "images/1.png", "source": "VSR", "id": 7,
           steps: [{question: "What?", "answer": "yes", function: ["spatial perception"]}]}  # fmt: skip
    (tmp_path / "cogvsr.jsonl").write_text(json.dumps(row))
    (item,) = load("cogvsr", tmp_path / "cogvsr.jsonl").items
    assert item.uid == "7" and item.subset == "VSR" and item.steps[0].function == "Spatial Perception"
    assert open_image(item).size == (8, 6)
