# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Cloud-init's user-data and vendor-data as users give them: checking, reading, writing, comparing."""

from __future__ import annotations

import functools
import json
import re
import typing as t

from ansible_collections.minicloud.local.plugins.module_utils._errors import InvalidOption

# What users give: a mapping, or text in any form that cloud-init takes.
Given = t.Union[str, t.Mapping[str, t.Any], None]

CLOUD_CONFIG = "#cloud-config"
ARCHIVE = "#cloud-config-archive"
JINJA = "## template: jinja"
MIME = "MIME"
# cloud-init goes by the longest beginning that fits, without regard to case and leading white space.
_BEGINNINGS = (
    ARCHIVE,
    "#cloud-config-jsonp",
    JINJA,
    "#cloud-boothook",
    "#include-once",
    "#part-handler",
    CLOUD_CONFIG,
    "#include",
    "#!",
)
_FORMS = "#cloud-config, #! (a script), #include, #cloud-boothook, #part-handler, #cloud-config-archive"
# Characters that JSON leaves as they are and YAML does not accept, or takes for the end of a line; and the hyphen of a
# mail header in some text, for which cloud-init would take the whole for a MIME message.
_TO_ESCAPE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|(?<=mime)-(?=version:)", re.IGNORECASE)
_BOUNDARY = "===============minicloud-user-data=="
# Values in one document, each counted as often as aliases name it: no user-data has so many.
_MOST_VALUES = 200_000
_YAML_KEY = re.compile(r"(?:---\s*\n)?(?:\s*(?:#.*)?\n)*[A-Za-z_][\w.-]*\s*:(?:\s|$)")


class NotReadable(Exception):
    """The text is not YAML, or cannot be read without PyYAML; arguments: reason, line, column (from 1; 0: unknown)."""


def form(text: str) -> str:
    """Which of cloud-init's forms TEXT has: its beginning as in the documentation, MIME, or empty for none."""
    if "mime-version:" in text[:4096].lower():
        return MIME
    start = text.lstrip().lower()
    return next((beginning for beginning in _BEGINNINGS if start.startswith(beginning)), "")


