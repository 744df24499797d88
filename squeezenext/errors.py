"""Faults outside the program, and their exit codes."""


class InputError(ValueError):
    """A fault in the user's input: one sentence with the fault and its remedy. Exit code 2."""


class SomeInputsFailed(RuntimeError):
    """The work is done except for some inputs, which have been reported. Exit code 1."""


class NotFinite(RuntimeError):
    """A gradient is not finite and no loss scale is at fault. Exit code 1."""


class NotKept(RuntimeError):
    """A written file does not answer like its model, and was removed. Exit code 1."""


class RunAgain(RuntimeError):
    """Busy or interrupted: nothing is lost, and the same command goes on later. Exit code 75."""


EXIT_CODES = {SomeInputsFailed: 1, NotFinite: 1, NotKept: 1, InputError: 2, RunAgain: 75}
