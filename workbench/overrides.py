"""Signed overrides of a gate's rules: who let a checkpoint pass, why, and a signature over exactly that.

Signatures are OpenSSH's (`ssh-keygen -Y sign`), as git uses them, so teams have the keys and the file of allowed
signers already. Knows files and ssh-keygen; knows no rule and no store.
"""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from workbench.errors import ConfigError

NAMESPACE = "workbench-override"


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """One signed override. Anybody who has the public key can verify `signature` over `statement`."""

    rule: str
    reason: str
    signer: str
    """Principal in the file of allowed signers; without such a file, the key's fingerprint and comment."""
    statement: str
    """Canonical JSON of rule, reason, report, weights and time: what was signed."""
    signature: str
    """Armoured OpenSSH signature."""

    @property
    def told(self) -> str:
        """Who and why, in a line."""
        return f"{self.signer}: {self.reason}"


def sign_override(
    rule: str, reason: str, *, key: Path, report: str, weights: str, allowed_signers: Path | None = None
) -> Override:
    """Sign an override of one rule for one report of one checkpoint.

    Args:
        key: SSH private key (or the public key of one that an agent holds).
        report: id of the report; a signature for it is worth nothing for another.
        weights: fingerprint of the checkpoint.
        allowed_signers: file as in ssh-keygen(1); the key must be in it.

    Raises:
        ConfigError: no ssh-keygen, no such key, an empty reason, or a key that is not allowed.
    """
    if not reason.strip():
        raise ConfigError("--reason: empty; say why this checkpoint may ship all the same")
    if not key.is_file():
        raise ConfigError(f"--sign-key {key}: no such file; ssh-keygen -t ed25519 makes a key")
    content = {
        "report": report,
        "weights": weights,
        "rule": rule,
        "reason": reason.strip(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    statement = json.dumps(content, sort_keys=True, ensure_ascii=True)
    signature = _run(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], statement, what=f"--sign-key {key}")
    signer = find_signer(statement, signature, allowed_signers) if allowed_signers else _fingerprint(key)
    return Override(rule=rule, reason=reason.strip(), signer=signer, statement=statement, signature=signature)


def find_signer(statement: str, signature: str, allowed_signers: Path) -> str:
    """The principal who signed this statement. Raises ConfigError: nobody of the file did."""
    if not allowed_signers.is_file():
        raise ConfigError(f"{allowed_signers}: no such file; list who may override, as ssh-keygen(1) says")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signature"
        file.write_text(signature)
        common = ["-f", str(allowed_signers), "-s", str(file)]
        what = f"{allowed_signers}: the signer is not in it"
        found = _run(["-Y", "find-principals", *common], "", what=what).split("\n")[0].strip()
        _run(["-Y", "verify", "-I", found, "-n", NAMESPACE, *common], statement, what="the signature is not good")
    return found


def _fingerprint(key: Path) -> str:
    """`SHA256:… comment`, from the public half where it lies beside the key."""
    public = key.with_name(f"{key.name}.pub")
    _, digest, *comment = _run(
        ["-l", "-f", str(public if public.is_file() else key)], "", what=f"--sign-key {key}"
    ).split()
    return " ".join([*comment[:-1], f"({digest})"]).strip()


def _run(arguments: list[str], text: str, *, what: str) -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ConfigError("--override: ssh-keygen is not installed, which signs overrides; install OpenSSH's client")
    # no shell; a passphrase is asked for on the terminal by ssh-keygen itself
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ConfigError(f"{what}: {said[-1] if said else 'ssh-keygen refused'}")
    return done.stdout
