"""Class paths in runs and YAML files of earlier versions."""

_MOVED = {
    "pyro_vae.vae": "pyro_vae.autoencoders",
    "pyro_vae.hierarchical": "pyro_vae.autoencoders",
    "pyro_vae.semi_supervised": "pyro_vae.autoencoders",
    "pyro_vae.vq": "pyro_vae.autoencoders",
    "pyro_vae.grids": "pyro_vae.networks",
    "pyro_vae.code_priors": "pyro_vae.priors",
}


def current(path: str) -> str:
    """The current import path of a class; any other path is returned unchanged.

    Example:
        >>> current("pyro_vae.vq.VQVAE"), current("mine.Net")
        ('pyro_vae.autoencoders.VQVAE', 'mine.Net')
    """
    module, dot, name = path.rpartition(".")
    return f"{_MOVED.get(module, module)}{dot}{name}"
