"""The process that runs models on one accelerator context, started and fed by the agent daemon.

It keeps to Python 3.8, numpy, OpenCV and the vendor's library, because it runs under the interpreter that the
board's vendor supports. The packed archive holds it under its own name, so that other packages' backends can import
from it here as there.
"""
