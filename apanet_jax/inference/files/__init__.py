"""What `apanet_jax.predict` reads and writes: images, folders, masks, annotations."""
