"""A number with what it counts, as people say it: "1 desktop", "2 desktops". For every sentence that has both."""


def counted(number: float, what: str, several: str = "") -> str:
    """Say how many there are.

    Args:
        what: one of them. several: more or less than one of them; `what` with an s if not given.
    """
    return f"{number:g} {what}" if number == 1 else f"{number} {several or what + 's'}"
