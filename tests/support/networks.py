"""Networks that tests need and the package does not have."""

from math import prod

from torch import nn

from pyro_vae.networks import MLP, Network


class Dropping(Network):
    """An MLP followed by dropout: its output differs between training and evaluation mode."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.inner, self.dropout = MLP(in_shape, out_shape, hidden=(8,)), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.inner(x))


class Foreign(nn.Module):
    """A torch module that knows nothing of the package, and takes exactly one batch dimension."""

    def __init__(self, in_shape, out_shape, width: int = 5):
        super().__init__()
        self.first, self.second = nn.Linear(prod(in_shape), width), nn.Linear(width, prod(out_shape))
        self.in_shape, self.out_shape = in_shape, out_shape

    def forward(self, x):
        assert x.shape[1:] == self.in_shape
        return self.second(self.first(x.flatten(1)).tanh()).unflatten(1, self.out_shape)


class ForeignFlat(Foreign):
    """Returns flat rows, and knows where its output bias is."""

    def forward(self, x):
        return super().forward(x).flatten(1)

    def set_output_bias(self, bias):
        self.second.bias.data.copy_(bias.reshape(-1))


class ForeignWrong(Foreign):
    """Returns a shape that nobody asked for."""

    def forward(self, x):
        return super().forward(x).transpose(1, 2)


class Switching(Network):
    """Of two sets of weights one is used, by the size of the batch: many steps have no gradient for the other."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.full, self.last = (MLP(in_shape, out_shape, hidden=(4,)) for _ in range(2))

    def forward(self, x):
        return self.full(x) if self._leading(x)[-1] == 20 else self.last(x)


class NoModule:
    """Built as a network is, but none."""

    def __init__(self, in_shape, out_shape):
        pass
