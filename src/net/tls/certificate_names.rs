//! CertificateNames: who holds an X.509 certificate and who issued it, as text.

use std::fmt::Write;

use x509_parser::asn1_rs::{Any, ToDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::x509::CertificateError;

/// The names in a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct CertificateNames {
    /// The distinguished name of the holder (RFC 4514), such as `CN=alice,O=Example`.
    pub(super) subject: String,
    /// The distinguished name of the issuer.
    pub(super) issuer: String,
    /// The serial number, in lower-case hexadecimal digits.
    pub(super) serial: String,
}

/// The attributes that have a name, by their object identifier: those of RFC 4514 §3, and the two
/// that OpenSSL and nginx add.
const ATTRIBUTES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.5", "serialNumber"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

impl CertificateNames {
    /// Reads a certificate.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| CertificateError::X509(error.to_string()))?;
        Ok(Self::of(&certificate))
    }

    fn of(certificate: &X509Certificate<'_>) -> Self {
        Self {
            subject: distinguished_name(certificate.subject()),
            issuer: distinguished_name(certificate.issuer()),
            serial: data_encoding::HEXLOWER.encode(certificate.raw_serial()),
        }
    }
}

/// Writes a name, its last part first (RFC 4514 §2.1).
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        for (at, attribute) in part.iter().enumerate() {
            match (at, text.is_empty()) {
                (0, true) => {}
                (0, false) => text.push(','),
                _ => text.push('+'),
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let identifier = attribute.attr_type().to_id_string();
    let name = ATTRIBUTES.iter().find(|(own, _)| *own == identifier);
    text.push_str(name.map_or(&*identifier, |(_, name)| *name));
    text.push('=');
    match (name, attribute.as_str()) {
        (Some(_), Ok(value)) => escape(text, value),
        // The value's encoding (RFC 4514 §2.4), which only the issuer understands.
        _ => write_hexadecimal(text, attribute.attr_value()),
    }
}

fn write_hexadecimal(text: &mut String, value: &Any<'_>) {
    text.push('#');
    text.push_str(&data_encoding::HEXLOWER.encode(&value.to_der_vec().unwrap_or_default()));
}

/// Escapes the characters that separate names and attributes (RFC 4514 §2.4), and those that cannot
/// be part of a header field.
fn escape(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            character if character.is_control() => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "\\{byte:02x}");
                }
            }
            character => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn attribute_without_a_name_is_shown_with_its_encoding() {
        let mut params = CertificateParams::new([]).unwrap();
        let qualifier = DnType::CustomDnType(vec![2, 5, 4, 46]);
        params.distinguished_name.push(qualifier, "a");
        params.distinguished_name.push(DnType::CommonName, "b");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = CertificateNames::from_der(certificate.der()).unwrap();
        let subject = names.subject;
        assert!(subject.contains("CN=b"), "{subject}");
        // A UTF8String of one byte.
        assert!(subject.contains("2.5.4.46=#0c0161"), "{subject}");
    }
}
