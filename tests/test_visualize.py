"""code/visualize.py: the pictures of a noisy image, their names, and what is refused."""
import sys

import numpy as np
import pytest
import torch
from helpers import fill_class_folders
from PIL import Image

import visualize
from certconf.errors import InputError
from certconf.inputs.datasets import BUNDLED


def call(monkeypatch, *args):
    """Run visualize's main in this process."""
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, args)])
    visualize.main()


def pixels(path):
    """A picture's bytes [H, W, C]."""
    with Image.open(path) as picture:
        return np.array(picture)


def bundled(index):
    """A bundled test image as bytes [H, W, C]."""
    with np.load(BUNDLED) as archive:
        return archive["images"][list(archive["indices"]).index(index)].transpose(1, 2, 0)


def test_pictures_and_strip(tmp_path, monkeypatch):
    """Names hold 100 times sigma; without noise the picture is the image, every pixel a square."""
    call(monkeypatch, "cifar10", tmp_path / "new" / "out", 40, 0.0, 0.25, 0.29, "1.00", "--strip", tmp_path / "s.png")
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {"40_0.png", "40_25.png", "40_29.png", "40_100.png"}
    np.testing.assert_array_equal(pixels(out / "40_0.png"), bundled(40).repeat(8, 0).repeat(8, 1))
    noisy = pixels(out / "40_100.png")
    assert noisy.shape == (256, 256, 3) and (noisy[::8, ::8].repeat(8, 0).repeat(8, 1) == noisy).all()
    assert {0, 255} <= set(noisy.flat)  # cut off at black and white
    height, width, _ = pixels(tmp_path / "s.png").shape
    assert width > 3 * height


def test_seed_and_scale(tmp_path, monkeypatch):
    """One seed, one noise; --scale 1 is the image's own size."""
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        call(monkeypatch, "cifar10", tmp_path / name, 0, 0.5, "--scale", 1, "--seed", seed)
        found[name] = (tmp_path / name / "0_50.png").read_bytes()
    assert found["a"] == found["b"] != found["c"]
    assert pixels(tmp_path / "a" / "0_50.png").shape == (32, 32, 3)


def test_noise_is_gaussian_of_that_size():
    """The same noise at every level: twice the sigma, twice the difference; and sigma is its standard deviation."""
    grey = torch.full((3, 200, 200), 0.5)
    small, large = (np.array(picture) / 255 - 0.5 for picture in visualize.noisy_pictures(grey, [0.04, 0.08], 0))
    np.testing.assert_allclose(large, 2 * small, atol=0.007)  # pictures hold 256 levels
    assert large.std() == pytest.approx(0.08, rel=0.02) and abs(large.mean()) < 0.002


def test_imagenet(tmp_path, monkeypatch):
    """The central 224x224 of the resized image, at its own size."""
    folder = tmp_path / "imagenet" / "val" / "n01440764"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (300, 260), (10, 200, 90)).save(folder / name)
    fill_class_folders(folder.parent)
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "imagenet"))
    call(monkeypatch, "imagenet", tmp_path / "out", 1, 0)
    picture = pixels(tmp_path / "out" / "1_0.png")
    assert picture.shape == (224, 224, 3) and (picture == [10, 200, 90]).all()


def test_never_overwrites(tmp_path, monkeypatch):
    """One picture that is there stops all, before any is written; --overwrite replaces it."""
    (tmp_path / "0_50.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="--overwrite"):
        call(monkeypatch, "cifar10", tmp_path, 0, 0.25, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["0_50.png"]
    assert (tmp_path / "0_50.png").read_bytes() == b"mine"
    call(monkeypatch, "cifar10", tmp_path, 0, 0.25, 0.5, "--overwrite")
    assert pixels(tmp_path / "0_50.png").shape == (256, 256, 3)


@pytest.mark.parametrize("args, words", [
    (["cifar10", "out", "0", "nan"], "SIGMA"),
    (["cifar10", "out", "0", "1e307"], "SIGMA"),
    (["cifar10", "out", "0", "-0.25"], "SIGMA"),
    (["cifar10", "out", "-20", "0"], "IDX"),
    (["cifar10", "out", "20000", "0"], "0 ... 9999"),
    (["cifar10", "out", "0", "0.25", "0.251"], "same name"),
    (["cifar10", "out", "0", "0", "--strip", "out/0_0.png"], "same name"),
    (["cifar10", "out", "0", "0", "--strip", "strip.gif"], "ends in"),
    (["cifar10", "out", "0", "0", "--scale", "0"], "--scale"),
    (["cifar10", "out", "0", "0", "--seed", "-1"], "--seed"),
    (["imagenet", "out", "0", "0"], "IMAGENET_DIR"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_refuses(args, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    with pytest.raises(InputError, match=words):
        call(monkeypatch, *args)
    assert not list(tmp_path.iterdir())
