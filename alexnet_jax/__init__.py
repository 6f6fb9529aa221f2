"""The AlexNet of 2012 in JAX: two towers on two devices."""


class UserError(Exception):
    """A file, flag, config field, directory or learning rate does not work, and the user can change it.

    The message is one line that names it and the remedy. The commands print it without a traceback.
    """
