"""Numbers about draws; nothing here knows a model.

Its files:

    averages.py       averages with their errors
    gains.py          by how much the second of two is better, datum by datum
    running.py        means and spreads of observed values, part by part
    pareto.py         Pareto's k of importance weights, and their smoothing
    generalised_pareto.py
                      the distribution that is fitted to their tail
    reliability.py    which Pareto k to believe
    convergence.py    R-hat and effective sample sizes of chains
    intervals.py      intervals of draws, and scores of predictions by draws
    tangent.py        an upper bound on the logarithm of an expectation
    uniformity.py     whether ranks are uniform
    rounding.py       how far a log-weight may be off by rounding
"""
