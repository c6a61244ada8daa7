"""A file of the user's own code, and runs of it."""
import json
from pathlib import Path

from certify_runs import call_program

from certconf.inputs import user_code

OWN = """
import torch
from torch.utils.data import Dataset

class Images(Dataset):
    def __len__(self):
        return 6
    def image(self, index):
        return torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
    def label(self, index):
        return index % 4
    def __getitem__(self, index):
        return self.image(index), self.label(index)

def images(split):
    return Images()

def network():
    torch.manual_seed(0)
    linear = torch.nn.Linear(192, 4)
    linear.weight.data *= 20
    return torch.nn.Sequential(torch.nn.Flatten(), linear)
"""
OPTIONS = ("--N0", 8, "--N", 60, "--device", "cpu")


def own_file(folder, more="", name="own.py"):
    """A file of the user's own, with `more` at its end."""
    path = Path(folder) / name
    path.write_text(OWN + more)
    user_code._module.cache_clear()  # a process reads a file once, and a test may write it twice
    return path


def run(file, out, *options, images="images", network="network", program="code/certify.py"):
    return call_program(program, f"{file}:{images}", f"{file}:{network}", 0.25, out, *OPTIONS, *options)


def settings_in(log):
    return json.loads(Path(f"{log}.json").read_text())["settings"]
