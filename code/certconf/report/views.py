"""The linked views of a page of certificates, as a Vega-Lite specification made with Altair.

The datasets are put beside the specification, by name: `curves`, `images` and `pictures` (see page_data.py). What is
done in the browser is to look up a score's entry, to compare whole numbers, to count and to sort.
"""
import altair as alt
from vl_convert import javascript_bundle

from certconf.report.figures import COLOURS
from certconf.report.page_data import SCALE, SCORES_PER_UNIT, UPPER_EVERY, Choices

CERTIFIED = "certified"
OUTCOMES = {CERTIFIED: ("#0072B2", "circle"), "right, not certified": ("#E69F00", "square"),
            "wrong": ("#D55E00", "cross"), "abstained": ("#999999", "triangle-up")}  # the colours of Okabe and Ito
INK = "currentColor"  # the page's own, light or dark


# the width of a view in pixels, and whether two stand side by side
LAYOUTS = {"wide": (560, True), "middle": (620, False), "narrow": (290, False)}


def layouts(choices: Choices) -> dict[str, dict]:
    """The page's Vega-Lite specification in each layout."""
    return {name: specification(choices, *layout) for name, layout in LAYOUTS.items()}


def library() -> str:
    """The JavaScript that draws a specification: Vega, Vega-Lite and Vega-Embed."""
    return javascript_bundle(vl_version=".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2]))


def specification(choices: Choices, width: int, two_columns: bool) -> dict:
    """The whole page's Vega-Lite specification."""
    chosen = alt.selection_point(
        name="chosen", fields=["index"], on="click", clear=False, toggle=False, empty=False,
        value=[{"index": next(iter(choices.images))}],
        bind=alt.binding_select(options=list(choices.images), labels=list(choices.images.values()), name="image"))
    accuracy = _below(_curves(choices, width), _fractions(choices, width), spacing=8)
    outcomes, thumbnails = _outcomes(choices, width), _thumbnails(choices, width, chosen)
    image = _below(_pictures(choices, width, chosen), _facts(choices, width),
                   _bounds(choices, width, chosen), _distribution(choices, width, chosen))
    if two_columns:
        page = _apart(alt.hconcat(_below(accuracy, outcomes, thumbnails), image, spacing=40))
    else:
        page = _below(accuracy, outcomes, image, thumbnails)
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"}
    return page.add_params(*_controls(choices)).configure(
        background="transparent", font="system-ui, sans-serif", view={"stroke": None},
        text={"color": INK, "fontSize": 13}, rule={"color": INK}, legend={**text, "orient": "top"},
        axis={**text, "gridColor": INK, "gridOpacity": 0.15, "domainColor": INK, "tickColor": INK},
        title={"color": INK, "subtitleColor": INK, "subtitleFontSize": 12, "anchor": "start", "fontSize": 15}).to_dict()


def _below(*views, spacing: int = 20):
    return _apart(alt.vconcat(*views, spacing=spacing))


def _apart(views):
    """Views whose colours mean different things."""
    return views.resolve_scale(color="independent", shape="independent", strokeDash="independent")


def _controls(choices: Choices) -> list[alt.Parameter]:
    grid, logs = choices.grid, choices.logs
    return [
        alt.param(name="score", value=choices.score, bind=alt.binding_range(
            min=grid.scores[0], max=grid.scores[-1], step=1 / SCORES_PER_UNIT, name="score")),
        alt.param(name="radius", value=choices.radius, bind=alt.binding_range(
            min=0, max=grid.radii[-1], step=float(grid.step), name="radius R")),
        alt.param(name="order", value="radius", bind=alt.binding_select(
            options=["radius", "index"], labels=["certified radius", "index"], name="sorted by")),
        alt.param(name="log", value=0, bind=alt.binding_select(
            options=list(range(len(logs))), labels=logs, name="log shown")),
    ]


# --- all images -----------------------------------------------------------------------------------------------------

def _series(choices: Choices) -> alt.Chart:
    return alt.Chart(alt.NamedData("curves")).transform_calculate(
        fraction=f"datum.count[{choices.score_entry}] / datum.images")


def _styles(choices: Choices) -> dict:
    """A colour for each log and a dash for each band; their key is the list of fractions."""
    domain = {"domain": choices.logs, "range": list(COLOURS[:len(choices.logs)])}
    dashes = {"domain": choices.bands, "range": [[1, 0], [6, 4]][:len(choices.bands)]}
    return {"color": alt.Color("log:N", legend=None, scale=alt.Scale(**domain)),
            "strokeDash": alt.StrokeDash("band:N", legend=None, scale=alt.Scale(**dashes))}


def _at(choices: Choices) -> str:
    """The place of the radius under the pointer, or else of the one that the slider sets."""
    return f"(isArray(pointer.k) ? pointer.k[0] : {choices.radius_entry})"


def _curves(choices: Choices, width: int) -> alt.LayerChart:
    """Between two radii of the grid a curve has the value at the larger one: it is nowhere above the true curve."""
    base = _series(choices)
    pointer = alt.selection_point(name="pointer", on="pointermove", nearest=True, fields=["k"], encodings=["x"],
                                  clear="pointerout", empty=False)
    x = alt.X("R:Q", title="radius R (L2 distance, pixels in [0, 1])",
              scale=alt.Scale(domain=[0, choices.grid.radii[-1]], nice=False))
    lines = base.mark_line(interpolate="step-before", strokeWidth=2).encode(
        x=x, y=alt.Y("fraction:Q", title="certified accuracy", scale=alt.Scale(domain=[0, 1])), **_styles(choices))
    targets = base.transform_filter("datum.first").mark_point(opacity=0, size=1, aria=False).encode(
        x=x, y=alt.value(0)).add_params(pointer)
    rule = base.transform_filter(f"datum.first && datum.k == {_at(choices)}").mark_rule(strokeDash=[2, 2]).encode(x=x)
    return alt.layer(lines, rule, targets).properties(
        name="accuracy", width=width, height=260, title="Certified accuracy against radius",
        description="Certified accuracy against radius at the chosen score, for each log and band")


def _fractions(choices: Choices, width: int) -> alt.LayerChart:
    """The key to the curves, with their values at the pointer, or at the slider's radius."""
    weaker = "isValid(datum.settle) && (!datum.settled || abs(datum.settle - score) > 1e-9)"
    lines = ["datum.log", "datum.band", "'R = ' + format(datum.R, '.4~f') + ': ' + format(datum.fraction, '.4f') + "
             f"' (' + datum.count[{choices.score_entry}] + ' of ' + datum.images + ')'",
             f"({weaker} ? 'weaker than a full run: see the notes' : '')"]
    reading = " + '\\n' + ".join(lines)
    base = _series(choices).transform_filter(f"datum.k == {_at(choices)}").transform_calculate(reading=reading)
    y = alt.Y("series:O", axis=None)
    dash = base.mark_rule(strokeWidth=2).encode(x=alt.value(0), x2=alt.value(24), y=y, **_styles(choices))
    text = base.mark_text(align="left", baseline="middle", lineBreak="\n", fontSize=12, limit=width - 32).encode(
        x=alt.value(32), y=y, text="reading:N")
    return alt.layer(dash, text).properties(
        name="fractions", width=width, height=alt.Step(66),
        description="The certified accuracy of each curve at the pointer, or at the chosen radius")


def _judged(choices: Choices) -> alt.Chart:
    """The images of the log shown, each with its outcome at the chosen score and radius."""
    return alt.Chart(alt.NamedData("images")).transform_filter("datum.run == log").transform_calculate(
        k=f"datum.radius[{choices.score_entry}]").transform_calculate(
        outcome=f"datum.right && datum.k >= {choices.radius_entry} ? '{CERTIFIED}' : datum.abstains ? 'abstained' : "
                "datum.right ? 'right, not certified' : 'wrong'")


def _marked(**options) -> dict:
    names, styles = list(OUTCOMES), list(zip(*OUTCOMES.values(), strict=True))
    return {"color": alt.Color("outcome:N", scale=alt.Scale(domain=names, range=list(styles[0])), **options),
            "shape": alt.Shape("outcome:N", scale=alt.Scale(domain=names, range=list(styles[1])), **options)}


def _outcomes(choices: Choices, width: int) -> alt.LayerChart:
    """How many images have each outcome: the key to the thumbnails' colours and marks."""
    counted = _judged(choices).transform_aggregate(count="count()", groupby=["outcome"]).transform_calculate(
        reading="datum.count + ' ' + datum.outcome")
    y = alt.Y("outcome:N", axis=None, scale=alt.Scale(domain=list(OUTCOMES)))
    return alt.layer(
        counted.mark_point(filled=True, size=110, opacity=1).encode(x=alt.value(8), y=y, **_marked(legend=None)),
        counted.mark_text(align="left", baseline="middle").encode(x=alt.value(24), y=y, text="reading:N"),
    ).properties(name="outcomes", width=width, height=alt.Step(20), title="All images",
                 description="The number of images of each outcome at the chosen score and radius")


def _thumbnails(choices: Choices, width: int, chosen: alt.Parameter) -> alt.LayerChart:
    side = 28 if len(choices.images) > 150 else 44
    columns = width // side
    placed = _judged(choices).transform_calculate(key="order == 'index' ? 0 : -datum.k").transform_window(
        place="row_number()", sort=[alt.SortField("key"), alt.SortField("index")]).transform_calculate(
        column=f"(datum.place - 1) % {columns}", row=f"floor((datum.place - 1) / {columns})",
        spoken="'image ' + datum.index + ', ' + datum.label + ', ' + datum.outcome").transform_lookup(
        "index", alt.LookupData(alt.NamedData("pictures"), "index", ["picture"]))
    place = {"x": alt.X("column:O", axis=None, scale=alt.Scale(domain=list(range(columns)), padding=0)),
             "y": alt.Y("row:O", axis=None, scale=alt.Scale(padding=0))}
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("index", "label", "predicted", "outcome")]
    marked = _marked(legend=None)
    above = {"cursor": "pointer", "aria": False}  # the frame is what a screen reader reads
    frame = placed.mark_rect(cursor="pointer").encode(
        **place, color=marked["color"], tooltip=tooltip, description="spoken:N").add_params(chosen)
    picture = placed.transform_filter("isValid(datum.picture)").mark_image(
        width=side - 6, height=side - 6, **above).encode(**place, url="picture:N", tooltip=tooltip)
    number = placed.transform_filter("!isValid(datum.picture)").mark_text(fontSize=9, **above).encode(
        **place, text="index:N", tooltip=tooltip)
    corner = placed.mark_point(filled=True, size=60, stroke="white", strokeWidth=1, opacity=1, xOffset=side / 2 - 6,
                               yOffset=side / 2 - 6, **above).encode(**place, **marked, tooltip=tooltip)
    shown = placed.transform_filter(chosen).mark_rect(
        filled=False, stroke=INK, strokeWidth=4, **above).encode(**place, tooltip=tooltip)
    return alt.layer(frame, picture, number, corner, shown).properties(
        name="thumbnails", width=alt.Step(side), height=alt.Step(side),
        description="All images, with a frame and a mark for their outcome")


