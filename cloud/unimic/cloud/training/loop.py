"""What every training run shares: time budget, schedule, averaged weights, checkpoints, progress.

Runs are budgeted in minutes, not in steps, so that the same command fits a laptop and a GPU and
the learning rate reaches its end on both. A run that is stopped, also by Ctrl-C or SIGTERM, resumes
from its checkpoint, and so does one whose output nobody reads any more.
"""

from __future__ import annotations

import atexit
import copy
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unimic.cloud.models.arithmetic import Mode, set_mode
from unimic.cloud.training.files import whole
from unimic.cloud.training.shipped import read_checkpoint
from unimic.codec.errors import CorruptData, InvalidInput
from unimic.codec.store import sha256_of

KEEP_SECONDS = 120
ENDING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP")  # not all of them are everywhere
          if (number := getattr(signal, name, None))]
"""Ctrl-C, the polite request of other programs, and a terminal that is closed."""

B = TypeVar("B")
M = TypeVar("M", bound=nn.Module)
F = TypeVar("F", bound=Callable[..., Any])


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where it is faster, which is everywhere this project trains."""
    return torch.autocast(device.type, dtype=torch.bfloat16)


def channels_last(module: M) -> M:
    """The module with its convolution weights in the layout that is fastest for them."""
    # The stubs do not know `Module.to(memory_format=…)`.
    return module.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def compiled(function: F) -> F:
    """``function`` by `torch.compile`, anew for each shape and mode that it meets."""
    # Training meets more of them than the eight after which PyTorch would give up.
    torch._dynamo.config.recompile_limit = 64
    return cast(F, torch.compile(function, dynamic=False))


def prepared(batches: IterableDataset[B]) -> Iterator[B]:
    """``batches``, made by processes beside the one that trains, each with its `own_seed`."""
    loader: DataLoader[B] = DataLoader(
        batches, batch_size=None, num_workers=max(1, (os.cpu_count() or 1) - 2),
        pin_memory=torch.cuda.is_available(), worker_init_fn=_leave_be)
    found = iter(loader)
    atexit.register(_end_workers)  # behind the one of multiprocessing, and so called before it
    return found


def _leave_be(worker: int) -> None:
    """What ends a run is for the process that trains, though a whole group of processes is told."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """End those whose loader is still there at exit: they leave be what multiprocessing sends.

    It would wait for them for ever.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise an error
    for process in multiprocessing.active_children():
        process.kill()


def own_seed(seed: int) -> tuple[int, int]:
    """``seed`` and the number of this process among those of `prepared`."""
    worker = get_worker_info()
    return seed, worker.id if worker else 0


