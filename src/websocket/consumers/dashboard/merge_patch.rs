//! Merge patch: what has changed between two JSON values (RFC 7396).

use serde_json::{Map, Value};

/// Returns the patch that turns one value into another; `None` if they are equal. Objects are
/// compared key by key, anything else is replaced. The values have no null in objects that differ,
/// except where it replaces a value: the patch removes that key.
pub(super) fn merge_patch(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        return Some(after.clone());
    };
    let mut patch = Map::new();
    for (key, value) in after {
        let change = match before.get(key) {
            Some(earlier) => merge_patch(earlier, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// RFC 7396 §2.
    fn apply(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            match value {
                Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
                value => {
                    let slot = target.as_object_mut().unwrap().entry(key.clone());
                    apply(slot.or_insert(Value::Null), value);
                }
            }
        }
    }

    #[test]
    fn patch_has_only_what_has_changed() {
        let before = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1], "f": 0});
        let after = json!({"a": 1, "b": {"c": 2, "d": 4}, "e": [1, 2], "g": 1});
        let patch = merge_patch(&before, &after);
        assert_eq!(
            patch,
            Some(json!({"b": {"d": 4}, "e": [1, 2], "f": null, "g": 1}))
        );
        assert_eq!(merge_patch(&before, &before), None);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            (0..3_i64).prop_map(Value::from),
            "[ab]".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn patch_turns_one_value_into_the_other(before in values(), after in values()) {
            let mut patched = before.clone();
            if let Some(patch) = merge_patch(&before, &after) {
                apply(&mut patched, &patch);
            }
            // The order of keys does not matter to `Value`.
            prop_assert_eq!(patched, after);
        }
    }
}
