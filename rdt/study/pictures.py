"""Single images, cut from sample grids and put inside their own address."""

import base64
import io
from functools import lru_cache

from rdt.study.sources import Grid

HAIRLINE = 2  # pixels of white to the right of and below every image of a grid
EXACT, MOST = 256, 768  # pixels across up to which an image stays PNG; to which larger ones are shrunk


@lru_cache(maxsize=8)
def _opened(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def cut(grid: Grid, row: int, column: int):
    """One image of a grid."""
    whole = _opened(grid.path)
    width, height = whole.width // grid.columns, whole.height // len(grid.prompts)
    left, top = column * width, row * height
    return whole.crop((left, top, left + width - HAIRLINE, top + height - HAIRLINE))


def address(grid: Grid, row: int, column: int) -> str:
    """As data: URI; it says nothing of where the image is from."""
    image, out = cut(grid, row, column), io.BytesIO()
    image.thumbnail((MOST, MOST))
    kind, how = ("png", {"optimize": True}) if image.width <= EXACT else ("jpeg", {"quality": 95, "subsampling": 0})
    image.save(out, kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
