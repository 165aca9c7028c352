"""`python FOLDER REQUEST`: runs one kind of probe and reports each step as it goes.

FOLDER is this package's; REQUEST is JSON: {"mode": "smoke"|"features"|"speed", "kernels": FOLDER of the kernels, "deadline": in
time.monotonic seconds, when the caller kills it, if it does, ...}; "module" in place of "kernels" is the name of an installed
module that has their functions.
Reports are JSON lines on the file descriptor FA_DOCTOR_REPORT_FD; what libraries print goes where they print it.
"""

import importlib
import importlib.util
import json
import os
import sys


def load_package(name: str, folder: str):  # type: ignore[no-untyped-def]
    """A folder as a package under a name of our own, whatever else is installed."""
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def main() -> None:
    """Runs the probe that the request names; exits with 1 when a step fails."""
    folder = os.path.dirname(os.path.abspath(__file__))
    # Python puts the folder of a script on sys.path; its modules must not be found in place of others' by accident.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    request = {"seed": int(os.environ.get("FA_DOCTOR_SEED", "0")), **json.loads(sys.argv[1])}
    load_package("fa_doctor_probe_child", folder)
    reporter = importlib.import_module("fa_doctor_probe_child.reporter")
    report = reporter.Reporter(int(os.environ["FA_DOCTOR_REPORT_FD"]), request.get("deadline"))
    mode = importlib.import_module(f"fa_doctor_probe_child.{request['mode']}")

    def load_kernels():  # type: ignore[no-untyped-def]
        if request.get("module"):
            return importlib.import_module(request["module"])
        return load_package("fa_doctor_kernels", request["kernels"])

    try:
        mode.run(request, report, load_kernels)
    except reporter.StepFailed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # a GPU runtime in a bad state may hang in its own shutdown
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
