"""Figures of certified accuracy against radius, in one panel or several."""
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from certconf.report.curves import ATTACKED, CDF, MEAN, Curve
from certconf.report.figures import COLOURS, RADIUS, new_figure

MARKERS = "os^DvPX"
BAND_MEAN, POINTS = "mean alone, limit from the band", "CDF bound at the radii of a log"
CEILING = "ceiling, even if all scores are 1"
LINES = {CDF: "-", MEAN: "--", BAND_MEAN: "-.", POINTS: "None", ATTACKED: ":", CEILING: ":"}

Panel = dict[str, dict[str, Curve]]  # curves, by the label of their colour and by the name of their line in LINES


def draw_accuracy(panels: Sequence[tuple[str, Panel]], columns: int) -> Figure:
    """The panels (title, curves), row by row, and below them the legend of the last one."""
    rows = len(panels) // columns
    figure = new_figure(max(6.4, 4.4 * columns), 2.6 * rows + 1 + 0.22 * (len(panels[-1][1]) + 2))
    grid = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey=True)
    for axes, (title, panel) in zip(grid.flat, panels, strict=True):
        draw_panel(axes, panel)
        axes.set_title(title)
    for axes in grid[0]:
        if axes.get_autoscalex_on():
            axes.set_xlim(left=0)  # only now: a limit that is set stops matplotlib from making room for more curves
    grid[0, 0].set_ylim(bottom=0)
    figure.legend(handles=legend(panels[-1][1]), loc="outside lower center", frameon=False, ncols=rows)
    return figure


def legend(panel: Panel) -> list[Line2D]:
    """What each colour is, and what each kind of line if a colour has several."""
    handles = [Line2D([], [], color=colour, linestyle=LINES[next(iter(curves))], markersize=4,
                      marker="" if all(curve.exact for curve in curves.values()) else marker,
                      label=textwrap.fill(label, 75))
               for (label, curves), colour, marker in zip(panel.items(), COLOURS, MARKERS, strict=False)]
    several = set().union(*(curves for curves in panel.values() if len(curves) > 1))
    return handles + [Line2D([], [], color="0.4", linestyle=line, label=name)
                      for name, line in LINES.items() if name in several and name != POINTS]


def draw_panel(axes: Axes, panel: Panel) -> None:
    """The curves at one score; a ceiling is a vertical line, and beyond the last one nothing is drawn."""
    ceilings = [curves[CEILING].radii[0] for curves in panel.values() if CEILING in curves]
    for curves, colour, marker in zip(panel.values(), COLOURS, MARKERS, strict=False):
        for name, curve in curves.items():
            if name == CEILING:
                axes.axvline(curve.radii[0], color=colour, linestyle=LINES[name])
                continue
            axes.plot(*curve.staircase(), linestyle=LINES[name], color=colour, drawstyle=curve.style,
                      clip_on=bool(ceilings))
            if not curve.exact:
                axes.plot(curve.radii, curve.accuracy, marker, color=colour, markersize=4, clip_on=bool(ceilings))
    if ceilings:
        axes.set_xlim(-0.02 * max(ceilings), 1.05 * max(ceilings))
    axes.set(xlabel=RADIUS, ylabel="certified accuracy (fraction of images)")
    axes.label_outer()
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
