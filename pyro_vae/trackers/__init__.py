"""Where the numbers of a training go while it runs: TensorBoard, or a class of your own.

To add one, write a class with the three methods of `Tracker`; deriving from it is not necessary.

    base.py         Tracker, and what `fit` takes as one
    guarded.py      a tracker whose failures don't reach the training
    tensorboard.py  TensorBoard
"""

from pyro_vae.discovery import added_to
from pyro_vae.trackers.base import Tracker
from pyro_vae.trackers.guarded import Guarded
from pyro_vae.trackers.tensorboard import TensorBoard

__all__ = ["Guarded", "TensorBoard", "Tracker"]
globals().update(added_to(__name__))
