"""The pipeline of APANet, after the paper's Figure 4, with pictures of the built-in generator."""

from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from apanet_jax.data.sources.synthetic import SyntheticSource
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.models import backbones
from apanet_jax.models.apanet import at_size
from apanet_jax.models.prior import prior_mask
from apanet_jax.reports import overlays
from apanet_jax.weights.load import default_source, load_backbone
from apanet_jax.weights.network import make_network
from configs import folder

CLASS, SUPPORT, QUERY = "car", "val_000036", "val_000059"
CLUSTERS = 3
WIDTH, HEIGHT = 900, 452
_DPI = 200
_SIDE = 193
_NEGATIVE = 1
_BLUE, _ORANGE, _GREY, _INK = "#e4edfb", "#fdebdc", "#eceef1", "#22262c"
_SPECIFIC = np.array(overlays.GIVEN) / 255
_COLOURS = np.array(overlays.CLUSTERS[:CLUSTERS]) / 255


class Example(NamedTuple):
    """What is drawn into the boxes.

    Attributes:
      support: picture.
      support_mask: where its foreground is.
      query: picture.
      mask: where the query's foreground is.
      clusters: of the query's high-level features (Eq. 4).
      prior: in [0, 1].
    """

    support: UInt8[np.ndarray, "side side 3"]
    support_mask: Bool[np.ndarray, "side side"]
    query: UInt8[np.ndarray, "side side 3"]
    mask: Bool[np.ndarray, "side side"]
    clusters: Int[np.ndarray, "side side"]
    prior: Float[np.ndarray, "side side"]


def example() -> Example:
    """Draws the two pictures; clusters and prior are those of EfficientNet-Lite0's features."""
    source = SyntheticSource(seed=0, train=0, val=100, size=256)
    images, masks = zip(*(_read(source, name) for name in (SUPPORT, QUERY)), strict=True)
    config = folder.get_config()
    network = make_network(config)
    parameters = load_backbone(config.backbone.name, default_source(config.backbone.name))
    embedded = jax.jit(network.features)(parameters, jnp.asarray(np.stack(images)))
    middle, high = backbones.middle(embedded), embedded.block5
    size = middle.shape[1:3]
    clusters = kmeans(
        high[1:].reshape(1, -1, high.shape[-1]), CLUSTERS, init="farthest", key=jax.random.key(0)
    ).assignment
    foreground = at_size(jnp.asarray(masks[0])[None, None], size)
    prior = prior_mask(middle[1:], middle[:1, None], foreground)
    one_hot = np.eye(CLUSTERS, dtype=np.float32)[np.asarray(clusters)[0].reshape(size)]
    smooth = cv2.resize(one_hot, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    heat = cv2.resize(np.asarray(prior)[0], (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return Example(images[0], masks[0], images[1], masks[1], smooth.argmax(-1), heat)


def _read(source: SyntheticSource, name: str):
    sample = source.read("val", name)
    image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR_RGB)
    mask = sample.label == source.class_names.index(CLASS) + 1
    image = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    return image, mask == 1


class Sheet:
    """A page in pixels of the picture as it is shown, y upwards."""

    def __init__(self):
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), facecolor="white")
        self._axis = self.figure.add_axes((0, 0, 1, 1))
        self._axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self._axis.axis("off")

    def text(self, x, y, words, size=8.5, **how):
        how = {"ha": "center", "va": "center", "color": _INK, "linespacing": 1.15} | how
        self._axis.text(x, y, words, fontsize=size, **how)

    def box(self, x, y, width, height, colour, words="", edge=_INK, size=8.5):
        """A rounded box with its centre at (x, y)."""
        from matplotlib.patches import FancyBboxPatch

        corner = x - width / 2 + 3, y - height / 2 + 3
        style = "round,pad=3,rounding_size=4"
        self._axis.add_patch(
            FancyBboxPatch(
                corner, width - 6, height - 6, boxstyle=style, fc=colour, ec=edge, lw=0.9
            )
        )
        self.text(x, y, words, size)

    def picture(self, x, y, side, pixels, above="", below=""):
        """A square picture with its centre at (x, y), and words above and below."""
        half = side / 2
        extent = (x - half, x + half, y - half, y + half)
        # Shown at twice the page's pixels, so anything finer would only swell the file.
        fitted = cv2.resize(pixels, (2 * side, 2 * side), interpolation=cv2.INTER_AREA)
        self._axis.imshow(fitted, extent=extent, aspect="auto", interpolation="nearest", zorder=2)
        self._axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self._frame(extent)
        self.text(x, y + half + 4, above, va="bottom")
        self.text(x, y - half - 4, below, va="top")

    def features(self, x, y, name, colour):
        """A stack of maps."""
        from matplotlib.patches import Rectangle

        for step in (8, 4, 0):
            corner = x - 19 + step, y - 19 + step
            self._axis.add_patch(Rectangle(corner, 34, 34, fc=colour, ec=_INK, lw=0.8, zorder=2))
        self.text(x - 2, y - 2, name, 10.5, zorder=3)

    def vectors(self, x, y, colours, below):
        """Prototypes: a bar of cells each."""
        from matplotlib.patches import Rectangle

        for number, colour in enumerate(colours):
            left = x + (number - (len(colours) - 1) / 2) * 14 - 4.5
            for cell in range(5):
                corner = left, y - 25 + 10 * cell
                self._axis.add_patch(Rectangle(corner, 9, 10, fc=colour, ec=_INK, lw=0.6, zorder=2))
        self.text(x, y - 29, below, va="top")

    def arrow(self, *points, dashed=False):
        """A line through the points, with a head at the last."""
        style = {"color": _INK, "lw": 1.1, "linestyle": (0, (3, 2)) if dashed else "-"}
        xs, ys = zip(*points, strict=True)
        self._axis.plot(xs[:-1], ys[:-1], solid_capstyle="butt", zorder=1, **style)
        self._axis.annotate(
            "",
            points[-1],
            points[-2],
            arrowprops={"arrowstyle": "-|>,head_width=0.22,head_length=0.45", "shrinkA": 0}
            | {"shrinkB": 0, **style},
        )

    def _frame(self, extent):
        from matplotlib.patches import Rectangle

        left, right, bottom, top = extent
        size = right - left, top - bottom
        self._axis.add_patch(
            Rectangle((left, bottom), *size, fill=False, ec=_INK, lw=0.8, zorder=3)
        )


