"""How much of an engine the requests for several choices may take, wherever it is shared out."""


def share_of_several(whole: int) -> int:
    """What requests for several choices take of it at most, together: three quarters, rounded up."""
    return whole - whole // 4
