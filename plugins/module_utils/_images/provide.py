# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""A vault that brings what it lacks. What fetches, builds and prepares images is imported only when it must work."""

from __future__ import annotations

import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import Reference
from ansible_collections.minicloud.local.plugins.module_utils._images.source import Resolver, Source
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import CONTAINER, DISK
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Deadline, Runtime
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

if t.TYPE_CHECKING:
    from ansible_collections.minicloud.local.plugins.module_utils._images.acquire import Acquisition


class ProvidedVault(Vault):
    """The vault of a data directory, and the ways of images into it."""

    def __init__(self, data: DataDirectory, runtime: Runtime, resolve: Resolver | None = None) -> None:
        """resolve -- asks the image hosts for the references that are neither url, file nor bootstrap"""
        super().__init__(data, runtime)
        self.resolve = resolve

    def ensure(
        self,
        reference: Reference,
        arch: str,
        checksum: str = "",
        refresh: bool = False,
        deadline: Deadline | None = None,
        force: bool = False,
        kind: str = DISK,
    ) -> tuple[Image, bool]:
        """Have an image here, fetched or built if need be, and whether that changed anything.

        checksum -- sha256:HEX, sha512:HEX or sha256:URL of a list of checksums; what is here must match it too
        refresh -- ask the source for its newest version; a version that it replaces stays in the vault
        deadline -- by when it must be done; without one the wait for another run is an hour, the fetch unlimited
        force -- fetch or build it all the same, and put it in the place of what is here
        kind -- disk, or container for the image of one
        """
        image, changed = self._acquisition(kind)(
            self, reference, arch, checksum, refresh, deadline, force=force, resolve=self.resolve
        ).run()
        self.touch(image)
        return image, changed

    def forecast(
        self, reference: Reference, arch: str, checksum: str = "", refresh: bool = False, kind: str = DISK
    ) -> Image | None:
        """What ensure() would bring, without its content and as far as that is known before; None where nothing new.

        Asks the source where it is to be refreshed. Raises what ensure() would raise before it begins to fetch.
        """
        return self._acquisition(kind)(self, reference, arch, checksum, refresh, resolve=self.resolve).forecast()

    @staticmethod
    def _acquisition(kind: str) -> type[Acquisition]:
        """What brings images of a kind into the vault."""
        if kind == CONTAINER:
            from ansible_collections.minicloud.local.plugins.module_utils._images.acquire_root import RootAcquisition

            return RootAcquisition
        from ansible_collections.minicloud.local.plugins.module_utils._images.acquire import Acquisition

        return Acquisition


def ask_hosts(
    data: DataDirectory, runtime: Runtime, extra: t.Mapping[str, t.Any] | None = None, refresh: bool = False
) -> Resolver:
    """What asks the image hosts; nothing of theirs is imported until it does. extra -- the option image_hosts"""

    def resolve(reference: Reference, arch: str, kind: str) -> Source:
        from ansible_collections.minicloud.local.plugins.module_utils._images.hosts import ImageHosts

        return ImageHosts(data, runtime, extra).resolve(reference, arch, kind, refresh)

    return resolve
