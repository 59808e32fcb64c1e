"""The order of samples and their randomness, both functions of (seed, epoch, index) alone.

Nothing here depends on the number of workers, on what was drawn before, or on the process that draws. So runs
repeat, a resumed run continues where it stopped, and an image can be looked at again exactly as it was
trained on.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from hemolens.errors import UserError


class SampleKey(NamedTuple):
    """What a sampler hands to a data set; persistent workers learn the epoch in no other way."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which no one needs here
    """Of the sample; of its nth further copy in the epoch, which is drawn anew, n times the data set's length more."""


def as_sample_key(key: SampleKey | int) -> SampleKey:
    """A key as it is; a plain index is taken as epoch 0."""
    return key if isinstance(key, SampleKey) else SampleKey(0, int(key))


def seed_sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """The seed of one draw: independent for every (seed, *key), e.g. (seed, epoch, index)."""
    return np.random.SeedSequence(entropy=seed, spawn_key=key)


@contextmanager
def sample_rng(seed: int, epoch: int, index: int) -> Iterator[np.random.Generator]:
    """Seed torch's CPU generator for one sample and yield a numpy Generator for it.

    The state of torch's generator is put back at the end, and CUDA generators are left alone, so that loading
    in the main process draws nothing from the stream of the training itself (dropout, initialisation).
    """
    torch_seed, numpy_seed = seed_sequence(seed, epoch, index).spawn(2)
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which reseeds every CUDA device as well
        torch.default_generator.manual_seed(int(torch_seed.generate_state(1, np.uint64)[0]))
        yield np.random.default_rng(numpy_seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operators on one thread, as a loader's worker does.

    A sum split over threads rounds in another order, so that a contrast change would differ in the last bit
    between ``num_workers=0`` and ``num_workers=2``.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def distributed_rank() -> tuple[int, int]:
    """(rank, number of processes) of the running process group; (0, 1) without one."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class EpochSampler(DistributedSampler[SampleKey]):
    """Yield :class:`SampleKey` for one epoch, in an order drawn from (seed, epoch) or in sequence.

    Lightning calls ``set_epoch`` at the start of each epoch. Under DDP each process takes every n-th key of
    the same order. It is a ``DistributedSampler`` so that Lightning does not wrap it in another one; the rank
    is read when iteration starts, because samplers are built before the process group in some launchers.

    Args:
        length: number of samples in the data set.
        seed: seed of the order.
        shuffle: a new permutation each epoch; False for evaluation.
        pad: under DDP repeat the first keys so that every process has the same number (needed in training,
            where processes wait for each other). Without it every sample is seen exactly once (evaluation).

    Raises:
        UserError: no sample, or, when an evaluation starts, fewer than processes.
    """

    def __init__(self, length: int, *, seed: int = 0, shuffle: bool = True, pad: bool = True) -> None:
        if length < 1:
            raise UserError("the data set is empty: check its folder and its split list")
        indices: Any = range(length)  # the base class wants a Dataset, of which it only takes the length
        super().__init__(indices, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
        self.length = length
        self.pad = pad
        self._skip = 0

    def skip_once(self, count: int) -> None:
        """Leave out the first ``count`` keys of the next iteration (of this process) only."""
        self._skip = count

    def _rank(self) -> tuple[int, int]:
        rank, world = distributed_rank()
        if not self.pad and self.length < world:
            raise UserError(
                f"{self.length} samples to evaluate for {world} processes, of which each needs one: set "
                f"trainer.devices={self.length}"
            )
        return rank, world

    def __len__(self) -> int:
        rank, world = self._rank()
        return -(-self.length // world) if self.pad else len(range(rank, self.length, world))

    def __iter__(self) -> Iterator[SampleKey]:
        rank, world = self._rank()
        order = self._order(np.random.default_rng(seed_sequence(self.seed, self.epoch)))
        if self.pad:
            order = np.resize(order, -(-self.length // world) * world)  # np.resize repeats from the start
        skip, self._skip = self._skip, 0
        return iter([SampleKey(self.epoch, int(index)) for index in order[rank::world][skip:]])

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        order = np.arange(self.length)
        if self.shuffle:
            rng.shuffle(order)
        return order


class RepeatSampler(EpochSampler):
    """Show some samples several times in an epoch.

    An epoch has ``ceil(sum(factors))`` keys. Each sample comes as often as its factor, rounded up or down anew in each
    epoch so that the mean over epochs is the factor (all are raised by the same share where their sum is no whole
    number). The copies of a sample have indices of their own, see :class:`SampleKey`.

    Args:
        factors: [n] for n samples, each 1 or more.
        seed: seed of the rounding and of the order.
    """

    def __init__(self, factors: NDArray[np.float64], *, seed: int = 0) -> None:
        super().__init__(math.ceil(float(np.sum(factors)) - 1e-9), seed=seed)
        self.factors = np.asarray(factors, np.float64)

    def counts(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """How often each sample comes, [n], with ``length`` as their sum (systematic sampling)."""
        order = rng.permutation(len(self.factors))
        ends = np.cumsum(self.factors[order])
        ends *= self.length / ends[-1]
        ends[-1] = self.length
        counts = np.empty(len(order), np.int64)
        counts[order] = np.diff(np.floor(ends + rng.random()), prepend=0.0)
        return counts

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        counts = self.counts(rng)
        copy = np.concatenate([np.arange(count) for count in counts])
        keys = np.repeat(np.arange(len(counts)), counts) + copy * len(counts)
        rng.shuffle(keys)
        return keys


class ResumableDataLoader(DataLoader):
    """A DataLoader whose position within the epoch is saved and restored exactly.

    Lightning calls ``state_dict`` whenever it writes a checkpoint and ``load_state_dict`` on resuming. What
    counts is the number of batches handed out, not those that workers prefetched; on resuming, the same
    (seed, epoch) order is drawn again and that many batches are skipped without loading them. A restored
    position is used only in the epoch that it belongs to.

    Args:
        dataset: map-style data set that takes :class:`SampleKey`.
        sampler: an :class:`EpochSampler`. A ``SequentialSampler``, which ``Trainer(overfit_batches=...)``
            puts in, is replaced by an unshuffled one.
        batch_size: samples a batch (of this process).
        **kwargs: as for ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        sampler: EpochSampler | SequentialSampler,
        batch_size: int = 1,
        **kwargs: Any,
    ) -> None:
        if isinstance(sampler, SequentialSampler):
            sampler = EpochSampler(len(sampler), shuffle=False)
        # a DataLoader draws a number for its workers at each start: from a generator of its own, not from
        # torch's global one, whose stream would then differ in a resumed run
        kwargs.setdefault("generator", torch.Generator())
        super().__init__(dataset, sampler=sampler, batch_size=batch_size, **kwargs)
        self._epoch_sampler = sampler
        self._epoch = -1  # of the batches counted so far; the sampler may already be set to the next
        self._batches = 0
        self._restored: dict[str, int] | None = None

    def _identity(self) -> dict[str, int]:
        """What has to be the same for a position within an epoch to mean the same samples."""
        sampler = self._epoch_sampler
        return {
            "length": sampler.length,
            "seed": sampler.seed,
            "shuffle": int(sampler.shuffle),
            "batch_size": int(self.batch_size or 1),
            "processes": distributed_rank()[1],
        }

    def state_dict(self) -> dict[str, int]:
        """Epoch, batches handed out in it, and what the order depends on; plain integers."""
        epoch = self._epoch_sampler.epoch
        return {"epoch": epoch, "batches": self._batches if epoch == self._epoch else 0, **self._identity()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from a saved position when its epoch is iterated next."""
        self._restored = dict(state_dict)
        self._epoch_sampler.set_epoch(state_dict["epoch"])
        self._epoch, self._batches = state_dict["epoch"], state_dict["batches"]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: workers start at the first `next`, when Lightning has set the epoch. Lightning makes
        # the first iterator of a run before it does so.
        self._batches = self._start_position()
        self._epoch = self._epoch_sampler.epoch
        self._epoch_sampler.skip_once(self._batches * int(self.batch_size or 1))
        try:
            for batch in super().__iter__():
                self._batches += 1
                yield batch
        except UserError as error:
            # a worker's error carries its whole traceback; what the user can act on is the last line
            raise UserError(str(error).rpartition(f"{UserError.__qualname__}: ")[2].strip()) from error

    def _start_position(self) -> int:
        restored, self._restored = self._restored, None
        if restored is None or restored["epoch"] != self._epoch_sampler.epoch or restored["batches"] == 0:
            return 0
        changed = [
            f"{key} was {restored[key]}, is {now}" for key, now in self._identity().items() if restored[key] != now
        ]
        if changed:
            raise UserError(
                f"the checkpoint was saved within epoch {restored['epoch']}, which goes on only in the same "
                f"data order, but {'; '.join(changed)}: restore these settings, or resume from a "
                "checkpoint written at the end of an epoch"
            )
        return restored["batches"]


def batch_loader(
    dataset: Dataset,
    *,
    training: bool,
    collate: Callable[[list[Any]], Any],
    batch_size: int,
    num_workers: int,
    seed: int,
    repeats: NDArray[np.float64] | None = None,
) -> ResumableDataLoader:
    """The loader of a data module's split: shuffled for training, in fixed order with every sample once otherwise.

    ``repeats`` are the factors of :class:`RepeatSampler`, for training.
    Under DDP an evaluating process may have a sample less than another: every sample is seen exactly once.
    """
    length = len(dataset)  # type: ignore[arg-type]
    plain = EpochSampler(length, seed=seed, shuffle=training, pad=training)
    return ResumableDataLoader(
        dataset,
        sampler=plain if repeats is None else RepeatSampler(repeats, seed=seed),
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
    )
