"""What the tests share: the server under test, and clients that are sharper than a library would be."""
