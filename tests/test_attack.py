"""code/attack.py and pgd.py: the search stays in the ball and finds low scores; broken certificates are found."""
import json
import re
import shutil
import sys
from argparse import Namespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from certify_runs import (
    arguments,
    call_program,
    certify,
    confident_checkpoint,
    contents,
    run_ranks,
    tiny_checkpoint,
    tiny_network,
    weights_file,
)
from helpers import assert_refused, read_rows, without_time
from known_scores import DIRECTION, SHAPE, SIGMA, AlongDirection, half_space

import analyze
import attack as attack_program
from certconf.errors import InputError
from certconf.formats.attacks import ATTACKS, Attacks
from certconf.pgd import PGDAttack, is_inside, pixels, project, to_grid
from certconf.report.curves import ATTACKED, CDF, Source, check_attacks, read_sources
from certconf.report.panels import draw_range
from certconf.runner.config import AttackConfig
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler
from certconf.sampling.streams import ATTACK, ESTIMATION, SEARCH, SELECTION, stream_seed
from certconf.statistics.bounds import clopper_pearson_band
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.measures import MEASURES

CPU = torch.device("cpu")
INTEGERS = torch.full(SHAPE, 128)


def attack(*args, network=None):
    return call_program("code/attack.py", *args, patches=tiny_checkpoint(network))


def command(folder, log, out, *options):
    """A short attack of a log that `certified` made."""
    return ("cifar10", weights_file(folder), 0.25, log, out, "--skip", 20, "--N", 500, "--steps", 5, "--draws", 32,
            "--radii", 0.25, 0.5, "--max", 160, *options)


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """Logs of both measures of the tiny network, at 2000 samples."""
    folder = tmp_path_factory.mktemp("certified")
    result = certify(*arguments(weights_file(folder), folder / "{confidence_measure}", "--N", 2000,
                                "--confidence_measure", "pred_score", "margin", stop=160))
    assert result.returncode == 0, result.stderr
    return folder


# --- the search -------------------------------------------------------------------------------------------------------

def search(f, measure="pred_score", noise="integer", clip=False, batch=1000, steps=20):
    network = AlongDirection(f).requires_grad_(False)
    return PGDAttack(network, MEASURES[measure], make_noise(noise, SIGMA, CPU, reach=25500), steps, 64, clip, batch)


@pytest.mark.parametrize("measure, noise", [("pred_score", "integer"), ("margin", "integer"), ("pred_score", "float")])
@pytest.mark.parametrize("radius", [0.25, 1.0])
def test_finds_the_worst_direction(measure, noise, radius):
    """Logits linear in u: the lowest score lies straight towards the hyperplane, at the edge of the ball."""
    step = search(lambda u: 2 * u, measure, noise).lowest(INTEGERS, 0, radius, index=3) - INTEGERS
    along = float(step.double().flatten() @ DIRECTION.double()) / 255
    assert along < -0.95 * radius and is_inside(step, radius)


def test_other_batches_and_zero_gradients():
    """The same again, but for sums in another order. A step function, whose directions are random: in the ball."""
    found = [search(lambda u: 2 * u, batch=batch).lowest(INTEGERS, 0, 0.5, index=3) for batch in (1000, 1000, 7)]
    assert torch.equal(found[0], found[1]) and (found[0] - found[2]).abs().max() <= 1
    step = search(half_space, steps=5).lowest(INTEGERS, 0, 0.5, index=1) - INTEGERS
    assert is_inside(step, 0.5) and step.any()
    assert torch.equal(search(lambda u: u).lowest(INTEGERS, 0, 0.0, index=0), INTEGERS)


def test_clip():
    """White image, class that falls with brightness: without --clip it leaves [0, 255], with it it does not."""
    white = torch.full(SHAPE, 255)
    free, clipped = (search(lambda u: 2 * u, clip=clip).lowest(white, 0, 1.0, index=0) for clip in (False, True))
    assert free.max() > 255 and clipped.max() <= 255 and clipped.min() >= 0
    assert is_inside(clipped - white, 1.0) and not torch.equal(clipped, white)


