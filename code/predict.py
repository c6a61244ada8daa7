"""Predict the class with the highest expected confidence under noise, and give limits on that confidence.

    python code/predict.py cifar10 models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar 0.25 OUTFILE --skip 20

OUTFILE gets one row per image: idx label predict lower upper correct time. predict is wrong (not the class with the
highest expected softmax score) with probability at most ALPHA, and -1 if the samples do not decide; the expected score
of the class chosen lies in [lower, upper] with probability 1 - ALPHA. Repeating a command resumes from the rows that
are done.
"""
import argparse
import sys
import time
from typing import TYPE_CHECKING

from certconf import errors
from certconf.formats.predictions import PREDICTIONS, Predictions
from certconf.runner.config import PredictConfig
from certconf.runner.options import add_sampling_options
from certconf.runner.run import STOPPED, ImageResult, Run
from certconf.statistics.bounds import SMALLEST_ALPHA

if TYPE_CHECKING:
    from certconf.core import Smooth
    from certconf.inputs.datasets import ImageSet


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser, least_n=2, least_alpha=2 * SMALLEST_ALPHA)  # each limit gets alpha / 2
    return parser.parse_args()


def predict_image(smooth: "Smooth", images: "ImageSet", index: int, config: PredictConfig) -> ImageResult:
    """The row of an image in the one table."""
    x, label = images.load(index)
    start = time.perf_counter()
    found = smooth.predict(x, config.N0, config.N, config.alpha, config.batch, index=index, seed=config.seed)
    seconds = time.perf_counter() - start
    line = PREDICTIONS.line(index, label, found.prediction, seconds, found.lower, found.upper)
    return ImageResult([(line,)], config.N)


def main() -> int:
    args = parse_arguments()
    with Run() as run:
        config = run.config = run.share(PredictConfig, **vars(args))
        run.open(config.outfile, PREDICTIONS.header(), Predictions.parse, program="predict")
        if run.complete():
            return 0
        inputs = run.load()
        from certconf.core import Smooth  # PyTorch, which `load` has loaded
        smooth = Smooth(inputs.network, inputs.num_classes, config.sigma, device=str(run.device),
                        precision=config.precision, compile=config.compile, noise=config.noise,
                        round_images=config.round_images, random_network=config.random_network)
        run.begin(smooth.sampler)
        for index, result in run.map(lambda i: predict_image(smooth, inputs.images, i, config)):
            run.write(index, result)
    return run.status


if __name__ == "__main__":
    sys.exit(errors.run_cli(main, STOPPED))
