"""inputs/datasets.py: the bundled images, the full data sets, and augmentation."""
import csv
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from helpers import DEMO_CHECKPOINT, PUBLISHED_LOG, fill_class_folders
from PIL import Image

from certconf.errors import InputError
from certconf.inputs import datasets
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.catalogue import requested_indices
from certconf.inputs.datasets import augment_cifar10, cifar10_tensors, imagenet_folder, open_images


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty working folder on a machine without network: torchvision's download fails."""
    def no_network(*args, **kwargs):
        raise URLError("no network")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", no_network)
    return tmp_path


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------

def test_bundled_images(nowhere):
    """The paper's protocol: test images 0, 20, ..., 9980, with the labels that the published log has."""
    images, indices = open_images("cifar10", "test", skip=20)
    with open(PUBLISHED_LOG, newline="") as file:
        published = {int(row["idx"]): int(row["label"]) for row in csv.DictReader(file, delimiter="\t")}
    assert images.size == 10_000
    assert list(indices) == list(published) == list(range(0, 10_000, 20))
    loaded = [images.load(index) for index in indices]
    assert [label for _, label in loaded] == list(published.values())
    for pixels, label in loaded:
        assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32 and type(label) is int
        assert pixels.min() >= 0 and 0.2 < pixels.max() <= 1
        assert torch.equal(pixels * 255, (pixels * 255).round())


def test_bundled_images_go_with_their_labels():
    """The trained network recognises them (random labels: 10 %), and fewer with the colours or the sides exchanged."""
    network, _ = load_checkpoint(str(DEMO_CHECKPOINT), "cifar10")
    images, indices = open_images("cifar10", "test", skip=40)
    pixels, labels = zip(*map(images.load, indices), strict=True)
    pixels, labels = torch.stack(pixels), torch.tensor(labels)

    def accuracy(pixels):
        with torch.inference_mode():
            noise = 0.25 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
            return (network(pixels + noise).argmax(1) == labels).float().mean()

    assert accuracy(pixels) > 0.5
    assert accuracy(pixels) > accuracy(pixels.flip(1)) + 0.02
    assert accuracy(pixels) > accuracy(pixels.transpose(2, 3)) + 0.1


@pytest.mark.parametrize("size, skip, stop, expected", [
    (10, 3, -1, [0, 3, 6, 9]), (10, 3, 9, [0, 3, 6]), (10, 1, 0, []), (10, 20, -1, [0]), (10, 4, 100, [0, 4, 8])])
def test_requested_indices(size, skip, stop, expected):
    """0, skip, 2 skip, ... below --max and below the size."""
    assert list(requested_indices(size, skip, stop)) == list(expected)


@pytest.mark.parametrize("skip, stop", [(20, 81), (40, -1), (1, 1), (3, 0)])
def test_served_without_download(nowhere, skip, stop):
    """Any request for bundled images alone, whatever its form."""
    images, indices = open_images("cifar10", "test", skip, stop)
    assert all(images.load(i)[0].shape == (3, 32, 32) for i in list(indices)[:3])


@pytest.mark.parametrize("split, skip, stop", [("test", 1, 2), ("test", 30, -1), ("train", 20, 100)])
def test_full_data_set_is_not_to_be_had(nowhere, split, skip, stop):
    """Any other request names the folder, the reason and what comes with the repository, in one line."""
    with pytest.raises(InputError) as error:
        open_images("cifar10", split, skip, stop)
    for word in ("dataset_cache", "cannot be downloaded", "no network", "0, 20, 40"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_download(nowhere, monkeypatch):
    """A download that fails its check is torchvision's RuntimeError, and ends in a line, too."""
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", lambda *args, **kwargs: None)
    with pytest.raises(InputError, match="cannot be downloaded"):
        cifar10_tensors(train=True)


@pytest.fixture
def fake_cifar10(nowhere, monkeypatch):
    """CIFAR-10's files, with 4 images each: image k of the training set has k in its first red pixel, all else 200."""
    folder = nowhere / "dataset_cache" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    parts = [(f"data_batch_{k}", 4 * k - 4) for k in range(1, 6)] + [("test_batch", 100)]
    for name, first in parts:
        data = np.full((4, 3072), 200, np.uint8)
        data[:, 0] = range(first, first + 4)
        data[:, 3071] = 7  # the last blue pixel
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [k % 10 for k in range(first, first + 4)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: True)


def test_full_data_set(fake_cifar10):
    """Bytes in torchvision's order, channels first; a split's images are those of its files, and not augmented."""
    pixels, labels = cifar10_tensors(train=True)
    assert pixels.shape == (20, 3, 32, 32) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert pixels[:, 0, 0, 0].tolist() == list(range(20)) and labels.tolist() == [k % 10 for k in range(20)]
    assert pixels[3, 2, 31, 31] == 7
    for split, first in (("train", 0), ("test", 100)):
        images, indices = open_images("cifar10", split, skip=1, stop=3)
        assert list(indices) == [0, 1, 2]
        for _ in range(3):
            x, label = images.load(2)
            expected = torch.full((3, 32, 32), 200 / 255)
            expected[0, 0, 0], expected[2, 31, 31] = (first + 2) / 255, 7 / 255
            torch.testing.assert_close(x, expected, rtol=0, atol=1e-7)
            assert label == (first + 2) % 10
    assert open_images("cifar10", "train")[0].size == 50_000


# --- ImageNet ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """Two classes with an image, others empty: a grey band, 224 of 448 columns wide, of a black 448x256 image."""
    for part in ("train", "val"):
        for name, grey in (("n01", 64), ("n02", 128)):
            pixels = np.zeros((256, 448, 3), np.uint8)
            pixels[:, 112:336] = grey
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "a.png")
        fill_class_folders(tmp_path / part)
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_imagenet(imagenet, split):
    """The shorter side is 256 already, so the central 224x224 is the band; labels by the folders' order; every time."""
    images, indices = open_images("imagenet", split)
    assert images.size == 2 and list(indices) == [0, 1]
    for index, grey in ((0, 64), (1, 128), (0, 64)):
        x, label = images.load(index)
        assert label == index
        torch.testing.assert_close(x, torch.full((3, 224, 224), grey / 255), rtol=0, atol=1e-6)
    assert list(open_images("imagenet", split, skip=2)[1]) == [0]


