"""Reading a CSV: every fault is named by file, row and column, with the mend."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from churnsaver.domain.schema import DatasetSchema, Role
from churnsaver.errors import SchemaError
from trainers.data import load_dataset, load_dataset_as

SCHEMA = DatasetSchema.parse(
    {
        "name": "small",
        "columns": {
            "id": {"role": "id"},
            "plan": {"role": "categorical", "categories": ["a", "b"]},
            "city": {"role": "categorical"},
            "usd": {"role": "revenue", "minimum": 0},
            "calls": {"role": "numeric", "optional": True},
            "left": {"role": "label", "yes": "Yes"},
        },
    }
)
HEADER = "id,plan,city,usd,calls,left\n"
GOOD = HEADER + "1,a,Ulm,10,1,Yes\n2,b,Bonn,20.5,,No\n3,a,Ulm,30,2,No\n"


def fault(folder: Path, content: str | bytes) -> str:
    """The message with which a file of this content is refused, without the folder's name."""
    path = folder / "f.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SchemaError) as caught:
        load_dataset(path, SCHEMA)
    return str(caught.value).replace(f"{folder}/", "")


def test_good_file_is_typed(tmp_path: Path) -> None:
    """Numbers are numbers, the label is true or false, blanks are missing, categories are learned."""
    path = tmp_path / "f.csv"
    path.write_text(GOOD)
    data = load_dataset(path, SCHEMA)
    assert data.rows()[1] == {"id": "2", "plan": "b", "city": "Bonn", "usd": 20.5, "calls": None, "left": False}
    assert data.schema.columns["city"].categories == ("Bonn", "Ulm")
    assert data.yes(Role.LABEL).tolist() == [True, False, False]


@pytest.mark.parametrize(
    "variant",
    [
        GOOD.encode("utf-8-sig"),
        GOOD.replace("\n", "\r\n").encode(),
        (GOOD + "\n\n").encode(),
        gzip.compress(GOOD.encode()),
    ],
    ids=["byte order mark", "windows", "blank lines at the end", "gzip"],
)
def test_editors_leave_traces(tmp_path: Path, variant: bytes) -> None:
    """A byte order mark, CRLF, blank lines at the end and gzip make no difference."""
    for name, content in (("a.csv", GOOD.encode()), ("b.csv", variant)):
        (tmp_path / name).write_bytes(content)
    one, other = (load_dataset(tmp_path / name, SCHEMA) for name in ("a.csv", "b.csv"))
    assert one.frame.equals(other.frame)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD.replace("2,No", "2,NaN"), "f.csv, column left, row 4: is 'NaN', which is no answer"),
        ("", "f.csv: is empty; expected a header and at least one row"),
        ("\n\n", "f.csv: is empty; expected a header and at least one row"),
        (HEADER, "f.csv: has a header but no rows; expected at least one customer"),
        ("id,plan,plan\n1,2,3\n", "f.csv, row 1: column 'plan' appears twice; rename one"),
        (GOOD.replace("20.5,,No", "20.5,No"), "f.csv, row 3: has 5 fields, the header has 6;"),
        (GOOD.replace("Ulm,30", "Ulm,Neu,30"), "f.csv, row 4: has 7 fields, the header has 6;"),
        (GOOD.replace("2,b", "\n2,b"), "f.csv, row 3: has 0 fields"),
        (GOOD + '4,"a,Ulm,10,1,Yes\n', "f.csv: is not a CSV file (unexpected end of data)"),
        (
            GOOD.replace("Bonn", "Köln").encode("latin-1"),
            "f.csv, row 3: byte 0xf6 is not UTF-8; save",
        ),
        (b"\x1f\x8b\x08\x00broken", "f.csv: cannot be read"),
    ],
)
def test_broken_files(tmp_path: Path, content: str | bytes, expected: str) -> None:
    """A file that is no table is refused with its row."""
    assert fault(tmp_path, content).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD.replace("left", "lefft"), "f.csv, row 1: column 'left' (label) is missing; "),
        (GOOD.replace("usd", "euro"), "f.csv, row 1: column 'usd' (revenue) is missing; "),
        (GOOD.replace("20.5", "abc"), "f.csv, row 3, column usd: is 'abc'; expected a number"),
        (GOOD.replace("20.5", "1_0"), "f.csv, row 3, column usd: is '1_0'; expected a number"),
        (GOOD.replace("20.5", "NaN"), "f.csv, row 3, column usd: is nan; expected a finite number"),
        (GOOD.replace("20.5", "-inf"), "f.csv, row 3, column usd: is -inf; expected a finite number"),
        (GOOD.replace("20.5", "-1"), "f.csv, row 3, column usd: is -1.0; expected 0 or more"),
        (GOOD.replace("20.5", "1e300"), "f.csv, row 3, column usd: is 1e+300; expected 1000000 or less"),
        (GOOD.replace("10,1,", "10,1e30,"), "f.csv, row 2, column calls: is 1e+30; expected 1000000000 or less"),
        (GOOD.replace("20.5", ""), "f.csv, row 3, column usd: is missing; give it a value"),
        (GOOD.replace("2,b", "2,c"), "f.csv, row 3, column plan: is 'c'; expected one of 'a', 'b'"),
        (GOOD.replace("3,a", "1,a"), "f.csv, row 4, column id: is '1' again (first in row 2); ids are unique"),
        (GOOD.replace("3,a", ",a"), "f.csv, row 4, column id: is missing; give it a value"),
        (
            GOOD.replace("Yes", "No"),
            "f.csv, column left: no row is 'Yes', which schema small says",
        ),
        (GOOD.replace("No", "Yes"), "f.csv, column left: every row is 'Yes'"),
        (
            GOOD.replace("2,No", "2,maybe"),
            "f.csv, column left: a label needs two values, found 3: 'No', 'Yes', '",
        ),
        (GOOD.replace("2,No", "2,"), "f.csv, row 4, column left: is missing; give it a value"),
    ],
)
def test_wrong_values(tmp_path: Path, content: str, expected: str) -> None:
    """A value that does not follow the schema is one line with file, row, column and what was expected."""
    message = fault(tmp_path, content)
    assert message.startswith(expected)
    assert "\n" not in message