# --- one image ------------------------------------------------------------------------------------------------------

def _pictures(choices: Choices, width: int, chosen: alt.Parameter) -> alt.LayerChart:
    side = min(width // 2, 170) - 10
    one = alt.Chart(alt.NamedData("pictures")).transform_filter(chosen)
    layers = []
    for kind, title, left in (("picture", ["", "the image"], 0),
                              ("noisy", ["one noisy copy,", f"σ = {choices.sigma:g}"], side + 20)):
        found = one.transform_filter(f"isValid(datum.{kind})")
        layers += [found.mark_image(width=side, height=side, align="left", baseline="top",
                                    description=" ".join(title).strip()).encode(
                       x=alt.value(left), y=alt.value(40), url=f"{kind}:N"),
                   found.mark_text(align="left", baseline="top", text=title).encode(
                       x=alt.value(left), y=alt.value(0))]
    return alt.layer(*layers).properties(
        name="chosen_pictures", width=width, height=side + 40, title="One image",
        description="The chosen image and one noisy copy of it")


def _chosen(chosen: alt.Parameter) -> alt.Chart:
    return alt.Chart(alt.NamedData("images")).transform_filter(chosen).transform_filter("datum.run == log")


def _facts(choices: Choices, width: int) -> alt.Chart:
    k, step = f"datum.radius[{choices.score_entry}]", float(choices.grid.step)
    last = len(choices.grid.radii) - 1
    radius = f"({k} < 0 ? 'none' : ({k} == {last} ? 'at least ' : '') + format({k} * {step!r}, '.4~f'))"
    bound = f"format(datum.lower[{choices.radius_entry}] / {SCALE}, '.3f')"
    lines = ["datum.samples + ' samples, mean score ' + format(datum.mean, '.3f')",
             "'label: ' + datum.label", "'predicted: ' + datum.predicted",
             f"'certified radius at score ' + format(score, '.2f') + ': ' + {radius}",
             f"'bound at R = ' + format(radius, '.4~f') + ': at least ' + {bound}"]
    known = " + '\\n' + ".join(f"({line})" for line in lines)
    fields = ["samples", "mean", "label", "predicted", "radius", "lower"]
    facts = f"'image ' + chosen.index[0] + '\\n' + (isValid(datum.label) ? {known} : 'not in the log shown')"
    return alt.Chart(alt.sequence(1)).transform_calculate(key="log + '/' + chosen.index[0]").transform_lookup(
        "key", alt.LookupData(alt.NamedData("images"), "key", fields)).transform_calculate(facts=facts).mark_text(
        align="left", baseline="top", lineBreak="\n", lineHeight=20, limit=width).encode(
        x=alt.value(0), y=alt.value(0), text="facts:N").properties(
        name="facts", width=width, height=20 * (len(lines) + 1), description="What is known of the chosen image")


def _bounds(choices: Choices, width: int, chosen: alt.Parameter) -> alt.LayerChart:
    """Between two radii a bound is the one at the larger radius, which holds at the smaller, too."""
    low, high, step = *choices.grid.score_range, float(choices.grid.step)
    x = alt.X("R:Q", title="radius R", scale=alt.Scale(domain=[0, choices.grid.radii[-1]], nice=False))
    y = alt.Y("bound:Q", title="expected score", scale=alt.Scale(domain=[low, high], nice=False))
    sides = [_chosen(chosen).transform_calculate(k=f"sequence(length(datum.{side}))").transform_flatten(
        ["k", side], ["k", "value"]).transform_calculate(
        R=f"datum.k * {every * step!r}", bound=f"datum.value / {SCALE}", side=f"'{name}'").mark_line(
        interpolate="step-before", strokeWidth=2).encode(
        x=x, y=y, color=alt.Color("side:N", title=None, scale=alt.Scale(
            domain=["at least", "at most"], range=[COLOURS[0], COLOURS[1]])))
        for side, name, every in (("lower", "at least", 1), ("upper", "at most", UPPER_EVERY))]
    one = alt.Chart(alt.sequence(1))
    score = one.transform_calculate(bound="score").mark_rule(strokeDash=[6, 3]).encode(y=y)
    radius = one.transform_calculate(R="radius").mark_rule(strokeDash=[2, 2]).encode(x=x)
    return alt.layer(*sides, score, radius).properties(
        name="bounds", width=width, height=220,
        title=alt.Title("Its expected score within distance R", subtitle="dashed: the score, dotted: R"),
        description="Bounds on the chosen image's expected score against radius")


def _distribution(choices: Choices, width: int, chosen: alt.Parameter) -> alt.LayerChart:
    x = alt.X("s:Q", title="score s", scale=alt.Scale(domain=list(choices.grid.score_range)))
    area = _chosen(chosen).transform_flatten(["scores", "share"]).transform_calculate(
        s=f"datum.scores / {SCALE}", p=f"datum.share / {SCALE}").mark_area(
        interpolate="step-before", line={"color": COLOURS[2]}, color=COLOURS[2], opacity=0.4).encode(
        x=x, y=alt.Y("p:Q", title="share with a score ≥ s", scale=alt.Scale(domain=[0, 1])))
    threshold = alt.Chart(alt.sequence(1)).transform_calculate(s="score").mark_rule(strokeDash=[6, 3]).encode(x=x)
    return alt.layer(area, threshold).properties(
        name="distribution", width=width, height=160,
        title=alt.Title("The scores of its noisy copies", subtitle="dashed: the score"),
        description="The share of the chosen image's noisy copies whose score is at least s, against s")
