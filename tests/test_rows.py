"""Files of rows: the columns of each kind, how a row is written, and every check of the one reader, with its reason."""
import csv
import math
import time
from datetime import timedelta
from decimal import Decimal

import pandas
import pytest
from helpers import PUBLISHED_LOG
from hypothesis import given
from hypothesis import strategies as st

from certconf.errors import InputError
from certconf.files import read_bytes
from certconf.formats.attacks import ATTACKS, Attacks
from certconf.formats.log import LOG, RANGES, Log, check_radii
from certconf.formats.predictions import PREDICTIONS, Predictions
from certconf.formats.radii import RADII, Radii
from certconf.formats.rows import round_down, round_up

KINDS = {LOG: Log, RANGES: Log, ATTACKS: Attacks, RADII: Radii, PREDICTIONS: Predictions}
# what a row of each kind holds between predict and correct: of a class, and of an abstention
VALUES = {LOG: ("0.9 0.5 0.8 0.4", "0.0 0.0 0.0 0.0"), RANGES: ("0.9 0.5 0.8 0.4 0.95 0.99", "0.0 0.0 0.0 0.0 1 1"),
          ATTACKS: ("0.7 0.5 0.8 0.6 0.75 0.55 0.85 0.65", " ".join(8 * ["0"])), RADII: ("0.5", "0.0"),
          PREDICTIONS: ("0.5 0.7", "0.2 0.3")}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
every_kind = pytest.mark.parametrize("schema", KINDS, ids=lambda schema: schema.name)


def header(schema):
    return "\t".join(schema.header((0.0, 0.25))) + "\n"


def row(schema, index="0", label="3", predict="3", correct="1", took="0:00:01.5", values=None):
    """A line with one thing or another changed."""
    values = VALUES[schema][predict == "-1"] if values is None else values
    return "\t".join([index, label, predict, *values.split(" "), correct, took]) + "\n"


def parse(schema, text: str, *score_range):
    return KINDS[schema].parse("some/file", text.encode(), *score_range)


def refused(schema, text: str, line: int, reason: str):
    with pytest.raises(InputError, match=rf"^some/file:{line}: .*{reason}[^\n]*$"):
        parse(schema, text)


# --- writing --------------------------------------------------------------------------------------------------------

def test_columns_are_the_references():
    """The header of a log that the 2020 program wrote, for its radii 0, 0.25, ..., 1.5."""
    radii = tuple(i * 0.25 for i in range(7))
    with open(PUBLISHED_LOG, newline="") as file:
        published = next(csv.reader(file, delimiter="\t"))
    assert LOG.header(radii) == published
    assert LOG.radii_of(published) == radii


@pytest.mark.parametrize("radii, names", [((0.07,), ["07"]), ((0.29, 0.57, 1.15), ["29", "57", "115"]),
                                          ((0, 12.34), ["00", "1234"])])
def test_columns_of_radii(radii, names):
    """100 * 0.29, 100 * 0.57 and 100 * 1.15 are a hair below an integer: the columns are rounded, not cut off."""
    header = LOG.header(radii)
    assert header == ["idx", "label", "predict", *("exp_cdf_" + name for name in names),
                      *("exp_" + name for name in names), "correct", "time"]
    assert LOG.radii_of(header) == tuple(int(name) / 100 for name in names)


@pytest.mark.parametrize("radii", [[], [0.5, 0.25], [0.25, 0.25], [-0.25], [0.005], [math.nan], [math.inf], [0, 1e-3]])
def test_radii_without_columns_are_refused(radii):
    """Two radii must never share a column, and a column's name must be its radius."""
    with pytest.raises(InputError, match="radi"):
        check_radii(radii)


@given(st.lists(st.integers(0, 10 ** 5), min_size=1, max_size=9, unique=True))
def test_all_allowed_radii_have_columns(hundredths):
    """Every increasing list of multiples of 0.01 is allowed, and its header names it, for one kind of file alone."""
    radii = [value / 100 for value in sorted(hundredths)]
    check_radii(radii)
    for schema in (LOG, RANGES, ATTACKS):
        found = {other.name: other.radii_of(schema.header(radii)) for other in KINDS}
        assert found == dict.fromkeys(found) | {schema.name: tuple(radii)}


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


@every_kind
@given(st.integers(0, 10 ** 7), st.integers(0, 999), st.integers(0, 999),
       st.lists(st.floats(0, 1), min_size=8, max_size=8), st.floats(0, 1e6))
