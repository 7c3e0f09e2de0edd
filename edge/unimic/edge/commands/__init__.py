"""The commands of ``unimic``; each module adds its parsers and runs them.

Models and networks are imported when a command runs, so that ``--help`` is quick.
"""
