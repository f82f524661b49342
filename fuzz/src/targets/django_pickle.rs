//! Python's pickles: the input is one, or a JSON object that is pickled.

use oneport::fuzzing::pickle;
use serde_json::{Map, Value};

pub fn run(data: &[u8]) {
    if let Ok(read) = pickle(data) {
        assert!(matches!(data, [0x80, 2..=5, ..]));
        // Bounded, whatever the program repeats.
        let text = serde_json::to_vec(&read).expect("JSON");
        assert!(text.len() < 64 << 20);
    }
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(data) else {
        return;
    };
    let mut written = vec![0x80, 2];
    if write(&Value::Object(object.clone()), 0, &mut written).is_some() {
        written.push(b'.');
        assert_eq!(pickle(&written).as_ref(), Ok(&object));
    }
}

/// Writes a value as Python's pickler does; `None` if it is beyond the limits or not exact.
fn write(value: &Value, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    if depth > 60 {
        return None;
    }
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(true) => out.push(0x88),
        Value::Bool(false) => out.push(0x89),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => {
                out.extend([0x8a, 8]);
                out.extend(number.to_le_bytes());
            }
            (None, Some(float)) if number.is_f64() => {
                out.push(b'G');
                out.extend(float.to_be_bytes());
            }
            _ => return None, // beyond 63 bits it becomes a float
        },
        Value::String(string) => text(string, out),
        Value::Array(items) => {
            out.extend(b"](");
            for item in items {
                write(item, depth + 1, out)?;
            }
            out.push(b'e');
        }
        Value::Object(entries) => {
            out.extend(b"}(");
            for (name, item) in entries {
                text(name, out);
                write(item, depth + 1, out)?;
            }
            out.push(b'u');
        }
    }
    Some(())
}
