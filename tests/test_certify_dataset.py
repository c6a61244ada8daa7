"""certify_dataset: the log of certify.py, from a Smooth and a data set of a Python program."""
import json

import numpy as np
import pytest
import torch
from certify_runs import contents
from helpers import read_rows, without_time
from own_code import own_file, run, settings_in

from certconf.core import Smooth
from certconf.errors import InputError
from certconf.formats.scores import read_scores
from certconf.inputs.architectures import Normalize
from certconf.inputs.datasets import image_set
from certconf.inputs.loading import Inputs, weights_sha256
from certconf.inputs.user_code import call
from certconf.runner.certification import OPTIONS as TAKEN
from certconf.runner.certification import certify_dataset
from certconf.sampling.streams import INDICES
from certify import make_parser

SAMPLES = {"N0": 8, "N": 60}


class Colours:
    """Images of two classes."""

    def __init__(self, size=6):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        pixels = torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        return pixels, index % 2


def network(scale=20.0):
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(192, 2)
    with torch.no_grad():
        linear.weight.copy_(scale * torch.randn(2, 192, generator=generator) / 14)
        linear.bias.zero_()
    return torch.nn.Sequential(torch.nn.Flatten(), linear)


def smooth(*measures, scale=20.0, **options):
    return Smooth(network(scale), 2, 0.25, measures or "pred_score", device="cpu", **options)


def of(first):
    """A Smooth of the same weights behind another first module, which a state_dict does not show."""
    return Smooth(torch.nn.Sequential(first, network()[1]), 2, 0.25, device="cpu")


def test_rows_are_those_of_the_command_line(tmp_path):
    """The same network and data set, named on a command line and given as objects: the same log but for names."""
    file = own_file(tmp_path)
    result = run(file, tmp_path / "command", "--skip", 2)
    assert result.returncode == 0, result.stderr
    own = Smooth(call(f"{file}:network"), 4, 0.25, device="cpu", early_abstain=True)
    certify_dataset(own, call(f"{file}:images", "test"), tmp_path / "python", skip=2, **SAMPLES)
    assert without_time(read_rows(tmp_path / "python")) == without_time(read_rows(tmp_path / "command"))
    ours, theirs = settings_in(tmp_path / "python"), settings_in(tmp_path / "command")
    differ = {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)}
    assert differ == {"dataset", "arch", "split", "checkpoint_sha256", "dataset_file_sha256", "modules_sha256"}
    assert ours["arch"] == "torch.nn.modules.container.Sequential"


def test_rows_are_those_of_smooth(tmp_path):
    """Two measures in two logs, staged, with saved scores."""
    certify_dataset(smooth("pred_score", "margin"), Colours(), str(tmp_path / "{confidence_measure}"),
                    settle=[0.5, 0.0], save_scores=True, radii=[0.0, 0.1], **SAMPLES)
    for place, name in enumerate(("pred_score", "margin")):
        rows = read_rows(tmp_path / name)
        assert [int(row["idx"]) for row in rows] == list(range(6)) and (tmp_path / f"{name}.scores").exists()
        for row in rows:
            x, label = image_set(Colours(), "colours").load(int(row["idx"]))
            found = smooth("pred_score", "margin").certify(x, 8, 60, 0.001, 1000, index=int(row["idx"]),
                                                           radii=(0.0, 0.1), settle=(0.5, 0.0))[place]
            assert (int(row["label"]), int(row["predict"])) == (label, found.prediction)
            assert float(row["exp_cdf_10"]) == pytest.approx(found.exp_cdf[1], rel=1e-7)


def test_resumes_and_refuses_another_network_other_images_or_options(tmp_path):
    log = tmp_path / "log"
    certify_dataset(smooth(), Colours(), log, max=3, **SAMPLES)
    certify_dataset(smooth(), Colours(), log, **SAMPLES)
    certify_dataset(smooth(), Colours(), tmp_path / "whole", **SAMPLES)
    assert without_time(read_rows(log)) == without_time(read_rows(tmp_path / "whole"))
    assert len(json.loads((tmp_path / "log.json").read_text())["starts"]) == 2
    before = contents(tmp_path)
    for again, images, options, word in (
            (smooth(scale=21.0), Colours(), SAMPLES, "BASE_CLASSIFIER's weights"),
            (of(torch.nn.Tanh()), Colours(), SAMPLES, "BASE_CLASSIFIER's modules"),
            (of(Normalize((0.1,), (1.0,))), Colours(), SAMPLES, "BASE_CLASSIFIER's modules"),
            (smooth(), Colours(5), SAMPLES, "DATASET's images"),
            (smooth(noise="float"), Colours(), SAMPLES, "--noise"),
            (smooth(precision="bf16"), Colours(), SAMPLES, "--precision"),
            (smooth("margin"), Colours(), SAMPLES, "--confidence_measure"),
            (smooth(), Colours(), {**SAMPLES, "seed": 1}, "--seed")):
        with pytest.raises(InputError, match=word):
            certify_dataset(again, images, log, **options)
    assert contents(tmp_path) == before
    certify_dataset(smooth(), Colours(), log, overwrite=True, seed=1, **SAMPLES)
    assert (tmp_path / "log.bak").exists()


