"""A log goes on with the settings of its record alone: each difference is named, and refused without a change."""
import json
import shutil
from unittest.mock import patch

import pytest
from certify_runs import arguments, certify, contents, tiny_network, without_times
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
    dataset, checkpoint, sigma, out, *rest = arguments(folder / "weights", folder / OUT, *options, stop=stop)
    values = {"dataset": dataset, "checkpoint": checkpoint, "sigma": sigma, **changed}
    return values["dataset"], values["checkpoint"], values["sigma"], out, *rest


def run(folder, *options, **changed):
    """A run in `folder`, with images under every data set's name."""
    return certify(*command(folder, *options, **changed), patches={"certconf.inputs.loading.open_images": any_images})


def settings(folder, *options, **changed):
    """The settings that such a run would record, of the program's own parser and loop, without its files."""
    args = vars(program.make_parser().parse_args(list(map(str, command(folder, *options, **changed)))))
    with (patch("certconf.inputs.loading.load_checkpoint", lambda *args: (tiny_network(), {"arch": "tiny"})),
          patch("certconf.inputs.loading.open_images", any_images)):
        with Run(CertifyConfig(**args)) as run:
            run.load()
            known = {"program": "certify", "confidence_measure": args["confidence_measure"][0], "settle": None,
                     "looks": None}
            return json.loads(json.dumps(settings_of(run.config, **run.settings, **known)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished runs of four images, without and with saved scores."""
    folders = {}
    for name, options in (("plain", ()), ("scores", ("--save_scores",))):
        folders[name] = tmp_path_factory.mktemp(name)
        (folders[name] / "weights").write_bytes(b"of a network")
        (folders[name] / "others").write_bytes(b"of another network")
        result = run(folders[name], *options)
        assert result.returncode == 0, result.stderr
        assert len(without_times(folders[name] / OUT)) == 4
    return folders


@pytest.fixture(params=["plain", "scores"])
def run_options(request):
    return request.param, ("--save_scores",) if request.param == "scores" else ()


@pytest.fixture
def folder(finished, run_options, tmp_path):
    """A copy of a finished run, to be disturbed."""
    return shutil.copytree(finished[run_options[0]], tmp_path / "run")


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
def test_each_setting(options, changed, named, finished, run_options):
    """The setting in which the arguments differ from the record is named with its option, and no other one is."""
    folder = finished[run_options[0]]
    if "checkpoint" in changed:
        changed = {"checkpoint": folder / changed["checkpoint"]}
    recorded = json.loads((folder / (OUT + ".json")).read_text())["settings"]
    assert settings(folder, *run_options[1]) == recorded
    with pytest.raises(InputError) as refusal:
        check_same_settings(OUT, recorded, settings(folder, *run_options[1], *options, **changed))
    message = str(refusal.value)
    assert message.startswith(OUT) and named in message and "--overwrite" in message
    others = {mutation[2].split()[0] for mutation in MUTATIONS.values()} - {named.split()[0]}
    assert not [name for name in others if f" {name} (" in message]


@pytest.mark.parametrize("stop", [80, 120])
def test_another_setting_is_refused(stop, folder, run_options):
    """Whether images are left to do or not: exit status 2, the option, and the way out; nothing has changed."""
    before = contents(folder)
    result = run(folder, *run_options[1], "--alpha", 0.002, stop=stop)
    assert_refused(result, str(folder / OUT), "--alpha (0.001, now 0.002)", "--overwrite")
    assert contents(folder) == before


def test_all_settings_at_once(folder, run_options):
    """Every difference is named, not only the first."""
    options = [word for mutation in MUTATIONS.values() for word in mutation[0]]
    before = contents(folder)
    result = run(folder, *run_options[1], *options, sigma=0.3, dataset="imagenet", checkpoint=folder / "others")
    assert_refused(result, *{mutation[2].split()[0] for mutation in MUTATIONS.values()})
    assert contents(folder) == before


def test_saved_scores_on_and_off(folder, run_options):
    """Scores cannot be had of images that are done, nor be left out in the middle."""
    before = contents(folder)
    assert_refused(run(folder, *(() if run_options[1] else ("--save_scores",)), stop=120), "--save_scores")
    assert contents(folder) == before


@pytest.mark.parametrize("name, value, option", [
    ("device_type", "cuda", "--device"), ("program", "predict", "the program"), ("arch", "resnet50", "BASE_CLASSIFIER"),
    ("sigma", None, "SIGMA"), ("alpha", "0.001", "--alpha"), ("unheard_of", 1, "unheard_of")])
def test_recorded_settings(name, value, option, folder, run_options):
    """What no argument can change here, and what a record of another version may hold."""
    path = folder / (OUT + ".json")
    record = json.loads(path.read_text())
    record["settings"][name] = value
    path.write_text(json.dumps(record))
    before = contents(folder)
    assert_refused(run(folder, *run_options[1], stop=120), option)
    assert contents(folder) == before


def test_a_setting_left_out_of_the_record(folder, run_options):
    """A setting that the record does not tell counts as another one."""
    path = folder / (OUT + ".json")
    record = json.loads(path.read_text())
    del record["settings"]["seed"]
    path.write_text(json.dumps(record))
    assert_refused(run(folder, *run_options[1], stop=120), "--seed")


def test_a_log_of_other_columns(folder, run_options):
    """Another run's log, put beside this run's record: rows of other columns would make it a file of no kind."""
    other = run(folder, "--radii", 0, 0.5, "--overwrite")
    assert other.returncode == 0
    shutil.copy(folder / (OUT + ".bak.json"), folder / (OUT + ".json"))
    if run_options[1]:
        shutil.copy(folder / (OUT + ".bak.scores"), folder / (OUT + ".scores"))
    before = contents(folder)
    result = run(folder, *run_options[1], stop=120)
    assert_refused(result, str(folder / OUT))
    assert contents(folder) == before


def test_max_may_change(folder, run_options):
    """A row depends on its index alone: more images are added, fewer are no reason to do anything."""
    name, options = run_options
    before = contents(folder)
    fewer = run(folder, *options, stop=40)
    assert fewer.returncode == 0 and contents(folder) == before
    assert run(folder, *options, stop=120).returncode == 0
    assert (folder / OUT).read_bytes().startswith(before[OUT])
    whole = folder / "whole"
    whole.mkdir()
    shutil.copy(folder / "weights", whole)
    assert run(whole, *options, stop=120).returncode == 0
    assert without_times(folder / OUT) == without_times(whole / OUT)
    if options:
        assert (folder / (OUT + ".scores")).read_bytes() == (whole / (OUT + ".scores")).read_bytes()


@pytest.mark.parametrize("options, circumstance", [(("--batch", 32), "batch"),
                                                   (("--no_early_abstain",), "early_abstain")])
def test_circumstances_may_change(options, circumstance, finished, tmp_path):
    """One line on stderr, and the rows are the same; both starts are recorded."""
    folder = shutil.copytree(finished["plain"], tmp_path / "run")
    result = run(folder, *options, stop=120)
    assert result.returncode == 0
    told = [line for line in result.stderr.splitlines() if "resumes with another" in line]
    assert len(told) == 1 and f"another {circumstance} than" in told[0]
    starts = json.loads((folder / (OUT + ".json")).read_text())["starts"]
    assert [start[circumstance] for start in starts] == [{"batch": 1000, "early_abstain": True}[circumstance],
                                                        {"batch": 32, "early_abstain": False}[circumstance]]
    again = run(folder, *options, stop=160)
    assert again.returncode == 0 and "resumes with another" not in again.stderr
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(folder / "weights", whole)
    assert run(whole, stop=160).returncode == 0
    assert without_times(folder / OUT) == without_times(whole / OUT)
