"""Sample order and per-sample randomness."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, SequentialSampler

from hemolens.data import sampling
from hemolens.data.sampling import (
    EpochSampler,
    ResumableDataLoader,
    SampleKey,
    as_sample_key,
    one_thread,
    sample_rng,
)
from hemolens.errors import UserError


class Keys(Dataset):
    """Each sample is its own key."""

    def __init__(self, length=10, broken=None):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        if key.index == self.broken:
            raise UserError("cell.png: corrupt or unreadable image; replace the file")
        return torch.tensor(key)


def keys_of(batches):
    return [tuple(key) for batch in batches for key in batch.tolist()]


def epoch_keys(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_each_epoch_is_another_permutation_that_repeats():
    sampler = EpochSampler(20, seed=1)
    first, second = epoch_keys(sampler, 0), epoch_keys(sampler, 1)
    assert sorted(k.index for k in first) == list(range(20)) and {k.epoch for k in second} == {1}
    assert [k.index for k in first] != [k.index for k in second]
    assert epoch_keys(sampler, 0) == first == epoch_keys(EpochSampler(20, seed=1), 0)
    assert epoch_keys(EpochSampler(20, seed=2), 0) != first
    assert epoch_keys(EpochSampler(3, shuffle=False), 5) == [
        SampleKey(5, 0),
        SampleKey(5, 1),
        SampleKey(5, 2),
    ]


def test_order_ignores_the_global_generators():
    sampler = EpochSampler(20, seed=1)
    torch.manual_seed(0)
    np.random.seed(0)
    first = list(sampler)
    torch.manual_seed(5)
    np.random.seed(5)
    assert list(sampler) == first


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_one_order(monkeypatch, world):
    alone = epoch_keys(EpochSampler(10, seed=3), 2)
    parts, lengths = {}, {}
    for pad in (True, False):
        parts[pad], lengths[pad] = [], []
        for rank in range(world):
            monkeypatch.setattr(sampling, "distributed_rank", lambda rank=rank: (rank, world))
            sampler = EpochSampler(10, seed=3, pad=pad)
            parts[pad].append(epoch_keys(sampler, 2))
            lengths[pad].append(len(sampler))
            assert len(sampler) == len(parts[pad][-1])
    assert len(set(lengths[True])) == 1  # in training no process waits for another
    dealt = [key for turn in zip(*parts[True], strict=True) for key in turn]
    assert dealt[:10] == alone and dealt[10:] == alone[: len(dealt) - 10]
    assert sorted(key for part in parts[False] for key in part) == sorted(alone)  # each once in evaluation


def test_an_empty_data_set_is_refused():
    with pytest.raises(UserError, match="the data set is empty"):
        EpochSampler(0)


def test_more_processes_than_samples_to_evaluate_are_refused(monkeypatch):
    monkeypatch.setattr(sampling, "distributed_rank", lambda: (0, 3))
    assert len(EpochSampler(2)) == 1  # training repeats some
    with pytest.raises(UserError, match=r"2 samples to evaluate for 3 processes.* set trainer\.devices=2"):
        len(EpochSampler(2, pad=False))


def test_plain_index_is_epoch_zero():
    assert as_sample_key(4) == SampleKey(0, 4) and as_sample_key(SampleKey(2, 1)) == SampleKey(2, 1)


def draws(*key):
    with sample_rng(*key) as rng:
        return [*torch.rand(2).tolist(), float(torch.randint(10**6, ())), *rng.random(2)]


def test_sample_rng_depends_on_all_of_its_key():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    assert draws(*keys[0]) == draws(*keys[0])
    assert len({value for key in keys for value in draws(*key)}) == 5 * len(keys)


def test_sample_rng_leaves_the_stream_of_the_training_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draws(0, 0, 0)
    assert torch.equal(torch.rand(3), expected)
    with pytest.raises(ZeroDivisionError), sample_rng(0, 0, 0):
        _ = 1 / 0
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), expected)


def test_one_thread_is_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def make_loader(workers=0, length=10, batch_size=3, seed=0, **kwargs):
    return ResumableDataLoader(
        Keys(length, **kwargs),
        sampler=EpochSampler(length, seed=seed),
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_continues_where_it_was(workers):
    loader = make_loader(workers)
    loader.sampler.set_epoch(4)
    whole = keys_of(loader)
    assert len(whole) == 10
    iterator = iter(loader)
    seen = keys_of([next(iterator), next(iterator)])
    state = loader.state_dict()  # the workers have prefetched further by now
    assert (state["epoch"], state["batches"]) == (4, 2)
    other = make_loader(workers)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert len(other) == 4  # the length of an epoch, not of what is left
    assert seen + keys_of(other) == whole
    other.sampler.set_epoch(5)
    assert len(keys_of(other)) == 10  # the next epoch is whole again


def test_position_belongs_to_its_epoch():
    loader = make_loader()
    list(loader)
    assert loader.state_dict()["batches"] == 4
    loader.sampler.set_epoch(1)
    assert loader.state_dict() == {**loader.state_dict(), "epoch": 1, "batches": 0}
    other = make_loader()
    other.load_state_dict({**loader.state_dict(), "epoch": 0, "batches": 4})
    assert keys_of(other) == []  # that epoch is done
    other.load_state_dict({**loader.state_dict(), "epoch": 0, "batches": 4})
    other.sampler.set_epoch(1)
    assert keys_of(other) == keys_of(loader)


def test_resuming_with_another_order_is_refused():
    loader = make_loader()
    next(iter(loader))
    other = make_loader(batch_size=2, seed=7)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(UserError, match=r"seed was 0, is 7; batch_size was 3, is 2: restore these settings"):
        next(iter(other))


def test_loading_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    list(make_loader())
    assert torch.equal(torch.rand(2), expected)


def test_overfitting_replaces_the_sampler():
    loader = ResumableDataLoader(Keys(4), sampler=SequentialSampler(range(4)), batch_size=2)
    assert keys_of(loader) == [(0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_error_in_a_worker_is_one_line(workers):
    with pytest.raises(UserError) as caught:
        list(make_loader(workers, broken=6))
    assert str(caught.value) == "cell.png: corrupt or unreadable image; replace the file"
