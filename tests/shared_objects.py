"""Real small ELF files for tests: shared libraries and programs, linked by the machine's own compiler and linker."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["ElfMaker"]

_PROGRAM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
/* Each argument is dlopen'ed, "library!name" by the code of that library; then all that is mapped is printed. */
static int show(struct dl_phdr_info *info, size_t size, void *data) { printf("%s\\n", info->dlpi_name); return 0; }
int main(int count, char **words) {
  for (int i = 1; i < count; i++) {
    char *cut = strchr(words[i], '!');
    void *found;
    if (cut) {
      *cut = 0;
      void *library = dlopen(words[i], RTLD_NOW);
      void *(*opens)(const char *) = library ? (void *(*)(const char *))dlsym(library, "opens") : 0;
      found = opens ? opens(cut + 1) : 0;
    } else found = dlopen(words[i], RTLD_NOW);
    if (!found) printf("error: %s\\n", dlerror());
  }
  dl_iterate_phdr(show, 0);
  return 0;
}
"""


class ElfMaker:
    """Links libraries and programs. Objects are compiled once; a link takes some milliseconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._linked: dict[tuple[object, ...], bytes] = {}
        (folder / "stubs").mkdir(parents=True)
        (folder / "start.c").write_text("void _start(void) { for (;;); }\n")
        (folder / "opens.c").write_text(
            "#include <dlfcn.h>\nvoid *opens(const char *name) { return dlopen(name, RTLD_NOW); }\n"
        )
        (folder / "program.c").write_text(_PROGRAM)
        for name in ("start", "opens", "program"):
            self._run("gcc", "-fPIC", "-c", f"{name}.c", "-o", f"{name}.o")

    def library(
        self,
        path: Path,
        soname: str | None = None,
        needed: tuple[str, ...] = (),
        rpath: str | None = None,
        runpath: str | None = None,
        machine: int | None = None,
        opens: bool = False,
    ) -> Path:
        """Links a library that needs these sonames. `machine` overwrites e_machine; `opens`: it can call dlopen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        same = (soname, needed, rpath, runpath, machine, opens)
        if same in self._linked:
            path.write_bytes(self._linked[same])
            return path
        options = ["-shared", "-o", str(path), *self._search(rpath, runpath), "--no-as-needed"]
        if soname:
            options += ["-soname", soname]
        if opens:
            options.append("opens.o")
        self._run("ld", *options, *(self._stub(name) for name in needed), *(() if opens else ("start.o",)))
        if machine is not None:
            data = bytearray(path.read_bytes())
            data[18:20] = machine.to_bytes(2, "little")
            path.write_bytes(bytes(data))
        self._linked[same] = path.read_bytes()
        return path

    def program(
        self, path: Path, needed: tuple[str, ...] = (), rpath: str | None = None, runpath: str | None = None
    ) -> Path:
        """Links a program that is good for being traced only: it does not link the C library."""
        path.parent.mkdir(parents=True, exist_ok=True)
        options = ["-dynamic-linker", "/lib64/ld-linux-x86-64.so.2", "-pie", "-o", str(path), "--no-as-needed"]
        stubs = [self._stub(name) for name in needed]
        self._run("ld", *options, *self._search(rpath, runpath), "--allow-shlib-undefined", "start.o", *stubs)
        return path

    def opener(self, path: Path, rpath: str | None = None, runpath: str | None = None) -> Path:
        """Links a program that dlopens its arguments and prints what is mapped then, in order."""
        path.parent.mkdir(parents=True, exist_ok=True)
        search = [f"-Wl,{word}" for word in self._search(rpath, runpath)]
        self._run("gcc", "program.o", "-o", str(path), *search)
        return path

    def _search(self, rpath: str | None, runpath: str | None) -> list[str]:
        assert rpath is None or runpath is None
        if rpath is not None:
            return ["--disable-new-dtags", f"-rpath={rpath}"]
        return ["--enable-new-dtags", f"-rpath={runpath}"] if runpath is not None else []

    def _stub(self, soname: str) -> str:
        stub = self.folder / "stubs" / soname
        if not stub.exists():
            self._run("ld", "-shared", "-soname", soname, "start.o", "-o", str(stub))
        return str(stub)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
