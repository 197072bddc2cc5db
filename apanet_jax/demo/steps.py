"""What a visitor is told to do next."""

from apanet_jax.demo.visit import RUB_OUT, Visit, unpainted, unshown
from apanet_jax.runtime.errors import UserError


def next_steps(visit: Visit) -> tuple[str, str]:
    """Returns what to do next to show the classes, and then to find them."""
    if not visit.supports:
        return (
            "Choose images that show what you are looking for, with their masks or without; or "
            "take a sample above.",
            "First show a class: step 1.",
        )
    first = _to_paint(visit)
    if not visit.queries:
        return first, "Choose images to segment: step 2."
    if unpainted(visit):
        return first, "When something is painted on each image of step 1, press the button."
    if missing := unshown(visit):
        return first, f"When {missing[0]} is painted on an image of step 1, press the button."
    return first, "Everything is there: press the button."


def check_complete(visit: Visit) -> None:
    """Checks that the button can find something.

    Raises:
      UserError: something is missing.
    """
    if not visit.supports:
        raise UserError("No image shows a class yet: choose one in step 1.")
    if missing := unpainted(visit):
        raise UserError(
            f"Nothing is painted on image {missing[0] + 1} of step 1: paint over the object, or "
            "remove the image."
        )
    if missing := unshown(visit):
        raise UserError(f"{missing[0]} is painted on no image of step 1: paint over an object.")
    if not visit.queries:
        raise UserError("There is no image to segment yet: choose some in step 2.")


def _to_paint(visit: Visit) -> str:
    missing = unpainted(visit)
    if visit.painting == RUB_OUT:
        return "What you paint over now is rubbed out."
    what = f"each {visit.classes[visit.painting]}"
    if len(visit.classes) == 1:
        what = "the whole object"
    if not missing:
        return f"There are masks. To change the one shown, paint over {what}, or choose “rub out”."
    if visit.current in missing:
        more = " Then click the next small image below." if len(missing) > 1 else ""
        return f"Paint over {what} with the mouse or a finger.{more}"
    return f"Then click image {missing[0] + 1} below, and paint over the object there too."
