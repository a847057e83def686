from harness.artifacts.run_summary import Summary as Summary
from harness.compare.compare import Comparison as Comparison
from harness.core.errors import HarnessError as HarnessError
from harness.python_api import Run as Run
from harness.python_api import bench as bench
from harness.python_api import compare as compare
from harness.python_api import load as load
from harness.python_api import run as run

__version__: str
