"""What can go wrong outside the program, and the exit code that each promises."""


class InputError(ValueError):
    """A fault in what the user gave: one sentence naming it and what to do. Exit code 2."""


class SomeInputsFailed(RuntimeError):
    """The work is done but for the inputs already named. Exit code 1."""


class NotFinite(RuntimeError):
    """A gradient is not finite and no loss scale is at fault. Exit code 1."""


class NotKept(RuntimeError):
    """A file that was made is not what its model is, and was removed. Exit code 1."""


class RunAgain(RuntimeError):
    """Busy or interrupted: nothing is lost, the same command goes on later. Exit code 75."""


EXIT_CODES = {SomeInputsFailed: 1, NotFinite: 1, NotKept: 1, InputError: 2, RunAgain: 75}
