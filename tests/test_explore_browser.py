"""`python -m pytest -m browser`: the page of explore.py in Chromium, with the network off (see docs/guide.md)."""
import re
import shutil
import time

import pytest
from helpers import run_program
from test_explore import EXPLORE, SHIPPED, STAGED, own_file, short_run

from certconf.formats.log import Log
from certconf.formats.scores import read_scores

pytestmark = pytest.mark.browser

PATIENCE = 30  # seconds that nothing in the browser should need
HEIGHT = 260  # of the curves, in pixels
CURVES = ".accuracy_layer_0_marks path"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of two shipped logs, the second one sampled in stages."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    result = run_program(EXPLORE, f"{SHIPPED}.scores", f"{STAGED}.scores", path)
    assert (result.returncode, result.stderr) == (0, "")
    return path


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window and without a network; at the end its console must be empty."""
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                     "disable-dev-shm-usage", "disable-background-networking", "disable-component-update",
                     f"user-data-dir={tmp_path / 'profile'}", "window-size=1400,1000"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", {
            "offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0})
        yield driver
        assert driver.get_log("browser") == []


def wait_for(what):
    """The first true value of what()."""
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, "nothing happened in the browser"
        time.sleep(0.05)
    return found


def show(browser, page):
    """Open a page and wait until it is drawn."""
    browser.get(page.as_uri())
    wait_for(lambda: all_of(browser, ".facts_marks text"))


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def control(browser, name):
    """A slider or a list, by its label."""
    return browser.find_element("xpath", f"//label[span[text()='{name}']]//*[self::input or self::select]")


def press(browser, name, key, times=1):
    """Press a key in a control, as a user does who has no mouse."""
    from selenium.webdriver.common.keys import Keys
    control(browser, name).send_keys(getattr(Keys, key) * times)


def readings(browser):
    """The fractions below the curves: (radius, fraction, certified, images), for each curve."""
    texts = [mark.text for mark in all_of(browser, ".fractions_layer_1_marks text")]
    found = [re.search(r"R = (\S+): (\S+) \((\d+) of (\d+)", text) for text in texts]
    return [(float(match[1]), float(match[2]), int(match[3]), int(match[4])) for match in found]


def heights(path):
    """The drawn staircase's height at each radius of the grid, as a fraction: the first of two points at one x."""
    found = {}
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path):
        found.setdefault(x, 1 - float(y) / HEIGHT)
    return list(found.values())


def test_opens_without_a_network(browser, page):
    assert page.stat().st_size < 8e6
    show(browser, page)
    drawn = wait_for(lambda: browser.execute_script("return performance.getEntriesByName('drawn')[0]?.startTime"))
    assert drawn < 5000  # milliseconds, on a machine that does other things; see docs/guide.md
    assert len(all_of(browser, ".thumbnails_layer_1_marks image")) == 500
    loaded = "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
    assert browser.execute_script(loaded) == 0


@pytest.mark.parametrize("score, key, times", [(0.5, "RIGHT", 0), (0.57, "RIGHT", 7), (0.9, "RIGHT", 40)])
def test_score_slider(browser, page, score, key, times):
    """The curves and their numbers are those of cert_acc.py, for the run's band and the paper's."""
    show(browser, page)
    press(browser, "score", f"ARROW_{key}", times)
    wait_for(lambda: float(control(browser, "score").get_attribute("value")) == score)
    logs = [Log.read(path)[0] for path in (SHIPPED, f"{SHIPPED}_dkw", STAGED)]
    expected = [log.certified_accuracy(score)[1] for log in logs]
    wait_for(lambda: [fraction for _, fraction, _, _ in readings(browser)][:3] == pytest.approx(expected, abs=5e-5))
    assert [(radius, images) for radius, _, _, images in readings(browser)] == [(0.25, 500)] * 2 + [(0.25, 250)] * 2
    lines = [line.get_attribute("d") for line in all_of(browser, CURVES)]
    assert len(lines) == 4
    for line, log in zip(lines, logs, strict=False):
        drawn = heights(line)
        assert [drawn[25 * i] for i in range(7)] == pytest.approx(log.certified_accuracy(score).tolist(), abs=1e-3)


