//! Events against serde_json: the input is an event's JSON.

use oneport::channels::Event;
use oneport::channels::event::Shown;
use serde_json::Value;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(event) = Event::from_json(text) else {
        return;
    };
    let json = event.json().into_owned();
    let again = Event::from_json(&json).expect("an event's JSON is an event");
    assert_eq!(again.event_type(), event.event_type());
    assert_eq!(again.shown(), event.shown());
    match event.shown() {
        // As it was written.
        Shown::Text(shown) if event.is_json() => {
            assert_eq!(shown, text.trim_matches([' ', '\t', '\r', '\n']));
        }
        Shown::Text(_) | Shown::Bytes(_) => assert_eq!(event.event_type(), "websocket.send"),
    }
    // serde_json reads neither deep nesting nor half surrogates, an event carries them.
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        assert_eq!(value["type"], event.event_type());
    }
}
