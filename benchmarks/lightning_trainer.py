"""Training speed of `pytorch_lightning.Trainer` over a plain module: fused Adam, batches in memory, all logging off."""

import logging
import warnings
from argparse import Namespace
from collections.abc import Iterator

import torch
from common import Clock, print_training, training_arguments, training_parser
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch_common import batches, set_up, training_images
from torch_loop import Loss


class Module(LightningModule):
    """The loss of `torch_loop.py --kind best` as a Lightning module."""

    def __init__(self, args: Namespace, clock: Clock) -> None:
        super().__init__()
        self.loss, self.clock, self.args = Loss(args), clock, args
        self.total, self.mean = torch.zeros(()), 0.0

    def training_step(self, batch: Tensor) -> Tensor:
        """The loss of a batch."""
        loss = self.loss(batch) / self.args.batch
        self.total += loss.detach()
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        """Tell the clock."""
        self.clock.step()

    def on_train_epoch_end(self) -> None:
        """Tell the clock, after the epoch's loss is known."""
        self.mean = self.total.item() * self.args.batch / self.args.num
        self.total = torch.zeros(())
        self.clock.epoch()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Fused Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)


class Batches:
    """Shuffled batches from memory, as an iterable with a length."""

    def __init__(self, x: Tensor, size: int) -> None:
        self.x, self.size = x, size

    def __len__(self) -> int:
        return len(self.x) // self.size

    def __iter__(self) -> Iterator[Tensor]:
        return batches(self.x, self.size)


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    args = training_arguments(training_parser(__doc__), argv)
    args.kind, args.bf16 = "best", False
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    onednn = set_up(args)
    x = training_images(args)
    clock = Clock()
    module = Module(args, clock)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=args.epochs + 1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, Batches(x, args.batch))
    print_training("Lightning", args, clock.rates(args.num), module.mean, clock.first_step_s, onednn=onednn)


if __name__ == "__main__":
    main()
