"""Weight files of Hugging Face's model hub: the only source that asks the network."""

from pathlib import Path

from apanet_jax.runtime.errors import UserError

HUB_FILE = "model.safetensors"


def download(source: str) -> Path:
    """Returns the path of a model's safetensors in the hub's cache, downloaded if need be.

    Args:
      source: "hf:owner/name" or "hf:owner/name@revision".

    Raises:
      UserError: the hub has no such file, wants a login or an agreement to terms first, or cannot
        be reached.
    """
    repository, _, revision = source.removeprefix("hf:").partition("@")
    if repository.count("/") != 1:
        raise UserError(f"source {source!r}: expected hf:owner/name or hf:owner/name@revision")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"source {source}: run `pip install huggingface_hub`") from None
    try:
        return Path(
            huggingface_hub.hf_hub_download(repository, HUB_FILE, revision=revision or None)
        )
    except Exception as error:  # Network, naming and permission errors have no common base.
        raise UserError(f"{_reason(source, repository, error)}; or give a file instead") from None


def _reason(source: str, repository: str, error: Exception) -> str:
    from huggingface_hub import errors

    # What the hub answers to a file that is there, but not for this user.
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"source {source} asks for a login: agree to its terms on the hub's page of "
            f"{repository}, then run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            f"source {source} is not in the hub's cache, and the hub cannot be reached: try again "
            "with a network"
        )
    if status == 401:
        return (
            f"the hub has no {repository}, or shows it only after a login: check the name of "
            f"source {source}, or run `hf auth login`"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"cannot download {HUB_FILE} of {source}: {reason}"