def test_what_is_written_is_read_again(schema, index, label, predict, numbers, seconds):
    """Every row that a run may write, days of time and tiny bounds included; lower limits go down, upper ones up."""
    pairs = iter(sorted(numbers))  # increasing: no lower limit is above an upper one
    values = [(next(pairs), next(pairs)) if schema.per_radius else next(pairs) for _ in schema.columns]
    table = parse(schema, header(schema) + schema.line(index, label, predict, seconds, *values))
    read, = table.rows
    assert table.schema is schema and table.radii == ((0.0, 0.25) if schema.per_radius else ()) and not table.torn
    assert (read.index, read.label, read.predict, read.correct) == (index, label, predict, predict == label)
    assert abs(read.seconds - seconds) <= 1e-6
    for column, value in zip(schema.columns, values, strict=True):
        pairs = zip(value, getattr(read, column.name), strict=True) if schema.per_radius else [
            (value, getattr(read, column.name))]
        for before, after in pairs:
            low, high = before - 1e-6 * before, before + 1e-6 * before
            upwards = column.name.startswith("upper")
            assert after == before if column.name == "bound" else (
                before <= after <= high if upwards else low <= after <= before)


def test_radius_rows():
    """As Cohen et al. write them, so that pandas reads them as their tools do."""
    abstention, found = RADII.line(0, 4, -1, 1.0, 0.0), RADII.line(7, 4, 4, 61.5, 0.123456789)
    assert abstention == "0\t4\t-1\t0.0\t0\t0:00:01\n"
    assert found == f"7\t4\t4\t0.12345678\t1\t{timedelta(seconds=61.5)}\n"
    table = parse(RADII, header(RADII) + found + abstention + "9\t")
    assert table.torn and table.values("radius").tolist() == [0.12345678, 0.0] and table.of_correct == [0.12345678]


# --- reading --------------------------------------------------------------------------------------------------------

def test_a_valid_log():
    good, wrong, abstained = row(LOG), row(LOG, "20", "4", correct="0"), row(LOG, "40", "4", "-1", "0")
    log = parse(LOG, header(LOG) + good + wrong + abstained)
    assert log.indices == [0, 20, 40] and log.radii == (0.0, 0.25) and not log.torn
    assert log.values("correct").tolist() == [True, False, False]
    assert log.rows[0].exp_cdf == (0.9, 0.5) and log.rows[0].exp == (0.8, 0.4)
    assert log.ends == [sum(map(len, (header(LOG), good, wrong, abstained)[:count])) for count in (1, 2, 3, 4)]
    assert log.certified(0.5).tolist() == [[True, False], [False, False], [False, False]]  # strictly above
    assert log.certified_accuracy(0.79, cdf=False).tolist() == [pytest.approx(1 / 3), 0]


HEADERS = {"without values": lambda text: "idx\tlabel\tpredict\tcorrect\ttime\n", "empty": lambda text: "\n",
           "another index": lambda text: text.replace("idx", "index"), "a space": lambda text: " " + text,
           "no correct": lambda text: text.replace("\tcorrect", ""), "commas": lambda text: text.replace("\t", ","),
           "more": lambda text: text.replace("\tcorrect", "\tmore\tcorrect")}
RADIUS_HEADERS = {"last radius": lambda text: "_50\tcorrect".join(text.rsplit("_25\tcorrect")),
                  "order": lambda text: text.replace("00", "x").replace("25", "00").replace("x", "25"),
                  "one twice": lambda text: text.replace("25", "00"), "zero": lambda text: text.replace("_25", "_025"),
                  "other digits": lambda text: text.replace("25", "٢٥")}


@pytest.mark.parametrize("schema, change", [(schema, change) for schema in KINDS for change in (
    HEADERS | (RADIUS_HEADERS if schema.per_radius else {})).values()])
def test_header_of_no_file(schema, change):
    """Nor is a file of one kind read as one of another."""
    assert change(header(schema)) != header(schema)
    refused(schema, change(header(schema)) + row(schema), 1, "(header|ASCII)")
    for other in KINDS:
        if KINDS[other] is not KINDS[schema]:
            refused(other, header(schema) + row(schema), 1, "header")


BAD_FIELDS = {  # (field, text): reason
    (3, ""): "finite number", (3, "nan"): "finite number", (3, "-Infinity"): "finite number", (3, "1e999"): "range",
    (3, "0_1"): "finite number", (3, " 0.5"): "finite number", (3, "-1.01"): "range",
    (3, "1" * 10_000 + "x"): "finite number", (0, "1.0"): "idx", (0, "-1"): "idx", (0, "9" * 30): "idx",
    (0, "١"): "ASCII", (1, "-2"): "label", (1, ""): "label",
    (1, "3\0"): "label", (2, "-2"): "predict", (2, "cat"): "predict", (2, "4"): "correct", (-2, "0"): "correct",
    (-2, "True"): "correct", (-2, "2"): "correct", (-1, "12"): "time", (-1, "-1 day, 23:59:59"): "time",
    (-1, "0:1:2"): "time", (-1, ""): "time", (-1, "0:00:00é"): "ASCII", (0, "7"): "twice"}