def test_weights_are_those_given(tmp_path, each_cpu):
    """Not those of a copy that was folded or cast: a later change of the caller's network changes nothing, too."""
    given = network()
    certified = Smooth(given, 2, 0.25, device="cpu", precision="bf16")
    expected = weights_sha256(given)
    certify_dataset(certified, Colours(), tmp_path / "log", max=1, **SAMPLES)
    given[1].weight.data.zero_()
    certify_dataset(certified, Colours(), tmp_path / "log", **SAMPLES)
    assert settings_in(tmp_path / "log")["weights_sha256"] == expected


@pytest.mark.parametrize("options, word", [
    ({"N": 0}, "--N must be 1 or above"), ({"radii": [0.25, 0.0]}, "increasing"), ({"seed": 0.5}, "seed: 0.5"),
    ({"settle": [0.5, 0.0]}, "one score for each measure"), ({"N": 60.0}, "N: 60.0"), ({"radii": "R"}, "radii: 'R'"),
    ({"save_scores": 1}, "save_scores: 1"), ({"bound": "none"}, "bound: 'none'"), ({"N": None}, "N: None")])
def test_bad_options(options, word, tmp_path):
    with pytest.raises(InputError, match=word):
        certify_dataset(smooth(), Colours(), tmp_path / "log", **{**SAMPLES, **options})
    assert not list(tmp_path.iterdir())


def test_options_are_taken_as_on_the_command_line(tmp_path):
    """One score for one measure, integers as floats, NumPy's numbers: the record is that of a run that reads them."""
    certify_dataset(smooth("margin"), Colours(), tmp_path / "log", settle=0, radii=(0, np.float32(0.25)),
                    save_scores=True, N0=np.int64(8), N=600, max=2)
    settings = settings_in(tmp_path / "log")
    assert (settings["settle"], settings["radii"], settings["N0"]) == (0.0, [0.0, 0.25], 8)
    assert len(read_scores(str(tmp_path / "log")).records) == 2


def test_images_without_a_row_are_counted(tmp_path):
    class Blinding(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), torch.nan)

    blind = Smooth(Blinding(), 2, 0.25, device="cpu")
    assert certify_dataset(blind, Colours(), tmp_path / "blind", max=2, **SAMPLES) == 2
    assert certify_dataset(smooth(), Colours(), tmp_path / "log", max=2, **SAMPLES) == 0


def test_one_process(tmp_path, monkeypatch):
    """A second call would meet the first one's results in torchrun's store."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        certify_dataset(smooth(), Colours(), tmp_path / "log", **SAMPLES)
    assert not list(tmp_path.iterdir())


def test_other_misuse(tmp_path):
    """Options that are the Smooth's or unknown; early abstention, which has no scores to save; no data set."""
    for unknown in ("sigma", "batch_size", "precision"):
        with pytest.raises(TypeError, match=unknown):
            certify_dataset(smooth(), Colours(), tmp_path / "log", **{unknown: 1})
    with pytest.raises(InputError, match="early_abstain"):
        certify_dataset(smooth(early_abstain=True), Colours(), tmp_path / "log", save_scores=True)
    with pytest.raises(InputError, match="map-style"):
        certify_dataset(smooth(), iter(Colours()), tmp_path / "log")
    with pytest.raises(InputError, match="{confidence_measure}"):
        certify_dataset(smooth("pred_score", "margin"), Colours(), str(tmp_path / "log"))
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_data_set_keeps_its_traceback(tmp_path):
    class Broken(Colours):
        def __getitem__(self, index):
            return super().__getitem__(index if index != 4 else 1 // 0)

    with pytest.raises(InputError, match="ZeroDivisionError") as caught:
        certify_dataset(smooth(), Broken(), tmp_path / "log", **SAMPLES)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_takes_every_option_that_is_not_the_smooth_s():
    known = {action.dest for action in make_parser()._actions}
    of_smooth = {"sigma", "noise", "round_images", "device", "precision", "compile", "early_abstain",
                 "confidence_measure", "arch", "checkpoint_key", "random_network"}
    assert known - of_smooth - {"help", "dataset", "base_classifier", "outfile", "split"} == TAKEN


def test_images_without_noise_of_their_own():
    """An index that no random stream has is refused before the run, not in the middle of it."""
    Inputs(None, 10, None, range(INDICES), {})
    with pytest.raises(InputError, match="--max"):
        Inputs(None, 10, None, range(INDICES + 1), {})
