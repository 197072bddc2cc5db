"""Device kernels that need nothing but jax."""

from apanet_jax.kernels.kmeans import KMeansResult, kmeans
from apanet_jax.kernels.pooling import expand, masked_average

__all__ = ["KMeansResult", "expand", "kmeans", "masked_average"]
