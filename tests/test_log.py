"""The logs' columns, how a row is written, and every check of the one reader, with file, line and reason."""
import csv
import math
import time
from decimal import Decimal

import pytest
from helpers import PUBLISHED_LOG
from hypothesis import given
from hypothesis import strategies as st

from certconf.errors import InputError
from certconf.formats.log import Row, check_radii, columns, parse_log, radii_of, read_log
from certconf.formats.rows import round_down, round_up

HEADER = "idx\tlabel\tpredict\texp_cdf_00\texp_cdf_25\texp_00\texp_25\tcorrect\ttime\n"
GOOD = "0\t3\t3\t0.9\t0.5\t0.8\t0.4\t1\t0:00:01.5\n"
WRONG = "20\t4\t3\t0.9\t0.5\t0.8\t0.4\t0\t0:00:01.5\n"
ABSTAINED = "40\t4\t-1\t0.0\t0.0\t0.0\t0.0\t0\t0:00:00.100000\n"
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def row(index="0", label="3", predict="3", bounds=("0.9", "0.5", "0.8", "0.4"), correct="1", took="0:00:01"):
    """A line of a log with one thing or another changed."""
    return "\t".join([index, label, predict, *bounds, correct, took]) + "\n"


def parse(text: str, **options):
    return parse_log("some/log", text.encode(), **options)


# --- writing --------------------------------------------------------------------------------------------------------

def test_columns_are_the_references():
    """The header of a log that the 2020 program wrote, for its radii 0, 0.25, ..., 1.5."""
    radii = tuple(i * 0.25 for i in range(7))
    with open(PUBLISHED_LOG, newline="") as file:
        published = next(csv.reader(file, delimiter="\t"))
    assert columns(radii) == published
    assert radii_of(published) == radii


@pytest.mark.parametrize("radii, names", [((0.07,), ["07"]), ((0.29, 0.57, 1.15), ["29", "57", "115"]),
                                          ((0, 12.34), ["00", "1234"])])
def test_columns_round_trip(radii, names):
    """100 * 0.29, 100 * 0.57 and 100 * 1.15 are a hair below an integer: the columns are rounded, not cut off."""
    header = columns(radii)
    assert header[3:3 + len(names)] == ["exp_cdf_" + name for name in names]
    assert header[3 + len(names):-2] == ["exp_" + name for name in names]
    assert radii_of(header) == tuple(int(name) / 100 for name in names)


@pytest.mark.parametrize("radii", [[], [0.5, 0.25], [0.25, 0.25], [-0.25], [0.005], [math.nan], [math.inf], [0, 1e-3]])
def test_radii_without_columns_are_refused(radii):
    """Two radii must never share a column, and a column's name must be its radius."""
    with pytest.raises(InputError, match="radi"):
        check_radii(radii)


@given(st.lists(st.integers(0, 10 ** 5), min_size=1, max_size=9, unique=True))
def test_all_allowed_radii_have_columns(hundredths):
    """Every increasing list of multiples of 0.01 is allowed, and its header names it."""
    radii = [value / 100 for value in sorted(hundredths)]
    check_radii(radii)
    assert radii_of(columns(radii)) == tuple(radii)


@given(FINITE)
def test_rounding_never_crosses_the_value(value):
    """A printed lower bound is never above the true one, as a decimal and as a float; an upper one never below."""
    down, up = round_down(value), round_up(value)
    assert Decimal(down) <= Decimal(value) <= Decimal(up)
    assert float(down) <= value <= float(up)
    for text in (down, up):
        assert abs(Decimal(text) - Decimal(value)) <= abs(Decimal(value)) * Decimal("1e-6")


@pytest.mark.parametrize("value, down, up", [
    (0.0, "0.0", "0.0"), (-0.0, "0.0", "0.0"), (1.0, "1", "1"), (0.5, "0.5", "0.5"), (-1.0, "-1", "-1"),
    (2 / 3, "0.66666666", "0.66666667"), (-2 / 3, "-0.66666667", "-0.66666666"),
    (1 - 2 ** -53, "0.99999999", "1.0000000"), (2e-9 / 3, "6.6666666E-10", "6.6666667E-10")])
def test_rounding_of_known_values(value, down, up):
    """Worked by hand. A bound of exactly 0 is written as the reference writes it."""
    assert (round_down(value), round_up(value)) == (down, up)


@given(st.integers(0, 10 ** 7), st.integers(0, 999), st.integers(-1, 999),
       st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.lists(st.floats(-1, 1), min_size=3, max_size=3),
       st.floats(0, 1e6))
