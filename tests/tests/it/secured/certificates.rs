//! Certificates as Strimzi hands them out: one authority for the brokers, one for the clients.

use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Who signs certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, as PEM.
    pub(super) certificate: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = of(name, &[])?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(parameters, key), certificate })
    }

    /// A key and its certificate for `name`, at these addresses, as PEM.
    pub(super) fn sign(&self, name: &str, addresses: &[&str]) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = of(name, addresses)?.signed_by(&key, &self.issuer)?;
        Ok((key.serialize_pem(), certificate.pem()))
    }
}

fn of(name: &str, addresses: &[&str]) -> Result<CertificateParams> {
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let mut parameters = CertificateParams::new(addresses)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    Ok(parameters)
}

/// A client's folder, with the names that `deploy/kubernetes` mounts under `/etc/kafka`.
pub(super) fn folder(parent: &Path, name: &str, brokers: &Authority, clients: &Authority) -> Result<()> {
    let folder = parent.join(name);
    std::fs::create_dir(&folder)?;
    let (key, certificate) = clients.sign(name, &[])?;
    std::fs::write(folder.join("ca.crt"), &brokers.certificate)?;
    std::fs::write(folder.join("user.crt"), certificate)?;
    std::fs::write(folder.join("user.key"), key)?;
    Ok(())
}
