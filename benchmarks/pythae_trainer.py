"""Training speed of pythae's `BaseTrainer` on the reference problem."""

import logging
import tempfile
from argparse import Namespace
from typing import Any

import torch
from common import PIXELS, Clock, print_training, training_arguments, training_parser
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn
from torch_common import networks, set_up, training_images


class Encoder(BaseEncoder):
    """A network of `(loc, log_scale)` as pythae's encoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        """Mean and log variance."""
        loc, log_scale = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=2 * log_scale)


class Decoder(BaseDecoder):
    """A network of logits as pythae's decoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        """Probabilities."""
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))


class Marks(TrainingCallback):
    """Tells the clock, and keeps the last loss."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.loss = clock, 0.0

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        """Tell the clock."""
        self.clock.step()

    def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
        """Tell the clock."""
        self.clock.epoch()

    def on_log(self, training_config: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Keep the loss."""
        self.loss = logs["train_epoch_loss"]


def pythae_vae(encoder: nn.Module, decoder: nn.Module, latent: int) -> VAE:
    """Two networks as pythae's VAE with Bernoulli pixels."""
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=latent, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(encoder), decoder=Decoder(decoder))


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    args = training_arguments(training_parser(__doc__), argv)
    logging.disable(logging.INFO)
    onednn = set_up(args)
    x = training_images(args)
    clock = Clock()
    marks = Marks(clock)
    with tempfile.TemporaryDirectory() as folder:
        trainer(args, x, marks, folder).train()
    print_training("pythae", args, clock.rates(args.num), marks.loss, clock.first_step_s, onednn=onednn)


def trainer(args: Namespace, x: Tensor, marks: Marks, folder: str) -> BaseTrainer:
    """A trainer of pythae with the reference problem's settings."""
    config = BaseTrainerConfig(
        output_dir=folder,
        per_device_train_batch_size=args.batch,
        num_epochs=args.epochs + 1,
        learning_rate=1e-3,
        seed=args.seed,
        no_cuda=True,
    )
    vae = pythae_vae(*networks(args), args.latent)
    data = BaseDataset(x, torch.zeros(len(x)))
    return BaseTrainer(vae, data, training_config=config, callbacks=[marks])


if __name__ == "__main__":
    main()
