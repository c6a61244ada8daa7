"""The table that predict.py writes: for each image limits on the expected score of the class chosen.

    idx label predict lower upper correct time
"""
from certconf.formats.rows import Column, Schema, Table, round_up

UNIT = (0.0, 1.0)
PREDICTIONS = Schema("table of predictions", (Column("lower", limits=UNIT, abstention=None),
                                              Column("upper", round_up, UNIT, abstention=None)),
                     per_radius=False, ordered=("lower", "upper"))


class Predictions(Table):
    """A table of predictions."""

    schemas = (PREDICTIONS,)