def draw_pipeline(output: Path) -> None:
    """Writes the figure as PNG."""
    shown = example()
    sheet = Sheet()
    top, middle, bottom = 345, 226, 96
    sheet.box(567, 356, 656, 180, _BLUE, edge="none")
    sheet.box(567, 92, 656, 172, _ORANGE, edge="none")
    title = {"ha": "left", "fontweight": "bold"}
    sheet.text(250, 434, "Class-specific branch", 9, **title)
    sheet.text(250, 166, "Class-agnostic branch, in training only", 9.5, **title)
    _inputs(sheet, shown, top, middle, bottom)
    _specific(sheet, shown, top)
    _between(sheet, shown, top, middle, bottom)
    _agnostic(sheet, shown, bottom)
    _comparison(sheet, shown, top, middle, bottom)
    sheet.figure.savefig(output, dpi=_DPI)
    print(f"written to {output}")


def _inputs(sheet, shown, top, middle, bottom):
    """Pictures, the frozen backbone, and three maps of features."""
    given = overlays.overlay(shown.support, shown.support_mask, overlays.GIVEN)
    sheet.picture(52, top, 88, given, above="support $I^s$, $M^s$")
    sheet.picture(52, middle, 88, shown.query, below="query $I^q$")
    sheet.box(133, 222, 44, 330, _GREY)
    sheet.text(133, 222, "backbone (frozen)", 9.5, rotation=90)
    for y in (top, middle):
        sheet.arrow((96, y), (111, y))
    for y, name, colour in (
        (top, "$F^s$", "#fff1c4"),
        (middle, "$F^q$", "#dcefe3"),
        (bottom, r"$\bar{F}^q$", "#cfe0f5"),
    ):
        sheet.arrow((155, y), (181, y))
        sheet.features(202, y, name, colour)
    sheet.text(204, top + 36, "middle level")
    sheet.text(204, middle + 36, "middle level")
    sheet.text(204, bottom - 28, "high level")


def _specific(sheet, shown, y):
    """Support features to one prototype (Eq. 1), expanded (Eq. 2)."""
    sheet.arrow((225, y), (345, y))
    sheet.picture(282, y + 34, 48, _grey(shown.support_mask), above="$M^s$")
    sheet.arrow((306, y + 34), (373, y + 34), (373, y + 20))
    sheet.box(373, y, 56, 40, "white", "masked\naverage")
    sheet.text(373, y - 24, "Eq. 1", va="top")
    sheet.arrow((401, y), (450, y))
    sheet.vectors(460, y, [_SPECIFIC], "$p^s$")
    sheet.arrow((466, y), (515, y))
    sheet.text(490, y + 9, "expand")
    one = np.broadcast_to(_SPECIFIC, (*shown.mask.shape, 3)).astype(np.float32)
    sheet.picture(548, y, 64, one, above=r"$\mathcal{E}^s(p^s)$")


