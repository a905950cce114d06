"""How the service says no: a status, a stable code, a sentence with what to do."""


class RequestRefused(Exception):
    """A request is refused.

    status: of HTTP. code: stable. sentence: for a person.
    """

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.code, self.sentence = status, code, sentence
