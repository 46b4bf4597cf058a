"""The table's files and the Pareto set."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_files import write

from toolchain.sweep import configurations, plan, table
from toolchain.sweep.picture import draw

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=12)


@given(POINTS)
def test_the_pareto_set_is_what_no_point_beats(points):
    def beaten(a):
        return any(b[0] >= a[0] and b[1] <= a[1] and b != a for b in points)

    assert table.pareto(points) == [k for k, point in enumerate(points) if not beaten(point)]


@pytest.fixture
def sweep(tmp_path):
    return plan.load(write(tmp_path, 'targets = ["loihi", "loihi2"]\nseeds = [0, 1]\n[vary]\n"train.epochs" = [1, 2]'))


def figures(sweep):
    for k, point in enumerate(sweep.points):
        one = {name: kind(k) for name, kind in table.MEASURED.items()}
        error = "does not fit; where: fc1" if k == 3 else None
        measured = None if error else {**one, "accuracy": 0.5 + k / 20, "cores": k + 1, "bits": 8}
        yield table.row(sweep, point, measured, error)


def test_csv_and_parquet_hold_the_same(sweep, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows, columns = list(figures(sweep)), table.columns(sweep)
    table.write_csv(tmp_path / "t.csv", list(columns), rows)
    table.write_parquet(tmp_path / "t.parquet", columns, rows)
    back = parquet.read_table(tmp_path / "t.parquet")
    assert back.to_pylist() == rows
    assert str(back.schema.field("train.epochs").type) == "int64"
    with (tmp_path / "t.csv").open() as stream:
        read = list(csv.DictReader(stream))
    assert [list(each) for each in read] == [list(columns)] * 8
    assert [each["accuracy"] for each in read] == ["" if row["error"] else repr(row["accuracy"]) for row in rows]
    assert read[3]["error"] == "does not fit; where: fc1"
    assert [int(each["seed"]) for each in read] == [row["seed"] for row in rows]


def test_seeds_are_averaged_and_failures_left_out(sweep, tmp_path):
    rows = list(figures(sweep))
    found = configurations(sweep, rows)
    assert sorted(len(c.rows) for c in found) == [1, 2, 2, 2]
    for c in found:
        same = [row for row in rows if row["folder"] in {each["folder"] for each in c.rows}]
        assert c.accuracy == pytest.approx(sum(row["accuracy"] for row in same) / len(same))
        assert {row["target"] for row in same} == {c.target}
    assert {c.target for c in found if c.best} == {"loihi", "loihi2"}
    for kind, head in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        draw(found, tmp_path / f"p.{kind}")
        assert (tmp_path / f"p.{kind}").read_bytes().startswith(head)
