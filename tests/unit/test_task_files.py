"""Task files as they are read."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from reasoner.errors import ConfigError, MissingDependencyError, UserError
from reasoner.loading.task_files import find_task, members, read_toml
from reasoner.plugins.hookspecs import TaskFamily
from reasoner.plugins.importing import PluginError
from reasoner.plugins.manager import RegisteredNames, TaskFiles, build_manager, registrations, task_files


def test_a_registered_task_goes_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "adding.toml"
    path.write_text('title = "Sums"\n[profiles.small]\n[profiles.large]\n')
    task = find_task("adding", {"adding": path})
    assert (task.name, task.title, list(task.profiles), task.origin) == (
        "adding",
        "Sums",
        ["small", "large"],
        "task adding",
    )
    assert not task.is_complete


def test_a_file_goes_by_its_stem_and_a_complete_one_by_its_own_task(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('title = "Mine"\n')
    assert (find_task(own, {}).name, find_task(str(own), {}).origin) == ("own", str(own))
    complete = tmp_path / "config.toml"
    complete.write_text('task = "adding"\nprofile = "small"\n')
    assert (find_task(complete, {}).name, find_task(complete, {}).is_complete) == ("adding", True)


def test_a_file_without_its_ending_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no task 'mine'; for the file here, give its name: mine\.toml"):
        find_task("mine", {})
    assert find_task("mine", {"mine": tmp_path / "mine.toml"}).origin == "task mine"


def test_what_is_not_there_or_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'addin'. Did you mean 'adding'\? See `reasoner tasks list`"):
        find_task("addin", {"adding": tmp_path})
    with pytest.raises(UserError, match=r"cannot read .*nope.toml: No such file"):
        find_task("./nope.toml", {})
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin.toml: not UTF-8 text: byte 9"):
        read_toml(tmp_path / "latin.toml")
    (tmp_path / "odd.toml").write_text("profiles = 3\n")
    with pytest.raises(ConfigError, match=r"profiles must be tables, one \[profiles.NAME\] for each; got 3"):
        _ = find_task(tmp_path / "odd.toml", {}).profiles


def sums(*names: str) -> TaskFamily:
    return TaskFamily("Sums", lambda: names, lambda name: f'title = "of {name}"\n[profiles.small]\n')


def registered(
    family: TaskFamily, files: Mapping[str, Path] = MappingProxyType({}), broken: Sequence[PluginError] = ()
) -> TaskFiles:
    return TaskFiles(files, RegisteredNames("task family", {"sums": family}, broken), broken)


def test_a_member_of_a_family_goes_by_a_name_that_a_folder_can_have() -> None:
    known = registered(sums("two", "three-digits"))
    task = find_task("sums/two", known)
    assert (task.name, task.path, task.origin) == ("sums-two", None, "task sums/two")
    assert (task.title, list(task.profiles)) == ("of two", ["small"])
    assert find_task("sums-three-digits", known) == find_task("sums/three-digits", known)
    assert find_task("sums-three-digits", known).name == "sums-three-digits"


def test_a_member_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = registered(sums("two", "three"))
    with pytest.raises(
        UserError, match=r"no task 'sums/thre'. Did you mean 'sums/three'\? See `reasoner tasks show sums`"
    ):
        find_task("sums/thre", known)
    with pytest.raises(UserError, match=r"no family of tasks 'sms'. Did you mean 'sums'\? See `reasoner tasks list`"):
        find_task("sms/two", known)
    with pytest.raises(
        UserError, match=r"sums is a family of 2 tasks: name one, for example sums/two. See `reasoner task"
    ):
        find_task("sums", known)
    with pytest.raises(
        UserError, match="sums/two would be called sums-two in run folders, and a task file has that name"
    ):
        find_task("sums/two", registered(sums("two"), {"sums-two": tmp_path}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "own.toml").write_text('title = "Mine"\n')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "own").write_text('title = "Mine"\n')
    assert find_task("sums/own.toml", known).name == find_task("more/own", known).name == "own"


def test_a_family_that_does_not_work_says_so() -> None:
    def lacking() -> Sequence[str]:
        raise MissingDependencyError("install it")

    with pytest.raises(MissingDependencyError, match="install it"):
        find_task("sums/two", registered(TaskFamily("Sums", lacking, str)))
    with pytest.raises(PluginError, match="task family 'sums': toml failed: ZeroDivisionError"):
        find_task("sums/two", registered(TaskFamily("Sums", lambda: ["two"], lambda name: str(1 // 0))))
    with pytest.raises(PluginError, match=r"task family 'sums': '\.\./two' is not a valid name for a task"):
        members("sums", sums("../two"))
    with pytest.raises(ConfigError, match="task sums/two: not TOML: "):
        find_task("sums/two", registered(TaskFamily("Sums", lambda: ["two"], str)))
    with pytest.raises(PluginError, match=r"no task family 'gym'.* A broken plugin may have it: it broke"):
        find_task("gym/gcd", registered(sums("two"), broken=[PluginError("it broke")]))


FAMILIES = """
from reasoner import hookimpl
from reasoner.plugins.hookspecs import TaskFamily

@hookimpl
def register_task_families():
    return {}
"""


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "{'Sums': TaskFamily('Sums', list, str)}",
            "'Sums' is not a valid name for a task family: use lower-case letters",
        ),
        ("{'my-sums': TaskFamily('Sums', list, str)}", "'my-sums' is not a valid name for a task family"),
        ("{'sums': 3}", "'sums' must be a TaskFamily, got int"),
    ],
)
def test_a_family_is_checked_when_it_is_registered(tmp_path: Path, returned: str, message: str) -> None:
    (tmp_path / "own.py").write_text(FAMILIES.replace("{}", returned))
    with pytest.raises(PluginError, match=f"own.py: register_task_families failed: .*{message}"):
        task_files(build_manager([str(tmp_path / "own.py")]))


def test_families_are_registered_once_and_listed(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.py") for name in ("one", "two")]
    for file in files:
        Path(file).write_text(FAMILIES.replace("{}", "{'sums': TaskFamily('Sums', lambda: ['a'], str)}"))
    manager = build_manager(files[:1])
    assert list(task_files(manager).families) == ["sums"]
    assert registrations(manager)[-1].tasks == ("sums/*",)
    with pytest.raises(PluginError, match=r"task family 'sums' is registered twice: 'Sums' and 'Sums'.*one.py"):
        task_files(build_manager(files))


def test_the_init_of_a_package_is_a_plugin_whose_modules_find_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package_of_sums"
    package.mkdir()
    code = "from package_of_sums.parts import NAME\n" + FAMILIES.replace("{}", "{NAME: TaskFamily('Sums', list, str)}")
    (package / "__init__.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(PluginError, match="cannot be imported: ModuleNotFoundError"):
        build_manager([str(package / "__init__.py")])
    (package / "__init__.py").write_text(code)
    (package / "parts.py").write_text("NAME = 'sums'\n")
    try:
        for _ in range(2):
            assert list(task_files(build_manager([str(package / "__init__.py")])).families) == ["sums"]
    finally:
        for name in ("package_of_sums", "package_of_sums.parts"):
            monkeypatch.delitem(sys.modules, name)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text("")
    with pytest.raises(PluginError, match=r"there is another module 'json': .*; rename the folder"):
        build_manager([str(tmp_path / "json" / "__init__.py")])
