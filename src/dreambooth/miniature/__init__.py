"""The miniature: a drawn world with known ground truth, and small models trained on it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreambooth.backbones.cascade import CascadeBackbone

WEIGHTS = Path(__file__).parent / "weights"


def load_backbone(pretrained: str | None = None) -> "CascadeBackbone":
    """Load the cascade from the folder `pretrained`, by default the weights that ship."""
    from dreambooth.backbones.cascade import CascadeBackbone

    return CascadeBackbone.load(pretrained or WEIGHTS)
