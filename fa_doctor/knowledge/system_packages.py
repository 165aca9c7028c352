"""The distributions' names of the packages that hold a library or a tool."""

from __future__ import annotations

from fa_doctor.knowledge.tables import load

__all__ = ["newer_linker", "package_names"]

_NOT_MANAGERS = ("holds", "sources")


def package_names(what: str) -> dict[str, str]:
    """Package names (blank-separated) by package manager for a library ("libnuma.so.1") or a tool ("c-compiler");
    empty when it is not in the table."""
    for row in load("system_packages")["package"]:
        if row["holds"] == what:
            return {key: str(value) for key, value in row.items() if key not in _NOT_MANAGERS}
    return {}


def newer_linker(distribution: str | None, version: str | None) -> tuple[str, str] | None:
    """For a release of a distribution whose own ld.lld is of LLVM 14: the package with a newer one, and its path."""
    for row in load("system_packages")["newer_linker"]:
        if (row["distribution"], row["version"]) == (distribution, version):
            return str(row["packages"]), str(row["path"])
    return None
