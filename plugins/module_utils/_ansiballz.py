# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Has Python compile each file of Ansible's pack once. Modules import this before anything else of the collection.

A module runs from a zip file without compiled code. Python's importer for such files compiles each file twice: to
find out what it is called, and to run it. That was half of what starting a module cost.
"""

from __future__ import annotations

import os
import sys
import zipimport


class PackImporter(zipimport.zipimporter):
    """Python's importer for zip files, which tells the name of a file without compiling it."""

    def get_filename(self, fullname: str) -> str:
        name = fullname.rpartition(".")[2]
        ending = f"{os.sep}__init__.py" if self.is_package(fullname) else ".py"
        return f"{self.archive}{os.sep}{self.prefix}{name}{ending}"


def install(archive: str) -> None:
    """Have what is imported from now on from a zip file, and other zip files, go through PackImporter."""
    sys.path_hooks.insert(0, PackImporter)
    for path in list(sys.path_importer_cache):
        if path == archive or path.startswith(archive + os.sep):
            del sys.path_importer_cache[path]


# On the controller, and wherever the collection is installed as files, there is nothing to do.
_LOADER = globals().get("__loader__")
if isinstance(_LOADER, zipimport.zipimporter) and PackImporter not in sys.path_hooks:
    install(_LOADER.archive)
