"""What a trained model is for. To add a task, write a function in a file here.

Its files:

    generation.py        sample, reconstruct, manifold
    clustering.py        cluster, with_clusters, clustering_scores
    classification.py    classify, label_evidence, accuracy
    codebook.py          codebook_usage
    codes/               encode_data, aggregate_posterior, traverse, interpolate, edit, mig: codes of data
    scores/              score, threshold, detection: how anomalous a datum is
    restoring.py         restore: x given what was observed of it
    gibbs.py             Metropolis-within-Gibbs over codes and data, for restore
    restored.py          its result, Restored
    strength.py          infer_strength: how strong the noise of a channel is
    chains.py            hamiltonian_chains: draws of latents given y, and their health
    ratios.py            log_ratios: p(y; s) of neighbouring strengths, by chains
    imputing.py          impute, imputation_error
    pooling.py           pool: Rubin's rules
"""

from pyro_vae.tasks.classification import Accuracy, accuracy, classify, label_evidence
from pyro_vae.tasks.clustering import Clustering, ClusteringScores, cluster, clustering_scores, with_clusters
from pyro_vae.tasks.codebook import CodebookUsage, codebook_usage
from pyro_vae.tasks.codes import (
    DCI,
    AggregatePosterior,
    Attribute,
    Edited,
    Encoded,
    Paths,
    Traversal,
    aggregate_posterior,
    attribute_vector,
    dci,
    edit,
    encode_data,
    interpolate,
    mig,
    sap,
    traverse,
    with_aggregate,
)
from pyro_vae.tasks.generation import Generated, manifold, reconstruct, sample
from pyro_vae.tasks.imputing import ImputationError, Imputed, imputation_error, impute
from pyro_vae.tasks.pooling import Pooled, pool
from pyro_vae.tasks.restored import Restored
from pyro_vae.tasks.restoring import restore
from pyro_vae.tasks.scores import Detection, Scores, Threshold, detection, score, threshold
from pyro_vae.tasks.strength import Strength, infer_strength

__all__ = [
    "DCI",
    "Accuracy",
    "AggregatePosterior",
    "Attribute",
    "Clustering",
    "ClusteringScores",
    "CodebookUsage",
    "Detection",
    "Edited",
    "Encoded",
    "Generated",
    "ImputationError",
    "Imputed",
    "Paths",
    "Pooled",
    "Scores",
    "Threshold",
    "Traversal",
    "Restored",
    "Strength",
    "accuracy",
    "aggregate_posterior",
    "attribute_vector",
    "classify",
    "cluster",
    "clustering_scores",
    "codebook_usage",
    "dci",
    "detection",
    "edit",
    "encode_data",
    "infer_strength",
    "imputation_error",
    "impute",
    "interpolate",
    "label_evidence",
    "manifold",
    "mig",
    "pool",
    "reconstruct",
    "restore",
    "sample",
    "sap",
    "score",
    "threshold",
    "traverse",
    "with_aggregate",
    "with_clusters",
]
