"""Distributions and numerics that torch and Pyro lack; nothing here knows a VAE.

Its files:

    elements.py         independent elements, and numerics that several likelihoods share
    intervals.py        probabilities of intervals, and draws from them
    columns.py          elements of several kinds side by side
    from_noise.py       laws of functions of standard normal noise
    aggregate.py        the mean of q(z|x) over data, in bounded memory
    mixture.py          mixtures of many components in bounded memory
    point_masses.py     distributions without width
    zuko_flows.py       normalising flows of zuko
    code_sequence.py    sequences of whole numbers, each given those before it
    normals.py          independent normal elements, also in other units, and given a linear observation
    linear_observations.py    y = A x + e of normal elements x
    blocks.py           bits of an image given how many of a block are ones
    exponentials.py     densities made of exponentials, and with normal noise
    quadrature.py       integrals over each element, and draws of what they normalise
    log_scales.py       logarithms of scales that don't overflow
"""