@pytest.mark.parametrize("radius, difference, inside", [
    (0.2, [51, 0, 0], True), (0.2, [51, 1, 0], False),  # 255 * 0.2 = 51, which floats do not have exactly
    (1.0, [153, 204, 0], True), (1.0, [153, 204, 1], False),  # 3, 4, 5 times 51
    (0.29, [73, 9, 5], True),  # 73.95^2 = 5468.6; 5329 + 81 + 25 = 5435
    (0.29, [73, 9, 8], False), (0.0, [0, 0, 0], True), (0.0, [0, 0, 1], False)])
def test_distance_in_integers(radius, difference, inside):
    """sum d^2 <= (255 R)^2 exactly, at the edge too."""
    assert is_inside(torch.tensor(difference), radius) is inside


def test_grid_point_is_the_furthest_inside():
    """In the ball always, on the way to the point, and no further from it than rounding asks for."""
    generator = torch.Generator().manual_seed(0)
    for radius in (0.01, 0.05, 0.25, 1.0):
        integers = torch.randint(0, 256, (3, 32, 32), generator=generator)
        x = integers.float() / 255
        point = project(x + torch.randn(x.shape, generator=generator), x, radius, clip=False)
        step = to_grid(point, integers, radius) - integers
        assert is_inside(step, radius)
        wanted = (point.double() * 255 - integers).numpy()
        assert (np.abs(step.numpy()) <= np.round(np.abs(wanted))).all() and (step.numpy() * wanted >= 0).all()
        if radius == 1.0:
            assert float(step.double().norm()) > 0.99 * 255 * radius


def test_projection():
    x, point = torch.full((2,), 0.9), torch.tensor([1.5, 1.7])
    assert torch.allclose(project(point, x, 0.5, clip=False), x + torch.tensor([0.3, 0.4]))
    assert torch.allclose(project(point, x, 0.5, clip=True), torch.ones(2))
    assert torch.equal(project(x, x, 0.5, clip=False), x)


