"""All diagnostics of a trained model on one page. To add a section, write a function of a `Subject` in `sections.py`.

Its files:

    subject.py        what a report is about, and what a section returns
    sections.py       diagnose, and its sections
    guide_checks.py   sections on the guide as a whole, against HMC, and on data against the model
    costs.py          what costs how many nats, and what would change it
    proposals.py      a part fitted anew, or the whole model trained again: as a command
    retraining.py     how a run was trained, and its model trained again
    trials.py         the best proposals tried, with their gains
    conclusions.py    the first section: what costs most, and what to do about it
    html.py           the page
"""

from pyro_vae.report.sections import diagnose
from pyro_vae.report.subject import Finding, Given, Sizes, Subject

__all__ = ["Finding", "Given", "Sizes", "Subject", "diagnose"]
