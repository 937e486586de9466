"""The weight g of the tuned output over the sampler's progress i / T."""

from collections.abc import Callable

Schedule = Callable[[float], float]  # progress i / T -> g


def linear() -> Schedule:
    """g = i / T."""
    return power(1)


def power(exponent: float) -> Schedule:
    """g = (i / T)^exponent: the larger, the later the tuned model takes over; 0 is the tuned model."""
    if exponent < 0:
        raise ValueError(f"guidance.power: exponent={exponent} must not be below 0; g would exceed 1")
    return lambda progress: progress**exponent


def step(fraction: float) -> Schedule:
    """g = 1 from `fraction` of the steps on, 0 before: no step costs two passes."""
    return lambda progress: float(progress >= fraction)


def constant(weight: float) -> Schedule:
    """g = weight at every step."""
    return lambda progress: weight
