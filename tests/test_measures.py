"""statistics/measures.py: the scores of each measure against plain loops over the classes."""
import math

import pytest
import torch

from certconf.statistics.measures import MEASURES, SOFT_MEASURES


def loop_margin(row):
    """s_c - max_{j != c} s_j for each c."""
    return [row[c] - max(row[j] for j in range(len(row)) if j != c) for c in range(len(row))]


def random_softmax(rows, classes, distinct, seed):
    """Softmax of logits that take few values, so that ties are frequent, the highest class among them."""
    logits = torch.randint(distinct, (rows, classes), generator=torch.Generator().manual_seed(seed)).double()
    return logits.softmax(-1)


@pytest.mark.parametrize("classes", [2, 3, 100])
@pytest.mark.parametrize("distinct", [1, 2, 1000])
def test_margin_is_the_loop(classes, distinct):
    """The same subtractions in the same precision, so equal to the last bit."""
    softmax = random_softmax(50, classes, distinct, seed=classes + distinct)
    scores = MEASURES["margin"].transform(softmax)
    assert scores.tolist() == [loop_margin(row) for row in softmax.tolist()]


def test_margin_by_hand():
    """A clear winner, a tie at the top (0 for both), a tie below it, and two classes."""
    softmax = torch.tensor([[0.5, 0.25, 0.25], [0.375, 0.375, 0.25], [1.0, 0.0, 0.0]])
    expected = [[0.25, -0.25, -0.25], [0.0, 0.0, -0.125], [1.0, -1.0, -1.0]]
    assert MEASURES["margin"].transform(softmax).tolist() == expected
    assert MEASURES["margin"].transform(torch.tensor([0.75, 0.25])).tolist() == [0.5, -0.5]


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("distinct", [1, 2, 1000])
def test_top_class_is_the_loop(classes, distinct):
    """1 for the first class of the highest softmax, 0 for all others: two values, and one 1 in each row."""
    softmax = random_softmax(50, classes, distinct, seed=classes + distinct)
    expected = [[float(c == row.index(max(row))) for c in range(classes)] for row in softmax.tolist()]
    assert MEASURES["top_class"].transform(softmax).tolist() == expected


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_range(name, dtype):
    """Any leading shape; the dtype stays; the input is left as it was; scores lie in the measure's range."""
    measure = MEASURES[name]
    softmax = random_softmax(24, 7, 40, seed=1).to(dtype).reshape(2, 3, 4, 7)
    before = softmax.clone()
    scores = measure.transform(softmax)
    assert scores.shape == softmax.shape and scores.dtype == dtype
    assert torch.equal(softmax, before)
    assert scores.min() >= measure.score_min and scores.max() <= measure.score_max


@pytest.mark.parametrize("name", MEASURES)
def test_nan_stays_nan(name):
    """A softmax with a NaN logit is NaN in every class, and so is each score; other rows are left alone."""
    softmax = torch.tensor([[math.nan, 1.0, 2.0], [0.0, 1.0, 2.0]]).softmax(-1)
    scores = MEASURES[name].transform(softmax)
    assert scores[0].isnan().all() and not scores[1].isnan().any()


def test_pred_score_is_the_softmax():
    softmax = random_softmax(10, 5, 30, seed=2)
    assert torch.equal(MEASURES["pred_score"].transform(softmax), softmax)


def test_ranges_and_cutoffs():
    """A class with pred_score above 1/2, or margin above 0, is the argmax."""
    pred, margin = MEASURES["pred_score"], MEASURES["margin"]
    top = MEASURES["top_class"]
    assert SOFT_MEASURES == ("pred_score", "margin") and set(MEASURES) == {*SOFT_MEASURES, "top_class"}
    assert all(measure.name == name for name, measure in MEASURES.items())
    assert (pred.score_min, pred.score_max, pred.cutoff, pred.range) == (0.0, 1.0, 0.5, 1.0)
    assert (top.score_min, top.score_max, top.cutoff, top.range, top.two_valued) == (0.0, 1.0, 0.5, 1.0, True)
    assert (margin.score_min, margin.score_max, margin.cutoff, margin.range) == (-1.0, 1.0, 0.0, 2.0)
