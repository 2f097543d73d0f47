# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from ansible_collections.minicloud.local.plugins.module_utils._errors import InUse, InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._hostnet import subnets
from ansible_collections.minicloud.local.plugins.module_utils._hostnet.subnets import Taken
from ansible_collections.minicloud.local.plugins.module_utils._network import Network

NET = IPv4Network("10.20.30.0/24")


def taken(*texts):
    return [Taken(IPv4Network(text), f"the route {text}") for text in texts]


@pytest.mark.parametrize("text", ["10.20.30.0/24", "192.168.0.0/16", "172.16.5.8/29", "10.0.0.0/8"])
def test_subnets_that_can_be_used(text):
    assert str(subnets.parse_subnet(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "nat", "10.20.30.1/24", "10.20.30.0", "10.20.30.0/30", "0.0.0.0/0", "224.0.0.0/24", "127.0.0.0/16",
     "169.254.7.0/24", "fd00::/64", "10.20.30.0/33", "240.0.0.0/24", "0.0.0.0/24"],
)  # fmt: skip
def test_subnets_that_cannot(text):
    with pytest.raises(InvalidOption, match="subnet"):
        subnets.parse_subnet(text)


def test_ipv6_subnets():
    assert str(subnets.parse_subnet6("fd12:3456:789a:0::/64")) == "fd12:3456:789a::/64"
    for text in ("fd00::/48", "fe80::/64", "::/64", "ff00::/64", "10.0.0.0/24", "fd00::1/64", "::1/128"):
        with pytest.raises(InvalidOption):
            subnets.parse_subnet6(text)


def test_the_gateway_is_the_first_address():
    assert subnets.gateway(NET) == "10.20.30.1"
    assert subnets.gateway(subnets.parse_subnet6("fd12::/64")) == "fd12::1"


@pytest.mark.parametrize(
    ("subnet", "range_"), [("10.20.30.0/24", "10.20.30.64-10.20.30.254"), ("10.20.30.8/29", "10.20.30.10-10.20.30.14")]
)
def test_the_default_range_is_a_valid_one(subnet, range_):
    parsed = IPv4Network(subnet)
    assert subnets.default_range(parsed) == range_
    assert subnets.normal_range(range_, parsed) == range_


@pytest.mark.parametrize(
    ("range_", "why"),
    [
        ("10.20.30.9", "no hyphen"),
        ("10.20.30.9-10.20.30.8", "before it begins"),
        ("10.20.30.1-10.20.30.9", "the host's"),
        ("10.20.30.9-10.20.30.255", "not within"),
        ("10.20.31.9-10.20.31.10", "not within"),
        ("10.20.30.9-x", "not a range"),
    ],
)
def test_ranges_that_cannot_be_meant(range_, why):
    with pytest.raises(InvalidOption, match=why):
        subnets.parse_range(range_, NET)


def test_a_collision_names_what_takes_the_subnet():
    with pytest.raises(
        InUse, match=r"10\.20\.30\.0/24 collides with 10\.20\.0\.0/16: that is the route 10\.20\.0\.0/16"
    ):
        subnets.check_free(NET, taken("192.168.1.0/24", "10.20.0.0/16"))
    subnets.check_free(NET, taken("10.20.31.0/24", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"))


def test_a_subnet_is_chosen_beside_those_taken():
    first = subnets.choose_subnet([], 5)
    assert first == IPv4Network("10.128.80.0/20")
    assert subnets.choose_subnet(taken(str(first), "10.128.97.128/25"), 5) == IPv4Network("10.128.112.0/20")
    # The last one of a range is followed by its first.
    assert subnets.choose_subnet(taken("10.255.255.0/24"), 2047) == IPv4Network("10.128.0.0/20")


def test_a_route_to_a_whole_range_leads_to_another_range():
    assert subnets.choose_subnet(taken("10.0.0.0/8"), 3) == IPv4Network("172.16.48.0/20")
    assert subnets.choose_subnet(taken("10.0.0.0/8", "172.16.0.0/12"), 3) == IPv4Network("192.168.48.0/20")
    with pytest.raises(InUse, match="no free subnet"):
        subnets.choose_subnet(taken("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), 3)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.20.31.5", "outside the subnet"),
        ("10.20.30.1", "this host's own"),
        ("10.20.30.0", "first or last"),
        ("10.20.30.255", "first or last"),
        ("10.20.30", "not an IPv4 address"),
        ("10.20.30.5/24", "not an IPv4 address"),
        ("fd00::5", "not an IPv4 address"),
    ],
)
def test_addresses_that_cannot_be_given(address, why):
    with pytest.raises(InvalidOption, match=why):
        subnets.parse_address(address, NET)


def test_an_address_is_chosen_beside_those_used():
    assert subnets.parse_address("10.20.30.5", NET) == "10.20.30.5"
    assert subnets.choose_address("10.20.30.5-10.20.30.7", NET, {"10.20.30.5", "10.20.30.7"}) == "10.20.30.6"
    wide = IPv4Network("10.20.16.0/20")
    assert subnets.choose_address("10.20.20.0-10.20.31.254", wide, ()) == "10.20.20.1"
    assert subnets.choose_address("10.20.20.254-10.20.31.254", wide, {"10.20.20.254"}) == "10.20.21.1"
    with pytest.raises(InUse, match="no free address"):
        subnets.choose_address("10.20.30.5-10.20.30.5", NET, {"10.20.30.5"})


def test_a_record_is_filled_in():
    network = Network("lab", "qemu", "qemu", "")
    subnets.fill_in(network, taken("10.128.112.0/24"), 7)
    assert (network.subnet, network.dhcp_range) == ("10.128.128.0/20", "10.128.132.0-10.128.143.254")
    network.phase = "ready"
    # What came later than the network does not move it.
    subnets.fill_in(network, taken("10.128.128.0/24"), 7)
    assert network.subnet == "10.128.128.0/20"
    with pytest.raises(InUse):
        subnets.fill_in(Network("lab", "qemu", "qemu", "", subnet="10.128.8.0/24"), taken("10.128.8.0/24"), 7)
    with pytest.raises(InvalidOption, match="mtu 900"):
        subnets.fill_in(Network("lab", "qemu", "qemu", "", mtu=900), [], 7)
    assert subnets.contains(NET, "10.20.30.9") and not subnets.contains(NET, "10.20.31.9")
