"""Models with other codes in plain torch: two layers, a codebook, a class known for some of the data."""

from argparse import Namespace
from math import log

import torch
from common import PIXELS, make_layers
from torch import Tensor, from_numpy, nn
from torch.nn.functional import linear, one_hot, softplus
from torch_common import network
from twin_networks import perceptron
from twin_vae import Losses, noise

_POSITIONS, _ENTRIES, _DIM = 16, 64, 16
_CLASSES = 10


class TwoLayers(nn.Module):
    """z1 and z2; the guide goes up from the data, each layer given the draw below."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        lower, top, units = 2 * args.latent, args.latent, args.hidden // 5
        self.encoder = perceptron(PIXELS, args.hidden, 2 * lower, seed=args.seed + 1)
        self.upper_encoder = perceptron(lower, units, 2 * top, seed=args.seed + 3)
        self.decoder = perceptron(lower, args.hidden, PIXELS, seed=args.seed + 2)
        self.upper_decoder = perceptron(top, units, 2 * lower, seed=args.seed + 4)

    def start(self, x: Tensor) -> None:
        """Nothing starts from data."""

    def forward(self, x: Tensor) -> Losses:
        """The negative ELBO of a batch `[B, 784]`, twice."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        e1 = noise(loc, 0)
        z1 = loc + log_scale.exp() * e1
        loc2, log_scale2 = self.upper_encoder(z1).chunk(2, -1)
        e2 = noise(loc2, 0)
        z2 = loc2 + log_scale2.exp() * e2
        below, log_below = self.upper_decoder(z2).chunk(2, -1)
        logits = self.decoder(z1)
        residual = (z1 - below) * (-log_below).exp()
        lower = (0.5 * (residual.square() - e1.square()) + log_below - log_scale).sum()
        top = (0.5 * (z2.square() - e2.square()) - log_scale2).sum()
        loss = lower + top + softplus(logits).sum() - (x * logits).sum()
        return loss, loss


class Quantized(nn.Module):
    """A discrete code: at each of 16 positions the nearest of 64 entries of a codebook, straight through."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(_ENTRIES, _DIM) / _DIM**0.5)
        self.encoder = perceptron(PIXELS, args.hidden, _POSITIONS * _DIM, seed=args.seed + 1)
        self.decoder = perceptron(_POSITIONS * _DIM, args.hidden, PIXELS, seed=args.seed + 2)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Put the entries at vectors of the encoder."""
        vectors = self.vectors(x[:_ENTRIES]).flatten(0, 1)
        self.codebook.copy_(vectors[torch.randperm(len(vectors))[:_ENTRIES]])

    def vectors(self, x: Tensor) -> Tensor:
        """The encoder's, `[B, positions, dim]`."""
        return self.encoder(x).view(-1, _DIM, _POSITIONS).mT

    def forward(self, x: Tensor) -> Losses:
        """For a batch `[B, 784]`; the squares are differentiated and not reported."""
        vectors = self.vectors(x)
        with torch.no_grad():
            middle = self.codebook.mean(0)
            entries = self.codebook - middle
            distances = torch.addmm(entries.square().sum(-1), (vectors - middle).flatten(0, 1), entries.T, alpha=-2)
            index = distances.argmin(-1)
        chosen = self.codebook.index_select(0, index).view_as(vectors)
        logits = self.decoder((vectors + (chosen - vectors).detach()).mT.flatten(1))
        bound = softplus(logits).sum() - (x * logits).sum() + len(x) * _POSITIONS * log(_ENTRIES)
        codebook = (vectors.detach() - chosen).square().sum()
        commitment = (vectors - chosen.detach()).square().sum()
        return bound + codebook + 0.25 * commitment, bound.detach()


class Joined(nn.Module):
    """A perceptron of a vector and a class. The products of the vector are not made again for each class."""

    def __init__(self, size: int, hidden: int, outputs: int, seed: int) -> None:
        super().__init__()
        inner, outer = make_layers([size + _CLASSES, hidden, outputs], seed)
        of_vector, of_class = from_numpy(inner[0]).split([size, _CLASSES])
        self.of_vector, self.of_class = nn.Parameter(of_vector.T.contiguous()), nn.Parameter(of_class.T.contiguous())
        self.bias, self.outer = nn.Parameter(from_numpy(inner[1])), network([outer])

    def forward(self, vector: Tensor) -> Tensor:
        """`[B, size]`, or `[classes, B, size]`, to `[classes, B, outputs]`: under each class."""
        return self.outer(torch.tanh(linear(vector, self.of_vector, self.bias) + self.of_class.T.unsqueeze(1)))


class SemiSupervised(nn.Module):
    """M2: the class is summed out where it is not known; each row is computed under all classes."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.alpha = 0.1 * args.num / (-(-args.num // 10))
        self.classifier = perceptron(PIXELS, args.hidden, _CLASSES, seed=args.seed + 3)
        self.encoder = Joined(PIXELS, args.hidden, 2 * args.latent, args.seed + 1)
        self.decoder = Joined(args.latent, args.hidden, PIXELS, args.seed + 2)

    def start(self, x: Tensor) -> None:
        """Nothing starts from data."""

    def forward(self, x: Tensor, y: Tensor) -> Losses:
        """For a batch `[B, 784]` with labels `[B]`, -1 where there is none; the same twice."""
        log_q = self.classifier(x).log_softmax(-1).T
        known = y >= 0
        labels = one_hot(y.clamp(min=0), _CLASSES).T.to(x.dtype) * known
        loc, log_scale = self.encoder(x).chunk(2, -1)
        e = noise(loc, 0)
        z = loc + log_scale.exp() * e
        logits = self.decoder(z)
        kl = (0.5 * (z.square() - e.square()) - log_scale).sum(-1)
        losses = kl + log(_CLASSES) + softplus(logits).sum(-1) - (x * logits).sum(-1)
        unlabelled = log_q.exp() * ~known
        loss = ((labels + unlabelled) * losses + unlabelled * log_q - self.alpha * labels * log_q).sum()
        return loss, loss