@every_kind
def test_bad_fields(schema):
    """Refused with file, line and reason, in one line, and quickly: a file is untrusted."""
    begin = time.process_time()
    for (place, text), reason in BAD_FIELDS.items():
        fields = row(schema).split("\t")
        fields[place] = text + "\n" * (place == -1)
        refused(schema, header(schema) + row(schema, "7") + "\t".join(fields) + row(schema, "9"), 3, reason)
    assert time.process_time() - begin < 1
    for bad in ("\n", row(schema).replace("\t1\t", "\t"), row(schema).replace("\t1\t", "\t0.4\t1\t")):
        refused(schema, header(schema) + row(schema, "7") + bad, 3, "fields, not")


@pytest.mark.parametrize("schema, values, reason", [
    (LOG, "1.01 0.5 0.8 0.4", "range"), (RADII, "-0.5", "range"), (RADII, "2e9", "range"),
    (PREDICTIONS, "0.5 1.1", "range"), (ATTACKS, "0.7 0.5 0.8 0.6 0.75 0.55 0.85 1.65", "range"),
    (PREDICTIONS, "0.7 0.5", "above upper"), (RANGES, "0.9 0.5 0.8 0.4 0.89 0.99", "above upper"),
    (ATTACKS, "0.7 0.5 0.8 0.6 0.9 0.55 0.85 0.65", "above upper")])
def test_values_that_cannot_be(schema, values, reason):
    refused(schema, header(schema) + row(schema, values=values), 2, reason)


@pytest.mark.parametrize("schema, values", [
    (LOG, "0.0 0.0 0.1 0.0"), (RANGES, "0.0 0.0 0.0 0.0 1 0.9"), (RANGES, "0.0 0.1 0.0 0.0 1 1"), (RADII, "0.5"),
    (ATTACKS, "0 0 0 0 0 0 0 0.1")])
def test_an_abstention_claims_nothing(schema, values):
    abstention = row(schema, predict="-1", correct="0")
    assert not parse(schema, header(schema) + abstention).rows[0].correct
    refused(schema, header(schema) + row(schema, predict="-1", correct="0", values=values), 2, "abstention")
    refused(schema, header(schema) + row(schema, predict="-1", correct="1"), 2, "correct")


def test_a_prediction_that_is_not_decided_keeps_its_limits():
    table = parse(PREDICTIONS, header(PREDICTIONS) + row(PREDICTIONS, predict="-1", correct="0"))
    assert (table.rows[0].lower, table.rows[0].upper) == (0.2, 0.3)


def test_the_measures_range():
    """A log of pred_score has no bound below 0; one of margin may; without a record nothing speaks against -1."""
    below = header(LOG) + row(LOG, values="0.9 -0.5 0.8 -1.0")
    assert parse(LOG, below).rows[0].exp[1] == -1
    with pytest.raises(InputError, match=r"^some/file:2: -0\.5 is outside the range \[0, 1\]"):
        parse(LOG, below, (0.0, 1.0))


@every_kind
@pytest.mark.parametrize("kept", [1, 5, -1])
def test_a_torn_last_line_is_left_out(schema, kept):
    """A crash in mid-write leaves a part of a row without its line end, which may even look whole: it does not count"""
    table = parse(schema, header(schema) + row(schema) + row(schema, "20")[:kept])
    assert table.torn and table.indices == [0]
    assert table.ends == [len(header(schema)), len(header(schema) + row(schema))]


@every_kind
def test_carriage_returns(schema):
    """A file that went through Windows reads the same."""
    text = header(schema) + row(schema) + row(schema, "20")
    assert parse(schema, text.replace("\n", "\r\n")).rows == parse(schema, text).rows


@every_kind
def test_from_the_disk(schema, tmp_path):
    """A damaged file stays as it is; one without a row, and one that is no file, are errors, too."""
    path = tmp_path / "file"
    for text, reason in ((header(schema) + "?\n", "file:2: 1 fields"), ("", "no complete row"),
                         (header(schema), "no complete row"), (header(schema)[:-1], "no complete row"),
                         (header(schema) + row(schema)[:-1], "no complete row")):
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            KINDS[schema].read(str(path))
        assert path.read_text() == text
    for name in (tmp_path, tmp_path / "missing", tmp_path / "missing" / "file"):
        with pytest.raises(InputError, match=str(name)):
            KINDS[schema].read(str(name))
    path.write_text(header(schema) + row(schema))
    table, settings = KINDS[schema].read(str(path))
    assert settings == {} and table.indices == pandas.read_csv(path, sep="\t").idx.tolist() == [0]
    assert [kind.is_kind_of(str(path)) for kind in set(KINDS.values())].count(True) == 1
    assert table.rows == KINDS[schema].parse("", read_bytes(path)).rows
