"""Where compiled programs are kept for later processes."""

from pathlib import Path

import jax

DIRECTORY = "~/.cache/apanet_jax"


def keep_compiled(directory: str) -> None:
    """Has programs that took a second or more to compile kept for later processes.

    Args:
      directory: where; "" for nowhere. JAX's own variable JAX_COMPILATION_CACHE_DIR goes first.
    """
    if directory and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).expanduser()))
