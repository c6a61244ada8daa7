"""The results that the repository ships: logs, saved scores, and the tables of them in README.md and docs/."""
import itertools
import math
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from certify_runs import call_program
from helpers import ROOT

from certconf.core import Smooth
from certconf.files import file_sha256
from certconf.formats.attacks import Attacks
from certconf.formats.log import LOG, Log
from certconf.formats.scores import read_scores
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.datasets import open_images
from certconf.sampling.streams import ESTIMATION
from certconf.statistics.certificate import ABSTAIN
from certconf.statistics.measures import MEASURES, SOFT_MEASURES

LOGS = ROOT / "log_files" / "cifar10_resnet20"
SIGMAS = ("0.25", "0.50")
# the folders of logs, and their noise levels
NETWORKS = {"resnet20": SIGMAS, "resnet110": SIGMAS, "resnet20_staged": SIGMAS, "resnet110_staged": ("0.25",),
            "resnet20_consistency_staged": SIGMAS, "resnet110_consistency_staged": SIGMAS}
RUNS = [LOGS / measure / f"noise_{sigma}" for measure in SOFT_MEASURES for sigma in SIGMAS]


@pytest.mark.parametrize("log", [log for run in RUNS for log in (run, Path(f"{run}_dkw"))], ids=str)
def test_shipped_log(log):
    """500 images in order, with a clean record of how they were made."""
    table, settings = Log.read(str(log))
    assert table.indices == list(range(0, 10000, 20)) and not table.torn
    assert settings["bound"] == ("dkw" if log.name.endswith("dkw") else "clopper_pearson")
    assert settings["alpha"] == 0.001 and f"{settings['sigma']:.2f}" in log.name


