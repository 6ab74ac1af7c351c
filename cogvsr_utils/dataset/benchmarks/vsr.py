"""VSR, Visual Spatial Reasoning (arXiv 2205.00363): captions about pictures of COCO, true or false.

VSR                    the benchmark
statement(caption)     how a caption is asked
shared_groups(a, b)    pictures that two parts of it have in common
"""

import re
from collections.abc import Sequence
from pathlib import Path

from cogvsr_utils.dataset.benchmarks.benchmark import Benchmark
from cogvsr_utils.dataset.benchmarks.pictures import Pictures
from cogvsr_utils.dataset.benchmarks.tables import is_absent
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import digest

# The benchmark's own grouping of its relations; of "among", which it lists twice, its last place counts.
CATEGORIES = {
    "Adjacency": "adjacent to, alongside, at the side of, at the right side of, at the left side of, attached to, "
                 "at the back of, ahead of, against, at the edge of",
    "Directional": "off, past, toward, down, deep down, up, away from, along, around, from, into, to, across, "
                   "across from, through, down from",
    "Orientation": "facing, facing away from, parallel to, perpendicular to",
    "Projective": "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, over, "
                  "in the middle of",
    "Proximity": "by, close to, near, far from, far away from",
    "Topological": "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, "
                   "surrounding, consists of, out of, between, inside, outside, touching",
    "Unallocated": "beyond, next to, opposite to, after, among, enclosed by",
}  # fmt: skip
CATEGORY = {relation: name for name, relations in CATEGORIES.items() for relation in relations.split(", ")}
UNLISTED = "Unlisted"  # such as "congruent"
SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}


def shared_groups(one: Sequence[Item], other: Sequence[Item]) -> list[str]:
    """Groups, for VSR pictures, that stand in both: what was learnt or tuned on one leaks into the other.

    >>> items = [Item(str(i), "vsr", group, "?", "yes", "yesno", []) for i, group in enumerate("abb")]
    >>> shared_groups(items[:2], items[2:])
    ['b']
    """
    return sorted({item.group_id for item in one} & {item.group_id for item in other})


def statement(caption: str) -> str:
    """The question about a caption.

    >>> statement("The cat is left of the dog.")
    'Is this statement about the picture true: "The cat is left of the dog." Answer yes or no.'
    """
    return f'Is this statement about the picture true: "{caption}" Answer yes or no.'


def _make(row: dict, file: Path, pictures: Pictures) -> list[Item]:
    caption, relation, label = str(row["caption"]).strip(), str(row["relation"]).strip(), str(row["label"]).strip()
    if label not in ("0", "1"):
        raise ValueError(f"label is {row['label']!r}; expected 0 or 1")
    if not re.search(rf"\b{re.escape(relation)}\b", caption):
        raise ValueError(f"the caption {caption!r} does not have the relation {relation!r}")
    name, frame = str(row["image"]), row.get("reference_frame")
    meta = {
        "relation": relation, "caption": caption, "subject": _subject(caption, relation),
        "votes_true": _votes(row.get("vote_true_validator_id")),
        "votes_false": _votes(row.get("vote_false_validator_id")),
        "reference_frame": None if is_absent(frame) else float(frame),
    }  # fmt: skip
    split = next((SPLITS[part] for part in re.split(r"[-_.]", file.stem) if part in SPLITS), "")
    return [Item(
        uid=digest(name, caption), benchmark="vsr", group_id=name, subset=CATEGORY.get(relation, UNLISTED),
        question=statement(caption),
        answer="yes" if label == "1" else "no", answer_type="yesno", steps=[],
        image=pictures.of(row["image"], row.get("image_link")), split=split, meta=meta,
    )]  # fmt: skip


def _subject(caption: str, relation: str) -> str:
    """What stands before the relation; the field of that name has lost letters in the published files.

    >>> _subject("The train is in the station.", "in")
    'train'
    """
    before = re.split(rf"\b{re.escape(relation)}\b", caption, maxsplit=1)[0].strip()
    return re.sub(r"^(the|a|an) | (is|are|has|have)$", "", before, flags=re.IGNORECASE).strip()


def _votes(value: object) -> list[int]:
    """Voters' numbers, in a list or in a text like "[2, 9]"."""
    return [int(number) for number in re.findall(r"\d+", str(value))]


VSR = Benchmark(
    name="vsr", title="VSR", paper="arXiv 2205.00363", licence="Apache-2.0; pictures under COCO's terms",
    fields=("image", "caption", "label", "relation"), make=_make,
)  # fmt: skip