def _between(sheet, shown, top, middle, bottom):
    """What both branches are given: the query's features and the prior mask."""
    features, prior = middle - 14, middle + 16
    for x, left, y in ((616, 215, features), (638, 375, prior)):
        sheet.arrow((left, y), (x, y), (x, top - 25))
        sheet.arrow((x, y), (x, bottom + 25))
    sheet.text(598, features - 10, "$F^q$", 9.5)
    sheet.picture(352, prior, 46, _heat(shown.prior))
    sheet.text(382, prior + 11, "prior mask of the query", ha="left")
    sheet.text(382, prior - 11, "(its complement in the lower branch)", ha="left")


def _agnostic(sheet, shown, y):
    """Query features to the background's prototypes (Eq. 4 to 6), expanded (Eq. 7)."""
    tinted = overlays.cluster_map(shown.query, shown.clusters)
    background = np.where(shown.mask, -1, shown.clusters)
    without = overlays.cluster_map(shown.query, background)
    without[shown.mask] = 255
    sheet.arrow((225, y), (256, y))
    sheet.picture(
        290, y, 68, tinted, below="k-means (Eq. 4)\n" + r"$\bar{M}^q_1 \ldots \bar{M}^q_n$"
    )
    sheet.arrow((324, y), (350, y))
    sheet.picture(384, y, 68, without, below="without $M^q$\n(Eq. 5)")
    sheet.arrow((418, y), (444, y))
    sheet.vectors(467, y, _COLOURS, "")
    sheet.text(467, y - 38, "mean of $F^q$\n(Eq. 6)", va="top")
    sheet.text(467, y + 29, r"$p^q_1 \ldots p^q_n$", va="bottom")
    sheet.arrow((490, y), (515, y))
    expanded = _COLOURS[np.where(shown.mask, _NEGATIVE, shown.clusters)].astype(np.float32)
    pixels = (255 * expanded).astype(np.uint8)
    outlines, _ = cv2.findContours(
        shown.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(pixels, outlines, -1, (255, 255, 255), 3)
    sheet.picture(549, y, 68, pixels, above=r"$\mathcal{E}^q(p^q)$", below="expand")


def _comparison(sheet, shown, top, middle, bottom):
    """The shared comparison (Eq. 3, 8), its two targets, and the loss (Eq. 9)."""
    for y, equation, above in ((top, "Eq. 2", 33), (bottom, "Eq. 7", -33)):
        sheet.arrow((582, y), (606, y))
        sheet.box(627, y, 42, 50, "white", "concat", size=8)
        sheet.text(627, y + above, equation)
        sheet.arrow((648, y), (668, y))
    sheet.box(694, 222, 50, 330, "white")
    sheet.text(694, 222, "shared comparison $g_\\phi$", 9.5, rotation=90)
    targets = (
        (top, shown.mask, "$M^q$", "sq", 1, "Eq. 3"),
        (bottom, ~shown.mask, "$1 - M^q$", "qq", 2, "Eq. 8"),
    )
    for y, target, name, index, loss, equation in targets:
        sheet.arrow((719, y), (738, y))
        sheet.box(758, y, 40, 40, "white", r"$\hat{M}^q_{" + index + "}$", size=10.5)
        sheet.text(758, y - 24, equation, va="top")
        sheet.arrow((778, y), (797, y))
        sheet.text(808, y, rf"$\mathcal{{L}}_{loss}$", 11)
        sheet.picture(862, y, 60, _grey(target), above=name)
        sheet.arrow((832, y), (818, y))
    sheet.arrow((808, top - 12), (808, middle + 26))
    sheet.arrow((808, bottom + 12), (808, middle - 12))
    sheet.text(
        808, middle + 7, r"$\mathcal{L} = (1-\lambda)\,\mathcal{L}_1 + \lambda\,\mathcal{L}_2$", 10
    )


def _grey(mask):
    return np.repeat((255 * mask.astype(np.uint8))[..., None], 3, -1)


def _heat(values):
    coloured = cv2.applyColorMap(
        (255 * np.clip(values, 0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS
    )
    return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)
