"""Loading a policy from disk: nothing is believed that was not checked.

A bundle is a folder with `metadata.json` and one file of the policy's own: `policy.pt` (TorchScript) or
`policy.safetensors` (the weights of a small network, which numpy runs; there is no code in it). The file is read once,
and what was read is hashed and loaded, so that it cannot be exchanged in between. A TorchScript archive can run code
while it is loaded; a hash beside the file finds damage, and only a hash that is pinned in the settings finds an
attacker. Pinned is the sha256 of `metadata.json`, which states that of the policy file; or of the policy file alone,
which leaves open what its outputs are said to mean.
"""

import hmac
from hashlib import sha256
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from agents.errors import PolicyFault, PolicyUnusable
from agents.policy.metadata import Metadata, read_metadata
from agents.policy.network import Forward, NetworkPolicy

__all__ = ["METADATA", "load_policy", "read_bundle", "sha256_of"]

METADATA = "metadata.json"
_METADATA_BYTES_MAX = 64 * 1024 * 1024
_POLICY_BYTES_MAX = 1024 * 1024 * 1024
_WARM_UPS = 200
"""Calls before a policy is given out: the first of TorchScript take milliseconds, while it optimises itself."""
_WARM_UP_NS_MAX = 2_000_000_000
"""Not so many of a policy that takes longer for them: it is no policy for microseconds anyway."""


def load_policy(folder: Path, *, pinned_sha256: str = "") -> NetworkPolicy:
    """Load, warm up and check the bundle in `folder`; `pinned_sha256` is the hash of it that the settings state.

    The canaries come last, so that they are answered by what will answer later, optimised as it is by then.

    Raises:
        PolicyUnusable: a file is missing, cannot be read, is empty or damaged; the metadata is wrong; the hash is not
            the stated or the pinned one; shapes differ; a canary comes out differently; torch is not installed.
    """
    metadata, content = read_bundle(folder, pinned_sha256=pinned_sha256)
    try:
        forward = _forward(metadata, content)
        policy = NetworkPolicy(metadata, forward)
        _warm_up(policy)
        _check_canaries(policy, metadata, folder)
    except PolicyUnusable:
        raise
    except ImportError as error:
        raise PolicyUnusable(
            f"the bundle {folder} needs {error.name or 'a library'}, which is not installed; it was not loaded;"
            " install it, or use a bundle of format mlp"
        ) from error
    except Exception as error:
        raise PolicyUnusable(
            f"{folder / metadata.file} cannot be used ({type(error).__name__}: {' '.join(str(error).split()):.200});"
            " it was not loaded; make the bundle anew"
        ) from error
    return policy


def read_bundle(folder: Path, *, pinned_sha256: str = "") -> tuple[Metadata, bytes]:
    """The checked metadata, and the policy file's bytes, whose hash is the stated and the pinned one.

    Raises:
        PolicyUnusable: see `load_policy`.
    """
    path = folder / METADATA
    metadata = read_metadata(_read(path, _METADATA_BYTES_MAX), str(path))
    path = folder / metadata.file
    content = _read(path, _POLICY_BYTES_MAX)
    found = sha256_of(content)
    if not _same(found, metadata.sha256):
        raise _other_hash(path, found, "its metadata say", metadata.sha256)
    if pinned_sha256 and not (_same(metadata.pin, pinned_sha256) or _same(found, pinned_sha256)):
        raise _other_hash(
            folder / METADATA, metadata.pin, f"that of {path.name} {found}; the settings say", pinned_sha256
        )
    return metadata, content


def _same(found: str, wanted: str) -> bool:
    return hmac.compare_digest(found.encode(), wanted.lower().encode(errors="replace"))


def _other_hash(path: Path, found: str, whose: str, wanted: str) -> PolicyUnusable:
    return PolicyUnusable(
        f"{path} has the sha256 {found}, and {whose} {wanted:.64}; it was not loaded; if you made the new bundle"
        " yourself, pin its hash, else find out who did"
    )


def sha256_of(content: bytes) -> str:
    """The hash that metadata and settings state: 64 hexadecimal digits."""
    return sha256(content).hexdigest()


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would hang, a folder is none
            raise PolicyUnusable(f"there is no file {path}; no policy was loaded; give the folder of a bundle")
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise PolicyUnusable(
            f"{path} cannot be read ({error.strerror or error}); no policy was loaded; check its permissions"
        ) from error
    except ValueError as error:  # a NUL in the path
        raise PolicyUnusable(f"{str(path)!r} is no path ({error}); no policy was loaded") from error
    if not content:
        raise PolicyUnusable(f"{path} is empty; no policy was loaded; make the bundle anew")
    if len(content) > bytes_max:
        raise PolicyUnusable(f"{path} is larger than {bytes_max} bytes; no policy was loaded; that is no policy")
    return content


def _forward(metadata: Metadata, content: bytes) -> Forward:
    if metadata.format == "torchscript":
        from agents.policy.torchscript import load_torchscript  # noqa: PLC0415 - torch takes a second to import

        return load_torchscript(content, metadata.inputs)
    from agents.policy.mlp import load_mlp  # noqa: PLC0415 - its library is only needed here

    return load_mlp(content, metadata.inputs)


def _warm_up(policy: NetworkPolicy) -> None:
    zeros, until = np.zeros(policy.metadata.inputs, dtype=np.float32), perf_counter_ns() + _WARM_UP_NS_MAX
    for _ in range(_WARM_UPS):
        policy.predict(zeros)
        if perf_counter_ns() > until:
            return


def _check_canaries(policy: NetworkPolicy, metadata: Metadata, folder: Path) -> None:
    for number, canary in enumerate(metadata.canaries, 1):
        try:
            seen = policy.outputs(np.array(canary.input, dtype=np.float32))
        except PolicyFault as fault:
            raise PolicyUnusable(f"canary {number} of {folder}: {fault}") from fault
        off = max(abs(value - wanted) for value, wanted in zip(seen, canary.output, strict=True))
        if not off <= metadata.tolerance:
            raise PolicyUnusable(
                f"canary {number} of {folder} comes out {off:.3g} away from what its author saw, above"
                f" {metadata.tolerance:.3g}; it was not loaded; make the bundle anew with these libraries"
            )