def load_yaml(text: str) -> t.Any:
    """TEXT as data, through PyYAML where this host has it, else as JSON. Raises NotReadable."""
    try:
        import yaml
    except ImportError:
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        try:
            return json.loads("\n".join(lines))
        except (ValueError, RecursionError) as exc:
            raise NotReadable("PyYAML is not installed on this host, and it is not JSON", 0, 0) from exc
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _check_aliases(node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        reason = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        raise NotReadable(reason, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0) from exc
    except (ValueError, RecursionError) as exc:
        # A day that no month has, a number that is none or is without end, lists in lists in lists.
        raise NotReadable(str(exc), 0, 0) from exc


def _check_aliases(top: t.Any) -> None:
    """Raise NotReadable for YAML whose aliases stand for far more than its text, or for what contains itself.

    top -- the node of the whole document. Whoever follows the aliases would never come to an end.
    """
    values: dict[int, int] = {}  # by node: with all that is in it; 0 where that is being counted
    left = [] if top is None else [(top, False)]
    while left:
        node, counted = left.pop()
        parts = node.value if isinstance(node.value, list) else []
        inner = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        if counted:
            values[id(node)] = 1 + sum(values[id(each)] for each in inner)
            if values[id(node)] > _MOST_VALUES:
                raise NotReadable(f"with its aliases it has more than {_MOST_VALUES} values", *_place(node))
        elif id(node) not in values:
            values[id(node)] = 0
            left.append((node, True))
            for each in inner:
                if values.get(id(each)) == 0:
                    raise NotReadable("it contains itself, by an alias", *_place(each))
                left.append((each, False))


def _place(node: t.Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def have_yaml() -> bool:
    """Whether this host has PyYAML, so that all YAML can be read."""
    try:
        import yaml  # noqa: F401
    except ImportError:
        return False
    return True


class _Document:
    """What a task gives cloud-init under one option, read at most once; false where there is nothing in it.

    value -- as it was given: text or a mapping; None where it is nothing
    """

    def __init__(self, value: Given = None, option: str = "") -> None:
        self.value = None if _is_nothing(value) else value
        self.option = option

    def __bool__(self) -> bool:
        return self.value is not None

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def _check_mapping(self) -> None:
        if not isinstance(self.value, t.Mapping):
            raise InvalidOption(
                f"{self.option} must be a mapping or text",
                f"it is {_kind_of(self.value)}",
                "Put the settings under their names.",
            )
        try:
            to_json(self.value)
        except (TypeError, ValueError) as exc:
            raise InvalidOption(
                f"{self.option} holds a value that cannot be handed to cloud-init",
                str(exc),
                "Quote it, to make it text.",
            ) from exc

    @functools.cached_property
    def _data(self) -> t.Any:
        """The text, read as YAML; NotReadable, as a value, where it is none."""
        try:
            return load_yaml(str(self.value))
        except NotReadable as exc:
            return exc

    def _checked_data(self) -> t.Any:
        """The YAML of the text, or None where this host cannot tell; InvalidOption with the place where it is wrong."""
        data = self._data
        if not isinstance(data, NotReadable):
            return data
        reason, line, column = data.args
        if not have_yaml():
            return None
        where = f" at line {line}, column {column}" if line else ""
        raise InvalidOption(f"{self.option} is not valid YAML{where}", reason, "Correct it; nothing was changed.")


class CloudConfig(_Document):
    """User-data or vendor-data, in any form that cloud-init takes."""

    @functools.cached_property
    def form(self) -> str:
        """As of form(); empty of a mapping."""
        return form(self.value) if isinstance(self.value, str) else ""

    def check(self) -> None:
        """Raise InvalidOption if cloud-init would not understand it."""
        if self.value is None:
            return
        if not isinstance(self.value, str):
            self._check_mapping()
        elif self.form == MIME:
            _check_mime(self.value, self.option)
        elif self.form in (CLOUD_CONFIG, ARCHIVE):
            expected, name = (list, "list") if self.form == ARCHIVE else (dict, "mapping")
            data = self._checked_data()
            if data is not None and not isinstance(data, expected):
                raise InvalidOption(
                    f"{self.option} begins with {self.form}, and what follows is not a {name}",
                    f"it is {_kind_of(data)}",
                    f"Write a YAML {name} below the line {self.form}.",
                )
        elif not self.form:
            hint = f"Begin it with one of {_FORMS}, or {JINJA} above one of these, or give a MIME message or a mapping."
            if _YAML_KEY.match(self.value):
                hint = f"It looks like cloud-config: begin it with a line {CLOUD_CONFIG}, or give it as a mapping."
            first = next((line.strip() for line in self.value.splitlines() if line.strip()), "")
            raise InvalidOption(
                f"{self.option} is in no form that cloud-init knows", f"it begins with {first[:60]!r}", hint
            )

    @functools.cached_property
    def config(self) -> dict[str, t.Any]:
        """The cloud-config that it amounts to, as far as this host can tell: parts merged as cloud-init does it.

        Scripts and includes add nothing, and text that cannot be read here (jinja, or YAML without PyYAML) is left out.
        """
        if self.form == CLOUD_CONFIG:
            return self._data if isinstance(self._data, dict) else {}
        merged: dict[str, t.Any] = {}
        for part in _cloud_configs(self.value):
            merged.update(part)
        return merged


class Settings(_Document):
    """Network configuration or meta-data: a mapping, or the YAML or JSON text of one."""

    def check(self) -> None:
        """Raise InvalidOption if it is none."""
        if self.value is None:
            return
        if not isinstance(self.value, str):
            self._check_mapping()
            return
        data = self._checked_data()
        if data is not None and not isinstance(data, dict):
            raise InvalidOption(
                f"{self.option} is not a mapping", f"it is {_kind_of(data)}", "Give a mapping, or YAML of one."
            )

    @property
    def mapping(self) -> dict[str, t.Any]:
        """As a mapping. InvalidOption where this host cannot read it."""
        data = self._data if isinstance(self.value, str) else self.value
        if isinstance(data, NotReadable):
            raise InvalidOption(f"{self.option} cannot be read", data.args[0], "Give it as a mapping.")
        return dict(data or {})


def _is_nothing(value: t.Any) -> bool:
    """Whether there is nothing in what a user gave: none, empty, blank, or a cloud-config of comments alone."""
    if not isinstance(value, str):
        return value is None or value in ({}, [])
    if form(value) not in ("", CLOUD_CONFIG):
        return False
    lines = (line.strip() for line in value.splitlines())
    return "".join(line for line in lines if not line.startswith("#")) in ("", "---", "{}", "null")


def _check_mime(text: str, option: str) -> None:
    import email

    try:
        message = email.message_from_string(text)
    except RecursionError as exc:
        raise InvalidOption(
            f"{option} is a MIME message that cannot be taken apart", "it is nested too deep", "Check its parts."
        ) from exc
    defects = "; ".join(type(defect).__doc__ or type(defect).__name__ for defect in message.defects)
    if message.get_content_maintype() == "multipart" and (not message.is_multipart() or defects):
        raise InvalidOption(
            f"{option} is a MIME message that cannot be taken apart",
            defects or "it has no parts",
            "Check that its boundary lines are the boundary of its header after two hyphens.",
        )


def _kind_of(value: t.Any) -> str:
    names = {list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)


def _cloud_configs(value: t.Any, kind: str = "") -> t.Iterator[dict[str, t.Any]]:
    if isinstance(value, t.Mapping):
        yield dict(value)
        return
    if not isinstance(value, str):
        return
    kind = kind or form(value)
    if kind == MIME:
        import email

        for part in email.message_from_string(value).walk():
            if not part.is_multipart():
                payload = part.get_payload(decode=True)
                text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
                if len(text) >= len(value):
                    continue  # it has no header, and its only part is itself
                yield from _cloud_configs(text, CLOUD_CONFIG if part.get_content_type() == "text/cloud-config" else "")
    elif kind == JINJA:
        # Most templates only fill in values; those that are YAML all the same can be read.
        yield from _cloud_configs(value.lstrip().partition("\n")[2])
    elif kind in (CLOUD_CONFIG, ARCHIVE):
        try:
            data = load_yaml(value)
        except NotReadable:
            return
        if kind == CLOUD_CONFIG:
            yield from [data] if isinstance(data, dict) else []
            return
        for entry in data if isinstance(data, list) else []:
            content, named = (entry.get("content"), entry.get("type")) if isinstance(entry, dict) else (entry, None)
            if isinstance(content, str) and named in (None, "text/cloud-config"):
                yield from _cloud_configs(content, form(content) or CLOUD_CONFIG)


def to_json(value: t.Any) -> str:
    """VALUE as JSON that is YAML too and nothing else to cloud-init, whatever text it holds.

    Raises TypeError or ValueError.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
    text.encode()  # raises for a lone surrogate
    return _TO_ESCAPE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def to_bytes(value: Given) -> bytes:
    """User-data or vendor-data as cloud-init gets it: text as it is, a mapping as #cloud-config with JSON below."""
    if isinstance(value, str) and value:
        return value.encode()
    return f"{CLOUD_CONFIG}\n{to_json(value or {})}\n".encode()


def as_ascii(content: bytes) -> str:
    """User-data or vendor-data that means the same to cloud-init and has nothing beyond ASCII.

    For ways on which somebody guesses the encoding of text, and guesses wrong. Strings of JSON are escaped, and any
    other form travels as a MIME message with base64, which cloud-init takes apart first of all.
    """
    if content.isascii():
        return content.decode("ascii")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _as_message(content, "application/gzip" if content[:2] == b"\x1f\x8b" else "application/octet-stream")
    kind = form(text)
    if kind == MIME:
        return _ascii_message(text)
    head, newline, body = text.partition("\n")
    if kind == CLOUD_CONFIG and head.isascii() and _is_json(body):
        return f"{head}{newline}{escaped(body)}"
    return _as_message(content, 'text/plain; charset="utf-8"')


def escaped(text: str) -> str:
    """JSON that is read as YAML, with what its strings have beyond ASCII as escapes of YAML.

    JSON itself has none of one piece for characters such as emoji, and YAML takes its two pieces for two characters.
    """
    return re.sub(
        "[^\x00-\x7f]",
        lambda found: f"\\u{ord(found[0]):04x}" if ord(found[0]) < 0x10000 else f"\\U{ord(found[0]):08x}",
        text,
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _as_message(content: bytes, kind: str) -> str:
    """A message of one part, whose kind cloud-init finds by its beginning."""
    return "\n".join(
        (
            f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"',
            "MIME-Version: 1.0",
            "",
            f"--{_BOUNDARY}",
            f"Content-Type: {kind}",
            "Content-Transfer-Encoding: base64",
            "",
            f"{_base64(content)}--{_BOUNDARY}--",
            "",
        )
    )


def _ascii_message(text: str) -> str:
    """A message with the same parts, each of which that has more than ASCII is in base64."""
    import email

    # As bytes: what is not ASCII is kept that way.
    message = email.message_from_bytes(text.encode())
    for part in message.walk():
        part.preamble = part.epilogue = None
        if part.is_multipart():
            continue
        content = part.get_payload(decode=True)
        # Base64 may contain stray characters, which decoding drops.
        if isinstance(content, bytes) and not (content.isascii() and str(part.get_payload()).isascii()):
            del part["Content-Transfer-Encoding"]
            part["Content-Transfer-Encoding"] = "base64"
            part.set_payload(_base64(content))
    # A header that has more (a file's name) is encoded in the way of headers.
    return message.as_string(maxheaderlen=0)


def _base64(content: bytes) -> str:
    import base64

    return base64.encodebytes(content).decode("ascii")


def canonical(value: t.Any) -> bytes:
    """VALUE in a form that is the same for equal values: the order of a mapping's keys does not matter.

    None, empty text and an empty mapping are all the same: nothing given.
    """
    if not value:
        return b""
    if isinstance(value, str):
        return b"text " + value.encode()
    return b"data " + json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def fingerprint(value: t.Any) -> str:
    """The SHA-256 of the canonical form, as hex digits, to see later whether the value has changed."""
    import hashlib

    return hashlib.sha256(canonical(value)).hexdigest()
