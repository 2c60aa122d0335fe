"""Leave torch out: the app uses the half of gcl_toolkit that needs none, but the package's own names import it."""

import importlib.util
import sys


def leave_torch_out() -> None:
    """From now on `gcl_toolkit.metrics` and the like are imported without running gcl_toolkit/__init__.py."""
    if "gcl_toolkit" not in sys.modules:
        found = importlib.util.find_spec("gcl_toolkit")
        if found is None:
            sys.exit("gcl_toolkit is not installed; make setup")
        sys.modules["gcl_toolkit"] = importlib.util.module_from_spec(found)
