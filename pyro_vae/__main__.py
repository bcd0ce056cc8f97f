"""`python -m pyro_vae` is the command `pyro-vae`."""

from pyro_vae.cli import command

if __name__ == "__main__":
    command()
