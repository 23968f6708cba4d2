"""Seeds from logical ids: a number never depends on a rank, a batch or the order of the work."""

import hashlib


def derive_seed(*parts: object) -> int:
    """A whole number in 0..2^48-1 from logical ids, never from a rank or a batch."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6])
