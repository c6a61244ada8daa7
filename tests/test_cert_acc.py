"""cert_acc.py: its table in every format, limits on the population, and what it refuses."""
import csv
import io
import json
import re

import numpy as np
import pytest
from certify_runs import call_program
from helpers import assert_refused, run_program
from scipy.special import betaincinv
from scipy.stats import binomtest

from certconf.statistics.bounds import population_limit

HEADER = "idx\tlabel\tpredict\texp_cdf_00\texp_cdf_25\texp_00\texp_25\tcorrect\ttime\n"
ODD = "a_b&c|50%#{x}$"  # what a path may hold and a table must escape
UNLIKELY = 1e-4


def cert_acc(*args):
    return call_program("cert_acc.py", *args)


def write_log(path, counts, rows=12, header=HEADER):
    """A log with counts[0], counts[1], ... certified above 0.5 at its columns of bounds, the first of its rows each.

    Its last row is wrong with bounds of 0.9, and its score 0.5 itself does not count: neither is ever certified.
    """
    lines = []
    for i in range(rows - 1):
        bounds = ["0.7" if i < count else "0.5" for count in counts]
        lines.append("\t".join([str(20 * i), "3", "3", *bounds, "1", "0:00:01"]) + "\n")
    lines.append("\t".join([str(20 * rows), "4", "3", *["0.9"] * len(counts), "0", "0:00:01"]) + "\n")
    path.write_text(header + "".join(lines))
    return path


def limit_of(count, n, confidence):
    """The one-sided Clopper-Pearson limit, as SciPy finds it: a root of the binomial test, not a quantile."""
    return binomtest(count, n, alternative="greater").proportion_ci(confidence, method="exact").low


def write_record(log, **settings):
    """The record of a log, with these settings."""
    log.with_name(log.name + ".json").write_text(json.dumps({"settings": settings, "starts": [{}]}))


def cells_of(text: str) -> list[list[str]]:
    """A table in csv: the header and the rows."""
    return list(csv.reader(io.StringIO(text)))


def plain_numbers(output: str) -> list[str]:
    return re.findall(r"^Certified accuracy \((?:using|without) cdf bound\) at radius \d\.\d\d = (\d\.\d{6})$", output,
                      re.M)


@pytest.fixture
def logs(tmp_path):
    """Two logs: at R = 0, 0.25 the first certifies 9 and 5 of 12 with the CDF, 4 and 2 without."""
    return [write_log(tmp_path / ODD, (9, 5, 4, 2)), write_log(tmp_path / "second", (11, 1, 10, 0))]


# --- tables ---------------------------------------------------------------------------------------------------------

def test_plain_output(logs):
    """The numbers of the plain call, counted by hand: a wrong row and a bound of exactly the score do not count."""
    result = cert_acc(logs[0], 0.5)
    assert (result.returncode, result.stderr) == (0, "")
    assert plain_numbers(result.stdout) == ["0.750000", "0.416667", "0.333333", "0.166667"]
    assert result.stdout.startswith("Expected score threshold = 0.500000\n\n\n")
    assert plain_numbers(cert_acc(logs[0], 0.7).stdout) == ["0.000000"] * 4
    assert plain_numbers(cert_acc(logs[0], -0.1).stdout) == ["0.916667"] * 4


@pytest.mark.parametrize("options, names", [((), None), (("--labels", "first", "the second"), ("first", "the second"))])
def test_table_of_several_logs(options, names, logs):
    """The numbers by hand; a row is named by the log's path, or by its label."""
    result = cert_acc(*logs, 0.5, "--format", "csv", *options)
    assert (result.returncode, result.stderr) == (0, "")
    header, *rows = cells_of(result.stdout)
    assert header == ["log", "certified accuracy", "R = 0.00", "R = 0.25"] and len(rows) == 4
    assert [row[0] for row in rows] == [str(log) for log in names or logs for _ in range(2)]
    assert [row[1] for row in rows] == ["using cdf bound", "without cdf bound"] * 2
    assert [row[2:] for row in rows] == [["0.7500", "0.4167"], ["0.3333", "0.1667"],
                                         ["0.9167", "0.0833"], ["0.8333", "0.0000"]]


