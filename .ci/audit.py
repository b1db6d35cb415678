"""
Looks up every pinned package of this repository among the known vulnerabilities (osv.dev), with pip-audit.

python .ci/audit.py             # says so and passes if the advisory service can't be reached
python .ci/audit.py --required  # for a release: fails if it can't

pip-audit gets an environment of its own in .cache, so that it changes nothing of what it looks at.
"""

import argparse
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from pathlib import Path


ROOT = Path(__file__).parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
SERVICE = "https://api.osv.dev/v1/query"
PINNED = ["constraints.txt", "evaluation/lmms_eval/requirements.txt", "space/requirements.txt"]
BANNER = "!" * 78
# Known, and why they do not concern us: ID and reason.
ACCEPTED: dict[str, str] = {}


def unreachable(service: str) -> str | None:
    """Why the advisory service can't be asked; `None` if it can."""
    question = b'{"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}'
    request = urllib.request.Request(service, question, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=15):
            return None
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it is there, and does not understand the question
            raise SystemExit(
                f"NOT AUDITED: {service} answers {error.code} {error.reason}, not what is known."
            ) from error
        return f"{error.code} {error.reason}"
    except OSError as error:
        return str(getattr(error, "reason", error))


def tool() -> Path:
    """Python of an environment with pip-audit."""
    folder = ROOT / ".cache" / PIP_AUDIT.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PIP_AUDIT], check=True)
        (folder / "complete").touch()
    return python


def main(args: argparse.Namespace) -> int:
    if reason := unreachable(args.osv_url):
        sys.stdout.write(
            f"{BANNER}\nNOT AUDITED: {args.osv_url} can't be reached ({reason}).\nNothing is known of the "
            "dependencies' vulnerabilities. Run `make audit` where it can be reached, before\nanything is released.\n"
            f"{BANNER}\n"
        )
        return int(args.required)
    options = ["--no-deps", "--disable-pip", "--vulnerability-service", "osv", "--osv-url", args.osv_url]
    options += [f"--ignore-vuln={name}" for name in ACCEPTED]
    command = [tool(), "-m", "pip_audit", "--progress-spinner=off", *options]
    # one by one, since one package may be pinned to different versions; one that was killed has a negative code
    return int(any([subprocess.run([*command, "-r", ROOT / name]).returncode for name in PINNED]))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osv-url", default=SERVICE, help="another advisory service that speaks OSV's language")
    parser.add_argument("--required", action="store_true", help="fail if the service can't be reached")
    return parser


if __name__ == "__main__":
    sys.exit(main(make_parser().parse_args()))
