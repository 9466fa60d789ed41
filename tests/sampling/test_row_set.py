"""`RowSet` and `Groups` against lists, and targets from what people hold in their hands."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from pauc.sampling.labels import as_labels
from pauc.sampling.row_set import RowSet, positives_of


@given(mask=st.lists(st.booleans(), max_size=40))
def test_a_row_set_is_the_list_of_its_rows(mask):
    rows = [row for row, inside in enumerate(mask) if inside]
    found = RowSet(torch.tensor(mask, dtype=torch.bool))
    assert len(found) == len(rows)
    assert found.at(torch.arange(len(rows))).tolist() == rows
    backwards = torch.arange(len(rows) - 1, -1, -1, dtype=torch.int32)
    assert found.at(backwards).tolist() == rows[::-1]


def test_a_row_set_holds_the_shorter_list():
    mask = torch.ones(1000, dtype=torch.bool)
    mask[:3] = False
    for few in (mask, ~mask):
        assert len(RowSet(few)._listed) == 3


@given(data=st.data(), n_classes=st.integers(1, 5))
def test_positives_of_labels_are_found_by_class(data, n_classes):
    entry = st.sampled_from([-1, 0, 1])
    row = st.lists(entry, min_size=n_classes, max_size=n_classes)
    labels = data.draw(st.lists(row, min_size=1, max_size=20))
    groups = positives_of(torch.tensor(labels, dtype=torch.int8), n_classes)
    expected = [
        [row for row in range(len(labels)) if labels[row][k] == 1] for k in range(n_classes)
    ]
    expected = [rows for rows in expected if rows]
    found = [groups.rows[a : a + n].tolist() for a, n in zip(groups.starts, groups.sizes)]  # noqa: B905
    assert found == expected
    # The first and the last number below 1 give the first and the last row of each class.
    of = torch.arange(len(expected))
    for uniform, place in ((0.0, 0), (1 - 2**-53, -1)):
        drawn = groups.draw(of, torch.full((len(of),), uniform, dtype=torch.float64))
        assert drawn.tolist() == [rows[place] for rows in expected]


@pytest.mark.parametrize("kind", ["list", "array", "read-only array", "column", "tensor"])
def test_targets_of_any_kind_are_taken(kind):
    values = [0, 1, -100, 1]
    array = np.array(values)
    array.flags.writeable = kind != "read-only array"
    if kind == "column":
        pandas = pytest.importorskip("pandas")
        # After a split a column's index is not 0, 1, 2, ...
        targets = pandas.Series([9, *values], index=[3, 9, 7, 4, 1])[1:]
    else:
        targets = {"list": values, "tensor": torch.tensor(values)}.get(kind, array)
    labels = as_labels(targets, 1, False, -100)
    assert labels.tolist() == [0, 1, -1, 1]
    assert labels.dtype == torch.int8


def test_labels_do_not_change_with_the_targets():
    targets = torch.tensor([0, 1], dtype=torch.int8)
    labels = as_labels(targets, 1, False, -100)
    targets[0] = 1
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("num_classes", "dtype"), [(128, "int8"), (129, "int16"), (40_000, "int64")]
)
def test_labels_are_as_narrow_as_the_classes_allow(num_classes, dtype):
    targets = torch.tensor([0, num_classes - 1, 255], dtype=torch.int64)
    labels = as_labels(targets, num_classes, False, 255)
    expected = [0, num_classes - 1, -1]
    assert labels.tolist() == expected
    assert labels.dtype == getattr(torch, dtype)


def test_a_bad_target_is_named_by_its_row_beyond_the_first_block(monkeypatch):
    monkeypatch.setattr("pauc.sampling.row_set.BLOCK", 2)
    with pytest.raises(ValueError, match="got 7 in row 3"):
        as_labels(torch.tensor([0, 1, 0, 7]), 1, False, -100)
