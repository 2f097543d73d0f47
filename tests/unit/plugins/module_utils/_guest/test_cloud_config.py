# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import email
import gzip
import sys
import typing as t

import pytest
import yaml

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption
from ansible_collections.minicloud.local.plugins.module_utils._guest import cloud_config
from ansible_collections.minicloud.local.plugins.module_utils._guest.cloud_config import (
    CloudConfig,
    Settings,
    as_ascii,
    canonical,
    fingerprint,
    form,
    load_yaml,
    to_bytes,
    to_json,
)

MIME = """Content-Type: multipart/mixed; boundary="b"
MIME-Version: 1.0

--b
Content-Type: text/cloud-config

users: [alice]
packages: [a]
--b
Content-Type: text/x-shellscript

#!/bin/sh
true
--b
Content-Type: text/plain

#cloud-config
packages: [b]
--b--
"""
ARCHIVE = """#cloud-config-archive
- type: text/cloud-config
  content: |
    users: [alice]
- |
  #!/bin/sh
  echo users
- "#cloud-config\\npackages: [b]"
"""


@pytest.fixture(params=[True, False], ids=["PyYAML", "no PyYAML"])
def any_host(request, monkeypatch) -> bool:
    """A host with PyYAML, and one without."""
    if request.param:
        pytest.importorskip("yaml")
    else:
        monkeypatch.setitem(sys.modules, "yaml", None)
    return request.param


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#cloud-config\na: 1", "#cloud-config"),
        ("  \n#Cloud-Config\na: 1", "#cloud-config"),
        ("#!/bin/sh\n", "#!"),
        ("#cloud-config-archive\n- x", "#cloud-config-archive"),
        ("## template: jinja\n#cloud-config\n", "## template: jinja"),
        ("#include\nhttp://x", "#include"),
        ("#cloud-boothook\n", "#cloud-boothook"),
        ("#part-handler\n", "#part-handler"),
        (MIME, "MIME"),
        ("a: 1", ""),
        ("", ""),
    ],
)
def test_form(text: str, expected: str) -> None:
    assert form(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        {},
        {"packages": ["x"]},
        "#cloud-config\npackages: [x]\n",
        "#cloud-config\n",
        "#!/bin/bash\n{ not yaml",
        "## template: jinja\n#cloud-config\nhostname: {{ v1.local_hostname }}\n{% if x %}\n",
        "#include\nhttps://example.com/x\n",
        "#cloud-boothook\n#!/bin/sh\n",
        "#part-handler\ndef list_types(): return []\n",
        ARCHIVE,
        MIME,
    ],
)
def test_all_forms_are_accepted(value, any_host: bool) -> None:
    CloudConfig(value, "cloud_init").check()


def test_a_mapping_without_header_is_told_to_begin_with_one(any_host: bool) -> None:
    with pytest.raises(InvalidOption, match="begin it with a line #cloud-config") as caught:
        CloudConfig("# mine\npackages:\n  - x\n", "cloud_init").check()
    assert "cloud_init" in str(caught.value)


def test_unknown_text_is_told_the_forms(any_host: bool) -> None:
    with pytest.raises(InvalidOption, match=r"echo hello(?s:.*)#cloud-config, #! .*MIME"):
        CloudConfig("\necho hello\n", "vendor_data").check()


def test_broken_yaml_is_located() -> None:
    pytest.importorskip("yaml")
    with pytest.raises(InvalidOption, match=r"cloud_init is not valid YAML at line 3, column \d+"):
        CloudConfig("#cloud-config\nruncmd:\n  - [a, b\npackages: x\n".replace("[a, b", "]"), "cloud_init").check()


def test_a_list_is_no_cloud_config() -> None:
    pytest.importorskip("yaml")
    with pytest.raises(InvalidOption, match="not a mapping: it is a list"):
        CloudConfig("#cloud-config\n- packages\n", "cloud_init").check()
    with pytest.raises(InvalidOption, match="not a list: it is a mapping"):
        CloudConfig("#cloud-config-archive\na: 1\n", "cloud_init").check()


@pytest.mark.parametrize("text", ["!!int x", "day: 2001-99-99", "9" * 5000, "[" * 3000, "a: !!float x"])
def test_yaml_that_means_nothing_is_refused(text) -> None:
    with pytest.raises(InvalidOption, match="cloud_init is not valid YAML"):
        CloudConfig(f"#cloud-config\n{text}\n", "cloud_init").check()
    with pytest.raises(InvalidOption, match="meta_data is not valid YAML"):
        Settings(text, "meta_data").check()


