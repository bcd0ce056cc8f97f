"""Run a command beside one process that keeps a core busy: `python benchmarks/beside.py COMMAND...`.

The busy process has the same priority, is bound to no core and uses no memory to speak of. It is in the session of the
command, so that a scheduler that shares the time among sessions still sees equals. It ends with the command.
"""

import subprocess
import sys

_SPIN = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:  # ends even if its parent is killed
    for _ in range(100_000):
        pass
"""


def main(command: list[str]) -> int:
    """The command's exit status."""
    with subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()  # it spins from now on
            return subprocess.run(command, check=False).returncode
        finally:
            busy.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
