"""certify.py --noise and --round_images: what is recorded, said and refused."""
import json

import numpy as np
import pytest
import torch
from certify_runs import arguments, certify, contents, images_from, tiny_network, weights_file
from helpers import assert_refused, read_rows

from certconf.core import Smooth
from certconf.formats.scores import read_scores
from certconf.inputs.datasets import ImageSet
from certconf.sampling.noise import make_noise
from certconf.statistics.certificate import ABSTAIN, CertificateSpec
from certconf.statistics.measures import MEASURES


def run(folder, *options, stop=240, **more):
    return certify(*arguments(weights_file(folder), folder / "log", *options, stop=stop), **more)


def settings(folder):
    return json.loads((folder / "log.json").read_text())["settings"]


def off_the_grid(*request):
    """Images that no 8-bit file has, in place of the data set's."""
    return ImageSet(10000, lambda index: (torch.full((3, 32, 32), 0.5), 0)), range(0, 40, 20)


@pytest.mark.parametrize("options, noise, said", [((), "integer", False), (("--noise", "float"), "float", True)])
def test_what_is_recorded_and_said(options, noise, said, tmp_path):
    """Integer noise is the default, with delta, the total variation of one noisy image; float noise assumes."""
    result = run(tmp_path, *options)
    assert result.returncode == 0 and ("taken for exact Gaussian noise" in result.stderr) == said
    assert settings(tmp_path)["noise"] == noise
    delta = make_noise(noise, 0.25, torch.device("cpu")).delta(3072)
    assert settings(tmp_path)["delta"] == delta and (delta > 0) == (not said)


@pytest.mark.parametrize("noise", ["integer", "float"])
def test_the_noise_reaches_every_certificate(noise, tmp_path):
    """What the noise costs, delta or float32(sigma), stands in the spec of certificates and of saved scores."""
    x, sigma = torch.full((3, 32, 32), 128 / 255), 0.3
    delta = make_noise(noise, sigma, torch.device("cpu")).delta(x.numel())
    assert (delta > 0) == (noise == "integer")
    smooth = Smooth(tiny_network(), 10, sigma, noise=noise, device="cpu")
    spec = smooth.certify(x, 16, 64, 0.1, 64, index=0).spec
    drawn = float(np.float32(sigma)) if noise == "float" else sigma
    assert (spec.delta, spec.sigma) == (delta, drawn) and (drawn == sigma) == (noise == "integer")
    options = arguments(weights_file(tmp_path), tmp_path / "log", "--noise", noise, "--save_scores", stop=20)
    assert certify(*(sigma if option == 0.25 else option for option in options)).returncode == 0
    spec = read_scores(str(tmp_path / "log")).spec
    assert (spec.delta, spec.sigma) == (delta, drawn)


def test_delta_is_taken_off_the_mean_and_the_lead(monkeypatch):
    """delta times the range, 1 of pred_score and 2 of margin, off a mean; and the lead that a prediction needs."""
    for measure, taken in (("pred_score", 0.01), ("margin", 0.02)):
        exact, drawn = (CertificateSpec(MEASURES[measure], 100, 0.01, 0.25, delta=delta) for delta in (0.0, 0.01))
        limits = [spec.certificate(0, 0.9, np.full(len(spec.band.ranks), 0.9)).mean_lower for spec in (exact, drawn)]
        assert limits[0] - limits[1] == pytest.approx(taken)
    network, x = tiny_network(scale=0), torch.full((3, 32, 32), 128 / 255)
    network[2].bias.data[0] = 9  # sure of class 0, whatever the image
    smooth = Smooth(network, 10, 0.25, device="cpu")
    assert smooth.predict(x, 16, 500, 0.1, 500, index=0).prediction == 0
    monkeypatch.setattr(smooth.noise, "delta", lambda size: 0.6)
    assert smooth.predict(x, 16, 500, 0.1, 500, index=0).prediction == ABSTAIN


def test_a_log_from_before_integer_noise_is_not_resumed(tmp_path):
    """Its record names no noise: float noise of streams that are gone. Complete or not, it is refused and stays."""
    assert run(tmp_path, "--noise", "float", stop=100).returncode == 0
    record = json.loads((tmp_path / "log.json").read_text())
    for name in ("noise", "delta", "round_images", "weights", "settle", "looks"):
        record["settings"].pop(name, None)
    (tmp_path / "log.json").write_text(json.dumps(record))
    before = contents(tmp_path)
    for stop in (100, 240):
        assert_refused(run(tmp_path, "--noise", "float", stop=stop), "--noise")
    assert contents(tmp_path) == before


def test_rounding_belongs_to_integer_noise(tmp_path):
    assert_refused(run(tmp_path, "--noise", "float", "--round_images"), "--round_images")
    assert not (tmp_path / "log").exists()


def test_sigma_beyond_integer_noise(tmp_path):
    """Above 8 the sums leave an int16: a line names float noise, which takes what is finite in float32."""
    sigma = ["cifar10", weights_file(tmp_path), 8.5, tmp_path / "log", "--skip", 20, "--max", 40, "--N", 64]
    assert_refused(certify(*sigma), "SIGMA or --noise", "float noise has no such upper limit")
    assert certify(*sigma, "--noise", "float").returncode == 0
    sigma[2] = 1e39
    assert_refused(certify(*sigma, "--noise", "float"), "finite in float32")


def test_images_off_the_grid(tmp_path):
    """Refused, with what can be done; rounded or under float noise they have rows, and the record says which."""
    patches = images_from(off_the_grid)
    assert_refused(run(tmp_path, patches=patches), "--noise float", "--round_images")
    for options in (("--round_images",), ("--noise", "float", "--overwrite")):
        assert run(tmp_path, *options, patches=patches).returncode == 0
        assert len(read_rows(tmp_path / "log")) == 2
        assert settings(tmp_path)["round_images"] == (options[0] == "--round_images")
