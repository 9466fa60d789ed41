"""Files of scores: what is read equals what pandas wrote, and a bad file is told where."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pauc.reporting import read_scores

PLAIN = "id,label,score_a,score_b,site\n7,0,0.5,-1,x\n8,1,2.5,inf,y\n9,,1e-3,3,x\n"


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str, name: str = "scores.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return written


def test_columns_are_guessed_and_said(write) -> None:
    table = read_scores(write(PLAIN))
    assert table.targets.tolist() == [0, 1, -100]
    assert {name: own.tolist() for name, own in table.scores.items()} == {
        "score_a": [0.5, 2.5, 1e-3],
        "score_b": [-1, math.inf, 3],
    }
    assert table.groups is None
    assert table.notes == (
        "target: column 'label', guessed by its name",
        "scores: 'score_a', 'score_b', guessed by name",
    )


def test_named_columns_are_taken_as_they_are_named(write) -> None:
    path = write(PLAIN)
    table = read_scores(path, target="label", scores=["id", "score_a"], group="site")
    assert list(table.scores) == ["id", "score_a"]
    assert table.groups == ["x", "y", "x"]
    assert table.notes == ()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiters_byte_order_marks_and_blank_lines(write, delimiter, mark) -> None:
    text = mark + "hit,p\n1,0.5\n\n0,0.25\n\n".replace(",", delimiter)
    table = read_scores(write(text))
    assert table.targets.tolist() == [1, 0]
    assert table.scores["p"].tolist() == [0.5, 0.25]
    assert table.notes == (
        "target: column 'hit', guessed by its zeros and ones",
        "scores: 'p', guessed by being the only numbers",
    )


@pytest.mark.parametrize(
    ("cell", "target"),
    [("1", 1), ("0", 0), ("1.0", 1), ("0.0", 0), ("True", 1), ("FALSE", 0), (" 1 ", 1),
     ("", -100), ("nan", -100), ("NULL", -100)],
)  # fmt: skip
def test_what_a_target_may_be(write, cell, target) -> None:
    table = read_scores(write(f"label,score\n1,1\n{cell},2\n0,3\n"))
    assert table.targets.tolist() == [1, target, 0]


finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text('abc,;"\n é', min_size=1, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), finite, names), min_size=1, max_size=1200),
    st.sampled_from(["csv", "parquet"]),
)
def test_a_file_gives_what_pandas_wrote(tmp_path, rows, kind) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(rows, columns=["label", "score", "group"])
    path = tmp_path / f"s.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    table = read_scores(path, group="group")
    assert table.targets.tolist() == frame["label"].tolist()
    assert table.scores["score"].tolist() == frame["score"].tolist()
    assert table.groups == frame["group"].tolist()


def test_parquet_has_nulls_and_types_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    path = tmp_path / "s.parquet"
    frame = pd.DataFrame({"y": [True, None, False], "prob": [1, 2, 3], "g": [5, None, 7]})
    frame.to_parquet(path)
    table = read_scores(path, group="g")
    assert table.targets.tolist() == [1, -100, 0]
    assert table.scores["prob"].tolist() == [1, 2, 3]
    assert table.groups == ["5.0", "", "7.0"]
    frame["prob"] = [1.0, None, 3.0]
    frame.to_parquet(path)
    with pytest.raises(ValueError, match=r"s\.parquet, row 2, column 'prob': expected a number"):
        read_scores(path, target="y", scores=["prob"])


LONG = "label,score,note\n" + "0,1,\n" * 2000

BAD = [
    ("", "line 1: expected the names of the columns, got nothing"),
    ("0,1.5\n1,2\n", "line 1: expected the names of the columns, got '0,1.5'"),
    ("label,score\n", "line 2: expected rows below the names"),
    ("label,label\n0,1\n", r"line 1: expected different names of the columns, got \['label'\]"),
    ("label,score\n0,1\n1,2,3\n", "line 3: expected 2 cells, got 3"),
    ("label,score\n0,1\n\n1\n", "line 4: expected 2 cells, got 1"),
    ("label,score\n0,1\n2,1\n", "line 3, column 'label': expected 0, 1, true, false or nothing"),
    ("label,score\n0,1\n1,x\n", "expected columns of scores, got no numbers among"),
    (LONG + "1,abc,\n", "line 2002, column 'score': expected a number, got 'abc'"),
    (LONG + "1,,\n", "line 2002, column 'score': expected a number, got ''"),
    (LONG + "1,nan,\n", "line 2002, column 'score': expected a number, got 'nan'"),
    (LONG + "7,1,\n", "line 2002, column 'label': expected 0, 1, .* got '7'"),
    (LONG + '1,2,"two\nlines"\n9,1,\n', "line 2004, column 'label': .* got '9'"),
    (LONG + "1,2\n", "line 2002: expected 3 cells, got 2"),
    (LONG + "1,\udcff,\n", "expected CSV in UTF-8"),
    ("y,label,score\n0,0,1\n", "expected one column of targets, got 'y', 'label' among"),
    ("a,b\n0.5,2\n", r"expected one column of targets, got none among .*--target"),
    ("hit,a,b\n0,5,2\n", "expected columns of scores, got 'a', 'b' among .*--scores"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_file_is_told_where(tmp_path, text, message) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as raised:
        read_scores(path)
    assert str(raised.value).startswith(str(path))


def test_an_unknown_column_is_named(write) -> None:
    with pytest.raises(ValueError, match=r"expected columns among \['id', .* got \['p'\]"):
        read_scores(write(PLAIN), scores=["p", "score_a"])


def test_a_column_cannot_be_two_things(write) -> None:
    with pytest.raises(ValueError, match=r"in one place only, got \['label'\] in two"):
        read_scores(write(PLAIN), target="label", group="label")


def test_scores_keep_all_their_digits(write) -> None:
    value = 0.1 + 2**-54
    table = read_scores(write(f"label,score\n0,{value!r}\n1,3\n"))
    assert table.scores["score"][0].item() == value
    assert table.scores["score"].dtype == torch.float64
