"""What is done once before the first step: values taken from the data, and the form of the loss for this pair."""

from dataclasses import replace
from pathlib import Path

import torch

from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.evidence import has_elbo
from pyro_vae.networks.precision import Precision, usable_precision
from pyro_vae.objectives import NotTensorial
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import read_weights
from pyro_vae.runs.restoring import restore_weights
from pyro_vae.training.batches import Batches
from pyro_vae.training.plan import Plan
from pyro_vae.training.scales import set_scale
from pyro_vae.training.shares import check_shares, shares_tried
from pyro_vae.training.steps import Batch, Loss, Step, choose_step, same_buffers, worth_compiling

_TOLERANCES = {"float32": 1e-3, "bf16": 0.1}
"""Largest relative difference between a compiled and an eager step, which round to bfloat16 at different places."""


def compiles(plan: Plan) -> bool:
    """Whether to compile the step: as asked, or for `"auto"` if the training is long enough."""
    settings = plan.settings
    if settings.compile == "auto":
        draws = getattr(plan.objective, "num_particles", 1)
        return worth_compiling(plan.vae, plan.num_data, settings.batch_size, settings.epochs, draws)
    return settings.compile


def start_from_data(plan: Plan) -> Precision:
    """Initialise what the module takes from the data (scale, components of a prior, output's mean), or from a run.

    Returns:
        The precision in which products are computed.
    """
    vae, data, settings = plan.vae, plan.data, plan.settings
    if settings.start_from is not None:
        try:
            weights, file = read_weights(Path(settings.start_from), "best")
        except CheckpointError as error:
            raise CheckpointError(f"start_from: {error}") from error
        restore_weights(vae, weights, f"{file}: start_from needs a run of the same model")
        return usable_precision(settings.precision, plan.world.device)
    set_scale(vae, data)
    if count := getattr(vae, "start_count", 0):
        vae.start_prior(data.some(count, settings.seed, "start").to(plan.device))
    precision = usable_precision(settings.precision, plan.world.device)
    if settings.start_at_mean:
        vae.start_at(data.mean(), data.std())
    return precision


def in_best_form(plan: Plan, loss: Loss, batch: Batch) -> Loss:
    """The loss by operations on tensors alone, if the objective has such a form for this pair."""
    try:
        with seeded(plan.settings.seed, "step", 0, 0), torch.no_grad(), same_buffers(plan.vae):
            loss(batch, plan.objective.at(0.0, plan.settings.epochs))
    except NotTensorial:
        return replace(loss, tensorial=False)
    return loss


def pair_has_elbo(plan: Plan, batch: Batch) -> bool:
    """Whether the pair has an ELBO to report; True where that is not known.

    Args:
        plan: what is trained.
        batch: data as the programs take them.
    """
    try:
        return has_elbo(plan.vae.guide, batch.x[:1], **{name: value[:1] for name, value in batch.inputs.items()})
    except UsageError:  # the guide draws nothing, because the loss sums over all sites: see `measured`
        if plan.objective.needs_elbo:
            raise
        return True


def chosen_step(plan: Plan, batches: Batches, loss: Loss, batch: Batch, compile: bool, precision: Precision) -> Step:
    """The step to train with; several processes first try whether the loss can be shared.

    Args:
        plan: what is trained.
        batches: its batches.
        loss: what is minimised.
        batch: one of full size, to try a step on.
        compile: whether to try compiling.
        precision: in which products are computed.
    """
    epochs, tolerance = plan.settings.epochs, _TOLERANCES[precision]
    if plan.world.size > 1:
        check_shares(plan.world, loss, batches.same(shares_tried(plan.world)), epochs, tolerance)
    return choose_step(loss, batch, compile, epochs, tolerance)
