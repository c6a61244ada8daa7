"""One process of a run, alone or among the ranks of torchrun, and how they share out the images.

Rows are a few hundred bytes, so PyTorch's key-value store (which torchrun starts) carries them; the workers take images
one by one from a common counter, since images that abstain early cost a hundredth of the others. The number of nodes
must be fixed: an elastic --nnodes=MIN:MAX is not supported (nor refused: torchrun lets no process see it).
"""
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from certconf.errors import InputError, RankFailed
from certconf.runner.heartbeat import Heartbeat

if TYPE_CHECKING:
    from torch import distributed

POLL = 0.02  # seconds between two looks into the store: a blocking wait would not let signals through
LEAVING = 15.0  # seconds that rank 0 waits at the end for the others: it may hold the store


@dataclass
class Worker:
    """This process's rank among `size` processes; local_rank: among those of its machine.

    A context: within it the processes share a store, and each notices if another one is lost.
    """

    rank: int
    size: int
    local_rank: int
    store: "distributed.Store | None" = None
    heartbeat: Heartbeat | None = None
    _shared: int = 0  # values so far

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
        if self.size == 1 or name not in ("auto", "cuda"):
            return name
        import torch
        if not torch.cuda.is_available():
            return name
        # SLURM's --gpus-per-task shows each process its own GPU alone
        return f"cuda:{self.local_rank if torch.cuda.device_count() > 1 else 0}"

    def __enter__(self) -> "Worker":
        if self.size > 1:
            from torch import distributed  # only here: one process needs none of it
            # each of them would start as many compilers as the machine has cores
            threads = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(threads, 1)))
            store, _, _ = next(distributed.rendezvous("env://"))
            # torchrun's store outlives a restart of the processes, which must not read what the old ones left there
            self.store = distributed.PrefixStore(f"certify {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
            self.heartbeat = Heartbeat(self.store, self.rank, self.size)
            self.heartbeat.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.size == 1:
            return
        self.heartbeat.stop()
        with suppress(RuntimeError):  # the store is gone already
            self._leave()
        if self.heartbeat.ended:  # rank 0 says why: an exit status here would make torchrun stop it before that
            raise SystemExit(0) from None
        if self.heartbeat.failure:
            raise RankFailed(f"{self.heartbeat.failure}; the rows so far are complete, and the same command resumes "
                             "from them") from None
        from torch import distributed
        if isinstance(error, distributed.DistError):
            raise RankFailed(f"rank {self.rank} lost the other processes ({type(error).__name__})") from None

    def _leave(self) -> None:
        """Let the others know; rank 0, which may hold the store, waits for those that are not lost."""
        self.store.set(f"left {self.rank}", b"")
        others = [f"left {rank}" for rank in range(1, self.size) if rank != self.heartbeat.lost]
        limit = time.monotonic() + LEAVING
        while self.first and not self.store.check(others) and time.monotonic() < limit:
            time.sleep(POLL)

    def share(self, value):
        """Rank 0's value, on every rank; every rank makes the same calls in the same order."""
        if self.size == 1:
            return value
        key, self._shared = f"shared {self._shared}", self._shared + 1
        if self.first:
            self.store.set(key, pickle.dumps(value))
            return value
        while not self.store.check([key]):
            if self.store.check(["left 0"]) and not self.store.check([key]):  # it has refused its arguments
                raise SystemExit(0)
            time.sleep(POLL)
        return pickle.loads(self.store.get(key))

    def map(self, work: Callable, tasks: Sequence) -> Iterator[tuple]:
        """Share the tasks out, and yield (task, work(task)) on rank 0, in the order of `tasks`; nothing elsewhere.

        An exception in one of several processes ends its work, and the run once rank 0 comes to that task.
        """
        if self.size == 1:
            yield from ((task, work(task)) for task in tasks)
            return
        given, failed = 0, False
        while not failed and (position := self.store.add("next", 1) - 1) < len(tasks):
            result = self._attempt(work, tasks[position])
            failed = isinstance(result, InputError | RankFailed)
            self.store.set(str(position), pickle.dumps(result))
            while self.first and given < len(tasks) and self.store.check([str(given)]):
                yield tasks[given], self._take(given)
                given += 1
        if self.first:
            yield from ((tasks[position], self._take(position)) for position in range(given, len(tasks)))

    def _attempt(self, work: Callable, task):
        """The result of a task, or the exception that is to end the run on rank 0; its traceback stays on this rank."""
        try:
            return work(task)
        except InputError as error:
            return InputError(str(error))
        except Exception as error:
            traceback.print_exc()
            return RankFailed(f"rank {self.rank} failed: {type(error).__name__}: {error}")

    def _take(self, position: int):
        """The result of a task, once some rank has put it in the store; it is removed, and raised if an exception."""
        while not self.store.check([str(position)]):
            time.sleep(POLL)
        result = pickle.loads(self.store.get(str(position)))
        self.store.delete_key(str(position))
        if isinstance(result, InputError | RankFailed):
            raise result
        return result
