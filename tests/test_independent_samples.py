"""What a base classifier must be for its samples to be N independent scores, and what is done where it is not."""
import pytest
import torch
from torch import nn

from certconf.core import Smooth

IMAGE = torch.full((3, 8, 8), 128 / 255)


def certify(network, x=IMAGE, n=200, **options):
    return Smooth(network, 2, 0.25, device="cpu").certify(x, 50, n, 0.001, 64, index=0, **options)


class Rows(nn.Module):
    """Two logits, equal for every image, of as many images as `rows` makes of a batch."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x):
        return self.rows(x.flatten(1)[:, :2] * 0)


@pytest.mark.parametrize("rows", [lambda z: z[:1], lambda z: torch.cat([z, z]), lambda z: z[:, :, None]])
def test_one_row_an_image(rows):
    """Anything else would leave scores that nothing was written to, or count one image's twice."""
    def predict(network):
        return Smooth(network, 2, 0.25, device="cpu").predict(IMAGE, 50, 200, 0.001, 64, index=0)

    for call in (certify, predict):
        with pytest.raises(ValueError, match="one row each"):
            call(Rows(rows))


def test_batch_statistics_are_refused():
    """A BatchNorm without running statistics normalises by the batch at hand, in eval mode too."""
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten())
    with pytest.raises(ValueError, match="running statistics"):
        certify(network)


class AlwaysTraining(nn.Sequential):
    """eval() does not reach it."""

    def train(self, mode=True):
        return super().train(True)


def test_training_mode_is_refused():
    """Dropout and BatchNorm would go on as in training."""
    with pytest.raises(ValueError, match="training mode"):
        certify(AlwaysTraining(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten()))


class ReadsItsNorm(nn.Module):
    """Its code reads what the BatchNorm holds, which is not there once that is folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3)).view(-1, self.norm.num_features)


def test_a_module_that_cannot_be_folded_runs_as_it_is():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ReadsItsNorm().eval()
    assert certify(network).mean == pytest.approx(certify(Opaque(network)).mean, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_default_dtype_does_not_matter(dtype):
    """Noise and scores are float32: half precision would round scores up."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).float()
    expected = certify(network)
    torch.set_default_dtype(dtype)
    try:
        found = certify(network)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.mean, found.exp_cdf) == (expected.mean, expected.exp_cdf)


class Reused(nn.Module):
    """A convolution before a BatchNorm, whose weights a second path reads where the image is bright."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2)
        nn.init.constant_(self.norm.running_var, 0.01)

    def forward(self, x):
        bright = (x.mean((1, 2, 3), keepdim=True) - 0.7).relu()
        return (self.norm(self.conv(x)) + 20 * bright * nn.functional.conv2d(x, self.conv.weight)).mean((2, 3))


class Opaque(nn.Module):
    """A network in which torch.fx sees nothing, so that nothing is folded."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if len(x) else x


def test_weights_that_are_read_elsewhere_are_not_folded():
    """Folding changes a convolution's weights; the first image, at which it is checked, may not show that."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, bright = Reused().eval(), torch.full((3, 8, 8), 1.0)
    smooth = Smooth(network, 2, 0.25, device="cpu")
    smooth.certify(torch.zeros(3, 8, 8), 50, 200, 0.001, 64, index=0)
    expected = certify(Opaque(network), bright)
    assert smooth.certify(bright, 50, 200, 0.001, 64, index=0).mean == pytest.approx(expected.mean, abs=1e-5)
