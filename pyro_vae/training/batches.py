"""The batches of a training: their order, and this process's rows of each."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from pyro_vae.process.seeding import seeded
from pyro_vae.training.plan import Plan
from pyro_vae.training.rehearsal import needs_two
from pyro_vae.training.steps import Batch, Loss


class Batches:
    """Reads the batches of a training from its data.

    Args:
        plan: whose data, batch size, seed and processes are used.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.size, self.seed = plan, plan.settings.batch_size, plan.settings.seed

    def steps_of_epoch(self, loss: Loss) -> int:
        """Number of steps; a last batch of one datum joins the batch before if batch normalisation can't take it."""
        steps = ceil(self.plan.num_data / self.size)
        if self.plan.world.size > 1 or steps == 1 or self.plan.num_data % self.size != 1:
            return steps
        loss.vae.train()
        return steps - needs_two(loss, self.share(torch.arange(1), 0, 0))

    def of_epoch(self, epoch: int, start: int, steps: int) -> Iterator[tuple[int, Batch]]:
        """This process's rows of each batch of an epoch, with the number of the step.

        Args:
            epoch: counted from 0.
            start: the first step, counted from 0.
            steps: number of steps in an epoch.
        """
        with seeded(self.seed, "order", epoch):
            order = torch.randperm(self.plan.num_data)
        for step in range(start, steps):
            index = order[step * self.size :]
            yield step, self.share(index if step == steps - 1 else index[: self.size], epoch, step)

    def share(self, index: Tensor, epoch: int, step: int) -> Batch:
        """This process's rows of a batch.

        Other rows are not read, unless the data set draws the whole batch at once. The rows keep the form in which the
        data set stores them, and are on the device of the weights: a file on disk gives batches on the CPU.
        """
        data, own, key = self.plan.data, self.plan.world.rows(len(index)), (self.seed, epoch, step)
        rows = data.batch(index, *key)[own] if data.draws_each_visit else data.batch(index[own], *key)
        inputs = data.given("train", index[own]) if data.inputs else {}
        return Batch(rows.to(self.plan.device), inputs, len(index), index[own])

    def first(self) -> Batch:
        """This process's rows of a batch of full size, to try a step on."""
        return self.share(torch.arange(min(self.plan.num_data, self.size)), 0, 0)

    def same(self, number: int) -> Batch:
        """The first rows of the data (all of them if there are fewer), the same on every process."""
        index = torch.arange(min(self.plan.num_data, number))
        rows = self.plan.data.batch(index, self.seed, 0, 0)
        return Batch(rows.to(self.plan.device), self.plan.data.given("train", index))

    def widen(self, batch: Batch) -> Batch:
        """A batch as the programs take it, from the form in which the data set stores it."""
        return replace(batch, x=self.plan.data.widen(batch.x), inputs=self.plan.data.widen_inputs(batch.inputs))
