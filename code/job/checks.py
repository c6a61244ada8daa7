"""The check of a certificate's spec that every program that certifies makes, before any work."""
from certificate import CertificateSpec
from errors import InputError
from formats.log import check_radii


def check_spec(spec: CertificateSpec) -> CertificateSpec:
    """Prepare and return a spec. Raises InputError for radii that no log has, or if its (n, alpha) allow no band."""
    check_radii(spec.radii)
    try:
        return spec.prepare()
    except ValueError as error:
        raise InputError(f"--N, --alpha or --bound: {error}") from None
