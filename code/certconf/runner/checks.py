"""The check of a certificate's spec that every program that certifies makes, before any work."""
from dataclasses import replace

from certconf.errors import InputError
from certconf.formats.log import check_radii
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.sequential import look_etas


def check_spec(spec: CertificateSpec) -> CertificateSpec:
    """Calibrate and return a spec, with its eta. Raises InputError for radii, or (n, alpha), that it cannot have."""
    check_radii(spec.radii)
    try:
        return replace(spec, eta=look_etas(spec))
    except ValueError as error:
        raise InputError(f"--N, --alpha, --bound or --settle: {error}") from None
