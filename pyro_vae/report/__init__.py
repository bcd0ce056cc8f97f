"""All diagnostics of a trained model on one page. To add a section, write a function of a `Subject` in `sections.py`.

Its files:

    subject.py        what a report is about, and what a section returns
    sections.py       diagnose, and its sections
    guide_checks.py   sections on the guide as a whole, against HMC, and on data against the model
    conclusions.py    what costs most nats, and what would change it
    trials.py         the best proposals tried, with their gains
    html.py           the page
"""

from pyro_vae.report.sections import diagnose
from pyro_vae.report.subject import Finding, Given, Sizes, Subject

__all__ = ["Finding", "Given", "Sizes", "Subject", "diagnose"]
