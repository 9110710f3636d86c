"""Which split an input is in: stable, stratified, grouped, or INPUT's own."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import SplitRule
from beam_jobs.plan.order import PlannedInputs, plan_inputs, scan, statistics_split
from beam_jobs.plan.schema.catalog import Catalog, Schema
from beam_jobs.plan.splits import splitter
from beam_jobs.sources import Entry, Layout, Reference, Source
from beam_jobs.sources.files.interface import SourceOptions

HALVES = (("train", "0.5"), ("val", "0.5"))


class Listed(Source):
    """A source of whatever entries it is given."""

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__(SourceOptions(input="somewhere"))
        self._entries = entries

    def entries(self):  # type: ignore[no-untyped-def]
        yield from self._entries

    def read(self, reference: Reference) -> bytes:
        raise NotImplementedError


def arranged(entries: list[Entry], rule: SplitRule, folder: Path, seed: int = 0) -> tuple[PlannedInputs, Schema]:
    folder.mkdir(parents=True, exist_ok=True)
    catalog, spill, source = Catalog(), Spill(folder), Listed(entries)
    scan(source, seed, catalog, spill, lambda: None)
    schema = catalog.close(Layout(text=""))
    return plan_inputs(spill, source, schema, rule, seed, folder), schema


def split_of(planned: PlannedInputs) -> dict[str, str]:
    """The split of each id."""
    return {
        json.loads(line)[0]: split
        for split, ordered in planned.ordered.items()
        for line in ordered.path.read_text().splitlines()
    }


def test_a_split_by_hash_is_stable_when_data_grows(tmp_path: Path) -> None:
    rule = SplitRule(parts=(("train", "0.8"), ("val", "0.1"), ("test", "0.1")))
    few = [Entry(f"{number}.jpg") for number in range(2000)]
    more = [Entry(f"{number}.jpg") for number in range(0, 6000, 2)]  # half of them gone, others come
    before = split_of(arranged(few, rule, tmp_path / "a")[0])
    after = split_of(arranged(more, rule, tmp_path / "b")[0])
    assert all(after[id] == split for id, split in before.items() if id in after)
    sizes = Counter(before.values())
    assert abs(sizes["train"] - 1600) < 80 and abs(sizes["val"] - 200) < 60  # 4.5 standard deviations


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    entries = [Entry(f"{number}.jpg") for number in range(200)]
    one, other = (split_of(arranged(entries, SplitRule(parts=HALVES), tmp_path / str(s), seed=s)[0]) for s in (0, 1))
    assert 60 < sum(one[id] != other[id] for id in one) < 140


@given(
    st.dictionaries(st.integers(0, 50), st.integers(1, 40), min_size=1, max_size=20),
    st.lists(st.integers(1, 100), min_size=1, max_size=4),
)
def test_every_part_of_a_class_is_within_one_of_exact(counts: dict[int, int], weights: list[int]) -> None:
    # Fractions of whole percents that sum to one.
    total = sum(weights)
    percents = [weight * 100 // total for weight in weights]
    percents[0] += 100 - sum(percents)
    parts = tuple((f"s{n}", str(percent / 100)) for n, percent in enumerate(percents) if percent)
    references = [Reference(f"{label}/{n}", 1, None, {"label": label}) for label, c in counts.items() for n in range(c)]
    schema = Catalog().close(Layout(text=""))
    find = splitter(SplitRule(parts=parts, stratify=True), schema, 0, lambda: [(one, None) for one in references])
    found = Counter((reference.values["label"], find(0, reference, None)) for reference in references)
    for label, count in counts.items():
        for name, fraction in parts:
            assert abs(found[label, name] - count * Fraction(fraction)) < 1
    assert sum(found.values()) == len(references)


def test_stratifying_classes_of_one_record_fills_every_split(tmp_path: Path) -> None:
    entries = [Entry(f"{number}.jpg", label=f"class {number}") for number in range(1000)]
    rule = SplitRule(parts=(("train", "0.9"), ("val", "0.1")), stratify=True)
    sizes = Counter(split_of(arranged(entries, rule, tmp_path)[0]).values())
    assert abs(sizes["train"] - 900) <= 3


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 1000)), min_size=30, max_size=200, unique=True))
def test_a_group_is_never_in_two_splits(
    tmp_path_factory: pytest.TempPathFactory, inputs: list[tuple[int, int]]
) -> None:
    entries = [Entry(f"{group}-{number}", fields={"patient": f"p{group}"}) for group, number in inputs]
    try:
        found = split_of(
            arranged(entries, SplitRule(parts=HALVES, group_by="patient"), tmp_path_factory.mktemp("g"))[0]
        )
    except UsageError as error:
        assert "is none" in str(error)  # all groups in one split
        return
    of_group: dict[str, set[str]] = {}
    for id, split in found.items():
        of_group.setdefault(id.partition("-")[0], set()).add(split)
    assert all(len(splits) == 1 for splits in of_group.values())


def test_groups_can_be_folders(tmp_path: Path) -> None:
    entries = [Entry(f"{folder}/{number}.jpg") for folder in range(30) for number in range(5)]
    found = split_of(arranged(entries, SplitRule(parts=HALVES, group_by="folder"), tmp_path)[0])
    assert len({(id.partition("/")[0], split) for id, split in found.items()}) == 30
    assert set(found.values()) == {"train", "val"}


def test_a_folder_is_that_of_the_image_and_not_of_its_id(tmp_path: Path) -> None:
    entries = [Entry(f"{n}", place=f"{n % 30}/{n}.jpg") for n in range(120)]
    found = split_of(arranged(entries, SplitRule(parts=HALVES, group_by="folder"), tmp_path)[0])
    assert len({(int(id) % 30, split) for id, split in found.items()}) == 30


@pytest.mark.parametrize(
    ("entry", "rule", "message"),
    [
        (Entry("a", split="val"), SplitRule(parts=HALVES), "of 1 images gives no image"),
        (Entry("a"), SplitRule(parts=HALVES, stratify=True), "--stratify: needs one label for each image, and INPUT"
            " has no labels"),
        (Entry("a", label=["x", "y"]), SplitRule(parts=HALVES, stratify=True), "INPUT has several labels for an image"),
        (Entry("a", fields={"age": 3}), SplitRule(parts=HALVES, group_by="ages"), "--group-by ages: is no field of"
            " INPUT; give one of age, folder"),
        (Entry("a", fields={"tags": ["x"]}), SplitRule(parts=HALVES, group_by="tags"), "--group-by tags: is a list"),
        (Entry("a"), SplitRule(parts=HALVES), "of 1 images gives no image; give it a larger part, or another --seed"),
        (Entry("a", split="../x"), SplitRule(), "the split '../x' of a: a name has letters, digits and _ only"),
    ],
)  # fmt: skip
def test_a_rule_that_does_not_fit_is_an_error(entry: Entry, rule: SplitRule, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        arranged([entry], rule, tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize("stratify", [False, True])
def test_a_split_of_inputs_is_divided_further(tmp_path: Path, stratify: bool) -> None:
    """Train and test are given, as for CIFAR-10; val is wanted, too."""
    entries = [Entry(f"{n}", label=str(n % 2), split="test" if n % 4 == 0 else "train") for n in range(400)]
    rule = SplitRule(parts=(("train", "0.9"), ("val", "0.1")), stratify=stratify)
    planned, _ = arranged(entries, rule, tmp_path)
    assert list(planned.ordered) == ["train", "val", "test"]
    found = split_of(planned)
    assert {id for id, split in found.items() if split == "test"} == {str(n) for n in range(0, 400, 4)}
    sizes = Counter(found.values())
    assert sizes["train"] == 270 if stratify else 250 < sizes["train"] < 290
    with pytest.raises(UsageError, match=r"--split: INPUT already has splits \(train, test\)"):
        arranged(entries, SplitRule(parts=(("train", "0.9"), ("test", "0.1"))), tmp_path / "x")


def test_the_split_to_train_on_is_known_in_any_spelling(tmp_path: Path) -> None:
    for number, (splits, train) in enumerate(
        [(("Test", "Train"), "Train"), (("test", "training"), "training"), (("b", "a"), "a")]
    ):
        entries = [Entry(f"{split}-{n}", split=split) for split in splits for n in range(50)]
        planned, _ = arranged(entries, SplitRule(), tmp_path / str(number))
        assert statistics_split(list(planned.ordered)) == train
    entries = [Entry(f"{split}-{n}", split=split) for split in ("Test", "Train") for n in range(50)]
    parts = (("fit", "0.5"), ("val", "0.5"))
    assert set(split_of(arranged(entries, SplitRule(parts=parts), tmp_path / "x")[0]).values()) == {
        "fit",
        "val",
        "Test",
    }


def test_an_input_without_a_split_among_others_is_a_reject(tmp_path: Path) -> None:
    planned, _ = arranged([Entry("a", split="train"), Entry("b")], SplitRule(), tmp_path)
    assert planned.first_rejects[0][3:] == ("no-split", "has no split, as others have")
