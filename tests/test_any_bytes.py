"""Any byte string as a log, as a record or as saved scores: a clear error or a valid reading, and the file stays.

Each reader has one function that tries one file, called with hundreds of inputs here and 30,000 under -m long.
"""
import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from certconf.errors import InputError
from certconf.formats.log import LOG as SCHEMA
from certconf.formats.log import Log
from certconf.formats.record import read_record
from certconf.formats.scores import describe_dtype, read_scores, scores_dtype
from certconf.runner.output import ResumableLog
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.measures import MEASURES
from certconf.statistics.sequential import Plan

N = 8
RADII = (0.0, 0.5)
QUICK, LONG = 300, 30_000
HEADER = "\t".join(SCHEMA.header(RADII)) + "\n"
LOG = (HEADER + "0\t3\t3\t0.75\t0.5\t0.7\t0.25\t1\t0:00:01.5\n20\t4\t3\t0.9\t0.5\t0.8\t0.4\t0\t1 day, 0:00:01\n"
       "40\t4\t-1\t0.0\t0.0\t0.0\t0.0\t0\t0:00:00.1\n").encode()
SETTINGS = {"program": "certify", "dataset": "cifar10", "sigma": 0.25, "N": N, "N0": 4, "alpha": 0.3, "seed": 0,
            "confidence_measure": "pred_score", "bound": "clopper_pearson", "radii": list(RADII), "weights": "equal",
            "save_scores": True}
SPEC = CertificateSpec(MEASURES["pred_score"], N, 0.3, 0.25, radii=RADII, weights="equal", kept_ranks="equal")
RECORD = {"settings": SETTINGS, "starts": [{"batch": 10, "arguments": {}}], "eta": 0.1, "non_finite": [60, 20],
          "scores_dtype": describe_dtype(scores_dtype(Plan(SPEC)))}
SCORES = np.zeros(3, scores_dtype(Plan(SPEC)))
SCORES["idx"], SCORES["label"], SCORES["chosen"] = [0, 20, 40], [3, 4, 4], [3, 3, 1]
SCORES["order"] = np.linspace(0.9, 0.99, SCORES["order"].shape[1])  # high enough for a certificate
SCORES["mean"] = 0.95


# --- inputs ---------------------------------------------------------------------------------------------------------

def mutations(valid: bytes, pieces: list[bytes]):
    """`valid` after a few edits: a stretch replaced by random bytes, by a piece, or by another stretch of itself."""
    place = st.integers(0, len(valid))
    stretch = st.builds(lambda a, b: valid[min(a, b):max(a, b)], place, place)
    new = st.one_of(st.just(b""), st.binary(max_size=8), st.sampled_from(pieces), stretch)
    edit = st.tuples(place, st.one_of(st.just(0), st.just(1), st.integers(0, 40)), new)

    def apply(edits):
        data = valid
        for at, length, piece in edits:
            data = data[:at] + piece + data[at + length:]
        return data

    return st.lists(edit, min_size=1, max_size=4).map(apply)


WORDS = ["", "0", "1", "-1", "3", "0.5", "0.50000001", "-0.5", "1e-9", "1E-400", "1e999", "nan", "inf", "0x1",
         "9" * 20, "0:00:01", "1 day, 0:00:00", "99999999999 days, 0:00:00", "exp_00", "exp_cdf_00", "idx", "\0", " 1",
         "1_0", "é"]
LOGS = st.one_of(
    st.binary(max_size=300), mutations(LOG, [b"\n", b"\t", b"\r\n", b"\x1a", *(word.encode() for word in WORDS)]),
    st.lists(st.tuples(*[st.sampled_from(WORDS)] * 9).map("\t".join), max_size=2).map(
        lambda lines: (HEADER + "\n".join(lines) + "\n").encode()))

NUMBERS = st.one_of(st.sampled_from([0, 1, -1, 0.5, 1e-300, 1e300, 10 ** 400, 10 ** 19, 2 ** 63, -2 ** 63, math.nan,
                                     math.inf, -math.inf, True, N, 0.001, 0.25]), st.integers(-1000, 1000), st.floats())
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["margin", "dkw", "\ud800", "N"]), st.text())
ANYTHING = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(st.sampled_from([*SETTINGS, *RECORD, "other"]), inner, max_size=4)),
    max_leaves=8)
VALUE = st.one_of(ANYTHING, NUMBERS, st.lists(NUMBERS, max_size=3))


def changed_records(changes: dict, top: dict, drop: list[str]) -> bytes:
    """The valid record with some settings and some entries beside them replaced, and others left out."""
    record = {**RECORD, "settings": {**SETTINGS, **changes}, **top}
    for name in drop:
        record.pop(name, None)
        if isinstance(record.get("settings"), dict):
            record["settings"].pop(name, None)
    return json.dumps(record).encode()


