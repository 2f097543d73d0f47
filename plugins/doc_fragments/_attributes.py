# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

from __future__ import annotations


class ModuleDocFragment:
    """What a module promises about check mode, diff mode and repeated runs."""

    # Each module that extends this states the support itself.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and predict what would change, without changing anything.
  diff_mode:
    description: In diff mode, returns the state before and after the change, or in check mode the state it would have.
  idempotent:
    description:
      - A second run with the same options reports no change.
      - This supposes that nothing else has changed the host or its instances in between.
"""

    # For modules that only look; together with the standard fragment.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    support: full
    details:
      - This module changes nothing.
"""

    MINICLOUD = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/minicloud.local.minicloud) in C(module_defaults) to set defaults for all modules of the collection.
    support: full
    membership:
      - minicloud.local.minicloud
"""
