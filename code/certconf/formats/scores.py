"""Saved scores, OUTFILE.scores: for each image what every later bound needs, in binary records of a fixed size."""
import hashlib
import os
import sys
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from certconf.errors import InputError
from certconf.files import read_bytes
from certconf.formats.log import check_radii
from certconf.formats.record import read_record, record_path, without_row
from certconf.statistics.bounds import WEIGHTS, clopper_pearson_ranks
from certconf.statistics.certificate import Certificate, CertificateSpec
from certconf.statistics.measures import MEASURES
from certconf.statistics.sequential import Plan

FLOAT32 = np.finfo(np.float32)
LEAST_SIGMA, LARGEST_SIGMA = float(FLOAT32.smallest_subnormal), float(FLOAT32.max)  # that float noise can have


def scores_path(outfile: str) -> str:
    """The path of a log's saved scores."""
    return outfile + ".scores"


def run_files(outfile: str) -> tuple[str, str, str]:
    """The files that a run may write: its log, its record and its saved scores."""
    return outfile, record_path(outfile), scores_path(outfile)


def refuse_files_of(log: str, outfile: str) -> None:
    """Raise InputError if a run that writes to `outfile` would write a file of the run of `log`."""
    if set(map(os.path.realpath, run_files(outfile))) & set(map(os.path.realpath, run_files(log))):
        raise InputError(f"{outfile}: one of LOG, LOG.json and LOG.scores of the run {log}; choose another name")


@lru_cache
def scores_dtype(plan: Plan) -> np.dtype:
    """The record of one image.

    chosen: the class before any abstention; order: the order statistics of its scores, at the ranks
    clopper_pearson_ranks(n, weights). Staged sampling adds n and alpha, those of the look that settled the image, and
    fills order up with its last score.
    """
    look = [("n", "<i8"), ("alpha", "<f8")] if plan.settle is not None else []
    length = max(len(clopper_pearson_ranks(n, plan.spec.kept_ranks)) for n, _ in plan.schedule)
    return np.dtype([("idx", "<i8"), ("label", "<i8"), ("chosen", "<i8"), ("mean", "<f8"), *look,
                     ("order", "<f4", (length,))])


def describe_dtype(dtype: np.dtype) -> list:
    """A dtype as a record holds it; np.dtype([tuple(field) for field in ...]) restores it."""
    return [[name, dtype[name].base.str, *dtype[name].shape] for name in dtype.names]


def scores_record(index: int, label: int, certificate: Certificate, dtype: np.dtype) -> bytes:
    """The record of one image, from its certificate with kept ranks."""
    record, order = np.zeros((), dtype), certificate.order_statistics
    record["idx"], record["label"], record["chosen"] = index, label, certificate.chosen
    record["mean"], record["order"] = certificate.mean, order[-1]
    record["order"][:len(order)] = order
    if "n" in dtype.names:
        record["n"], record["alpha"] = certificate.spec.n, certificate.spec.alpha
    return record.tobytes()


