"""Certificates for tests."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    key, subject = _key(), _named("server of a test")
    files = folder / "certificate.pem", folder / "key.pem"
    extensions = (_addresses([name]), False), (x509.BasicConstraints(ca=True, path_length=None), True)
    files[0].write_bytes(_signed(subject, key, subject, key, days, *extensions))
    files[1].write_bytes(_written(key))
    return files


def issued(folder: Path, machines: dict[str, list[str]], *, days: int = 1) -> dict[str, Issued]:
    """A certificate for the addresses of each machine, by its name, from one authority that is made for them."""
    x509 = pytest.importorskip("cryptography.x509")
    subject, authority_key = _named("authority of a test"), _key()
    authority = folder / "authority.pem"
    is_authority = x509.BasicConstraints(ca=True, path_length=None), True
    authority.write_bytes(_signed(subject, authority_key, subject, authority_key, days, is_authority))
    files = {}
    for machine, addresses in machines.items():
        key = _key()
        files[machine] = Issued(folder / f"{machine}.pem", folder / f"{machine}-key.pem", authority)
        made = _signed(_named(machine), key, subject, authority_key, days, (_addresses(addresses), True))
        files[machine].certificate.write_bytes(made)
        files[machine].key.write_bytes(_written(key))
    return files


def _signed(subject: Any, key: Any, issuer: Any, issuer_key: Any, days: int, *extensions: tuple[Any, bool]) -> bytes:
    """A certificate of a key in the name of its subject, as PEM; each extension with whether it is critical."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    for extension, critical in extensions:
        made = made.add_extension(extension, critical=critical)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _written(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, *form))


def _named(name: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _addresses(addresses: list[str]) -> Any:
    from cryptography import x509

    return x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)) for address in addresses])
