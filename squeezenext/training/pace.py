"""How many steps a call takes: so many that signals are heeded soon, and Python hardly counts."""

from squeezenext.training.history import LOG

CALL_SECONDS = 2.0  # between looks at the clock and at signals
SLOW_STEP_SECONDS = 10.0
MAX_STEPS = 1000


class Pace:
    """Chooses `steps`, the length of the next call, by how long the last one took."""

    def __init__(self):
        self.steps = 1
        self._calls = 0

    @property
    def started(self) -> bool:
        """Whether the first call is over, which builds the graph and does not count."""
        return self._calls > 1

    def took(self, steps: int, seconds: float, images: int) -> None:
        """Notes a call; the first two are told."""
        self._calls += 1
        step_seconds = seconds / max(steps, 1)
        if self._calls == 1:
            LOG.info("First step: %.1f s, with building the graph.", seconds)
        if self._calls == 2:
            LOG.info("Then %.3g s a step, %.0f images/s.", step_seconds, images / seconds)
            if step_seconds > SLOW_STEP_SECONDS:
                LOG.info("A signal to stop is heeded between steps, so within that time.")
        self.steps = max(1, min(int(steps * CALL_SECONDS / seconds), 2 * steps, MAX_STEPS))
