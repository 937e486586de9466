"""Schedules of annealed guidance, each of which gives the weight of the tuned output by the progress of a rollout."""

from collections.abc import Callable

Schedule = Callable[[float], float]  # progress i / T -> g, the weight of the tuned output


def linear() -> Schedule:
    """Return g = i / T."""
    return power(1)


def power(exponent: float) -> Schedule:
    """Return g = (i / T)^exponent: the larger, the later the tuned model takes over; 0 is the tuned model."""
    if exponent < 0:
        raise ValueError(f"guidance.power: exponent={exponent} must not be below 0; g would exceed 1")
    return lambda progress: progress**exponent


def step(fraction: float) -> Schedule:
    """Return g = 1 from `fraction` of the steps on, 0 before: no step costs two passes."""
    return lambda progress: float(progress >= fraction)


def constant(weight: float) -> Schedule:
    """Return g = weight at every step."""
    return lambda progress: weight


def schedule_of(name: str, *, power: float, fraction: float, constant: float) -> tuple[Schedule, dict[str, float]]:
    """Return the schedule that a name chooses, and its argument; ValueError if there is none of that name."""
    choices: dict[str, tuple[Callable[..., Schedule], dict[str, float]]] = {
        "linear": (linear, {}),
        "power": (_power, {"exponent": power}),
        "step": (step, {"fraction": fraction}),
        "constant": (_constant, {"weight": constant}),
    }
    if name not in choices:
        raise ValueError(f"guidance.schedule={name} is not one of {', '.join(choices)}")
    make, numbers = choices[name]
    return make(**numbers), numbers


def weights(schedule: Schedule, num_steps: int) -> list[float]:
    """Return the weight of the tuned output at each of a rollout's steps."""
    return [schedule(i / num_steps) for i in range(num_steps)]


_power, _constant = power, constant  # `schedule_of` has arguments of these names