def test_what_is_written_is_read_again(index, label, predict, exp_cdf, exp, seconds):
    """Row.line and the reader agree on every row that a run may write, days of time and tiny bounds included."""
    exp_cdf, exp = (tuple(sorted(bounds, reverse=True)) if predict >= 0 else (0.0,) * 3 for bounds in (exp_cdf, exp))
    written = Row(index, label, predict, seconds, exp_cdf, exp)
    header = "\t".join(columns((0.0, 0.25, 1.5))) + "\n"
    log = parse(header + written.line())
    assert log.radii == (0.0, 0.25, 1.5) and not log.torn and len(log.rows) == 1
    read = log.rows[0]
    assert (read.index, read.label, read.predict) == (index, label, predict)
    assert abs(read.seconds - seconds) <= 1e-6
    assert read.correct == (predict == label)
    for before, after in zip(exp_cdf + exp, read.exp_cdf + read.exp, strict=True):
        assert before - 1e-6 * abs(before) <= after <= before


# --- reading --------------------------------------------------------------------------------------------------------

def test_a_valid_log():
    log = parse(HEADER + GOOD + WRONG + ABSTAINED)
    assert log.indices == [0, 20, 40] and log.radii == (0.0, 0.25) and not log.torn
    assert [row.correct for row in log.rows] == [True, False, False]
    assert log.rows[0].exp_cdf == (0.9, 0.5) and log.rows[0].exp == (0.8, 0.4)
    assert log.ends == [len(HEADER), len(HEADER + GOOD), len(HEADER + GOOD + WRONG),
                        len(HEADER + GOOD + WRONG + ABSTAINED)]
    assert log.certified(0.5).tolist() == [[True, False], [False, False], [False, False]]  # strictly above
    assert log.certified_accuracy(0.79, cdf=False).tolist() == [pytest.approx(1 / 3), 0]


@pytest.mark.parametrize("header", [
    "idx\tlabel\tpredict\tcorrect\ttime\n", HEADER.replace("idx", "index"), HEADER.replace("exp_25", "exp_50"),
    HEADER.replace("\tcorrect", ""), HEADER.replace("cdf_00\texp_cdf_25", "cdf_25\texp_cdf_00"), "\n", " " + HEADER,
    HEADER.replace("25", "00"), HEADER.replace("_25", "_025"), HEADER.replace("\t", ","), HEADER.replace("25", "٢٥")])
def test_header_of_no_log(header):
    with pytest.raises(InputError, match="^some/log:1: .*(header|ASCII)"):
        parse(header + GOOD)


BAD_ROWS = {
    "too few fields": (GOOD.replace("\t0.4", ""), "8 fields, not 9"),
    "too many fields": (GOOD.replace("\t0.4", "\t0.4\t0.4"), "10 fields, not 9"),
    "empty line": ("\n", "1 fields, not 9"),
    "empty bound": (row(bounds=("0.9", "", "0.8", "0.4")), "finite number"),
    "nan": (row(bounds=("nan", "0.5", "0.8", "0.4")), "finite number"),
    "inf": (row(bounds=("0.9", "0.5", "inf", "0.4")), "finite number"),
    "minus infinity": (row(bounds=("0.9", "-Infinity", "0.8", "0.4")), "finite number"),
    "overflow": (row(bounds=("1e999", "0.5", "0.8", "0.4")), "range"),
    "underscore": (row(bounds=("0.9", "0.5", "0.8", "0_1")), "finite number"),
    "hexadecimal": (row(bounds=("0x1", "0.5", "0.8", "0.4")), "finite number"),
    "expression": (row(bounds=("1/2", "0.5", "0.8", "0.4")), "finite number"),
    "space": (row(bounds=("0.9", " 0.5", "0.8", "0.4")), "finite number"),
    "above the range": (row(bounds=("1.01", "0.5", "0.8", "0.4")), "range"),
    "below the range": (row(bounds=("0.9", "-1.01", "0.8", "0.4")), "range"),
    "rising bounds with the CDF": (row(bounds=("0.5", "0.9", "0.8", "0.4")), "rises"),
    "rising bounds without it": (row(bounds=("0.9", "0.5", "0.4", "0.8")), "rises"),
    "index twice": (GOOD, "twice"),
    "index not an integer": (row(index="1.0"), "idx"),
    "index below 0": (row(index="-1"), "idx"),
    "huge index": (row(index="9" * 30), "idx"),
    "label below 0": (row(label="-2", correct="0"), "label"),
    "label empty": (row(label=""), "label"),
    "prediction below -1": (row(predict="-2", correct="0"), "predict"),
    "prediction no integer": (row(predict="cat", correct="0"), "predict"),
    "correct, but wrong": (row(predict="4"), "correct"),
    "wrong, but correct": (row(correct="0"), "correct"),
    "correct is neither": (row(correct="True"), "correct"),
    "correct is 2": (row(correct="2"), "correct"),
    "abstention that is correct": (row(predict="-1", bounds=("0.0",) * 4), "correct"),
    "abstention with a bound": (row(predict="-1", bounds=("0.0", "0.0", "0.1", "0.0"), correct="0"), "abstention"),
    "time without colons": (row(took="12"), "time"),
    "negative time": (row(took="-1 day, 23:59:59"), "time"),
    "time in one digit minutes": (row(took="0:1:2"), "time"),
    "no time": (row(took=""), "time"),
    "not ASCII": (row(took="0:00:00é"), "ASCII"),
    "other digits": (row(index="١"), "ASCII"),
    "NUL": (row(label="3\0"), "label"),
}


