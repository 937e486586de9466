"""The content and the finish of the embedded world's images, and what a prompt may state; needs no torch."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "diamond", "cross", "ring"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple"),
    "size": ("small", "medium", "large"),
    "vertical": ("top", "middle", "bottom"),
    "horizontal": ("left", "center", "right"),
    "background": ("black", "gray", "white"),
}
NAMES = tuple(ATTRIBUTES)
CARDINALITIES = tuple(len(values) for values in ATTRIBUTES.values())
STATEABLE = ("shape", "colour", "size", "background")  # attributes that a prompt may state; position is always free
FREE = -1  # marks an unstated attribute
FINISH = ("vivid", "crisp", "gloss")  # continuous, in [0, 1] in natural images; no prompt states them
