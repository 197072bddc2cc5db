"""Device kernels that need nothing but jax."""
