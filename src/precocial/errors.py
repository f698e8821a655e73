"""The one exception whose message is written for the person at the command line."""


class UserError(ValueError):
    """The request cannot be carried out as given; the message is one line for the user.

    It says what was given, what was expected and what to try. The command line prints it and
    exits with 2.
    """
