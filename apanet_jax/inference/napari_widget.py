"""napari's widget: draw on some frames, find the same in the others, correct, find again.

napari finds it by `napari.yaml`. It needs `napari` and `magicgui`, which come with it.
"""

import numpy as np

from apanet_jax.inference import segmenter
from apanet_jax.inference.napari_stack import found_labels
from apanet_jax.runtime.errors import UserError, needs

with needs("napari", "the widget"):
    import napari
    from magicgui.widgets import Container, Label, PushButton, create_widget
    from napari.utils import progress

FOUND = "found"
"""The layer of what was found, which is corrected with napari's brush."""


class FindWidget(Container):
    """Finds what is drawn in a Labels layer in the other frames of an Image layer."""

    def __init__(self, viewer: "napari.Viewer"):
        """Makes the widget for a viewer."""
        self._viewer = viewer
        self._images = create_widget(label="images", annotation=napari.layers.Image)
        self._drawn = create_widget(label="drawn", annotation=napari.layers.Labels)
        self._told = Label(value="Draw on one frame or more, then find.")
        find = PushButton(text="Find in the other frames")
        take = PushButton(text="The frame shown is right: learn from it")
        find.changed.connect(lambda: self._tell(self.find))
        take.changed.connect(lambda: self._tell(self.take))
        super().__init__(widgets=[self._images, self._drawn, find, take, self._told])

    def find(self) -> str:
        """Puts what is found into the layer `FOUND`; returns what to say of it.

        Raises:
          UserError: see `found_labels`.
        """
        images, drawn = self._images.value, self._drawn.value
        if images is None or drawn is None:
            raise UserError("expected a layer of images, and one of labels that you draw in")
        if drawn.name == FOUND:
            raise UserError(f"draw in another layer than {FOUND}, which is written to")
        found = found_labels(
            segmenter.load(), np.asarray(images.data), np.asarray(drawn.data), progress
        )
        if FOUND in self._viewer.layers:
            self._viewer.layers[FOUND].data = found
        else:
            self._viewer.add_labels(found, name=FOUND)
        # A new layer becomes the choice of the widget, which is that of what was drawn.
        self._drawn.value = drawn
        return f"See the layer {FOUND}. Correct a frame of it, say that it is right, find again."

    def take(self) -> str:
        """Takes the frame shown of what was found, as corrected, among those that are drawn.

        Raises:
          UserError: nothing was found yet, or nothing is on the frame.
        """
        if FOUND not in self._viewer.layers or self._drawn.value is None:
            raise UserError("nothing was found yet")
        frame = tuple(int(x) for x in self._viewer.dims.current_step[: self._drawn.value.ndim - 2])
        labels = np.asarray(self._viewer.layers[FOUND].data)[frame]
        if not labels.any():
            raise UserError("nothing is marked on this frame: it cannot show a class")
        drawn = np.array(self._drawn.value.data)
        drawn[frame] = labels
        self._drawn.value.data = drawn
        return "The frame is learned from when you find again."

    def _tell(self, action) -> None:
        try:
            self._told.value = action()
        except UserError as error:
            self._told.value = str(error)
