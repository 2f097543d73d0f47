# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does without starting the module of the same name where it can."""

from __future__ import annotations

from ansible_collections.minicloud.local.plugins.modules import settings
from ansible_collections.minicloud.local.plugins.plugin_utils._in_place import InPlace


class ActionModule(InPlace):
    """See InPlace."""

    module_body = staticmethod(settings.run)
    module_arguments = settings.ARGUMENTS
    module_subject = "settings"
