"""A certificate for the tests: its own authority, made by openssl."""
import pathlib
import subprocess


def make_certificate(directory: pathlib.Path, names: list):
    """tls.crt, tls.key and ca.crt (the same certificate) for the DNS names, valid for a day."""
    alternatives = ",".join(f"DNS:{name}" for name in names)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
                    "-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}",
                    "-keyout", directory / "tls.key", "-out", directory / "tls.crt"], check=True, capture_output=True)
    (directory / "tls.key").chmod(0o600)
    (directory / "ca.crt").write_bytes((directory / "tls.crt").read_bytes())
