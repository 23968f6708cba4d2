"""Seeds from logical ids: a number never depends on a rank, a batch or the order of the work."""

import hashlib

from bdkit.utils.errors import InputError


def check_seed(seed: int) -> None:
    """Raises InputError for a number that torch takes for no seed, or for the same as another."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; use 0 to {2**63 - 1}")


def derive_seed(*parts: object) -> int:
    """A whole number in 0..2^48-1 from logical ids, never from a rank or a batch."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6])