def test_labels_and_title(logs):
    """A title or a label asks for a table of one log, too; a line on stderr names the log by its path."""
    result = cert_acc(logs[1], 0.5, "--title", "A title", "--labels", "mine")
    assert result.stdout.startswith("A title\n\nlog ") and result.stdout.splitlines()[3].startswith("mine ")
    for labels in (["one", "one"], ["one", "two", "three"]):
        assert_refused(cert_acc(*logs, 0.5, "--labels", *labels), "--labels", "2 files")


def test_table_of_different_radii(logs, tmp_path):
    """A radius that a log has no column of stays empty; none is taken for another."""
    other = write_log(tmp_path / "other", (6, 3, 2, 1), header=HEADER.replace("25", "50"))
    _, *rows = cells_of(cert_acc(logs[1], other, 0.5, "--format", "csv").stdout)
    assert [row[2:] for row in rows] == [["0.9167", "0.0833", ""], ["0.8333", "0.0000", ""],
                                         ["0.5000", "", "0.2500"], ["0.1667", "", "0.0833"]]


# --- the population -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("confidence", [0.5, 0.99, 0.999999])
def test_limits_against_scipy(confidence, tmp_path):
    """The limit of SciPy's binomial test at this confidence, less alpha, which comes from the record."""
    log = write_log(tmp_path / "log", (280, 150, 3, 0), rows=300)
    write_record(log, alpha=0.015)
    result = cert_acc(log, 0.5, "--confidence", confidence, "--format", "csv")
    rows = {row[1]: row[2:] for row in cells_of(result.stdout)}
    printed = rows["using cdf bound, population"] + rows["without cdf bound, population"]
    for cell, count in zip(printed, (280, 150, 3, 0), strict=True):
        expected = limit_of(count, 300, confidence) - 0.015
        assert max(expected, 0) - 1.0001e-4 < float(cell) <= max(expected, 0)  # cut off, never rounded up
    assert rows["using cdf bound"] == ["0.9333", "0.5000"]


@pytest.mark.parametrize("n, p, alpha, confidence", [
    (500, 0.61, 0.001, 0.99), (500, 0.61, 0.1, 0.6), (60, 0.9, 0.03, 0.9), (1000, 0.02, 0.015, 0.95)])
def test_coverage_of_the_population_limit(n, p, alpha, confidence):
    """In the worst case a fraction alpha of all images is certified wrongly: P(T) = P(Z) - alpha. The limit on P(T) is

    too high in at most 1 - confidence of all samples, and not in far fewer: it is the limit, not just any low number.
    """
    trials = 200_000
    counts = np.random.default_rng(20).binomial(n, p, trials)
    wrong = int((population_limit(counts, n, confidence, alpha) > p - alpha).sum())
    assert binomtest(wrong, trials, 1 - confidence, alternative="greater").pvalue > UNLIKELY
    assert binomtest(wrong, trials, (1 - confidence) / 4, alternative="less").pvalue > UNLIKELY