@pytest.mark.parametrize("log", RUNS, ids=str)
def test_saved_scores_belong_to_the_log(log):
    """Certified again, every image has the log's own bounds."""
    saved = read_scores(f"{log}.scores")
    table, _ = Log.read(str(log))
    for row, (index, label, certificate) in zip(table.rows, saved.certificates(saved.plan), strict=True):
        assert (row.index, row.label, row.predict) == (index, label, certificate.prediction)
        assert row.exp_cdf == pytest.approx(certificate.exp_cdf, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("folder, looks", [("cifar10_resnet20", 1), ("cifar10_resnet20_staged", 8),
                                           ("cifar10_resnet110_staged", 22)])
def test_rows_of_a_log(folder, looks):
    """Certified again with its own looks, today's or older ones, all of a row but its time is the same."""
    log = ROOT / "log_files" / folder / "margin" / "noise_0.25"
    saved = read_scores(f"{log}.scores")
    assert len(saved.plan.schedule) == looks and saved.plan.recorded_looks() == saved.settings.get("looks")
    again = [LOG.line(index, label, found.prediction, 0.0, found.exp_cdf, found.exp).split("\t")[:-1]
             for index, label, found in saved.certificates(saved.plan)]
    assert again == [line.split("\t")[:-1] for line in log.read_text().splitlines()[1:]]


@pytest.mark.parametrize("samples", [32, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("folder, sigma", [(folder, sigma) for folder in NETWORKS for sigma in NETWORKS[folder]
                                           if folder not in ("resnet110", "resnet20_consistency_staged")])  # no scores
def test_sampling_again_agrees(folder, sigma, samples):
    """Fresh noise gives the same classes, and on average over four images the saved means, as near as Hoeffding allows

    (error 1e-3). In fp32, which every CPU has: the logs' bf16 differs from it by far less than these limits.
    """
    runs = [read_scores(f"{ROOT}/log_files/cifar10_{folder}/{name}/noise_{sigma}.scores") for name in SOFT_MEASURES]
    checkpoint = f"{ROOT}/models/cifar10/{folder.removesuffix('_staged')}/noise_{sigma}/checkpoint.pth.tar"
    smooth = Smooth(load_checkpoint(checkpoint, "cifar10")[0], 10, float(sigma), device="cpu")
    images, _ = open_images("cifar10", "test", 20)
    pairs = zip(*(run.certificates(run.plan) for run in runs), strict=True)
    chosen = list(itertools.islice(((index, (one, two)) for (index, _, one), (_, _, two) in pairs
                                    if one.prediction != ABSTAIN and one.mean > 0.7), 4))
    differences = []
    for index, saved in chosen:
        softmax = torch.cat([part.clone() for part in
                             smooth.sampler.softmax(images.load(index)[0], samples, 1000, (3, index, ESTIMATION))])
        assert {certificate.chosen for certificate in saved} == {int(softmax.mean(0).argmax())}
        differences.append([float(certificate.spec.measure.transform(softmax)[:, certificate.chosen].mean())
                            - certificate.mean for certificate in saved])
    for name, mean in zip(SOFT_MEASURES, np.mean(differences, 0), strict=True):
        fewest = min(one.spec.n for _, (one, _) in chosen)
        width = sum(math.sqrt(math.log(2000) / (2 * 4 * n)) for n in (samples, fewest))
        assert len(differences) == 4 and abs(mean) <= MEASURES[name].range * width


ANSWERING = """#!/bin/sh
answer="$ANSWERS/$(printf '%s\\n' "$@" | cksum | tr ' ' -)"
cat "$answer" 2>/dev/null || printf '%s\\n' "$@" > "$answer.new"
"""


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """A function that gives what a script prints.

    Its `python` only notes the calls; they are made in this process, and answered when the script starts again.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ANSWERS", str(tmp_path))
    (tmp_path / "python").write_text(ANSWERING)
    (tmp_path / "python").chmod(0o755)

    def run(name):
        while True:
            script = subprocess.run(["bash", f"scripts/{name}"], capture_output=True, text=True)
            if not (calls := list(tmp_path.glob("*.new"))):
                assert script.returncode == 0, script.stderr
                return script.stdout
            for call in calls:
                result = call_program(*call.read_text().splitlines())
                assert result.returncode == 0, result.stderr
                call.rename(call.with_suffix("")).write_text(result.stdout)
    return run


def test_documents_show_what_tables_sh_prints(run_script):
    """docs/results.md has the whole output of the script on the shipped logs; the README's rows are of its tables."""
    output = run_script("tables.sh")
    tables = [block.strip() for block in output.split("\n\n") if block.startswith("|")]
    assert len(tables) == 10
    assert f"## Tables\n\n{output}\nThe logs are" in (ROOT / "docs" / "results.md").read_text()
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| ([\w, =-]+) \| (0\.\d\d) \| (0\.\d{4} .*)$", readme, re.MULTILINE)
    assert len(rows) >= 8
    for name, sigma, cells in rows:
        table = tables[SIGMAS.index(sigma) + (5 if "N =" in name else 0)]  # the tables of the steps follow
        assert f"| {name} | using cdf bound | {cells}" in table.splitlines()


def test_figures_of_the_documents(run_script, tmp_path, monkeypatch):
    """The script draws each picture of docs/results.md and docs/attack.md."""
    monkeypatch.setenv("FIGURES", str(tmp_path / "figures"))
    run_script("figures.sh")
    text = "".join((ROOT / "docs" / name).read_text() for name in ("results.md", "attack.md"))
    shown = set(re.findall(r"\]\(\.\./figures/(\w+\.png)\)", text))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == shown


@pytest.mark.parametrize("folder", NETWORKS)
def test_logs_are_of_the_networks_in_models(folder):
    """500 images at N = 10,000, or 250 at 100,000, from the checkpoint of their name; staged ones are settled."""
    network = folder.removesuffix("_staged")
    skip, n = (20, 10_000) if network == folder else (40, 100_000)
    logs = sorted((ROOT / "log_files" / f"cifar10_{folder}").glob("*/noise_?.??"))
    assert [log.name for log in logs] == [f"noise_{sigma}" for _ in SOFT_MEASURES for sigma in NETWORKS[folder]]
    for path in logs:
        log, settings = Log.read(str(path))
        assert log.indices == list(range(0, 10000, skip)) and settings["N"] == n
        checkpoint = ROOT / "models" / "cifar10" / network / path.name / "checkpoint.pth.tar"
        assert settings["checkpoint_sha256"] == file_sha256(checkpoint)
        assert (settings["noise"], settings["weights"], settings["seed"]) == ("integer", "falling", 1)
        assert settings["settle"] == (None if folder == "resnet20" else MEASURES[path.parent.name].cutoff)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("name", SOFT_MEASURES)
def test_staged_sampling_loses_no_certificate(name, sigma):
    """On the images of which all samples were taken, from the same stream; docs/results.md says so."""
    (full, one), (staged, other) = (Log.read(f"{ROOT}/log_files/cifar10_resnet20_{run}/{name}/noise_{sigma}")
                                    for run in ("full", "staged"))
    assert full.indices == list(range(0, 2000, 80)) and one["settle"] is None and other["settle"] is not None
    assert all(one[setting] == other[setting] for setting in ("seed", "N", "alpha", "weights", "checkpoint_sha256"))
    score, rows = MEASURES[name].cutoff, {row.index: row for row in staged.rows}
    staged = replace(staged, rows=[rows[index] for index in full.indices])
    assert (full.certified(score) == staged.certified(score)).all()


def test_no_shipped_certificate_is_broken():
    """docs/attack.md: all images that do not abstain are attacked, and its numbers are those of the files."""
    text = (ROOT / "docs" / "attack.md").read_text()
    certificates, nearest = 0, []
    for sigma, name in itertools.product(SIGMAS, SOFT_MEASURES):
        path, cutoff = f"{ROOT}/log_files/cifar10_resnet20_attacks/{name}/noise_{sigma}", MEASURES[name].cutoff
        (log, its), (attacks, settings) = Log.read(path), Attacks.read(f"{path}.attacks")
        assert log.indices == attacks.indices == list(range(0, 10000, 100)) and its["seed"] == settings["seed"] == 2
        assert settings["log_sha256"] == file_sha256(path) and attacks.radii == (0.25, 0.5, 0.75)
        assert (settings["steps"], settings["draws"], settings["N"], its["N"]) == (20, 64, 2000, 10_000)
        rows = {row.index: row for row in log.rows if row.predict != ABSTAIN}
        assert {row.index for row in attacks.attacked} == rows.keys() and not attacks.broken()
        for row in attacks.attacked:
            assert row.predict == rows[row.index].predict and row.bound == rows[row.index].exp_cdf[1:4]
        means = np.mean([(row.bound, row.score) for row in attacks.attacked], 0).T
        accuracies = zip(log.certified_accuracy(cutoff)[1:4], attacks.accuracy(cutoff), strict=True)
        for what, digits, pairs in ((f"{name}, mean", 3, means), (f"{name} above {cutoff:g}, accuracy", 2, accuracies)):
            cells = " | ".join(f"{bound:.{digits}f} → {score:.{digits}f}" for bound, score in pairs)
            assert f"| {sigma} | {what} | {len(rows)} | {cells} |" in text
        certificates += 3 * len(rows)
        nearest.append(min(min(np.subtract(row.score, row.bound)) for row in attacks.attacked))
    assert f"Of {certificates} certificates none was broken" in text
    assert f"{min(nearest):.3f} above its bound" in " ".join(text.split())


def test_imagenet_table():
    """docs/results.md: the images that the saved scores certify at radii between the columns of their logs."""
    row = r"^\| ([\d.]+) \| (\w+) above [\d.]+ \| ([\d |]+) \|$"
    shown = re.findall(row, (ROOT / "docs" / "results.md").read_text(), re.MULTILINE)
    radii = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
    assert len(shown) == 3 * len(MEASURES)
    for sigma, name, cells in shown:
        saved = read_scores(f"{ROOT}/log_files/imagenet_efficientnet/{name}/noise_{sigma}.scores")
        assert len(saved.records) == 20 and saved.spec.n == 1000 and not saved.non_finite
        right = [found for _, label, found in saved.certificates(saved.plan) if found.prediction == label]
        counts = [sum(found.lower_bound(radius) > MEASURES[name].cutoff for found in right) for radius in radii]
        assert list(map(int, cells.split(" | "))) == counts