RECORDS = st.one_of(
    st.binary(max_size=200), ANYTHING.map(lambda value: json.dumps(value).encode()),
    mutations(json.dumps(RECORD).encode(), [b"{", b"}", b"]", b"[", b'"', b"NaN", b"1e999", b"null", b"\xff",
                                            b"\\ud800", b"-", b"[" * 9000, b"9" * 5000]),
    st.builds(changed_records, st.dictionaries(st.sampled_from(list(SETTINGS)), VALUE, max_size=2),
              st.dictionaries(st.sampled_from(list(RECORD)), VALUE, max_size=1),
              st.lists(st.sampled_from([*SETTINGS, *RECORD]), max_size=1)))

def changed_scores(record: int, name: str, rank: int, value: float) -> bytes:
    """The valid scores with one number replaced."""
    scores = SCORES.copy()
    if name == "order":
        scores["order"][record, rank] = value
    else:
        scores[name][record] = value if name == "mean" else int(np.nan_to_num(value, posinf=40, neginf=0))
    return scores.tobytes()


FLOATS = [math.nan, math.inf, -math.inf, -0.0, 1e-45, 0.5, 1.0, 1.0000001, -1.0, 2.0]
SCORE_FILES = st.one_of(
    st.binary(max_size=300),
    mutations(SCORES.tobytes(), [np.dtype(kind).type(x).tobytes() for kind in ("<f4", "<f8") for x in FLOATS]
              + [np.int64(k).tobytes() for k in (0, 20, -1, 2 ** 63 - 1)]),
    st.lists(st.tuples(*[st.integers(-1, 3)] * 3, st.sampled_from(FLOATS),
                       st.lists(st.sampled_from(FLOATS), min_size=N, max_size=N).map(sorted)), max_size=3).map(
        lambda records: np.array(records, SCORES.dtype).tobytes()),
    st.builds(changed_scores, st.integers(0, 2), st.sampled_from(SCORES.dtype.names), st.sampled_from([0, 1, N - 1]),
              st.one_of(st.sampled_from(FLOATS), st.floats(-2, 2))))


# --- what a file may give -------------------------------------------------------------------------------------------

def contents(folder) -> dict[str, bytes]:
    """All that is in the folder."""
    return {entry.name: Path(entry).read_bytes() for entry in os.scandir(folder)}


def attempt(folder, reader, *args):
    """reader(*args), or None after a clear error: one line that names a file. Nothing in the folder changes."""
    before = contents(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be a second line beside the error's
            return reader(*args)
    except InputError as error:
        assert str(folder / "log") in str(error) and len(str(error).splitlines()) == 1
        return None
    finally:
        assert contents(folder) == before


def try_log(folder, data: bytes) -> None:
    """A log that is read is a valid one, judged by a reader of its own."""
    (folder / "log").write_bytes(data)
    found = attempt(folder, Log.read, str(folder / "log"))
    if found is None:
        return
    log, _ = found
    lines = [line.removesuffix(b"\r").rstrip(b"\r").split(b"\t") for line in data.split(b"\n")[:-1]]
    assert len(lines) == len(log.rows) + 1 and len(set(log.indices)) == len(log.rows) > 0
    assert [name.decode() for name in lines[0]] == log.schema.header(log.radii)
    assert log.torn == (not data.endswith(b"\n")) and log.ends[-1] == data.rindex(b"\n") + 1
    for row, fields in zip(log.rows, lines[1:], strict=True):
        assert (row.index, row.label, row.predict) == tuple(map(int, fields[:3]))
        assert row.exp_cdf + row.exp == tuple(map(float, fields[3:-2]))
        assert all(-1 <= bound <= 1 for bound in row.exp_cdf + row.exp)
        assert fields[-2] == (b"1" if int(fields[1]) == int(fields[2]) else b"0")
        assert row.predict >= 0 or not any(row.exp_cdf + row.exp)
    assert np.isfinite(log.certified_accuracy(0.5)).all()


def open_output(path: str) -> None:
    """What certify.py does with a log and its record before it writes anything."""
    ResumableLog(path, SETTINGS, SCHEMA.header(RADII), Log.parse).close()


def try_record(folder, data: bytes) -> None:
    """A record that is read has settings and starts; one of saved scores gives certificates."""
    (folder / "log.json").write_bytes(data)
    path = str(folder / "log")
    record = attempt(folder, read_record, path)
    if record is not None:
        assert isinstance(record["settings"], dict) and all(isinstance(start, dict) for start in record["starts"])
        assert record["starts"]
    recorded = attempt(folder, Log.read, path)
    if recorded is not None:
        assert repr(recorded[1]) == repr(record["settings"]) and len(recorded[0].rows) == 3
    attempt(folder, open_output, path)
    try_certificates(attempt(folder, read_scores, path))


def try_certificates(saved) -> None:
    """Where scores were read, every image's certificate can be had without a warning, and is finite."""
    if saved is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = [(index, *certificate) for index, _, certificate in saved.certificates(saved.plan)]
        assert [row[0] for row in rows] == saved.records["idx"].tolist()
        assert all(np.isfinite(row[2] + row[3]).all() for row in rows)


def try_scores(folder, data: bytes) -> None:
    """Scores that are read are finite, sorted and within the measure's range, and give certificates."""
    (folder / "log.scores").write_bytes(data)
    saved = attempt(folder, read_scores, str(folder / "log"))
    if saved is None:
        return
    whole = len(data) // SCORES.dtype.itemsize * SCORES.dtype.itemsize
    assert saved.records.tobytes() == data[:whole] and len(saved.records) > 0
    order = saved.records["order"]
    assert ((order >= 0) & (order <= 1)).all() and (order == np.sort(order, axis=1)).all()
    assert len(set(saved.records["idx"].tolist())) == len(saved.records) and saved.records["idx"].min() >= 0
    assert np.isfinite(saved.records["mean"]).all()
    try_certificates(saved)


READERS = {"log": (try_log, LOGS), "record": (try_record, RECORDS), "scores": (try_scores, SCORE_FILES)}


def valid_run(folder) -> Path:
    """Write a valid log, its record and its scores into a folder."""
    (folder / "log").write_bytes(LOG)
    (folder / "log.json").write_text(json.dumps(RECORD))
    (folder / "log.scores").write_bytes(SCORES.tobytes())
    return folder


def test_the_valid_files_are_read(tmp_path):
    """The mutations start from files that are fine, and whose certificates claim something."""
    path = str(valid_run(tmp_path) / "log")
    assert Log.read(path)[0].indices == [0, 20, 40]
    saved = read_scores(path)
    assert [certificate.prediction for _, _, certificate in saved.certificates(saved.plan)] == [3, 3, 1]
    try_log(tmp_path, LOG)
    try_record(tmp_path, json.dumps(RECORD).encode())
    try_scores(tmp_path, SCORES.tobytes())


@pytest.mark.parametrize("examples", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])
@pytest.mark.parametrize("reader", READERS)
def test_any_bytes(reader, examples, tmp_path):
    """Random files for one reader, the other two files of the run being valid."""
    tried, inputs = READERS[reader]
    valid_run(tmp_path)

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              derandomize=examples == QUICK, phases=[Phase.generate, Phase.shrink])
    @given(inputs)
    def try_one(data):
        tried(tmp_path, data)

    try_one()


