"""Networks that tests need and the package does not have."""

from torch import nn

from pyro_vae.networks import MLP, Network


class Dropping(Network):
    """An MLP followed by dropout: its output differs between training and evaluation mode."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.inner, self.dropout = MLP(in_shape, out_shape, hidden=(8,)), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.inner(x))
