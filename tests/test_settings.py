"""A log goes on with the settings of its record alone: each difference is named, and refused without a change."""
import json
import shutil

import pytest
from certify_runs import arguments, certify, contents, images_from, patched, tiny_checkpoint, without_times
from helpers import assert_refused

import certify as program
from certconf.errors import InputError
from certconf.inputs import datasets
from certconf.runner.config import CertifyConfig
from certconf.runner.run import Run
from certconf.runner.settings import check_same_settings, settings_of

OUT = "log"


def any_images(name, split, skip=1, stop=-1):
    """The bundled images under every name: what a data set is called counts before its images do."""
    return datasets.open_images("cifar10", "test", skip, stop)


def command(folder, *options, stop=80, **changed):
    """The arguments of a run in `folder`; changed: dataset, checkpoint, sigma."""
    dataset, checkpoint, sigma, out, *rest = arguments(folder / "weights", folder / OUT, "--save_scores", *options,
                                                       stop=stop)
    values = {"dataset": dataset, "checkpoint": checkpoint, "sigma": sigma, **changed}
    return values["dataset"], values["checkpoint"], values["sigma"], out, *rest


def run(folder, *options, **changed):
    """A run in `folder`, with images under every data set's name."""
    return certify(*command(folder, *options, **changed), patches=images_from(any_images))


def without_scores(folder, *options, stop=80):
    """As run(), without saved scores."""
    return certify(*(word for word in command(folder, *options, stop=stop) if word != "--save_scores"),
                   patches=images_from(any_images))


