"""Serves Label Studio's backend, whose supports a folder keeps.

APANET_JAX_SUPPORTS=DIR python -m apanet_jax.inference.label_studio_server
"""

import inspect
import os
import sys
import tempfile
from collections.abc import Sequence

from apanet_jax.inference import segmenter
from apanet_jax.runtime.errors import UserError, main_guard

_PORT = 9090
"""Label Studio's own backends listen there."""


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Serves the backend on this machine until a signal ends it."""
    from apanet_jax.inference.label_studio_backend import (
        SUPPORTS,
        WORKDIR,
        FewShotBackend,
        support_folder,
    )

    if sys.argv[1:] if argv is None else argv:
        raise UserError(f"no arguments are taken: set {SUPPORTS}, and {WORKDIR} for a head")
    support_folder()
    if os.environ.get(WORKDIR):
        # What is wrong with it is said here, not in a log when the first annotation comes.
        segmenter.load(os.environ[WORKDIR])
    from label_studio_ml.api import init_app

    # Versions before 2 keep a folder of their own.
    own = "basic_auth_user" not in inspect.signature(init_app).parameters
    with tempfile.TemporaryDirectory() as place:
        app = init_app(FewShotBackend, **({"model_dir": place} if own else {}))
        print(
            f"add http://127.0.0.1:{_PORT} as a model in Label Studio; Ctrl-C ends it", flush=True
        )
        app.run(port=_PORT)


if __name__ == "__main__":
    main()
