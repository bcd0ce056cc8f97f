"""What a trained model is for. To add a task, write a function in a file here.

Its files:

    generation.py        sample, reconstruct, manifold
    clustering.py        cluster, with_clusters, clustering_scores
    classification.py    classify, label_evidence, accuracy
    codebook.py          codebook_usage
"""

from pyro_vae.tasks.classification import Accuracy, accuracy, classify, label_evidence
from pyro_vae.tasks.clustering import Clustering, ClusteringScores, cluster, clustering_scores, with_clusters
from pyro_vae.tasks.codebook import CodebookUsage, codebook_usage
from pyro_vae.tasks.generation import Generated, manifold, reconstruct, sample

__all__ = [
    "Accuracy",
    "Clustering",
    "ClusteringScores",
    "CodebookUsage",
    "Generated",
    "accuracy",
    "classify",
    "cluster",
    "clustering_scores",
    "codebook_usage",
    "label_evidence",
    "manifold",
    "reconstruct",
    "sample",
    "with_clusters",
]
