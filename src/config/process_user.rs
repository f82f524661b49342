//! Process user: the user this process runs as, for messages about files it may not read or write.

/// Returns `user nobody`, or `user 1000` if the uid has no name.
pub(crate) fn user() -> String {
    match uid() {
        Some(uid) => {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let name = name_of(uid, &passwd).map_or_else(|| uid.to_string(), str::to_owned);
            format!("user {name}")
        }
        None => "this user".to_owned(),
    }
}

/// Returns the uid of this process.
#[cfg(unix)]
fn uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let own = std::fs::metadata("/proc/self").ok()?;
    Some(own.uid())
}

#[cfg(not(unix))]
fn uid() -> Option<u32> {
    None
}

fn name_of(uid: u32, passwd: &str) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_the_name_of_their_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        assert_eq!(name_of(65534, passwd), Some("nobody"));
        assert_eq!(name_of(1, passwd), None);
        assert_eq!(name_of(0, "broken"), None);
    }
}