@pytest.mark.parametrize("changes", [
    {"sigma": 10 ** 400}, {"sigma": math.nan}, {"sigma": -1}, {"sigma": 1e-320}, {"sigma": 1e300}, {"N": 2 ** 63 - 1},
    {"N": 10 ** 400}, {"N": 10 ** 13}, {"N": 8.0}, {"N": True}, {"alpha": math.nan}, {"alpha": "0.1"},
    {"radii": [10 ** 400]}, {"radii": [1e300]}, {"radii": {"0": 1}}, {"bound": ["dkw"]},
    {"bound": "dkw", "N": 2 ** 63}, {"confidence_measure": ["margin"]}, {"confidence_measure": "__class__"}],
    ids=lambda changes: str(changes)[:40])
def test_odd_settings(changes, tmp_path):
    """Numbers of a kind that JSON allows and a run does not have."""
    try_record(valid_run(tmp_path), changed_records(changes, {}, []))


def test_nested_records(tmp_path):
    """JSON nested just as deep as Python reads it is still a clear error, wherever the limit of recursion is met."""
    valid_run(tmp_path)
    for depth in (10, 100_000, *range(800, 1000, 5)):
        record = json.dumps({**RECORD, "settings": {"N": "?"}}).replace('"?"', "[" * depth + "]" * depth)
        (tmp_path / "log.json").write_text(record)
        assert attempt(tmp_path, open_output, str(tmp_path / "log")) is None, depth


@pytest.mark.parametrize("error, read", [(-1e-12, True), (1e-12, True), (1e-6, False), (-1e-6, False),
                                         (math.inf, False), (math.nan, False)])
def test_a_mean_beside_its_scores(error, read, tmp_path):
    """Where all scores of an image are equal, their mean may be a rounding error beside them, and no more."""
    scores = SCORES.copy()
    scores["order"] = 0.7
    scores["mean"] = np.float64(np.float32(0.7)) + error
    path = valid_run(tmp_path) / "log.scores"
    path.write_bytes(scores.tobytes())
    assert (attempt(tmp_path, read_scores, str(path)) is not None) == read


@pytest.mark.parametrize("name", ["idx", "label", "chosen"])
def test_negative_numbers_of_an_image(name, tmp_path):
    valid_run(tmp_path)
    (tmp_path / "log.scores").write_bytes(changed_scores(1, name, 0, -1.0))
    assert attempt(tmp_path, read_scores, str(tmp_path / "log")) is None
