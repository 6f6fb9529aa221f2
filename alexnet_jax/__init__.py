"""The AlexNet of 2012 in JAX: two towers on two devices."""


class UserError(Exception):
    """A file, flag, config field, directory or learning rate that does not work and that the user can change.

    The message is one line that names it and says what to do; the command line prints that and nothing else.
    """
