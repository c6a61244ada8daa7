"""One process of a run, alone or among the ranks of torchrun, and how they share out the images.

Rows are a few hundred bytes, so PyTorch's key-value store (which torchrun starts) carries them; the workers take images
one by one from a common counter, since images that abstain early cost a hundredth of the others.
"""
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import distributed

POLL = 0.02  # seconds between two looks into the store: a blocking wait would not let signals through


@dataclass
class Worker:
    """This process's rank among `size` processes; local_rank: among those of its machine."""

    rank: int
    size: int
    local_rank: int
    store: distributed.Store | None = None

    @classmethod
    def from_environment(cls) -> "Worker":
        """The rank that torchrun gave this process, or the only one."""
        return cls(*(int(os.environ.get(name, default))
                     for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))

    @property
    def first(self) -> bool:
        """Whether this process checks the arguments and writes the files."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """The device of this rank for --device: a GPU of its own if there are several processes."""
        several = self.size > 1 and (name == "cuda" or name == "auto" and torch.cuda.is_available())
        return f"cuda:{self.local_rank}" if several else name

    def share(self, value):
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        store, _, _ = next(distributed.rendezvous("env://"))
        self.store = distributed.PrefixStore("certify", store)
        if self.first:
            self.store.set("shared", pickle.dumps(value))
            return value
        return pickle.loads(self._wait_for("shared"))

    def map(self, work: Callable, tasks: Sequence) -> Iterator[tuple]:
        """Share the tasks out, and yield (task, work(task)) on rank 0, in the order of `tasks`; nothing elsewhere."""
        if self.size == 1:
            yield from ((task, work(task)) for task in tasks)
            return
        given = 0
        while (position := self.store.add("next", 1) - 1) < len(tasks):
            self.store.set(str(position), pickle.dumps(work(tasks[position])))
            while self.first and given < len(tasks) and self.store.check([str(given)]):
                yield tasks[given], self._take(given)
                given += 1
        if self.first:
            yield from ((tasks[position], self._take(position)) for position in range(given, len(tasks)))

    def _take(self, position: int):
        """The result of a task, removed from the store, once some rank has put it there."""
        result = pickle.loads(self._wait_for(str(position)))
        self.store.delete_key(str(position))
        return result

    def _wait_for(self, key: str) -> bytes:
        while not self.store.check([key]):
            time.sleep(POLL)
        return self.store.get(key)
