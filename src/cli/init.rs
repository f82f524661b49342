//! `oneport init`.

use super::arguments::InitArguments;

pub(super) fn run(_arguments: &InitArguments) -> u8 {
    super::FAILURE
}