@pytest.mark.parametrize("n", [1, 2, 10, 500, 50000, 10 ** 7])
@pytest.mark.parametrize("confidence", [1e-9, 0.5, 0.99, 1 - 1e-9, 1 - 1e-15])
def test_limits_at_the_extremes(n, confidence):
    """Never above the Beta quantile at the level asked for, nor below that at a level 2e-5 smaller, and never NaN."""
    counts = np.unique(np.clip([0, 1, 2, n // 100, n // 2, n - n // 10, n - 1, n], 0, n))
    limits = population_limit(counts, n, confidence, 0.0)
    positive = counts[counts > 0]
    lowest, exact = (betaincinv(positive, n - positive + 1.0, (1 - confidence) * part) for part in (1 - 2e-5, 1))
    assert (limits[counts == 0] == 0).all() and np.isfinite(limits).all()
    assert (limits[counts > 0] <= exact).all() and (limits[counts > 0] >= lowest * (1 - 1e-10)).all()


def test_a_limit_never_falls_below_zero_or_above_the_fraction():
    limits = population_limit(np.arange(101), 100, 0.9, 0.01)
    assert limits[0] == 0 and (limits >= 0).all() and (limits <= np.arange(101) / 100).all()
    assert (np.diff(limits) >= 0).all() and limits[100] == pytest.approx(0.1 ** 0.01 - 0.01)  # p^100 = 0.1


def test_which_alpha_counts(logs):
    """The record's, or the option's if it is larger: who claims the better of two bands gives the sum of their alphas.

    A log without a record has none: of several, it is named.
    """
    def limit(*option):
        result = cert_acc(logs[0], 0.5, "--confidence", 0.9, *option, "--format", "csv")
        return float(cells_of(result.stdout)[2][2])

    assert_refused(cert_acc(logs[0], 0.5, "--confidence", 0.9), str(logs[0]), "--alpha")
    assert limit("--alpha", 0.02) == pytest.approx(limit_of(9, 12, 0.9) - 0.02, abs=1e-4)
    write_record(logs[0], alpha=0.02)
    for option, alpha in (((), 0.02), (("--alpha", 0.1), 0.1), (("--alpha", 0.001), 0.02)):
        assert limit(*option) == pytest.approx(limit_of(9, 12, 0.9) - alpha, abs=1e-4)
    assert_refused(cert_acc(*logs, 0.5, "--confidence", 0.9), str(logs[1]), "--alpha")
    write_record(logs[1], alpha="0.02")
    assert_refused(cert_acc(*logs, 0.5, "--confidence", 0.9), str(logs[1]), "--alpha")


def test_post_hoc_logs_are_named(logs):
    """A limit on the population from a log whose band or alpha were chosen later is a second statement of the run."""
    write_record(logs[0], alpha=0.02, post_hoc=True)
    write_record(logs[1], alpha=0.02, post_hoc=False)
    result = cert_acc(*logs, 0.5, "--confidence", 0.9)
    line, = result.stderr.splitlines()
    assert result.returncode == 0 and line.startswith(f"{logs[0]}: ") and "post hoc" in line and "adds" in line
    assert cert_acc(*logs, 0.5).stderr == ""  # without the option nothing is claimed of a population


def test_images_without_a_row_are_not_certified(logs):
    """Images with non-finite scores are images of the sample too: 9 of 15 are certified, not 9 of 12."""
    record = {"settings": {"alpha": 0.02}, "starts": [{}], "non_finite": [5, 0, 15, 25]}  # 0 has a row by now
    logs[0].with_name(logs[0].name + ".json").write_text(json.dumps(record))
    result = cert_acc(logs[0], 0.5, "--confidence", 0.9, "--format", "csv")
    assert result.stderr == f"{logs[0]}: 3 images with non-finite scores have no row, and count as not certified\n"
    cells = cells_of(result.stdout)
    assert float(cells[1][2]) == 0.6
    limit = limit_of(9, 15, 0.9) - 0.02
    assert float(cells[2][2]) == pytest.approx(limit, abs=1e-4)
    assert "at radius 0.00 = 0.600000" in cert_acc(logs[0], 0.5).stdout


def test_some_images_only(logs):
    """Of the images 0, 40, ..., 240, 5 of 7 are certified at R = 0; one without a row counts if its index fits."""
    result = cert_acc(logs[0], 0.5, "--skip", 40)
    assert (result.returncode, result.stderr) == (0, "")
    assert [float(number) for number in plain_numbers(result.stdout)] == pytest.approx([5/7, 3/7, 2/7, 1/7], abs=1e-6)
    record = {"settings": {}, "starts": [{}], "non_finite": [410, 400]}
    logs[0].with_name(logs[0].name + ".json").write_text(json.dumps(record))
    assert "at radius 0.00 = 0.625000" in cert_acc(logs[0], 0.5, "--skip", 40).stdout
    first = write_log(logs[1], (3, 2, 1, 0), rows=1)  # a single row, of image 20
    assert_refused(cert_acc(first, 0.5, "--skip", 40), "no row", str(first))


def test_logs_of_different_images_are_named(logs, tmp_path):
    """Their numbers are not of the same images: one line says so."""
    fewer = write_log(tmp_path / "fewer", (3, 2, 1, 0), rows=6)
    line, = cert_acc(*logs, fewer, 0.5).stderr.splitlines()
    assert "not of the same images" in line and str(fewer) in line and "--skip" in line
    assert cert_acc(*logs, 0.5).stderr == ""


# --- refusals -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("args, word", [
    (("nan",), "SCORE"), ((0.5, "--skip", 0), "--skip"), ((0.5, "--confidence", 1), "--confidence"),
    ((0.5, "--confidence", 1e-17), "--confidence"), ((0.5, "--confidence", "nan"), "--confidence"),
    ((0.5, "--confidence", 0.9, "--alpha", 1), "--alpha"), ((0.5, "--confidence", 0.9, "--alpha", "nan"), "--alpha")])
def test_numbers_without_meaning(args, word, logs):
    """NaN above all: every comparison with it is false, so that it would look like an accuracy of 0."""
    result = cert_acc(logs[0], *args)
    assert_refused(result, word)
    assert result.stdout == ""


def test_torn_last_line(logs):
    """A torn line is left out and reported; the numbers are those of the complete rows."""
    whole = cert_acc(logs[0], 0.5)
    with open(logs[0], "a") as file:
        file.write("400\t3\t3\t0.9\t0.9\t0.9\t0.9\t1\t0:00:01")
    torn = cert_acc(logs[0], 0.5)
    assert (torn.returncode, torn.stdout) == (0, whole.stdout)
    line, = torn.stderr.splitlines()
    assert str(logs[0]) in line and "torn" in line


def test_the_range_of_the_recorded_measure(logs):
    """A negative bound is none of pred_score; only the record says which measure it was."""
    text = logs[0].read_text().replace("\t0.5\t1\t", "\t-0.5\t1\t", 1)
    logs[0].write_text(text)
    assert cert_acc(logs[0], 0.5).returncode == 0
    write_record(logs[0], confidence_measure="margin", alpha=0.001)
    assert cert_acc(logs[0], 0.5).returncode == 0
    write_record(logs[0], confidence_measure="pred_score", alpha=0.001)
    assert_refused(cert_acc(logs[0], 0.5), f"{logs[0]}:", "-0.5", "range")


def test_files_that_are_no_log(tmp_path, logs):
    """The last one as the user runs it, in a process of its own."""
    assert_refused(cert_acc(tmp_path, 0.5), str(tmp_path))
    (tmp_path / "empty").write_text(HEADER)
    assert_refused(cert_acc(logs[0], tmp_path / "empty", 0.5), "empty", "no complete row")
    logs[0].with_name(ODD + ".json").write_text("[1")
    assert_refused(run_program("cert_acc.py", logs[0], "0.5"), ODD + ".json")


def test_no_torch(logs):
    """Reading a log must not take the seconds that PyTorch takes to import, and needs no PyTorch."""
    code = ("import runpy, sys; sys.argv = ['cert_acc.py', *sys.argv[1:]]\n"
            "try: runpy.run_path('cert_acc.py', run_name='__main__')\n"
            "except SystemExit as end: print('exit', end.code, 'certconf.formats.log' in sys.modules, "
            "*({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))")
    result = run_program("-c", code, *logs, "0.5", "--confidence", "0.9", "--alpha", "0.001")
    assert result.stdout.splitlines()[-1] == "exit 0 True", result.stderr