class Average(Generic[M]):
    """Exponential moving average of a module's parameters; buffers are as the module has them."""

    def __init__(self, module: M, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay, self.begin = decay, 0

    def restart(self, step: int) -> None:
        """Forget what was before ``step``."""
        self.begin = step

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        count = step - self.begin
        decay = min(self.decay, (1 + count) / (10 + count))
        mine: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(mine, list(module.parameters()), 1 - decay)
        for own, other in zip(self.module.buffers(), module.buffers(), strict=True):
            own.copy_(other)


def mark(path: Path) -> str:
    """What tells the contents of a file apart."""
    return sha256_of(path)[:16]


def rounded_late(run: Run, share: float, network: M, average: Average[M]) -> Iterator[float]:
    """The fractions of ``run``; training is quantisation-aware after ``share`` of its budget."""
    rounding = False
    resumed = run.spent > share * run.minutes * 60
    for fraction in run:
        if not rounding and fraction > share:
            rounding = True
            for part in (network, average.module):
                set_mode(part, Mode.QUANTISED)
            if not resumed:
                average.restart(run.step)  # weights from before know nothing of the rounding
        yield fraction


def optimizers(network: nn.Module, layers: nn.Module,
               rate: float) -> dict[str, torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices of ``layers``, AdamW for everything else."""
    matrices = [p for p in layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    return {
        "muon": torch.optim.Muon(matrices, lr=rate, weight_decay=0.05,
                                 adjust_lr_fn="match_rms_adamw"),
        "adam": torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0,
                                  fused=True),
    }


class Run:
    """A budget of minutes, divided over as many sittings as it takes.

    ``for fraction in run`` yields the fraction of the budget that is spent, and ends early where
    the process is asked to end; ``log`` prints a line every few seconds; ``save`` writes a
    checkpoint that ``Run`` picks up again by itself.

    Args:
        folder: of the checkpoint.
        minutes: the budget, above 0.
        peak_rate: of learning, above 0.
        warmup: steps until it is reached.
        clock: in seconds.
        made_for: what the run cannot go on without, such as tokenizers, by option: `mark` or
            `made_by` of each.
    """

    def __init__(self, folder: Path, minutes: float, peak_rate: float, warmup: int = 200,
                 clock: Callable[[], float] = time.monotonic,
                 made_for: Mapping[str, str] | None = None) -> None:
        self.folder, self.minutes, self.peak, self.warmup = folder, minutes, peak_rate, warmup
        self.clock, self.made_for = clock, dict(made_for or {})
        self.step, self.spent, self.stopped = 0, 0.0, False
        self.sums: dict[str, Tensor | float] = {}
        self.counted = 0
        self.last_log = self.last_save = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load the checkpoint, if there is one, into the modules and optimizers of ``state``.

        Raises:
            CorruptData: it is damaged, or of another training.
            InvalidInput: it was made for something else than `made_for` says.
        """
        if not self.checkpoint.exists():
            return
        try:
            saved = read_checkpoint(self.checkpoint)
        except CorruptData as error:
            raise CorruptData(error.field, error.message,
                              "remove it, or use another --out") from error
        for option, marked in self.made_for.items():
            if saved.get("made_for", {}).get(option, marked) != marked:
                raise InvalidInput(option, f"{self.checkpoint} was begun with another",
                                   "use that one, or another --out")
        try:
            for name, part in state.items():
                part.load_state_dict(saved[name])
            self.step, self.spent = saved["step"], saved["spent"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise CorruptData(str(self.checkpoint), "was begun by another training, or with other "
                              "options", "use these, or another --out") from error
        self._say(f"resumed at step {self.step}, {self.spent / 60:.1f} of {self.minutes:g} minutes")
        if self.spent >= 60 * self.minutes:
            self._say("there is nothing left to do: give it more --minutes, or another --out")

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint.

        Raises:
            OSError: it cannot be written; the one before is still there.
            KeyboardInterrupt: it is, and the process was asked to end.
        """
        parts = {name: part.state_dict() for name, part in state.items()}
        try:
            with whole(self.checkpoint) as file:
                torch.save({**parts, "step": self.step, "spent": self.spent,
                            "made_for": self.made_for}, file)
        except (OSError, RuntimeError) as error:  # PyTorch's own of a full disk
            raise OSError(f"cannot write {self.checkpoint} (is the disk full?)") from error
        self.last_save = time.monotonic()
        if self.stopped:
            self._say(f"stopped at step {self.step}; the same command goes on from there")
            raise KeyboardInterrupt

    def keep(self, state: Mapping[str, Any]) -> bool:
        """`save` if the last checkpoint is older than `KEEP_SECONDS`; says whether it did.

        What cannot be written now is tried again later.
        """
        due = time.monotonic() - self.last_save > KEEP_SECONDS
        if due:
            try:
                self.save(state)
            except OSError as error:
                self._say(f"{error}; trying again in {KEEP_SECONDS} s")
                self.last_save = time.monotonic()
        return due

    def set_rate(self, optimizer: torch.optim.Optimizer, fraction: float) -> None:
        """Learning rate: linear warm-up, then a cosine down to 2 % of the peak."""
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction))
        for group in optimizer.param_groups:
            group["lr"] = self.peak * min(1.0, (self.step + 1) / self.warmup) * cosine

    def descend(self, fraction: float, network: nn.Module, loss: Tensor,
                parts: Mapping[str, torch.optim.Optimizer]) -> None:
        """One step of every optimizer against ``loss``, the gradient's norm kept to 1."""
        network.zero_grad()
        loss.backward()
        self.follow(fraction, network, parts)

    def follow(self, fraction: float, network: nn.Module,
               parts: Mapping[str, torch.optim.Optimizer]) -> None:
        """One step of every optimizer along the gradients, their norm kept to 1."""
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in parts.values():
            self.set_rate(optimizer, fraction)
            optimizer.step()

    def __iter__(self) -> Iterator[float]:
        budget = self.minutes * 60
        before = self.clock()
        with self._stopping():
            while self.spent < budget and not self.stopped:
                yield self.spent / budget
                self.step += 1
                now = self.clock()
                self.spent += now - before
                before = now
            self._tell()

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """What is in `ENDING` ends the run after its step, the second time at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are not for it
            return
        before: dict[int, Any] = {}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def stop(number: int, frame: object) -> None:
            self.stopped = True
            restore()

        for number in ENDING:
            before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            restore()

    def log(self, **values: Tensor | float) -> None:
        for name, value in values.items():  # added where they are: reading waits for a GPU
            value = value.detach() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += 1
        if time.monotonic() - self.last_log > 15:
            self._tell()

    def _tell(self) -> None:
        """Print the means of what was logged since the last time."""
        if self.counted:
            means = "  ".join(f"{k} {float(v) / self.counted:.4f}" for k, v in self.sums.items())
            self._say(f"step {self.step}  {self.spent / 60:.1f}/{self.minutes:g} min  {means}")
        self.sums, self.counted, self.last_log = {}, 0, time.monotonic()

    def _say(self, line: str) -> None:
        """Print a line; where that fails nobody listens any more, and the run ends."""
        try:
            print(line, flush=True)
        except OSError:
            self.stopped = True
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # Python would fail at it once more
