"""Signs of life among the processes of a run, from a thread of each: an image may keep the main thread for hours."""
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import distributed

HEARTBEAT_INTERVAL = 5.0  # seconds between two signs of life
HEARTBEAT_TIMEOUT = 60.0  # seconds without one, on the watcher's own clock, after which a process counts as lost
JOINING = 600.0  # seconds that the first one may take: PyTorch is loaded from slow disks


class Heartbeat(threading.Thread):
    """Counts up under this rank's key, and watches the counters of the others (rank 0) or of rank 0 (the others).

    Once one of them stands still, or the store is gone, `failure` says so in one line and `lost` is that rank; `ended`
    is True once rank 0 has left. After either, SIGTERM ends the main thread's work (see errors.run_cli).
    """

    def __init__(self, store: "distributed.Store", rank: int, size: int):
        super().__init__(daemon=True)
        self.failure: str | None = None
        self.lost: int | None = None
        self.ended = False
        self._store, self._rank, self._stopping = store, rank, threading.Event()
        store.add(f"beat {rank}", 1)
        self._watched = dict.fromkeys(range(1, size) if rank == 0 else [0], (0, time.monotonic()))

    def run(self) -> None:
        while not self._stopping.wait(HEARTBEAT_INTERVAL):
            try:
                self._store.add(f"beat {self._rank}", 1)
                self.ended = self._rank > 0 and self._store.check(["left 0"])
                self.lost = self._first_lost()
            except RuntimeError:  # the store's host has ended, or cannot be reached
                self.failure = "the process or node that holds the run's store is lost"
            if self.lost is not None:
                self.failure = f"rank {self.lost} is lost: no sign of life for {HEARTBEAT_TIMEOUT:g} s"
            if (self.ended or self.failure) and not self._stopping.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def stop(self) -> None:
        """End the thread: what was found until then stands."""
        self._stopping.set()
        self.join(HEARTBEAT_INTERVAL)

    def _first_lost(self) -> int | None:
        now = time.monotonic()
        for rank, (count, since) in self._watched.items():
            found = self._store.add(f"beat {rank}", 0)
            if found != count or self._store.check([f"left {rank}"]):
                self._watched[rank] = found, now
            elif now - since > (HEARTBEAT_TIMEOUT if count else JOINING):
                return rank
        return None
