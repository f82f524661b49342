//! The `oneport` command.

fn main() {}
