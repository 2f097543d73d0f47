# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection: not an interface for others.

"""Images, from what a task wishes to what the vault has: observe, plan, apply."""

from __future__ import annotations

import contextlib
import time
import typing as t
from dataclasses import field

from ansible_collections.minicloud.local.plugins.module_utils._dataclass import dataclass
from ansible_collections.minicloud.local.plugins.module_utils._drivers.crew import Crew
from ansible_collections.minicloud.local.plugins.module_utils._drivers.parts import Export
from ansible_collections.minicloud.local.plugins.module_utils._drivers.registry import (
    ABOUT,
    active_driver,
    load,
    require_capability,
)
from ansible_collections.minicloud.local.plugins.module_utils._errors import (
    InUse,
    InvalidOption,
    MinicloudError,
    NotFound,
)
from ansible_collections.minicloud.local.plugins.module_utils._image import Image
from ansible_collections.minicloud.local.plugins.module_utils._images.provide import ProvidedVault, ask_hosts
from ansible_collections.minicloud.local.plugins.module_utils._images.reference import (
    DEFAULT_HOST,
    Reference,
    parse_reference,
)
from ansible_collections.minicloud.local.plugins.module_utils._images.vault import PLAIN_NAME, Vault
from ansible_collections.minicloud.local.plugins.module_utils._model import (
    ABSENT,
    DEFAULT_TYPE,
    DELETED,
    DISK,
    KINDS,
    STOPPED,
    Instance,
    as_recorded,
    check_name,
    normal_arch,
    parse_age,
)
from ansible_collections.minicloud.local.plugins.module_utils._reconcile.image_listing import image_view, users_of
from ansible_collections.minicloud.local.plugins.module_utils._runtime import Runtime, seconds_of
from ansible_collections.minicloud.local.plugins.module_utils._scope import DataDirectory

PRESENT, LATEST = "present", "latest"

# How old an image that is built on this host may become before `latest` builds it anew from newer packages.
BUILD_SECONDS = 24 * 3600


@dataclass
class ImageWish:
    """What a task wishes of the vault.

    name -- None where images are pruned; prune -- seconds
    kind -- disk or container; empty for that of the instance that is published
    arch -- empty for that of the host that the driver makes instances on
    instance -- to publish under the name, empty for none
    """

    name: Reference | None
    state: str = PRESENT
    arch: str = ""
    kind: str = DISK
    checksum: str = ""
    alias: str = ""
    force: bool = False
    prune: float | None = None
    hosts: t.Mapping[str, t.Any] | None = None
    instance: str = ""
    clean: bool = True
    driver: str | None = None
    driver_options: t.Mapping[str, t.Any] | None = None


class ImageOutcome(t.NamedTuple):
    """What a run did, or in check mode would do. view -- the image as users see it; removed -- those that are gone"""

    changed: bool
    actions: list[str]
    view: dict[str, t.Any] | None
    removed: list[dict[str, t.Any]]
    before: dict[str, t.Any]
    after: dict[str, t.Any]


@dataclass
class _Plan:
    """steps -- in the order in which they are done; remove -- what leaves the vault"""

    steps: list[str] = field(default_factory=list)
    remove: list[Image] = field(default_factory=list)


def parse_image_wish(params: t.Mapping[str, t.Any]) -> ImageWish:
    """A wish from a task's options. InvalidOption where one of them cannot be meant."""
    wish = ImageWish(parse_reference(params["name"]) if params.get("name") else None, params["state"])
    wish.arch = normal_arch(params.get("arch") or "")
    wish.kind = KINDS[params.get("instance_type") or DEFAULT_TYPE]
    wish.checksum = params.get("checksum") or ""
    wish.alias = params.get("alias") or ""
    wish.force = bool(params.get("force"))
    wish.hosts = params.get("image_hosts")
    wish.driver, wish.driver_options = params.get("driver"), params.get("driver_options")
    if params.get("prune_older_than") is not None:
        wish.prune = parse_age(params["prune_older_than"], "prune_older_than", "that would remove nearly all images")
        if wish.state != ABSENT or wish.name:
            raise InvalidOption(
                "prune_older_than does not go with these options",
                hint="It needs state: absent, and no name: it removes all images that nobody has used for so long.",
            )
    elif not wish.name:
        raise InvalidOption("name is missing", hint="Name the image; or use prune_older_than with state: absent.")
    if wish.state == ABSENT:
        for option in ("checksum", "alias", "force"):
            if params.get(option):
                raise InvalidOption(f"{option} does not go with state: absent", hint="Leave it out.")
    if params.get("instance") is not None:
        _parse_publishing(wish, params)
    if wish.checksum:
        from ansible_collections.minicloud.local.plugins.module_utils._images.checksum import parse_checksum

        parse_checksum(wish.checksum)
    return wish