@pytest.mark.parametrize("bad, reason", BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row(bad, reason, tmp_path):
    """Refused with file, line and reason, by the parser and from the disk, and the file stays as it is."""
    data = (HEADER + row(index="7") + GOOD + bad + WRONG).encode()
    path = tmp_path / "log"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read_log(str(path))
    message = str(error.value)
    assert message.startswith(f"{path}:4: ") and reason in message and "\n" not in message
    assert path.read_bytes() == data


def test_the_measures_range():
    """A log of pred_score has no bound below 0; one of margin may; without a record nothing speaks against -1."""
    below = HEADER + row(bounds=("0.9", "-0.5", "0.8", "-1.0"))
    assert parse(below).rows[0].exp[1] == -1
    assert parse(below, score_range=(-1.0, 1.0)).rows
    with pytest.raises(InputError, match=r"^some/log:2: -0\.5 is outside the range \[0, 1\]"):
        parse(below, score_range=(0.0, 1.0))


@pytest.mark.parametrize("first, second, fine", [
    ("0.451", "0.452", True), ("0.451", "0.453", False),  # 3 digits: one unit of the last digit
    ("0.45", "0.451", True), ("0.45", "0.452", False),  # 0.450 without its trailing zero
    ("0.0451", "0.0452", True), ("0.0451", "0.0453", False), ("0.0451", "0.0461", False),
    ("0.12345678", "0.12345679", True), ("0.12345678", "0.12345680", False), ("0.12345678", "0.124", True),
    ("4.51e-05", "4.52e-05", True), ("4.51e-05", "4.53E-5", False), ("-0.452", "-0.451", True),
    ("-0.453", "-0.451", False), ("0.0", "0.001", False), ("0.0", "1e-12", False), ("0.999", "1.0", True)])
def test_bounds_rise_by_the_last_digit_alone(first, second, fine):
    """Published logs have 3 digits, and two bounds that are equal but for rounding may differ by one unit there."""
    text = HEADER + row(bounds=(first, second, "0.8", "0.4"))
    if fine:
        assert parse(text).rows[0].exp_cdf == (float(first), float(second))
    else:
        with pytest.raises(InputError, match="^some/log:2: .*rises"):
            parse(text)


@pytest.mark.parametrize("kept", [1, 30, len(ABSTAINED) - 1])
def test_a_torn_last_line_is_left_out(kept):
    """A crash in mid-write leaves a part of a row without its line end, which may even look whole: it does not count"""
    log = parse(HEADER + GOOD + ABSTAINED[:kept])
    assert log.torn and log.indices == [0] and log.ends == [len(HEADER), len(HEADER + GOOD)]


def test_carriage_returns():
    """A log that went through Windows reads the same."""
    text = HEADER + GOOD + ABSTAINED
    assert parse(text.replace("\n", "\r\n")).rows == parse(text).rows


@pytest.mark.parametrize("text", ["", HEADER, HEADER + GOOD[:-1], HEADER[:-1]])
def test_a_log_without_a_row_is_an_error(text, tmp_path):
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(InputError, match="no complete row"):
        read_log(str(path))


@pytest.mark.parametrize("name", ["missing", "folder", "missing/log"])
def test_a_log_that_is_no_file(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=name):
        read_log(str(tmp_path / name))


def test_the_reader_is_quick_on_long_fields():
    """A log is untrusted: a field of 10,000 digits must not take the time of their square (seconds)."""
    begin = time.process_time()
    with pytest.raises(InputError, match="finite number"):
        parse(HEADER + row(bounds=("1" * 10_000 + "x", "0.5", "0.8", "0.4")))
    assert time.process_time() - begin < 1
