"""The work of the commands. These files import torch, so a command imports them inside its `run`."""