MERGED = "".join(f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 9 if n else [])}], x{n}: 1}}\n" for n in range(9))
_LISTS = [f"k{n}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(9)]
ALIASES = "\n".join(["a: &a [x, x, x, x]", *_LISTS, ""])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{ALIASES}users: *j\n", r"at line 7, .*with its aliases it has more than 200000 values"),
        ("a: &a [*a]\n", r"at line 2, column 4: it contains itself"),
        ("a: &a\n  b: {<<: *a}\n", r"it contains itself"),
        ("a: &a {x: 1}\nb: &b [*a, [*b]]\n", r"at line 3, column 4: it contains itself"),
        ("? &a {x: *a}\n: 1\n", r"it contains itself"),
        (MERGED, "more than 200000 values"),
    ],
)
def test_aliases_without_end_are_refused_at_once(text, why) -> None:
    with pytest.raises(InvalidOption, match=why):
        CloudConfig(f"#cloud-config\n{text}", "cloud_init").check()
    with pytest.raises(InvalidOption, match=r"values|contains itself"):
        Settings(text, "network_config").check()


def test_aliases_that_repeat_what_is_small_are_taken() -> None:
    assert load_yaml("a: &a [1, 2]\nb: [*a, *a, {<<: &m {x: 1}, y: *a}, *m]\nc: *a\n") == {
        "a": [1, 2], "b": [[1, 2], [1, 2], {"x": 1, "y": [1, 2]}, {"x": 1}], "c": [1, 2],
    }  # fmt: skip
    assert load_yaml("") is None


def test_messages_in_messages_in_messages_are_refused() -> None:
    with pytest.raises(InvalidOption, match="nested too deep"):
        CloudConfig("Content-Type: message/rfc822\nMIME-Version: 1.0\n\n" * 3000, "cloud_init").check()


def test_a_message_without_a_header_has_nothing_in_it() -> None:
    given = CloudConfig("Content-Typed; x\nMIME-Version: 1.0\n\nuser: ann\n", "cloud_init")
    assert given.form == "MIME"
    assert given.config == {}


