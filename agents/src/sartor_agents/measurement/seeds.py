"""Sealed seeds: one secret per measurement, everything random derived from it under a name.

A seed is published as a commitment (its hash) before a run and as itself after, so that anyone can see that the workload
was not chosen to suit the result. Streams derived under different names are independent: warm-up, scored and accuracy
prompts can never coincide by construction of the generator, only by chance (and that is checked where it matters).
"""

import hashlib
import secrets

import numpy as np


def new_seed() -> str:
    """A fresh seed of 256 bits, hex."""
    return secrets.token_hex(32)


def commitment(seed: str) -> str:
    """SHA-256 of the seed's text, hex, to be published before it is used (as `records.SeedCommitment` checks it)."""
    return hashlib.sha256(seed.encode()).hexdigest()


def derive(seed: str, *names: str | int) -> np.random.Generator:
    """The generator of the stream `names` under `seed`: the same names always give the same numbers.

    Names are length-prefixed before hashing, so that ("ab", "c") and ("a", "bc") are different streams.
    """
    digest = hashlib.blake2b(key=bytes.fromhex(seed)[:64], digest_size=32)
    for name in names:
        part = f"{type(name).__name__}:{name}".encode()
        digest.update(len(part).to_bytes(4, "big") + part)
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "big")))
