# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
from lightning.fabric.utilities.data import _replace_dunder_methods
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from anomalib_vqflow.data.samplers import BalancedSampler, GroupedBatchSampler


class Grouped(list):
    def batch_groups(self):
        return list(self)


GROUPS = Grouped([0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0])


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_hold_one_group_each_and_are_counted(drop_last):
    """Batches hold one group each, every image is drawn once, and the length is right."""
    batches = GroupedBatchSampler(SequentialSampler(GROUPS), 2, drop_last)

    assert all(len({GROUPS[index] for index in batch}) == 1 for batch in batches)
    assert len(list(batches)) == len(batches)
    drawn = sorted(index for batch in batches for index in batch)
    assert drawn == list(range(10 if drop_last else 11))


def test_lightning_takes_it_for_prediction():
    """Lightning can rebuild the sampler for prediction, which it does without knowing the groups."""
    loader = DataLoader(GROUPS, batch_sampler=GroupedBatchSampler(SequentialSampler(GROUPS), 2))

    loader = _update_dataloader(loader, loader.sampler, mode=RunningStage.PREDICTING)

    assert [len(set(batch.tolist())) for batch in loader] == [1] * 6


@pytest.mark.parametrize("mode", [RunningStage.TESTING, RunningStage.PREDICTING])
@pytest.mark.parametrize("sampler_class", [DistributedSampler, UnrepeatedDistributedSamplerWrapper])
def test_lightning_shares_batches_among_processes(mode, sampler_class):
    """Two processes together evaluate every image exactly once, in batches of one group."""
    with _replace_dunder_methods(BatchSampler):  # as Lightning does around test_dataloader()
        batches = GroupedBatchSampler(SequentialSampler(GROUPS), 2, groups=GROUPS)
    seen = []
    for rank in range(2):
        data = GROUPS if sampler_class is DistributedSampler else SequentialSampler(GROUPS)
        sampler = sampler_class(data, num_replicas=2, rank=rank, shuffle=False)
        shared = _update_dataloader(DataLoader(GROUPS, batch_sampler=batches), sampler, mode=mode)
        for batch in shared.batch_sampler:
            assert len({GROUPS[index] for index in batch}) == 1
            seen += batch
    assert sorted(seen) == list(range(11))


def test_no_groups_raise():
    """Without groups and a dataset to ask, the sampler is refused."""
    with pytest.raises(TypeError, match="pass `groups`"):
        GroupedBatchSampler([0, 1], 2)


def test_categories_are_drawn_equally_often():
    """Categories are drawn equally often, large ones without repeats, small ones evenly repeated."""
    categories = ["a"] * 20 + ["b"] * 3 + ["c"] * 7

    draws = list(BalancedSampler(categories))

    assert len(draws) == 30
    assert Counter(categories[index] for index in draws) == {"a": 10, "b": 10, "c": 10}
    assert len({index for index in draws if categories[index] == "a"}) == 10, "drawn without replacement"
    repeats = Counter(index for index in draws if categories[index] == "b").values()
    assert max(repeats) - min(repeats) <= 1


def test_order_changes_with_epoch_and_is_equal_in_every_process():
    """The order depends on seed and epoch only, whether epochs are counted or set."""
    first, second = BalancedSampler("aaab", seed=3), BalancedSampler("aaab", seed=3)

    epochs = [list(first) for _ in range(5)]

    assert epochs == [list(second) for _ in range(5)]
    assert len(set(map(tuple, epochs))) > 1
    second.set_epoch(2)
    assert list(second) == epochs[2]


def test_nothing_to_sample_raises():
    """An empty dataset is refused."""
    with pytest.raises(ValueError, match="at least one image"):
        BalancedSampler([])