def test_imagenet_resizes_the_shorter_side(imagenet):
    """512x896 becomes 256x448, of which the centre is the band; edges are blurred by a pixel or two."""
    path = imagenet / "val" / "n01" / "a.png"
    Image.open(path).resize((896, 512), Image.Resampling.NEAREST).save(path)
    x, _ = open_images("imagenet", "test")[0].load(0)
    assert x.shape == (3, 224, 224)
    torch.testing.assert_close(x[:, :, 3:-3], torch.full((3, 224, 218), 64 / 255), rtol=0, atol=0.005)


def test_imagenet_is_not_there(imagenet, monkeypatch):
    """No IMAGENET_DIR, an empty one, a folder without val/, a val/ without class folders or images."""
    for value in (None, "", str(imagenet / "none"), str(imagenet / "val" / "n01"), str(imagenet / "train" / "n01")):
        if value is None:
            monkeypatch.delenv("IMAGENET_DIR")
        else:
            monkeypatch.setenv("IMAGENET_DIR", value)
        with pytest.raises(InputError, match="IMAGENET_DIR"):
            open_images("imagenet", "test")
    monkeypatch.setenv("IMAGENET_DIR", str(imagenet))
    for name in ("n01", "n02"):
        next((imagenet / "val" / name).iterdir()).unlink()
    with pytest.raises(InputError, match="no image in val/"):
        open_images("imagenet", "test")


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("change, count", [(lambda part: (part / "z999").mkdir(), 1001),
                                           (lambda part: (part / "z000").rmdir(), 999)])
def test_other_than_1000_classes(part, change, count, imagenet):
    """Fewer or more class folders than ImageNet has classes: the labels would be others."""
    change(imagenet / part)
    with pytest.raises(InputError, match=f"{count} class folders in {part}/, not 1000"):
        imagenet_folder(part, datasets.imagenet_test_transform())


def test_a_class_without_images_keeps_its_label(imagenet):
    """n01 empty: the image of n02 is the first, and its label is 1 still."""
    next((imagenet / "val" / "n01").iterdir()).unlink()
    images, indices = open_images("imagenet", "test")
    assert list(indices) == [0] and images.load(0)[1] == 1


def test_hidden_files_are_no_images(imagenet):
    """What macOS leaves beside each image: the indices of the others stay."""
    for folder in (imagenet / "val").iterdir():
        (folder / "._a.png").write_bytes(b"\0\5\26\7")
    images, indices = open_images("imagenet", "test")
    assert list(indices) == [0, 1] and [images.load(i)[1] for i in indices] == [0, 1]


@pytest.mark.parametrize("split, part, whole", [("test", "val", 50_000), ("train", "train", 1_281_167)])
def test_the_number_of_images_is_checked(split, part, whole, imagenet, monkeypatch):
    """One line if it is not ImageNet's."""
    remark, = open_images("imagenet", split)[0].remarks
    assert f"2 images in {part}/" in remark and str(whole) in remark
    monkeypatch.setitem(datasets.IMAGENET_SIZES, part, 2)
    assert open_images("imagenet", split)[0].remarks == ()


# --- augmentation -----------------------------------------------------------------------------------------------------

def crops(image, padding):
    """Every crop of the zero-padded image, and its mirror image, as bytes: {crop: (top, left, mirrored)}."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    height, width = image.shape[1:]
    return {np.ascontiguousarray(crop[:, :, ::step]).tobytes(): (top, left, step)
            for top in range(2 * padding + 1) for left in range(2 * padding + 1)
            for crop in [padded[:, top:top + height, left:left + width]] for step in (1, -1)}


def test_augmentation():
    """Each output is a crop of its own input, mirrored or not; all 18 of them occur about equally often.

    900 draws of 18: each count is binomial with mean 50 and sd 6.9, so within 5 sd of it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.rand(900, 3, 6, 5)
        outputs = augment_cifar10(images, padding=1)
    assert outputs.shape == images.shape and outputs.dtype == images.dtype
    seen = [crops(image.numpy(), 1)[output.numpy().tobytes()] for image, output in zip(images, outputs, strict=True)]
    counts = [seen.count(kind) for kind in {kind for kind in seen}]
    assert len(counts) == 18
    assert max(abs(count - 50) for count in counts) < 5 * 6.9
