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
    repository, revision = _named(source)
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"source {source}: run `pip install huggingface_hub`") from None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, HUB_FILE, revision=revision))
    except Exception as error:  # Network, naming and permission errors have no common base.
        raise UserError(f"{_reason(source, repository, error)}; or give a file instead") from None


def is_cached(source: str) -> bool:
    """Returns whether a model's safetensors lie in the hub's cache; asks nobody."""
    import huggingface_hub

    repository, revision = _named(source)
    found = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE, revision=revision)
    return isinstance(found, str)


def size(source: str, seconds: float = 5.0) -> int:
    """Returns how many bytes a model's safetensors have, which the hub is asked for.

    Args:
      source: see `download`.
      seconds: after which the hub counts as out of reach.

    Raises:
      UserError: as `download`.
    """
    import huggingface_hub

    repository, revision = _named(source)
    url = huggingface_hub.hf_hub_url(repository, HUB_FILE, revision=revision)
    try:
        return huggingface_hub.get_hf_file_metadata(url, timeout=seconds).size or 0
    except Exception as error:  # As in `download`.
        raise UserError(_reason(source, repository, error)) from None


def _named(source: str) -> tuple[str, str | None]:
    repository, _, revision = source.removeprefix("hf:").partition("@")
    if repository.count("/") != 1:
        raise UserError(f"source {source!r}: expected hf:owner/name or hf:owner/name@revision")
    return repository, revision or None


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