# --- the program ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("measure", ["pred_score", "margin"])
def test_no_certificate_is_broken(certified, measure, tmp_path):
    """The bounds are the log's, the limits enclose the score, attacked scores fall; abstentions are not attacked."""
    result = attack(*command(tmp_path, certified / measure, tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    log, rows = read_rows(certified / measure), read_rows(tmp_path / "out")
    assert [row["idx"] for row in rows] == [row["idx"] for row in log]
    names = [name for name in rows[0] if "_" in name]
    attacked = [(row, its) for row, its in zip(rows, log, strict=True) if its["predict"] != "-1"]
    assert 0 < len(attacked) < len(rows)
    for row, its in zip(rows, log, strict=True):
        assert [row[name] for name in ("label", "predict", "correct")] == [
            its[name] for name in ("label", "predict", "correct")]
        assert its["predict"] != "-1" or {float(row[name]) for name in names} == {0.0}
    for row, its in attacked:
        for radius in ("25", "50"):
            bound, score, lower, upper = (float(row[f"{column.name}_{radius}"]) for column in ATTACKS.columns)
            assert bound == float(its[f"exp_cdf_{radius}"]) and bound <= upper and lower <= score <= upper
    falls = [float(row["score_50"]) < float(row["score_25"]) for row, _ in attacked]
    assert np.mean(falls) > 0.8
    pairs = 2 * len(attacked)
    assert f"attacked {pairs} pairs" in result.stdout and f"{pairs} * 1e-06 = {pairs * 1e-6:.3g}" in result.stdout
    assert "broken: " not in result.stdout and f"{len(attacked)} * 0.001" in result.stdout
    for radius, name in ((0.25, "25"), (0.5, "50")):
        gap = min(float(row[f"score_{name}"]) - float(row[f"bound_{name}"]) for row, _ in attacked)
        assert re.search(rf"^radius {radius}: .*, smallest gap {gap:.3f}$", result.stdout, re.MULTILINE)


def test_drawn_with_the_log(certified, tmp_path, monkeypatch, capsys):
    """analyze.py: attacked accuracy counts right classes whose attacked score is above the score, and is never less."""
    log, attacks = certified / "pred_score", tmp_path / "attacks"
    assert attack(*command(tmp_path, log, attacks)).returncode == 0
    for score in (0.3, 0.6):
        of_log, of_attacks = read_sources([str(log), str(attacks)], [score])
        curve = of_attacks.curves[score][ATTACKED]
        rows = read_rows(attacks)
        for place, radius in enumerate((0.25, 0.5)):
            right = [row["correct"] == "1" and float(row[f"score_{radius * 100:02.0f}"]) > score for row in rows]
            assert curve.at(radius) == pytest.approx(np.mean(right)) and curve.accuracy[place] == curve.at(radius)
            assert curve.at(radius) >= of_log.curves[score][CDF].at(radius)
        assert curve.at(0.0) is None
        *_, dotted, marks = analyze.draw({"log": of_log, "attack": of_attacks}, [score]).axes[0].get_lines()
        assert (dotted.get_linestyle(), dotted.get_drawstyle()) == (":", "steps-post")
        assert marks.get_ydata() == pytest.approx(curve.accuracy)
    bare = tmp_path / "without_record"
    bare.write_bytes(log.read_bytes())
    of_log, _ = read_sources([str(bare), str(attacks)], [0.5])
    assert of_log.settings == {}
    with pytest.raises(InputError, match="give --score"):
        read_sources([str(attacks)], [])
    for files, reason in (((certified / "margin", attacks), "none of the logs"), ((log, tmp_path / "some"), "not all")):
        with pytest.raises(InputError, match=reason):
            lines = attacks.read_text().splitlines(keepends=True)
            (tmp_path / "some").write_text("".join(lines[:-1]))
            (tmp_path / "some.json").write_bytes((tmp_path / "attacks.json").read_bytes())
            read_sources(list(map(str, files)), [0.5])


def test_saved_scores_below_the_cutoff_are_not_drawn_with_an_attack():
    """There they count images that abstain in the log, which were not attacked and would seem broken."""
    source, attack = (Source(path, {"confidence_measure": "pred_score"}, {0.3: {name: None}}, frozenset((0, 20)),
                             log_sha256="a")
                      for path, name in (("log.scores", CDF), ("attacks", ATTACKED)))
    check_attacks([source, attack], [0.5])
    with pytest.raises(InputError, match=r"log.scores: below 0.5"):
        check_attacks([source, attack], [0.7, 0.3])


def test_an_attack_without_a_record_is_of_no_file():
    """Neither does a radius file name a log: that both name none does not make them one's."""
    radii, attack = (Source(path, {}, {0.5: {name: None}}, frozenset((0, 20)))
                     for path, name in (("radii", CDF), ("attacks", ATTACKED)))
    with pytest.raises(InputError, match="attacks: an attack of none of the logs"):
        check_attacks([radii, attack], [0.5])


def test_an_attack_is_one_at_every_larger_radius():
    """A score that a search in a larger ball missed was found in the smaller one."""
    header = "\t".join(ATTACKS.header((0.25, 0.5))) + "\n"
    rows = "0\t3\t3\t0.1\t0.1\t0.3\t0.6\t0.2\t0.5\t0.4\t0.7\t1\t0:00:01\n" \
           "1\t3\t3\t0.1\t0.1\t0.7\t0.6\t0.2\t0.5\t0.8\t0.7\t1\t0:00:01\n"
    attacks = Attacks.parse("f", (header + rows).encode())
    assert attacks.accuracy(0.5).tolist() == [0.5, 0.5] and attacks.accuracy(0.65).tolist() == [0.5, 0.0]


def test_drawn_in_the_certified_range(tmp_path):
    """The figure of ranges: the mean of the bounds at half of alpha, and the attacked scores inside it."""
    for measure in ("pred_score", "margin"):
        out = tmp_path / measure / "noise_0.25"
        assert certify(*arguments(weights_file(tmp_path), out, "--N", 500, "--confidence_measure", measure,
                                  "--save_scores", stop=160)).returncode == 0
        assert attack(*command(tmp_path, out, f"{out}.attacks")).returncode == 0
        for path in list(out.parent.iterdir()):  # one noise under two names: the figure reads files alone
            shutil.copy(path, path.with_name(path.name.replace("0.25", "0.50")))
    figure = draw_range(tmp_path)
    for axes, measure in zip(figure.axes[::2], ("pred_score", "margin"), strict=True):
        lower, upper, points = (line.get_ydata() for line in axes.get_lines())
        radii = axes.get_lines()[0].get_xdata()
        rows = [row for row in read_rows(tmp_path / measure / "noise_0.25.attacks") if row["predict"] != "-1"]
        assert points == pytest.approx([np.mean([float(row[f"score_{name}"]) for row in rows]) for name in (25, 50)])
        inside = np.interp((0.25, 0.5), radii, lower), points, np.interp((0.25, 0.5), radii, upper)
        assert (inside[0] < inside[1]).all() and (inside[1] < inside[2]).all()
        assert (np.diff(lower) <= 0).all() and (np.diff(upper) >= 0).all()
        log = read_rows(tmp_path / measure / "noise_0.25")
        wider = np.mean([float(row["exp_cdf_25"]) for row in log if row["predict"] != "-1"])  # at all of alpha
        assert 0 < wider - inside[0][0] < 0.05
    (tmp_path / "margin" / "noise_0.50.attacks").write_bytes((tmp_path / "pred_score/noise_0.25.attacks").read_bytes()
                                                             .replace(b"\n0\t", b"\n1\t"))
    with pytest.raises(InputError, match="not an attack of all images"):
        draw_range(tmp_path)


def test_bounds_raised_by_hand_are_found(certified, tmp_path):
    """Exit status 1, and a line for the image and no other one."""
    lines = (certified / "pred_score").read_text().splitlines()
    place = next(i for i, line in enumerate(lines[1:], 1) if line.split("\t")[2] != "-1")
    fields = lines[place].split("\t")
    fields[3:10] = ["0.9999"] * 7
    raised = tmp_path / "log"
    raised.write_text("\n".join([*lines[:place], "\t".join(fields), *lines[place + 1:]]) + "\n")
    (tmp_path / "log.json").write_bytes((certified / "pred_score.json").read_bytes())
    result = attack(*command(tmp_path, raised, tmp_path / "out"))
    broken = [line for line in result.stdout.splitlines() if line.startswith("broken: ")]
    assert result.returncode == 1 and len(broken) == 2
    assert all(f"image {fields[0]} at radius" in line and "0.9999" in line for line in broken)
    again = attack(*command(tmp_path, raised, tmp_path / "out"))  # nothing is left to do, and it stays broken
    assert (again.returncode, again.stdout) == (1, result.stdout) and "nothing to do" in again.stderr


def test_certificates_of_another_network_are_found(certified, tmp_path):
    """Name, file and weights are the same, but the code has changed, and the network that answers is less confident."""
    class Blunt(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x) / 25

    result = attack(*command(tmp_path, certified / "pred_score", tmp_path / "out"), network=Blunt(*tiny_network()))
    assert result.returncode == 1 and "broken: image" in result.stdout


def test_other_networks_and_images_are_refused(certified, tmp_path):
    """Other weights; another function of the same file; other images. An older record lacks some of these names."""
    log = certified / "pred_score"
    assert_refused(attack(*command(tmp_path, log, tmp_path / "out"), network=tiny_network(seed=1)), "weights")
    record = json.loads((certified / "pred_score.json").read_text())
    (tmp_path / "log").write_bytes(log.read_bytes())
    for name in ("arch", "images_sha256"):
        record["settings"][name] = "another one"
        (tmp_path / "log.json").write_text(json.dumps(record))
        word = {"arch": "BASE_CLASSIFIER", "images_sha256": "DATASET's images"}[name]
        assert_refused(attack(*command(tmp_path, tmp_path / "log", tmp_path / "out")), word, "another one")
        del record["settings"][name]
    del record["settings"]["weights_sha256"]
    (tmp_path / "log.json").write_text(json.dumps(record))
    assert attack(*command(tmp_path, tmp_path / "log", tmp_path / "out")).returncode == 0


def test_limits_of_an_attacked_score(monkeypatch):
    """They are a band's, of scores from a stream that neither the search nor the certificate has, less delta."""
    noise, keys, draw = make_noise("integer", SIGMA, CPU, reach=25500), [], Sampler.softmax
    sampler, x = Sampler(tiny_network(), noise, CPU, "fp32", False), torch.full((3, 32, 32), 128 / 255)
    monkeypatch.setattr(Sampler, "softmax", lambda self, *args: keys.append(args[-1]) or draw(self, *args))
    spec = CertificateSpec(MEASURES["pred_score"], 500, 0.01, SIGMA, radii=(0.0,), weights="equal")
    found = attack_program.estimate(sampler, spec, x, 3, Namespace(seed=5, batch=100), 7)
    assert keys == [(5, 7, ATTACK)] and len({ATTACK, SEARCH, SELECTION, ESTIMATION}) == 4
    assert found.spec.delta == noise.delta(x.numel()) > 0
    scores = np.sort(torch.cat([part[:, 3].clone() for part in draw(sampler, x, 500, 100, (5, 7, ATTACK))]).double())
    band = clopper_pearson_band(500, 0.01, weights="equal")
    lower = np.diff(scores[band.ranks - 1], prepend=0) @ band.prob
    assert found.lower_bound(0.0) == pytest.approx(lower, abs=1e-9) and found.lower_bound(0.0) < lower
    mirrored = np.sort(1 - scores)
    upper = 1 - np.diff(mirrored[band.ranks - 1], prepend=0) @ band.prob
    assert found.upper_bound(0.0) == pytest.approx(upper, abs=1e-6) and lower < found.mean < upper


def test_each_limit_is_at_half_of_alpha(certified, tmp_path):
    """So that both hold with probability 1 - alpha."""
    with patch.object(sys, "argv", ["attack.py", *map(str, command(tmp_path, certified / "pred_score", "out"))]):
        args = attack_program.parse_arguments()
    target = attack_program.read_target(AttackConfig(**vars(args)))
    assert target.spec.alpha == args.alpha / 2


def test_the_search_has_a_stream_of_its_own_and_two_starts(monkeypatch):
    """Its noise and its random start come from SEARCH; one descent starts at the image, one at the edge of the ball."""
    keys, starts, go = [], [], PGDAttack._descend
    monkeypatch.setattr("certconf.pgd.stream_seed", lambda *key: keys.append(key) or stream_seed(*key))
    monkeypatch.setattr(PGDAttack, "_descend",
                        lambda self, point, *args: starts.append(point) or go(self, point, *args))
    search(lambda u: 2 * u, steps=2).lowest(INTEGERS, 0, 0.5, index=3, seed=5)
    assert keys == [(5, 3, SEARCH)]
    distances = [float((start - pixels(INTEGERS)).norm()) for start in starts]
    assert distances == [0.0, pytest.approx(0.5, abs=1e-5)]


def test_resume(certified, tmp_path):
    """A run that stopped resumes, and its rows are those of one that did not."""
    for out, stops in (("parts", (60, 160)), ("whole", (160,))):
        for stop in stops:
            assert attack(*command(tmp_path, certified / "pred_score", tmp_path / out, "--max", stop)).returncode == 0
    assert without_time(read_rows(tmp_path / "parts")) == without_time(read_rows(tmp_path / "whole"))
    before = contents(tmp_path)
    assert_refused(attack(*command(tmp_path, certified / "pred_score", tmp_path / "whole", "--steps", 6)), "--steps")
    assert_refused(attack(*command(tmp_path, certified / "pred_score", tmp_path / "whole", "--clip")), "--clip")
    assert_refused(attack(*command(tmp_path, certified / "margin", tmp_path / "whole")), "LOG")
    assert contents(tmp_path) == before


def test_two_processes_write_the_rows_of_one(tmp_path):
    """The images are shared, and rank 0 alone reports."""
    network = ("cifar10", confident_checkpoint(tmp_path), 0.25)
    assert certify(*network, tmp_path / "log", "--skip", 20, "--max", 60, "--N", 100, network="real").returncode == 0
    options = ("--skip", 20, "--N", 100, "--steps", 1, "--draws", 8, "--radii", 0.25)
    one = call_program("code/attack.py", *network, tmp_path / "log", tmp_path / "one", *options)
    (status, out, _), second = run_ranks(tmp_path, "code/attack.py", *network, tmp_path / "log", tmp_path / "two",
                                         *options)
    assert (one.returncode, status, second[:2]) == (0, 0, (0, ""))
    assert one.stdout == out and "attacked " in out
    assert without_time(read_rows(tmp_path / "one")) == without_time(read_rows(tmp_path / "two"))
    assert {row["predict"] == "-1" for row in read_rows(tmp_path / "two")} != {True}


def test_images_that_the_log_lacks_are_passed_over(certified, tmp_path):
    """The attack is of the log's images; with none of them there is nothing to attack."""
    log = certified / "pred_score"
    assert attack(*command(tmp_path, log, tmp_path / "out", "--max", 400)).returncode == 0
    assert [row["idx"] for row in read_rows(tmp_path / "out")] == [str(i) for i in range(0, 160, 20)]
    lines = log.read_text().splitlines()
    (tmp_path / "log").write_text("\n".join([lines[0], lines[-1]]) + "\n")
    shutil.copy(f"{log}.json", tmp_path / "log.json")
    assert_refused(attack(*command(tmp_path, tmp_path / "log", tmp_path / "none", "--max", 100)), "no row")


@pytest.mark.parametrize("options, word", [
    (("--noise", "float"), "--noise"), (("--precision", "bf16"), "--precision"), (("--radii", 0.3), "--radii"),
    (("--steps", 0), "--steps"), (("--draws", 0), "--draws"), (("--N", 0), "--N"), (("--alpha", 2), "--alpha"),
    (("--round_images",), "--round_images")])
def test_refusals(certified, tmp_path, options, word):
    """One line, status 2, and nothing written: other settings than the log's, and values of no meaning."""
    assert_refused(attack(*command(tmp_path, certified / "pred_score", tmp_path / "out" / "a", *options)), word)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", ["", ".json", ".scores"])
def test_the_files_of_the_log_are_not_overwritten(certified, tmp_path, ending):
    for path in certified.glob("pred_score*"):
        shutil.copy(path, tmp_path)
    options = command(tmp_path, tmp_path / "pred_score", tmp_path / f"pred_score{ending}", "--overwrite")
    before = contents(tmp_path)
    assert_refused(attack(*options), "choose another name")
    assert contents(tmp_path) == before


def test_logs_that_cannot_be_attacked(certified, tmp_path):
    """Another sigma or network file, no record, the log as its own output."""
    other = tmp_path / "other"
    other.write_bytes(b"of another network")
    log, *rest = command(tmp_path, certified / "pred_score", tmp_path / "out")[3:]
    assert_refused(attack("cifar10", other, 0.25, log, *rest), "BASE_CLASSIFIER")
    assert_refused(attack("cifar10", weights_file(tmp_path), 0.5, log, *rest), "SIGMA")
    assert_refused(attack(*command(tmp_path, log, log, "--overwrite")), "LOG")
    (tmp_path / "bare").write_bytes(log.read_bytes())
    assert_refused(attack(*command(tmp_path, tmp_path / "bare", tmp_path / "out")), "record")
    record = json.loads(log.with_name(log.name + ".json").read_text())
    for name, value in (("confidence_measure", ["pred_score"]), ("alpha", "0.001")):
        changed = {**record, "settings": {**record["settings"], name: value}}
        (tmp_path / "bare.json").write_text(json.dumps(changed))
        assert_refused(attack(*command(tmp_path, tmp_path / "bare", tmp_path / "out")), "record")


def test_a_score_that_is_no_number_leaves_no_row(certified, tmp_path):
    class Blind(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x) * torch.nan

    result = attack(*command(tmp_path, certified / "pred_score", tmp_path / "out"), network=Blind(*tiny_network()))
    assert result.returncode == 1 and "non-finite" in result.stderr and "broken: " not in result.stdout
    assert json.loads((tmp_path / "out.json").read_text())["non_finite"]


# --- the file ---------------------------------------------------------------------------------------------------------

HEADER = "\t".join(ATTACKS.header((0.25, 0.5))) + "\n"
GOOD = "0\t3\t3\t0.7\t0.5\t0.8\t0.6\t0.75\t0.55\t0.85\t0.65\t1\t0:00:01.5\n"


def test_broken_is_strictly_below():
    """An upper limit that equals the bound breaks nothing."""
    for upper, broken in (("0.85", []), ("0.7", []), ("0.69999999", [0])):
        text = GOOD.replace("0.8\t0.6\t0.75", "0.6\t0.6\t0.6").replace("0.85", upper)
        table = Attacks.parse("f", (HEADER + text).encode(), (0.0, 1.0))
        assert [place for _, place in table.broken()] == broken