def _parse_publishing(wish: ImageWish, params: t.Mapping[str, t.Any]) -> None:
    wish.instance = check_name(params["instance"], "instance")
    wish.clean = params.get("clean") is not False
    wish.kind = KINDS[params["instance_type"]] if params.get("instance_type") else ""
    if wish.state != PRESENT:
        raise InvalidOption(f"instance does not go with state: {wish.state}", hint="Leave one of them out.")
    for option in ("checksum", "arch", "image_hosts"):
        if params.get(option):
            raise InvalidOption(f"{option} does not go with instance", hint="Leave it out.")
    name = t.cast(Reference, wish.name)
    if name.host != DEFAULT_HOST or not PLAIN_NAME.match(name.name):
        raise InvalidOption(
            f"the name {str(name)!r} is not one that an instance can be published as",
            hint="Use letters, digits, dots, hyphens and underscores only, such as my-base.",
        )


def reconcile_image(wish: ImageWish, runtime: Runtime, data: DataDirectory, check_mode: bool = False) -> ImageOutcome:
    """Bring the vault to what is wished, and tell what was done."""
    vault = ProvidedVault(data, runtime, ask_hosts(data, runtime, wish.hosts, wish.state == LATEST))
    if wish.prune is not None:
        return _prune(wish.prune, wish, vault, check_mode)
    if wish.instance:
        return _publish(wish, runtime, vault, check_mode)
    if not wish.arch:
        wish.arch = load(wish.driver, runtime, data, wish.driver_options).host.architecture()
    name = t.cast(Reference, wish.name)
    current = vault.known(name, wish.arch, wish.kind)
    before = _comparable(vault, current)
    if wish.state == ABSENT:
        plan = _plan_absent(name, wish, vault, current)
        if not check_mode:
            _carry_out_absent(plan, name, wish, vault)
        after: dict[str, t.Any] = {} if plan.steps else before
        return ImageOutcome(
            bool(plan.steps), plan.steps, None, [image_view(vault, i) for i in plan.remove], before, after
        )
    plan, image = _plan_present(name, wish, vault)
    changed = bool(plan.steps)
    if plan.steps and not check_mode:
        image, changed = _carry_out_present(plan, name, wish, vault, image)
    elif not check_mode:
        vault.touch(image)
    return _present(wish, vault, image, changed, plan.steps, before)


def _present(
    wish: ImageWish, vault: Vault, image: Image, changed: bool, steps: list[str], before: dict[str, t.Any]
) -> ImageOutcome:
    view = image_view(vault, image)
    if wish.alias and wish.alias not in view["aliases"]:
        view["aliases"] = sorted([*view["aliases"], wish.alias])
    after = {key: view[key] for key in ("name", "hash", "aliases")}
    return ImageOutcome(changed, steps, view, [], before, after)


# -- present and latest ------------------------------------------------------------------------------------------------


def _plan_present(name: Reference, wish: ImageWish, vault: ProvidedVault) -> tuple[_Plan, Image]:
    """What is to be done, and the image that will be there."""
    plan = _Plan()
    image = vault.find(name, wish.arch, wish.kind)
    refresh = wish.state == LATEST and (name.host != "bootstrap" or _is_outdated(name, wish, vault, image))
    new = vault.forecast(name, wish.arch, wish.checksum, refresh or wish.force, wish.kind)
    if new or wish.force:
        steps = {"bootstrap": "build_image", "file": "import_image"}
        plan.steps.append(steps.get(name.host, "fetch_image"))
    image = t.cast(Image, new or image)
    if wish.alias and wish.alias not in vault.aliases_of(image):
        plan.steps.append("set_alias")
    return plan, image


