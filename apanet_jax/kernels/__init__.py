"""Device kernels that need nothing but jax and numpy."""

from apanet_jax.kernels.assignment import assign
from apanet_jax.kernels.cluster_sums import cluster_sums
from apanet_jax.kernels.density_ratio import density_ratio
from apanet_jax.kernels.estimator import KMeans
from apanet_jax.kernels.initial import initial_centres
from apanet_jax.kernels.kmeans import KMeansResult, kmeans
from apanet_jax.kernels.lloyd import lloyd
from apanet_jax.kernels.pooling import cluster_average, expand, masked_average

__all__ = [
    "KMeans",
    "KMeansResult",
    "assign",
    "cluster_average",
    "cluster_sums",
    "density_ratio",
    "expand",
    "initial_centres",
    "kmeans",
    "lloyd",
    "masked_average",
]
