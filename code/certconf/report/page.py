"""One HTML page that stands alone: views, their data and all that draws them are in it; nothing is fetched."""
import html
import json
from collections.abc import Sequence
from string import Template

# The Content-Security-Policy forbids the browser every request. Vega compiles its expressions: 'unsafe-eval'.
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem 2rem; max-width: 1400px; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; }
#controls { position: sticky; top: 0; z-index: 1; background: Canvas; border-bottom: 1px solid GrayText; }
#controls { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; padding: .6rem 0; margin-bottom: 1rem; }
#controls label { display: flex; align-items: center; gap: .5rem; }
#controls select { max-width: 15rem; }
#views { overflow-x: auto; }
#views [class*=chosen_pictures] image { image-rendering: pixelated; }
@media (max-height: 500px) { #controls { position: static; } }
li { overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th, td:first-child { white-space: nowrap; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<div id="controls"></div>
<main id="views"></main>
<noscript><p>The views need JavaScript.</p></noscript>
<h2>Notes</h2>
<ul>
$notes
</ul>
<h2>Settings</h2>
<div class="wide">
$table
</div>
<script type="application/json" id="data">$data</script>
<script>$library</script>
<script>
const { layouts, datasets } = JSON.parse(document.getElementById("data").textContent);
let shown, view;
async function show() {
  const layout = innerWidth >= 1360 ? "wide" : innerWidth >= 720 ? "middle" : "narrow";
  if (layout === shown) return;
  shown = layout;
  const kept = view && Object.fromEntries(["score", "radius", "order", "log"].map(name => [name, view.signal(name)]));
  document.getElementById("controls").replaceChildren();
  const spec = { ...layouts[layout], datasets };
  view = (await vegaEmbed("#views", spec, { renderer: "svg", actions: false, bind: "#controls" })).view;
  for (const name in kept) view.signal(name, kept[name]);
  await view.runAsync();
  performance.mark("drawn");
}
show();
addEventListener("resize", show);
</script>
</body>
</html>
""")


def render(title: str, notes: Sequence[str], settings: dict[str, dict], layouts: dict, datasets: dict,
           library: str) -> str:
    """The page. All that is given is text, whatever it looks like.

    settings: those of each run, by the name of its log; layouts: the specifications by layout; library: the JavaScript
    that draws them.
    """
    data = json.dumps({"layouts": layouts, "datasets": datasets}, separators=(",", ":"), allow_nan=False)
    return PAGE.substitute(
        title=html.escape(title), notes="\n".join(f"<li>{html.escape(note)}</li>" for note in notes),
        table=_table(settings), data=data.replace("<", "\\u003c"), library=library.replace("</script", "<\\/script"))


def _table(settings: dict[str, dict]) -> str:
    """The settings of the runs, a column for each."""
    names = list(dict.fromkeys(name for run in settings.values() for name, value in run.items() if value is not None))
    lines = [("th", ["", *settings]),
             *(("td", [name, *(_shown(run.get(name)) for run in settings.values())]) for name in names)]
    rows = ("".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in texts) for cell, texts in lines)
    return "<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"


def _shown(value) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