def test_without_yaml_what_cannot_be_told_is_let_through(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    CloudConfig("#cloud-config\n- packages: [\n", "cloud_init").check()
    with pytest.raises(InvalidOption, match="not a mapping"):
        CloudConfig("#cloud-config\n[1]\n", "cloud_init").check()


@pytest.mark.parametrize("value", [[1], 5, True])
def test_wrong_types(value) -> None:
    with pytest.raises(InvalidOption, match="must be a mapping or text"):
        CloudConfig(value, "cloud_init").check()
    with pytest.raises(InvalidOption, match="must be a mapping or text"):
        Settings(value, "meta_data").check()


def test_values_that_json_lacks() -> None:
    with pytest.raises(InvalidOption, match="cannot be handed"):
        CloudConfig({"a": {1, 2}}, "cloud_init").check()
    with pytest.raises(InvalidOption, match="cannot be handed"):
        CloudConfig({"a": float("nan")}, "cloud_init").check()


def test_broken_mime() -> None:
    with pytest.raises(InvalidOption, match="boundary"):
        CloudConfig(MIME.replace("--b", "--c"), "cloud_init").check()


def test_documents() -> None:
    Settings('{"version": 2}', "network_config").check()
    Settings({"version": 2}, "network_config").check()
    with pytest.raises(InvalidOption, match="network_config is not a mapping: it is a list"):
        Settings("[1]", "network_config").check()


def test_effective_merges_parts_as_cloud_init_does() -> None:
    pytest.importorskip("yaml")
    assert CloudConfig(MIME).config == {"users": ["alice"], "packages": ["b"]}
    assert CloudConfig(ARCHIVE).config == {"users": ["alice"], "packages": ["b"]}


def test_effective_of_what_can_be_read_anywhere(any_host: bool) -> None:
    assert CloudConfig({"a": 1}).config == {"a": 1}
    assert CloudConfig('#cloud-config\n{"a": 1}\n').config == {"a": 1}
    assert CloudConfig('## template: jinja\n#cloud-config\n{"a": 1}\n').config == {"a": 1}
    assert CloudConfig("#!/bin/sh\nusers: x\n").config == {}
    assert CloudConfig(None).config == {}
    assert CloudConfig("#cloud-config\n{{ broken\n").config == {}


def test_text_is_passed_byte_for_byte() -> None:
    text = "#cloud-config\r\n# a comment\na:  {{ 'x' }} # grüße\n"
    assert to_bytes(text) == text.encode()


def test_a_mapping_becomes_cloud_config_that_is_yaml_for_all_characters() -> None:
    yaml = pytest.importorskip("yaml")
    odd = "".join(map(chr, [*range(0x250), 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF, 0x1F600]))
    config = {"write_files": [{"content": odd}], "yes": "no", "n": [1, 1.5, None, True]}
    written = to_bytes(config)
    assert written.startswith(b"#cloud-config\n")
    assert yaml.safe_load(written) == config


def test_a_mail_in_a_mapping_does_not_make_it_mime() -> None:
    config = {"write_files": [{"content": "MIME-Version: 1.0\n"}]}
    written = to_bytes(config).decode()
    assert form(written) == "#cloud-config"
    assert CloudConfig(written).config == config


def test_nothing_becomes_an_empty_cloud_config() -> None:
    assert to_bytes(None) == to_bytes({}) == to_bytes("") == b"#cloud-config\n{}\n"


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        to_json({"a": "\ud800"})


def test_fingerprints() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert fingerprint("a") != fingerprint("a ")
    assert fingerprint('"a"') != fingerprint(["a"])
    assert fingerprint(None) == fingerprint({}) == fingerprint("")
    assert len(fingerprint("a")) == 64
    assert canonical({"b": 1, "a": "ü"}) == canonical({"a": "ü", "b": 1})


def test_yaml_is_not_imported_with_the_module() -> None:
    assert not hasattr(cloud_config, "yaml")


ODD = "gr\u00fc\u00dfe \u4e16\u754c \U0001f427"


def as_cloud_init_reads(text: str) -> list[tuple[str, bytes]]:
    """The parts of user-data as cloud-init takes them apart: of each its type as named, and its content."""
    if "mime-version:" not in text[:4096].lower():
        return [("text/plain", text.encode())]
    message = email.message_from_string(text)
    found = []
    for part in message.walk():
        assert not part.defects
        if not part.is_multipart():
            found.append((part.get_content_type(), t.cast(bytes, part.get_payload(decode=True))))
    return found


def test_what_is_ascii_stays_as_it_is() -> None:
    for text in ("#!/bin/sh\nexit 0\n", "#cloud-config\na: 1\n", "Content-Type: text/plain\nMIME-Version: 1.0\n\nx"):
        assert as_ascii(text.encode()) == text


@pytest.mark.parametrize(
    "text",
    [
        f"#!/bin/sh\necho '{ODD}'\n",
        f"#cloud-config\n# {ODD}\nfinal_message: '{ODD}'\n",
        f"#cloud-config\nfinal_message: {ODD}\r\n",
        f"## template: jinja\n#cloud-config\n# {ODD}\nhostname: {{{{ v1.local_hostname }}}}\n",
        f"#cloud-config-archive\n- type: text/cloud-config\n  content: '#{ODD}'\n",
        f"#include\nhttps://example.org/{ODD}\n",
        f"#cloud-boothook\n#!/bin/sh\necho {ODD}\n",
        f"#part-handler\n# {ODD}\n",
        f"  \n#!/bin/sh\n# {ODD}",
    ],
)
def test_text_beyond_ascii_travels_as_a_message_with_the_same_bytes(text: str) -> None:
    made = as_ascii(text.encode())
    assert made.isascii()
    assert as_cloud_init_reads(made) == [("text/plain", text.encode())]


def test_a_mapping_beyond_ascii_stays_cloud_config() -> None:
    value = {"write_files": [{"path": "/x", "content": ODD}], ODD: "\u2028\x85", "quote": '"\\u00e4\\'}
    made = as_ascii(to_bytes(value))
    assert made.isascii()
    assert made.startswith("#cloud-config\n")
    assert yaml.safe_load(made) == value


def test_a_message_beyond_ascii_keeps_its_parts() -> None:
    text = (
        f'Content-Type: multipart/mixed; boundary="B"\nMIME-Version: 1.0\n\n{ODD}\n'
        f"--B\nContent-Type: text/x-shellscript; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n#!/bin/sh\n# {ODD}\n"
        "--B\nContent-Type: text/cloud-config\nMerge-Type: list(append)\n\n#cloud-config\na: 1\n"
        f"--B--\n{ODD}\n"
    )
    made = as_ascii(text.encode())
    assert made.isascii()
    assert as_cloud_init_reads(made) == [
        ("text/x-shellscript", f"#!/bin/sh\n# {ODD}".encode()),
        ("text/cloud-config", b"#cloud-config\na: 1"),
    ]
    assert "Merge-Type: list(append)" in made


def test_what_is_no_text_travels_as_well() -> None:
    content = gzip.compress(b"#!/bin/sh\n")
    assert as_cloud_init_reads(as_ascii(content)) == [("application/gzip", content)]


def test_strays_in_base64_do_not_travel() -> None:
    head = 'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/x-shellscript\n'
    made = as_ascii(f"{head}Content-Transfer-Encoding: base64\n\nIyEvYmlu´L3No\n--b--\n".encode())
    assert made.isascii()
    assert as_cloud_init_reads(made) == [("text/x-shellscript", b"#!/bin/sh")]