def _is_outdated(name: Reference, wish: ImageWish, vault: Vault, image: Image | None) -> bool:
    """Whether an image that is built here would be built differently today."""
    from ansible_collections.minicloud.local.plugins.module_utils._images.bootstrap import recipe_hash

    entry = vault.entry(name, wish.arch, wish.kind)
    if not image or not entry or entry.stamp != recipe_hash(name.name, wish.arch, wish.kind):
        return True
    try:
        made = seconds_of(image.created)
    except ValueError:
        return True
    return time.time() - made > BUILD_SECONDS


def _carry_out_present(
    plan: _Plan, name: Reference, wish: ImageWish, vault: ProvidedVault, image: Image
) -> tuple[Image, bool]:
    changed = False
    if plan.steps[0] != "set_alias":
        refresh = wish.state == LATEST
        image, changed = vault.ensure(name, wish.arch, wish.checksum, refresh=refresh, force=wish.force, kind=wish.kind)
    if wish.alias:
        changed = vault.set_alias(image, wish.alias) or changed
    return image, changed


# -- publishing --------------------------------------------------------------------------------------------------------


def _publish(wish: ImageWish, runtime: Runtime, vault: Vault, check_mode: bool) -> ImageOutcome:
    """Publish an instance. What the name leads to already is left alone, whether or not the instance is there still."""
    crew = Crew(load(wish.driver, runtime, vault.data, wish.driver_options))
    scope = crew.wanted.scope
    name = t.cast(Reference, wish.name)
    instance = scope.read(wish.instance)
    arch = instance.arch if instance else crew.wanted.host.architecture()
    kind = _kind_published(wish, instance, arch, vault)
    image, entry = vault.find(name, arch, kind), vault.entry(name, arch, kind)
    before = _comparable(vault, image)
    if image and entry and not entry.instance and not wish.force:
        raise InvalidOption(
            f"the name {name} is taken",
            f"it leads to an image in the vault that {'is called ' if entry.alias_of else 'came from '}"
            f"{entry.alias_of or image.source}",
            "Choose another name, or set force: true to let it lead to what is published.",
        )
    steps: list[str] = []
    if wish.force or not (image and entry):
        steps.append("publish_image")
        instance = _publishable(crew, wish.instance)
        if check_mode:
            from ansible_collections.minicloud.local.plugins.module_utils._images.publish import image_from

            image = image_from(instance, name, vault)
        else:
            with scope.lock(wish.instance, report=runtime.report):
                image = _publish_now(crew, wish, name, vault)
    if wish.alias and wish.alias not in vault.aliases_of(image):
        steps.append("set_alias")
        if not check_mode:
            vault.set_alias(image, wish.alias)
    if not check_mode:
        vault.touch(image)
    return _present(wish, vault, image, bool(steps), steps, before)


def _kind_published(wish: ImageWish, instance: Instance | None, arch: str, vault: Vault) -> str:
    """What the instance is published as; where it is gone, what something was published as under that name."""
    if instance is None:
        entries = {kind: vault.entry(t.cast(Reference, wish.name), arch, kind) for kind in KINDS.values()}
        return wish.kind or next((kind for kind, entry in entries.items() if entry and entry.instance), DISK)
    kind = KINDS[instance.instance_type]
    if wish.kind not in ("", kind):
        raise InvalidOption(
            f"the instance {instance.name} is a {instance.instance_type}, and instance_type says something else",
            hint="Leave instance_type out: what is published is what the instance is.",
        )
    return kind


def _publishable(crew: Crew, name: str) -> Instance:
    """The record of an instance that can be published: one that is stopped."""
    instance = crew.wanted.scope.read(name)
    if instance is None or instance.phase != "ready":
        raise NotFound(
            f"there is no instance {name} to publish",
            "" if instance is None else "the run that was making or removing it did not get to its end",
            f"Look with minicloud.local.instance_info which instances the driver {crew.wanted.name} has.",
        )
    require_capability(crew.of(instance).name, "publish", "instance: publish one as an image", instance.instance_type)
    if instance.restoring:
        raise InUse(
            f"the instance {instance.name} cannot be published",
            "bringing it back to a snapshot was begun and did not come to an end",
            "Run that again first, with minicloud.local.snapshot.",
        )
    state = as_recorded(instance, crew.of(instance).observe([instance])[0]).state
    if state == DELETED:
        raise InUse(
            f"the instance {instance.name} cannot be published",
            f"it is deleted since {instance.deleted}",
            "Recover it first, with state: present of minicloud.local.instance.",
            state=state,
        )
    if state != STOPPED:
        raise InUse(
            f"the instance {instance.name} cannot be published",
            f"it is {state}, and its disk changes all the time",
            "Stop it first, with state: stopped of minicloud.local.instance.",
            state=state,
        )
    return instance


