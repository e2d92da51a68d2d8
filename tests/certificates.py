"""Certificates for tests."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Issued:
    """Files with a certificate, with its key, and with the certificate of the authority that has issued it."""

    certificate: Path
    key: Path
    authority: Path


def certificate(folder: Path, *, name: str = "127.0.0.1", days: int = 1) -> tuple[Path, Path]:
    """Files with a self-signed certificate for an address, and with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server of a test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return files


def issued(folder: Path, machines: dict[str, list[str]], *, days: int = 1) -> dict[str, Issued]:
    """A certificate for the addresses of each machine, by its name, from one authority that is made for them."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority of a test")])
    authority_key = ec.generate_private_key(ec.SECP256R1())

    def signed(name: object, key: ec.EllipticCurvePrivateKey, extension: object) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(extension, critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        return bytes(made.public_bytes(serialization.Encoding.PEM))

    authority = folder / "authority.pem"
    authority.write_bytes(signed(subject, authority_key, x509.BasicConstraints(ca=True, path_length=None)))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = {}
    for machine, addresses in machines.items():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, machine)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)) for address in addresses])
        files[machine] = Issued(folder / f"{machine}.pem", folder / f"{machine}-key.pem", authority)
        files[machine].certificate.write_bytes(signed(name, key, names))
        files[machine].key.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return files
