# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs and daemons of the host that answer otherwise than any version that is known."""

from __future__ import annotations

import json

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._drivers.libvirt.domain import parse_domain
from ansible_collections.minicloud.local.plugins.module_utils._drivers.qemu_family.usernet import parse_forwards
from ansible_collections.minicloud.local.plugins.module_utils._errors import HostError, HypervisorError, ImageError
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import firewall, interfaces, links, uplink
from ansible_collections.minicloud.local.plugins.module_utils._images import confined
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Completed, Runtime

ANSWERS = ["[", "7", "[7]", '["a"]', '[{"ifname": [1]}]', '{"nftables": [[]]}', "[" * 100_000]


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    monkeypatch.setattr(links, "ip_program", lambda runtime: "ip")
    monkeypatch.setattr(interfaces, "find_program", lambda name: name)
    monkeypatch.setattr(firewall, "nft_program", lambda runtime: "nft")


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "read",
    [
        links.read_links,
        links.read_routes,
        interfaces.read_interfaces,
        lambda runtime: uplink.read_uplink(runtime, "ip", "eth0"),
        firewall.read_ruleset,
    ],
)
def test_it_is_told_which_answer_is_not_understood(read, answer):
    runtime = Runtime(lambda argv, **dummy: Completed(0, answer, ""))
    with pytest.raises(HostError, match=r"what (ip|nft) says of .* cannot be understood"):
        read(runtime)


@pytest.mark.parametrize(
    "answer",
    ["  TCP[HOST_FORWARD] 14", "  UDP[HOST_FORWARD] 14 * x 10.0.2.15 22", "  TCP[HOST_FORWARD] 14 * 65536 a 22"],
)
def test_forwards_of_qemu(answer):
    with pytest.raises(HypervisorError, match="user-mode network cannot be understood"):
        parse_forwards(answer)


@pytest.mark.parametrize(
    "xml", ["", "<domain>", "<domain><vcpu>x</vcpu></domain>", "<domain><memory>-</memory></domain>"]
)
def test_domains_of_libvirt(xml):
    with pytest.raises(HypervisorError, match="what libvirt says of a domain cannot be understood"):
        parse_domain(xml)


@pytest.mark.parametrize("special", [7, ["x"], {"data": "x"}])
def test_reports_of_qemu_img(special):
    report = {"format": "qcow2", "virtual-size": 5, "format-specific": special}
    with pytest.raises(ImageError, match="what qemu-img reports cannot be understood"):
        confined._check_info(json.loads(json.dumps(report)), "qcow2", False, "x")
