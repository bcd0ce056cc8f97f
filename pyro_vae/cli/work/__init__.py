"""What commands do once their options are known: these files import torch, so a command imports them inside `run`."""
