"""The process that runs models on one accelerator context, started and fed by the agent daemon.

It keeps to Python 3.8, numpy, OpenCV and the vendor's library, because it runs under the interpreter that the
board's vendor supports. It works under two names: `agents.worker` here, `worker` inside the packed archive; so
every import of its own is relative.
"""
