//! Messages of `channels_redis`, with rmpv as another msgpack: the input is a message.

use std::cell::OnceCell;

use oneport::channels::Event;
use oneport::config::Serializer;
use oneport::fuzzing::ChannelsRedis;

thread_local! {
    static FORMATS: OnceCell<[ChannelsRedis; 3]> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    FORMATS.with(|formats| {
        let [msgpack, json, encrypted] = formats.get_or_init(|| {
            [
                ChannelsRedis::new(Serializer::Msgpack, None),
                ChannelsRedis::new(Serializer::Json, None),
                ChannelsRedis::new(Serializer::Msgpack, Some("secret")),
            ]
        });
        assert!(
            encrypted.read(data).is_err(),
            "a message without the key is read"
        );
        if let Ok((event, names)) = msgpack.read(data) {
            let mut rest = data;
            let value = rmpv::decode::read_value(&mut rest).expect("rmpv refuses it");
            assert!(rest.is_empty(), "rmpv has bytes left");
            let mut entries = value.as_map().expect("a map").iter();
            let event_type = entries.find(|(key, _)| key.as_str() == Some("type"));
            assert_eq!(
                event_type.expect("a type").1.as_str(),
                Some(event.event_type())
            );
            again(msgpack, &event, &names);
            again(encrypted, &event, &names);
        }
        if let Ok((event, names)) = json.read(data) {
            again(json, &event, &names);
            again(msgpack, &event, &names);
        }
    });
}

/// What is written is read as the same. A format cannot carry every event, and says so.
fn again(format: &ChannelsRedis, event: &Event, names: &[String]) {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Ok(written) = format.write(event, &names) else {
        return;
    };
    let (read, found) = format.read(&written).expect("what was written is read");
    assert_eq!(found, names);
    assert_eq!(read.event_type(), event.event_type());
    let value = |event: &Event| serde_json::from_str::<serde_json::Value>(&event.json()).ok();
    if let (Some(read), Some(event)) = (value(&read), value(event)) {
        assert_eq!(read, event);
    }
}
