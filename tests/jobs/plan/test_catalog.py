"""What the fields of all inputs are: inferred from every value, or declared."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from beam_jobs.errors import UsageError
from beam_jobs.plan.schema.catalog import Catalog, Schema
from beam_jobs.sources import Entry, Label, Layout, Problem
from shard_reader.format import Field


def schema_of(values: list[Any], *, untyped: bool = False, fields: dict[str, Field] | None = None) -> Schema:
    catalog = Catalog()
    for number, value in enumerate(values):
        catalog.add(Entry(str(number), fields={"f": value}))
    return catalog.close(Layout(text="", untyped=untyped, fields=fields or {}))


def converted(schema: Schema, value: Any) -> Any:
    found = schema.reference(Entry("x", fields={"f": value}))
    return found if isinstance(found, Problem) else found[0].values["f"]


@pytest.mark.parametrize(
    ("values", "untyped", "dtype", "shape", "results"),
    [
        ([1, -2], False, "int64", (), [1, -2]),
        ([1, 2.5], False, "float32", (), [1.0, 2.5]),
        ([True, False], False, "int64", (), [1, 0]),
        (["a", None], False, "string", (), ["a", ""]),
        ([1, None], False, "float32", (), [1.0, math.nan]),
        ([[1, 2], [], None], False, "int64", (None,), [[1, 2], [], []]),
        ([[0.5], [1]], False, "float32", (None,), [[0.5], [1.0]]),
        ([["a", "b"]], False, "string", (None,), [["a", "b"]]),
        ([None, None], False, "string", (), ["", ""]),
        (["1", "-2"], True, "int64", (), [1, -2]),
        (["1", "2.5e3", "nan"], True, "float32", (), [1.0, 2500.0, math.nan]),
        (["1", ""], True, "float32", (), [1.0, math.nan]),
        (["007", "8"], True, "string", (), ["007", "8"]),
        (["1", "x"], True, "string", (), ["1", "x"]),
        (["", ""], True, "string", (), ["", ""]),
        (["99999999999999999999"], True, "string", (), ["99999999999999999999"]),
    ],
)
def test_types_are_inferred_from_every_value(
    values: list[Any], untyped: bool, dtype: str, shape: tuple[Any, ...], results: list[Any]
) -> None:
    schema = schema_of(values, untyped=untyped)
    assert schema.fields["f"] == Field(dtype=dtype, shape=shape)
    for value, result in zip(values, results, strict=True):
        found = json.loads(json.dumps(converted(schema, value)))
        np.testing.assert_equal(found, result)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "a"], "holds 1 and 'a', of no one type; leave it out with --fields"),
        ([[1], 2], "holds both lists and single values"),
        ([2**70], "whole numbers beyond 64 bits"),
        ([2**40 + 1, None], "has large whole numbers, and missing values or a decimal point"),
        ([{"a": 1}], "holds {'a': 1}"),
    ],
)
def test_values_of_no_one_type_are_an_error(values: list[Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        schema_of(values)
    assert message in str(caught.value)


def test_a_value_that_does_not_fit_a_declared_field_is_a_reject() -> None:
    schema = schema_of([1], fields={"f": Field(dtype="float32", shape=(None, 4))})
    assert converted(schema, [[1, 2, 3, 4], [5, 6, 7, 8]]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert converted(schema, []) == []
    assert converted(schema, [1, 2, 3]) == Problem("bad-field", "f is [1, 2, 3], no list of shape [None, 4] of numbers")


def test_a_type_does_not_depend_on_the_order() -> None:
    for values in (["", "1", "2"], ["1", "", "2"], ["2", "1", ""]):
        assert schema_of(values, untyped=True).fields["f"].dtype == "float32"


@pytest.mark.parametrize("values", [[123456790.0, 2.0], ["123456790.0", ""], [2**24 + 2, None]])
def test_numbers_of_something_are_not_rounded(values: list[Any]) -> None:
    with pytest.raises(UsageError, match="has large whole numbers"):
        schema_of(values, untyped=isinstance(values[0], str))
    assert schema_of([123456790.5, 2.0]).fields["f"].dtype == "float32"  # a measurement


@pytest.mark.parametrize(
    ("good", "bad", "shown"), [("a", "a\0b", "no text"), ("a", "\ud800", "no text"), (1.5, 1e300, "no number")]
)
def test_values_that_a_format_cannot_hold_are_rejects(good: Any, bad: Any, shown: str) -> None:
    found = converted(schema_of([good, bad]), bad)
    assert isinstance(found, Problem) and found.reason == "bad-field"
    assert not isinstance(converted(schema_of([good, bad]), good), Problem)


def test_an_id_that_a_format_cannot_hold_is_a_reject() -> None:
    assert isinstance(schema_of([1]).reference(Entry("a\0b", fields={"f": 1})), Problem)


@pytest.mark.parametrize("name", ["image/filename", "label/text", "id/x"])
def test_a_field_below_one_of_our_own_gets_another_name(name: str) -> None:
    catalog = Catalog()
    catalog.add(Entry("x", label="a", fields={name: "b"}))
    assert set(catalog.close(Layout(text="")).fields) == {"label", f"source/{name}"}


@pytest.mark.parametrize("name", ["a//b", "/a", "", "a/../b", "a\nb"])
def test_names_that_hdf5_cannot_have_are_refused(name: str) -> None:
    catalog = Catalog()
    catalog.add(Entry("x", fields={name: 1}))
    with pytest.raises(UsageError, match="cannot be the name of a field"):
        catalog.close(Layout(text=""))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "a/b"), "HDF5 cannot hold both"),
        (("t", "t_offset"), "'t_offset' has the name of an index column"),
        (("t", "t_crc32c"), "'t_crc32c' has the name of an index column"),
    ],
)
def test_names_that_collide_are_refused(names: tuple[str, str], message: str) -> None:
    catalog = Catalog()
    catalog.add(Entry("x", fields={names[0]: "text", names[1]: 1}))
    with pytest.raises(UsageError, match=message):
        catalog.close(Layout(text=""))


def test_a_field_with_a_name_of_our_own_gets_another() -> None:
    catalog = Catalog()
    catalog.add(Entry("x", fields={"id": 7, "width": 100}))
    schema = catalog.close(Layout(text=""))
    assert list(schema.fields) == ["source/id", "source/width"]
    found = schema.reference(Entry("x", fields={"id": 7, "width": 100}))
    assert not isinstance(found, Problem) and found[0].values == {"source/id": 7, "source/width": 100}


@pytest.mark.parametrize(
    ("labels", "untyped", "classes", "names", "results"),
    [
        (["dog", "cat"], False, None, ("cat", "dog"), [1, 0]),
        ([3, 5], False, None, None, [3, 5]),
        (["3", "5"], True, None, None, [3, 5]),
        (["3", "b"], True, None, ("3", "b"), [0, 1]),
        (["3.0", "11.0"], True, None, None, [3, 11]),
        (["1", "0"], True, ("dog", "cow"), ("dog", "cow"), [1, 0]),
        ([["dog", "cat"], []], False, None, ("cat", "dog"), [[0, 1], []]),
        ([["dog", "dog"], "cat"], False, None, ("cat", "dog"), [[1], [0]]),
        (["dog", "cat"], False, ("dog", "cow", "cat"), ("dog", "cow", "cat"), [0, 2]),
        ([1, 0], False, ("dog", "cow"), ("dog", "cow"), [1, 0]),
    ],
)
def test_labels(
    labels: list[Label],
    untyped: bool,
    classes: tuple[str, ...] | None,
    names: tuple[str, ...] | None,
    results: list[Any],
) -> None:
    catalog = Catalog(classes)
    entries = [Entry(str(number), label=label) for number, label in enumerate(labels)]
    for entry in entries:
        catalog.add(entry)
    schema = catalog.close(Layout(text="", untyped=untyped))
    assert schema.class_names == names
    found = [schema.reference(entry) for entry in entries]
    assert [one[0].values["label"] for one in found if not isinstance(one, Problem)] == results


def test_a_label_that_is_none_of_the_classes_is_a_reject() -> None:
    catalog = Catalog(("cat",))
    catalog.add(Entry("x", label="dog"))
    schema = catalog.close(Layout(text=""))
    assert schema.reference(Entry("x", label="dog")) == Problem("unknown-class", "the class 'dog' is not in --classes")
    assert schema.reference(Entry("y")) == Problem("no-label", "has no label, as others have")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", 1], "labels are both names and numbers, as 'a'"),
        ([0.5], "the label 0.5 is no class"),
        (["1", "0.5"], "the label '0.5' is no class: .* make it a field with --fields"),
    ],
)
def test_labels_of_no_one_kind_are_an_error(labels: list[Any], message: str) -> None:
    catalog = Catalog()
    with pytest.raises(UsageError, match=message):
        for label in labels:
            catalog.add(Entry("x", label=label))
        catalog.close(Layout(text="", untyped=isinstance(labels[-1], str)))


def test_a_label_beyond_64_bits_is_a_reject() -> None:
    catalog = Catalog()
    for label in (2**64 + 1, 5):
        catalog.add(Entry("x", label=label))
    schema = catalog.close(Layout(text=""))
    assert schema.reference(Entry("x", label=2**64 + 1)) == Problem(
        "bad-label", f"the label {2**64 + 1} is beyond 64 bits"
    )


def test_classes_of_objects_keep_their_names() -> None:
    field = {"objects/label": Field(dtype="int64", shape=(None,))}
    with pytest.raises(UsageError, match="--classes: INPUT has names for the classes of its objects"):
        Catalog(("dog", "cat")).close(Layout(text="", class_names=("cat", "dog"), fields=field))