def _publish_now(crew: Crew, wish: ImageWish, name: Reference, vault: Vault) -> Image:
    from ansible_collections.minicloud.local.plugins.module_utils._images.publish import publish, publish_root

    instance = _publishable(crew, wish.instance)
    export = t.cast(Export, crew.of(instance).export())

    def export_disk(target: str, format_: str) -> None:
        export.export_disk(instance, target, format_)

    @contextlib.contextmanager
    def export_root() -> t.Iterator[t.Iterable[bytes]]:
        with export.content(instance, ()) as content:
            yield content.pieces[0].blocks()

    if KINDS[instance.instance_type] == DISK:
        return publish(vault, instance, export_disk, name, wish.clean)
    return publish_root(vault, instance, export_root, name, wish.clean)


# -- absent ------------------------------------------------------------------------------------------------------------


def _refuse_if_used(image: Image, vault: Vault) -> None:
    users = users_of(vault.data).get(image.hash)
    if users:
        raise InUse(
            f"the image {image.name} cannot be removed",
            f"these instances are made from it: {', '.join(users)}"
            if image.kind != DISK
            else f"the disks of these instances are backed by it: {', '.join(users)}",
            "Remove the instances first, or keep the image.",
            instances=[user.partition(" ")[0] for user in users],
        )


def _plan_absent(name: Reference, wish: ImageWish, vault: Vault, current: Image | None) -> _Plan:
    entry = vault.entry(name, wish.arch, wish.kind)
    if not current:
        # Of an image that is gone only the name is known.
        return _Plan(["forget_name"] if entry else [])
    own = set(vault.names_of(current)) - set(vault.aliases_of(current))
    if entry and (entry.alias_of or own - {str(name)}):
        return _Plan(["forget_name"])
    _refuse_if_used(current, vault)
    return _Plan(["remove_image"], remove=[current])


def _carry_out_absent(plan: _Plan, name: Reference, wish: ImageWish, vault: Vault) -> None:
    _remove(plan.remove, wish, vault)
    if "forget_name" in plan.steps:
        vault.forget(name, wish.arch, wish.kind)


def _remove(images: t.Sequence[Image], wish: ImageWish, vault: Vault) -> None:
    for image in images:
        vault.runtime.report.step("remove_image")
        vault.remove(image, lambda image=image: _refuse_if_used(image, vault))  # type: ignore[misc]
    if images:
        _remove_copies(wish, vault)


def _remove_copies(wish: ImageWish, vault: Vault) -> None:
    """Have the servers that instances were made at let go what they have of images that are gone.

    A server that does not answer now does so when the next image comes to it.
    """
    data, runtime = vault.data, vault.runtime
    named = wish.driver or active_driver(data)
    for scope in data.scopes():
        handles = [each.handles for each in scope.instances()[0]]
        handles += [each.handles for each in scope.networks.all()[0]]
        for name in (about.name for about in ABOUT.values() if about.scope == scope.name):
            places = [dict(wish.driver_options or {}) if name == named else {}]
            places += [each[name] for each in handles if name in each]
            asked: list[dict[str, str]] = []
            for options in places:
                with contextlib.suppress(MinicloudError):
                    driver = load(name, runtime, data, options)
                    if driver.handle() not in asked:
                        asked.append(driver.handle())
                        driver.acts.tidy_images()


def _prune(seconds: float, wish: ImageWish, vault: Vault, check_mode: bool) -> ImageOutcome:
    for error in vault.images()[1]:
        vault.runtime.report.warn(str(error))
    old = vault.unused_since(seconds, users_of(vault.data))
    views = [image_view(vault, image) for image in old]
    if not check_mode:
        _remove(old, wish, vault)
        vault.tidy()
    before = {"images": [{key: view[key] for key in ("name", "hash")} for view in views]}
    return ImageOutcome(bool(old), ["remove_image" for dummy in old], None, views, before, {"images": []})


def _comparable(vault: Vault, image: Image | None) -> dict[str, t.Any]:
    return {"name": image.name, "hash": image.hash, "aliases": vault.aliases_of(image)} if image else {}
