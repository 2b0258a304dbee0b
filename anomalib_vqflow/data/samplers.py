# SPDX-License-Identifier: Apache-2.0
"""Samplers for datasets of several categories; Lightning can wrap both for distributed training."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, SequentialSampler


class GroupedBatchSampler(BatchSampler):
    """Batches whose images all belong to one group, in the order of the sampler, for evaluation.

    Distributed evaluation takes every image exactly once: the images that a ``DistributedSampler`` repeats, to give
    every process equally many, are left out, as they would count twice in metrics.

    Args:
        sampler: Order of the images; of a ``DistributedSampler``, only its share of the images in their own order.
        batch_size: Largest number of images in a batch.
        drop_last: Whether to leave out batches that are not full.
        groups: Group of each image; without it, the dataset of a ``SequentialSampler`` is asked (``batch_groups()``),
            which is what Lightning needs for prediction if it does not know the arguments.

    Raises:
        TypeError: If there are no groups, and the sampler has no dataset to ask.
        ValueError: If there are fewer images than processes.

    Example:
        >>> list(GroupedBatchSampler(range(5), batch_size=2, groups=[0, 1, 0, 0, 1]))
        [[0, 2], [1, 4], [3]]
    """

    def __init__(
        self,
        sampler: Sampler[int] | Sequence[int],
        batch_size: int,
        drop_last: bool = False,
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        if groups is None:
            if not isinstance(sampler, SequentialSampler):
                msg = f"Expected a SequentialSampler or groups, got {type(sampler).__name__}; pass `groups`."
                raise TypeError(msg)
            groups = sampler.data_source.batch_groups()  # type: ignore[attr-defined]
        self.groups = list(groups)
        if isinstance(sampler, DistributedSampler):
            if 0 < len(self.groups) < sampler.num_replicas:  # the others would wait for one without images
                msg = (
                    f"{len(self.groups)} images are too few to evaluate in {sampler.num_replicas} processes, each of "
                    "which needs one. Add some, or evaluate in one process."
                )
                raise ValueError(msg)
            self.sampler = range(sampler.rank, len(self.groups), sampler.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        open_batches: dict[int, list[int]] = {}
        for index in self.sampler:
            batch = open_batches.setdefault(self.groups[index], [])
            batch.append(index)
            if len(batch) == self.batch_size:
                yield open_batches.pop(self.groups[index])
        if not self.drop_last:
            yield from open_batches.values()

    def __len__(self) -> int:
        """Count the batches."""
        sizes: dict[int, int] = {}
        for index in self.sampler:
            sizes[self.groups[index]] = sizes.get(self.groups[index], 0) + 1
        rest = 0 if self.drop_last else self.batch_size - 1
        return sum((size + rest) // self.batch_size for size in sizes.values())


class BalancedSampler(Sampler[int]):
    """Draw equally many images of every category, as many in total as the dataset has.

    A small category is repeated, every image equally often up to one; a large one is sampled without replacement.
    The order depends on ``seed`` and the epoch only, so that all processes of a distributed training agree on it.

    Args:
        categories: Category of each image of the dataset.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are no images.

    Example:
        >>> sampler = BalancedSampler(["a"] * 6 + ["b"] * 2)
        >>> draws = list(sampler)
        >>> len(draws), sum(index < 6 for index in draws)
        (8, 4)
    """

    def __init__(self, categories: Sequence[str], seed: int = 0) -> None:
        if not len(categories):
            msg = "Expected at least one image to sample from, got none; check the training data."
            raise ValueError(msg)
        members: dict[str, list[int]] = {}
        for index, category in enumerate(categories):
            members.setdefault(category, []).append(index)
        self.members = [torch.tensor(indices) for indices in members.values()]
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the draws."""
        return sum(len(indices) for indices in self.members)

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of one epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        share, rest = divmod(len(self), len(self.members))
        favored = set(torch.randperm(len(self.members), generator=generator)[:rest].tolist())
        draws = [_cycle(indices, share + (number in favored), generator) for number, indices in enumerate(self.members)]
        order = torch.cat(draws)
        yield from order[torch.randperm(len(order), generator=generator)].tolist()


def _cycle(indices: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    rounds = -(-count // len(indices))
    return torch.cat([indices[torch.randperm(len(indices), generator=generator)] for _ in range(rounds)])[:count]