def test_radius_slider_and_pointer(browser, page):
    """The fractions at the slider's radius, and at the pointer's, are those of the radii that radius.py writes."""
    from selenium.webdriver.common.action_chains import ActionChains
    show(browser, page)
    saved = read_scores(SHIPPED)
    certified = [found.radius(0.5) for _, label, found in saved.certificates(saved.plan) if found.chosen == label]
    press(browser, "radius R", "ARROW_RIGHT", 8)
    wait_for(lambda: readings(browser)[0][0] == 0.33)
    assert readings(browser)[0][1] == pytest.approx(sum(radius > 0.33 for radius in certified) / 500)
    plot = browser.find_element("css selector", ".accuracy_group .background")
    ActionChains(browser).move_to_element_with_offset(plot, -100, 0).perform()
    wait_for(lambda: readings(browser)[0][0] != 0.33)
    radius, fraction, count, images = readings(browser)[0]
    expected = sum(each > radius for each in certified) / 500
    assert 0.4 < radius < 0.6 and count / images == fraction == pytest.approx(expected)


def test_click_and_keys_choose_an_image(browser, page):
    """Its label, prediction, certified radius and bound by name and number; by mouse and in the list."""
    from selenium.webdriver.common.action_chains import ActionChains
    show(browser, page)
    saved = read_scores(SHIPPED)
    found = next(found for index, _, found in saved.certificates(saved.plan) if index == 40)
    thumbnail = browser.find_element("css selector", "[aria-label='image 40, deer, certified']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", thumbnail)
    ActionChains(browser).move_to_element(thumbnail).click().perform()
    facts = wait_for(lambda: chosen_facts(browser, 40))
    assert "label: deer" in facts and "predicted: deer" in facts
    assert float(re.search(r"score 0\.50: (\S+)", facts)[1]) == int(100 * found.radius(0.5)) / 100
    assert float(re.search(r"at least (\S+)", facts)[1]) == int(1000 * found.lower_bound(0.25)) / 1000
    assert len(all_of(browser, ".bounds_layer_0_marks path")) == len(all_of(browser, ".bounds_layer_1_marks path")) == 1
    assert control(browser, "image").get_attribute("value") == "40"
    press(browser, "image", "ARROW_DOWN")
    assert "label: horse" in wait_for(lambda: chosen_facts(browser, 60))
    press(browser, "log shown", "ARROW_DOWN")
    assert "not in the log shown" in wait_for(lambda: chosen_facts(browser, 60, "not in"))  # it has 0, 40, 80, ...


def chosen_facts(browser, index, word=""):
    text = all_of(browser, ".facts_marks text")[0].get_attribute("aria-label")
    return text if text.startswith(f"facts: image {index}\n") and word in text else None


def test_every_control_is_reached_by_tab(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    show(browser, page)
    labels = []
    for _ in range(5):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        labels.append(browser.execute_script("return document.activeElement.closest('label').firstChild.textContent"))
    assert labels == ["image", "score", "radius R", "sorted by", "log shown"]


def test_staged_run_says_what_it_cannot(browser, page):
    """At another score than its own a staged run's fractions point to the notes; a full run's never do."""
    show(browser, page)
    assert hints(browser) == [False, False, False, True]  # it was sampled for its own band
    press(browser, "score", "ARROW_LEFT")
    wait_for(lambda: hints(browser) == [False, False, True, True])


def hints(browser):
    return ["see the notes" in mark.text for mark in all_of(browser, ".fractions_layer_1_marks text")]


def test_narrow_and_dark(browser, page):
    """A narrow window needs no sideways scrolling, keeps what was chosen, and the text follows the colour scheme."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    show(browser, page)
    press(browser, "score", "ARROW_RIGHT", 10)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    wait_for(lambda: browser.execute_script("return shown === 'narrow' && view.signal('score') === 0.6"))
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    colour = browser.execute_script("return getComputedStyle(document.querySelector('.facts_marks text')).fill")
    assert min(map(int, re.findall(r"\d+", colour)[:3])) > 200
    wait_for(lambda: all_of(browser, ".facts_marks text"))


def test_names_stay_text(browser, tmp_path):
    own = own_file(tmp_path)
    short_run(tmp_path, f"{own}:images", "own")
    log, page = tmp_path / "own_pred_score", tmp_path / "page.html"
    hostile = tmp_path / "<b>own&lt;'"
    for ending in ("", ".json", ".scores"):
        shutil.copy(f"{log}{ending}", f"{hostile}{ending}")
    for options, label in ((("--dataset", f"{own}:images"), "label: </script><img src=x"), ((), "label: class 3")):
        result = run_program(EXPLORE, f"{hostile}.scores", page, "--overwrite", *options)
        assert result.returncode == 0
        show(browser, page)
        assert label in all_of(browser, ".facts_marks text")[0].text
        assert bool(all_of(browser, "#views image")) == bool(options)  # without the images all else is shown
        assert not all_of(browser, "img") and not all_of(browser, "main b, h1 b, td b, th b")
        assert "<b>own&lt;'" in browser.title and label.removeprefix("label: ") in control(browser, "image").text