def settings(folder, *options, **changed):
    """The settings that such a run would record, of the program's own parser and loop, without its files."""
    args = vars(program.make_parser().parse_args(list(map(str, command(folder, *options, **changed)))))
    with patched({**tiny_checkpoint(), **images_from(any_images)}):
        with Run(CertifyConfig(**args)) as run:
            run.load()
            known = {"program": "certify", "confidence_measure": args["confidence_measure"][0], "settle": None,
                     "looks": None}
            return json.loads(json.dumps(settings_of(run.config, **run.settings, **known)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of four images, with saved scores."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "weights").write_bytes(b"of a network")
    (folder / "others").write_bytes(b"of another network")
    result = run(folder)
    assert result.returncode == 0, result.stderr
    assert len(without_times(folder / OUT)) == 4
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, to be disturbed."""
    return shutil.copytree(finished, tmp_path / "run")


def whole_run(folder, stop):
    """An uninterrupted run of the same network, in a folder of its own."""
    whole = folder / "whole"
    whole.mkdir()
    shutil.copy(folder / "weights", whole)
    assert run(whole, stop=stop).returncode == 0
    return whole


def change_record(folder, change):
    """Let change(settings) edit what the record holds."""
    path = folder / (OUT + ".json")
    record = json.loads(path.read_text())
    change(record["settings"])
    path.write_text(json.dumps(record))


MUTATIONS = {
    "sigma": ((), {"sigma": 0.3}, "SIGMA (0.25, now 0.3)"),
    "sigma by a hair": ((), {"sigma": 0.25000000001}, "SIGMA"),
    "checkpoint": ((), {"checkpoint": "others"}, "BASE_CLASSIFIER"),
    "dataset": ((), {"dataset": "imagenet"}, 'DATASET ("cifar10", now "imagenet")'),
    "split": (("--split", "train"), {}, '--split ("test", now "train")'),
    "N0": (("--N0", 17), {}, "--N0 (16, now 17)"),
    "N": (("--N", 65), {}, "--N (64, now 65)"),
    "alpha": (("--alpha", 0.002), {}, "--alpha (0.001, now 0.002)"),
    "seed": (("--seed", 1), {}, "--seed (0, now 1)"),
    "skip": (("--skip", 40), {}, "--skip (20, now 40)"),
    "bound": (("--bound", "dkw"), {}, '--bound ("clopper_pearson", now "dkw")'),
    "radii": (("--radii", 0, 0.5), {}, "--radii"),
    "radii by one": (("--radii", 0, 0.25, 0.5, 0.75, 1, 1.25, 1.51), {}, "--radii"),
    "precision": (("--precision", "bf16"), {}, '--precision ("fp32", now "bf16")'),
    "measure": (("--confidence_measure", "margin"), {}, '--confidence_measure ("pred_score", now "margin")'),
}


@pytest.mark.parametrize("options, changed, named", MUTATIONS.values(), ids=MUTATIONS)
def test_each_setting(options, changed, named, finished):
    """The setting in which the arguments differ from the record is named with its option, and no other one is."""
    if "checkpoint" in changed:
        changed = {"checkpoint": finished / changed["checkpoint"]}
    recorded = json.loads((finished / (OUT + ".json")).read_text())["settings"]
    assert settings(finished) == recorded
    with pytest.raises(InputError) as refusal:
        check_same_settings(OUT, recorded, settings(finished, *options, **changed))
    message = str(refusal.value)
    assert message.startswith(OUT) and named in message and "--overwrite" in message
    others = {mutation[2].split()[0] for mutation in MUTATIONS.values()} - {named.split()[0]}
    assert not [name for name in others if f" {name} (" in message]


@pytest.mark.parametrize("stop", [80, 120])
def test_all_settings_at_once(stop, folder):
    """Whether images are left to do or not: every difference is named, not only the first, and nothing has changed."""
    options = [word for mutation in MUTATIONS.values() for word in mutation[0]]
    before = contents(folder)
    result = run(folder, *options, stop=stop, sigma=0.3, dataset="imagenet", checkpoint=folder / "others")
    assert_refused(result, str(folder / OUT), "--overwrite", *{named.split()[0] for *_, named in MUTATIONS.values()})
    assert contents(folder) == before


@pytest.mark.parametrize("kept", [True, False])
def test_saved_scores_on_and_off(kept, folder):
    """Scores cannot be had of images that are done, nor be left out in the middle."""
    if not kept:
        assert without_scores(folder, "--overwrite").returncode == 0
    before = contents(folder)
    assert_refused((without_scores if kept else run)(folder, stop=120), "--save_scores")
    assert contents(folder) == before


@pytest.mark.parametrize("name, value, option", [
    ("device_type", "cuda", "--device"), ("program", "predict", "the program"), ("arch", "resnet50", "BASE_CLASSIFIER"),
    ("sigma", None, "SIGMA"), ("alpha", "0.001", "--alpha"), ("unheard_of", 1, "unheard_of"), ("seed", ..., "--seed")])
def test_recorded_settings(name, value, option, folder):
    """What no argument can change here, what a record of another version may hold, and what one does not tell."""
    change_record(folder, lambda settings: settings.pop(name) if value is ... else settings.update({name: value}))
    before = contents(folder)
    assert_refused(run(folder, stop=120), option)
    assert contents(folder) == before


def test_a_log_of_other_columns(folder):
    """Another run's log, put beside this run's record: rows of other columns would make it a file of no kind."""
    assert run(folder, "--radii", 0, 0.5, "--overwrite").returncode == 0
    for end in (".json", ".scores"):
        shutil.copy(folder / f"{OUT}.bak{end}", folder / f"{OUT}{end}")
    before = contents(folder)
    assert_refused(run(folder, stop=120), str(folder / OUT))
    assert contents(folder) == before


def test_max_may_change(folder):
    """A row depends on its index alone: more images are added, fewer are no reason to do anything."""
    before = contents(folder)
    assert run(folder, stop=40).returncode == 0 and contents(folder) == before
    assert run(folder, stop=120).returncode == 0
    assert (folder / OUT).read_bytes().startswith(before[OUT])
    whole = whole_run(folder, stop=120)
    assert without_times(folder / OUT) == without_times(whole / OUT)
    assert (folder / (OUT + ".scores")).read_bytes() == (whole / (OUT + ".scores")).read_bytes()


def test_circumstances_may_change(folder):
    """One line on stderr at the first start with another one, and the rows are the same; each start is recorded."""
    for stop, told in ((120, True), (160, False)):
        result = run(folder, "--batch", 32, stop=stop)
        assert result.returncode == 0 and ("resumes with another batch than" in result.stderr) == told
    starts = json.loads((folder / (OUT + ".json")).read_text())["starts"]
    assert [start["batch"] for start in starts] == [1000, 32, 32]
    assert [start["arguments"]["max"] for start in starts] == [80, 120, 160]
    assert without_times(folder / OUT) == without_times(whole_run(folder, stop=160) / OUT)
