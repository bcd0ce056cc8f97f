"""Class paths that runs and YAML files of earlier versions hold."""

_MOVED = {
    "pyro_vae.vae": "pyro_vae.autoencoders",
    "pyro_vae.hierarchical": "pyro_vae.autoencoders",
    "pyro_vae.semi_supervised": "pyro_vae.autoencoders",
    "pyro_vae.vq": "pyro_vae.autoencoders",
    "pyro_vae.grids": "pyro_vae.networks",
    "pyro_vae.code_priors": "pyro_vae.priors",
}


def current(path: str) -> str:
    """The present import path of a class; any other path as it is.

    Example:
        >>> current("pyro_vae.vq.VQVAE"), current("mine.Net")
        ('pyro_vae.autoencoders.VQVAE', 'mine.Net')
    """
    module, dot, name = path.rpartition(".")
    return f"{_MOVED.get(module, module)}{dot}{name}"
