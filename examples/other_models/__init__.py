"""Models beside a VAE, small and plain, for teaching: `examples/compare_models.py` trains and measures them.

The files:

    common.py         the data, a trained model, an estimate of log p(x), the training loop
independent.py    independent pixels: the floor of every measure
variational.py    the VAE of this package
gaussians.py      PCA, probabilistic PCA, factor analysis, Gaussian mixture: scikit-learn's
bernoullis.py     a mixture of Bernoulli distributions
boltzmann.py      restricted Boltzmann machines, and their log Z by enumeration
annealing.py      log Z between two bounds: annealed importance sampling in both directions
autoencoders.py   the autoencoder and the denoising autoencoder
stochastic.py     a generative stochastic network
adversarial.py    a generative adversarial network
measuring.py      what each model is measured by
reporting.py      the table and the figures
"""
