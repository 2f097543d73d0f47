# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Whether an index is its publisher's: signatures, checked with gpgv against a keyring."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import BadSignature, MissingRequirement
from ansible_collections.minicloud.local.plugins.module_utils._files import explained
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, find_program
from ansible_collections.minicloud.local.plugins.module_utils._writing import remove_path

# With this key Ubuntu signs the indexes of its cloud images; the archive's keyring does not have it.
UBUNTU_KEYRINGS = (
    "/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg",
    "/etc/apt/trusted.gpg.d/ubuntu-cloudimage-keyring.gpg",
)


def installed_keyring(candidates: t.Iterable[str]) -> str:
    """The first of the distribution's keyrings that is installed and can be used, empty if none is."""
    for path in candidates:
        if os.path.isfile(path) and find_program("gpgv"):
            return path
    return ""


def verify(signed: bytes, keyring: str, runtime: Runtime, directory: str, what: str) -> bytes:
    """The content of a signed text (OpenPGP cleartext signature), and nothing that the signature does not cover.

    directory -- where to put a temporary file; what -- names the text in errors
    BadSignature where it is not signed with a key of KEYRING; MissingRequirement without keyring or gpgv.
    """
    import tempfile

    gpgv = runtime.program("gpgv", purpose="to check the signature of an image index")
    if not os.path.isfile(keyring):
        raise MissingRequirement(
            f"the keyring {keyring} was not found on this host",
            f"it is needed to check the signature of {what}",
            "Install it, or correct the keyring of this image host.",
        )
    if not signed.lstrip().startswith(b"-----BEGIN PGP SIGNED MESSAGE-----"):
        raise BadSignature(f"{what} is not signed", hint=_HINT, keyring=keyring)
    with explained(f"the signature of {what} could not be checked"):
        work = tempfile.mkdtemp(prefix="signed-", suffix=".tmp", dir=directory)
        try:
            source, content = os.path.join(work, "signed"), os.path.join(work, "content")
            with open(source, "wb") as stream:
                stream.write(signed)
            done = runtime.run(
                [gpgv, "--status-fd", "1", "--keyring", os.path.abspath(keyring), "--output", content, source]
            )
            status = {line.split()[1] for line in done.out.splitlines() if line.startswith("[GNUPG:] ")}
            if done.rc != 0 or "VALIDSIG" not in status or status & {"BADSIG", "ERRSIG", "REVKEYSIG"}:
                raise BadSignature(
                    f"the signature of {what} is not good",
                    _reason(status, done.err, keyring),
                    _HINT,
                    keyring=keyring,
                    stderr=done.err,
                )
            with open(content, "rb") as stream:
                return stream.read()
        finally:
            remove_path(work)


_HINT = (
    "Somebody may have changed it on its way: nothing of it was used or kept. If this host publishes no index signed"
    " with a key of that keyring, set the host's keyring to the right file or to none."
)


def _reason(status: set[str], stderr: str, keyring: str) -> str:
    if "BADSIG" in status:
        return "its content was changed after it was signed"
    if "NO_PUBKEY" in status:
        return f"the key that signed it is not in {keyring}"
    if "REVKEYSIG" in status:
        return "the key that signed it was revoked"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else "gpgv found no signature in it"
