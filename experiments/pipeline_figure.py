"""The pipeline of APANet, after the paper's Figure 4, with pictures of the built-in generator."""
from pathlib import Path
def draw_pipeline(output: Path) -> None:
    """x."""
