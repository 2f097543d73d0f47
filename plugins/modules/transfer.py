#!/usr/bin/python
# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: transfer
short_description: Copy files and directories into an instance and out of it
version_added: 0.1.0
author:
  - The minicloud.local authors (@minicloud)
description:
  - Copies files and directories between the host that runs Ansible and the task's host, by the connection alone. The
    guest needs no Python, only a shell and C(tar).
  - The files belong to the user that the connection is made as. Their permissions are kept, other than set-user-ID and
    the like.
  - Links stay links. What comes out of a guest is not trusted, so that links to places outside of the directory, and
    what is neither a file, a directory nor a link, are left out with a warning.
options:
  source:
    description: What to copy, on this host, or in the guest with O(fetch=true). A relative path there is below the home
      directory.
    type: list
    elements: str
    required: true
  target:
    description:
      - Where to, on the other side. In a directory that is there, each is put under its own name; else the one source
        gets this name.
      - Nothing is the home directory, or the current directory of this host.
    type: str
    default: ''
  recursive:
    description: Whether directories are copied, with all that is in them. Without it they are an error.
    type: bool
    default: false
  fetch:
    description: Whether to copy out of the guest.
    type: bool
    default: false
  driver:
    description:
      - The connection tells which instance it is, and neither this nor O(driver_options). They are accepted so that
        defaults for the action group may contain them. With O(data_dir), this tells whose instances an error names.
  driver_options:
    description: Not used.
  data_dir:
    description: As O(driver).
extends_documentation_fragment:
  - minicloud.local._attributes
  - minicloud.local._attributes.minicloud
  - minicloud.local._common
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
  idempotent:
    support: none
    details: It copies each time. Use M(ansible.builtin.copy) or M(minicloud.local.mount) for what is to stay the same.
seealso:
  - plugin: minicloud.local.instance
    plugin_type: connection
  - module: minicloud.local.mount
"""

EXAMPLES = r"""
- name: Copy a directory into an instance that the inventory knows
  hosts: web
  gather_facts: false
  tasks:
    - name: Copy it
      minicloud.local.transfer:
        source: [site]
        target: /srv
        recursive: true

    - name: Bring a log home
      minicloud.local.transfer:
        source: [/var/log/dpkg.log]
        target: logs/
        fetch: true
"""

RETURN = r"""
transferred:
  description: Where each of them is now.
  type: list
  elements: str
  returned: success
  sample: [/srv/site]
"""

# The action plugin of the same name does all of it.
ARGUMENTS = {
    "source": {"type": "list", "elements": "str", "required": True},
    "target": {"type": "str", "default": ""},
    "recursive": {"type": "bool", "default": False},
    "fetch": {"type": "bool", "default": False},
}