def parse_scores(path: str, data: bytes, plan: Plan) -> np.ndarray:
    """The complete records in `data`, checked; a torn last one is left out. Raises InputError."""
    dtype, measure = scores_dtype(plan), plan.spec.measure
    records = np.frombuffer(data[:len(data) // dtype.itemsize * dtype.itemsize], dtype)
    with np.errstate(invalid="ignore"):  # NaN compares as false, and so is refused
        order, mean = records["order"].astype(np.float64), records["mean"]
        sound = ((records["idx"] >= 0) & (records["label"] >= 0) & (records["chosen"] >= 0)
                 & (mean >= order[:, 0] - 1e-9) & (mean <= order[:, -1] + 1e-9)
                 & (order[:, 0] >= measure.score_min) & (order[:, -1] <= measure.score_max)
                 & (order[:, 1:] >= order[:, :-1]).all(1))
    if measure.two_valued:
        sound &= np.isin(order, (measure.score_min, measure.score_max)).all(1)
    if "n" in dtype.names:
        sound &= np.array([pair in plan.schedule for pair in zip(records["n"].tolist(), records["alpha"].tolist(),
                                                         strict=True)], dtype=bool)
    if not sound.all():
        raise InputError(f"{path}: record {int(np.argmin(sound))} is not one of saved scores")
    if len(np.unique(records["idx"])) < len(records):
        raise InputError(f"{path}: an index occurs twice")
    return records


@dataclass(frozen=True)
class SavedScores:
    """A run's saved scores, with the settings of the run and the plan of its own certificates.

    non_finite: the images that have no record here, since their scores are not finite.
    """

    path: str
    records: np.ndarray
    settings: dict
    plan: Plan
    sha256: str
    non_finite: list[int]

    @property
    def spec(self) -> CertificateSpec:
        """That of the run's plan."""
        return self.plan.spec

    @property
    def images(self) -> int:
        """The number of images, including those without a record."""
        return len(self.records) + len(self.non_finite)

    @property
    def log(self) -> str:
        """The log of the run."""
        return self.path.removesuffix(".scores")

    def certificates(self, plan: Plan):
        """Yield (index, label, certificate under `plan`, whose looks have the run's sizes) for every image."""
        looks = {look.spec.n: look.spec for look in plan.looks}
        for record in self.records:
            look = looks[int(record["n"]) if plan.settle is not None else plan.spec.n]
            order = record["order"][:len(look.band.ranks)]
            certificate = look.certificate(int(record["chosen"]), float(record["mean"]), order)
            yield int(record["idx"]), int(record["label"]), certificate


def read_scores(path: str) -> SavedScores:
    """The scores in `path` (OUTFILE.scores, or OUTFILE itself) and its record. Raises InputError."""
    outfile = path.removesuffix(".scores")
    path, recorded = scores_path(outfile), record_path(outfile)
    record = read_record(outfile)
    if record is None:
        raise InputError(f"{recorded}: no such record of the run that saved the scores")
    settings = record["settings"]
    try:
        plan = _recorded_plan(settings, record.get("eta"))
        if record.get("scores_dtype") != describe_dtype(scores_dtype(plan)):
            raise ValueError("scores_dtype")
    except (KeyError, TypeError, ValueError, OverflowError, InputError) as error:
        raise InputError(f"{recorded}: not a record of saved scores ({error})") from None
    data = read_bytes(path)
    records = parse_scores(path, data, plan)
    if not len(records):
        raise InputError(f"{path}: no complete record in it")
    if len(data) > records.nbytes:
        print(f"{path}: its last record is torn and is left out", file=sys.stderr)
    return SavedScores(path, records, settings, plan, hashlib.sha256(data).hexdigest(),
                       without_row(record, records["idx"].tolist()))


def _recorded_plan(settings: dict, eta) -> Plan:
    """The plan of a run's own certificates. Raises KeyError, TypeError, ValueError, OverflowError, InputError.

    eta: what an older record holds of the calibration: a number, or a list of one for each look.
    """
    # older records have none of these four
    noise, delta, weights, settle = (settings.get(name, default) for name, default in (
        ("noise", "float"), ("delta", 0.0), ("weights", "equal"), ("settle", None)))
    alpha, sigma, *radii = map(float, (settings["alpha"], settings["sigma"], *settings["radii"]))
    spec = CertificateSpec(MEASURES[settings["confidence_measure"]], settings["N"], alpha, sigma, settings["bound"],
                           tuple(radii), weights, kept_ranks=weights, delta=delta)
    if settings["program"] != "certify" or settings["save_scores"] is not True:
        raise ValueError("the run saved none")
    if (type(spec.n) is not int or type(settings["radii"]) is not list
            or not LEAST_SIGMA <= spec.sigma <= LARGEST_SIGMA):
        raise ValueError("N, radii or sigma")
    if (noise not in ("integer", "float") or type(delta) is not float or not 0 <= delta < 1
            or noise == "integer" and not delta):
        raise ValueError("noise or delta")
    if weights not in WEIGHTS or settle is not None and type(settle) is not float:
        raise ValueError("weights or settle")
    if noise == "float":  # which is drawn with this sigma
        spec = replace(spec, sigma=float(np.float32(sigma)))
    check_radii(spec.radii)
    plan = Plan(spec, settle, None if settle is None else _recorded_schedule(settings["looks"]))
    etas = eta if type(eta) is list else [eta]
    if len(etas) == len(plan.schedule) and all(type(each) is float for each in etas):
        plan = replace(plan, starts=tuple(etas))
    return plan.prepare()


def _recorded_schedule(looks) -> tuple[tuple[int, float], ...]:
    """The looks of a record, each [n, alpha]. Raises TypeError, ValueError."""
    schedule = tuple((n, alpha) for n, alpha in looks)
    if not schedule or not all(type(n) is int and type(alpha) is float for n, alpha in schedule):
        raise ValueError("looks")
    return schedule