def test_close_name_is_suggested(tmp_path: Path) -> None:
    """A column that is nearly there is pointed at."""
    assert "did you mean 'lefft'?" in fault(tmp_path, GOOD.replace("left", "lefft"))


def test_many_faults_are_counted(tmp_path: Path) -> None:
    """Ten faults are shown in the order of the file; the rest are counted."""
    rows = "".join(f"{i},a,Ulm,x{i},1,{'Yes' if i % 2 else 'No'}\n" for i in range(25))
    lines = fault(tmp_path, HEADER + rows).splitlines()
    assert lines[0] == "f.csv: 25 values do not follow schema small:"
    assert lines[1] == "  row 2, column usd: is 'x0'; expected a number"
    assert len(lines) == 12
    assert lines[-1] == "  … and 15 more"


def test_the_same_fault_is_said_once(tmp_path: Path) -> None:
    """One mistake in every row is one line with the first rows and their number; another one keeps its own."""
    rows = "".join(f"{i},a,Ulm,{'y' if i == 3 else 'x'},1,{'Yes' if i % 2 else 'No'}\n" for i in range(25))
    assert fault(tmp_path, HEADER + rows).splitlines() == [
        "f.csv: 25 values do not follow schema small:",
        "  row 2, column usd: is 'x'; expected a number (24 rows: 2, 3, 4, 6, 7, …)",
        "  row 5, column usd: is 'y'; expected a number",
    ]


def test_names_as_categories_are_refused(tmp_path: Path) -> None:
    """A categorical column with hundreds of values is a mistake in the schema."""
    rows = "".join(f"{i},a,city{i},1,1,{'Yes' if i % 2 else 'No'}\n" for i in range(200))
    assert "column city: has 200 distinct values, more than 100" in fault(tmp_path, HEADER + rows)


def test_missing_file_and_schema(tmp_path: Path) -> None:
    """A path that is not there, and a CSV without a schema, say so."""
    with pytest.raises(SchemaError, match="no such file"):
        load_dataset(tmp_path / "absent.csv", SCHEMA)
    (tmp_path / "f.csv").write_text(GOOD)
    with pytest.raises(SchemaError, match="--schema"):
        load_dataset_as(tmp_path / "f.csv", None)


def test_real_customers_follow_their_schema(telco_csv: Path) -> None:
    """The shipped Telco schema reads the real file, blank total charges included."""
    data = load_dataset_as(telco_csv, Path("configs/schemas/telco.yaml"))
    assert len(data) == 5639
    assert data.frame["TotalCharges"].null_count() == 9
    assert 0.26 < float(data.yes(Role.LABEL).mean()) < 0.28
