//! Tests of the dictionaries of `channels_redis`.

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn plain(serializer: Serializer) -> ChannelsRedisCodec {
    ChannelsRedisCodec::new(serializer, Vec::new(), None)
}

impl ChannelsRedisCodec {
    fn write(&self, event: &Event, channels: Option<&Recipients<'_>>) -> Vec<u8> {
        self.seal(&self.encode(event).unwrap(), channels)
    }
}

fn refused(codec: &ChannelsRedisCodec, content: &[u8]) -> String {
    let error = codec.read(content).map(|(event, _)| event).unwrap_err();
    assert_eq!(error.reason(), "malformed");
    error.to_string()
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn captured_messages_are_written_byte_for_byte() {
    let event = Event::from_json(r#"{"type": "chat.message", "text": "hi"}"#).unwrap();
    let msgpack = plain(Serializer::Msgpack);
    let bare = "82a474797065ac636861742e6d657373616765a474657874a26869";
    assert_eq!(msgpack.write(&event, None), hex(bare));
    assert_eq!(
        msgpack.write(&event, Some(&Recipients::Several(&["thumbnails"]))),
        hex(
            "83a474797065ac636861742e6d657373616765a474657874a26869b05f5f617367695f6368616e6e656c5f5f91aa7468756d626e61696c73"
        )
    );
    let name = "specific.00112233445566778899aabbccddeeff!3b0187a292984eca9cd95501a9ae9fab";
    let event = Event::from_json(r#"{"type":"x.y","n":1}"#).unwrap();
    let mut wanted = hex("83a474797065a3782e79a16e01b05f5f617367695f6368616e6e656c5f5fd94a");
    wanted.extend(name.as_bytes());
    let written = msgpack.write(&event, Some(&Recipients::One(name)));
    assert_eq!(written, wanted);
    let (read, channels) = msgpack.read(&written).unwrap();
    assert_eq!(
        (read.json(), channels),
        (event.json(), vec![name.to_owned()])
    );
}

#[test]
fn captured_messages_of_channels_redis_are_read_and_written_again_byte_for_byte() {
    let vectors: Value = serde_json::from_str(include_str!(
        "../../../../tests/vectors/channels_redis.json"
    ))
    .unwrap();
    let (msgpack, json) = (plain(Serializer::Msgpack), plain(Serializer::Json));
    let key = Fernet::new(vectors["encryption"]["key"].as_str().unwrap());
    let encrypted = ChannelsRedisCodec::new(Serializer::Msgpack, vec![key], None);
    let mut messages = 0;
    for layer in ["core", "pubsub"] {
        let steps = vectors[layer].as_array().unwrap().iter();
        let commands = steps.flat_map(|step| step["commands"].as_array().unwrap());
        for command in commands {
            let arguments = command["args"].as_array().unwrap();
            let name = arguments[0]["text"].as_str().unwrap_or_default();
            let keys = arguments[1..].iter().filter_map(|key| key["text"].as_str());
            let bare = keys.clone().any(|key| key == "zeroc") || layer == "pubsub";
            if !["ZADD", "EVAL", "PUBLISH"].contains(&name) {
                continue;
            }
            let written = arguments[1..].iter().filter_map(|argument| {
                let bytes = argument["hex"].as_str().map(hex);
                let text = argument["text"]
                    .as_str()
                    .map(|text| text.as_bytes().to_vec());
                bytes.or(text.filter(|text| text.starts_with(b"{\"")))
            });
            for written in written {
                let content = if bare { &written[..] } else { &written[12..] };
                messages += 1;
                if keys.clone().any(|key| key.starts_with("encc")) {
                    assert_eq!(encrypted.read(content).unwrap().0.event_type(), "a.b");
                    continue;
                }
                if content.starts_with(b"{") {
                    assert_eq!(json.read(content).unwrap().0.field("u").unwrap(), "é");
                    continue;
                }
                let (event, channels) = msgpack.read(content).unwrap();
                let names: Vec<&str> = channels.iter().map(String::as_str).collect();
                let again = [
                    msgpack.write(&event, None),
                    msgpack.write(&event, Some(&Recipients::Several(&names))),
                    msgpack.write(
                        &event,
                        names.first().map(|name| Recipients::One(name)).as_ref(),
                    ),
                ];
                assert!(again.iter().any(|again| again == content), "{event:?}");
            }
        }
    }
    assert_eq!(messages, 22);
    for vector in vectors["serializer"].as_array().unwrap() {
        // Reading a dictionary fails if it has no type.
        let content = hex(vector["msgpack_hex"].as_str().unwrap());
        let has_type = vector["python"].as_str().unwrap().contains("'type'");
        assert_eq!(msgpack.read(&content).is_ok(), has_type, "{vector}");
    }
}

#[test]
fn bytes_are_bytes_in_msgpack_and_base64_in_json() {
    let event = Event::bytes(vec![0, 255]);
    let written = plain(Serializer::Msgpack).write(&event, None);
    assert_eq!(
        written,
        hex("82a474797065ae776562736f636b65742e73656e64a56279746573c40200ff")
    );
    for serializer in [Serializer::Msgpack, Serializer::Json] {
        let codec = plain(serializer);
        let (read, _) = codec.read(&codec.write(&event, None)).unwrap();
        assert_eq!(read.shown(), Shown::Bytes(&[0, 255]));
    }
}

#[test]
fn malformed_messages_are_refused_with_the_reason() {
    let msgpack = plain(Serializer::Msgpack);
    for (junk, reason) in [
        ("", "ends early"),
        ("c1", "does not use"),
        ("93010203", "a dictionary"),
        ("80", "found none"),
        ("81a474797065", "ends early"),
        ("82a474797065a3612e6201c0", ""), // a number as a key is a text in JSON
        ("82a474797065a3612e62c0c0", ""),
        ("82a474797065a3612e62c3c0", ""),
        ("82a474797065a3612e62c4016101", "no keys that are bytes"),
        ("82a474797065a3612e629001", "no keys that are bytes"),
        (
            "82a474797065a3612e62cb3ff800000000000001",
            "no keys that are bytes",
        ),
        ("81a4747970650a", "found none"), // a type that is no text
        ("82a474797065a3612e62a474797065a3612e62", "found several"),
        ("82a474797065a3612e62a178d40100", "no extensions"),
        ("82a474797065a3612e62a178d6ff00000000", "no extensions"), // a time
        ("81a474797065a35f2e62", "does not start with"),
        ("82a474797065a3612e62a178cb7ff8000000000000", "no NaN"),
        ("82a474797065a3612e62a178caff800000", "no NaN"),
        (
            "82a474797065a3612e62b05f5f617367695f6368616e6e656c5f5f05",
            "recipients",
        ),
        ("81a474797065c403612e62", "found none"), // bytes for a type
        ("82a474797065a3612e62a178a2fffe", "not UTF-8"),
        ("81a474797065a3612e62c0", "follows the event"),
        ("82a474797065a3612e62a178ddffffffff", "ends early"),
        ("82a474797065a3612e62a178dbffffffff", "ends early"),
        (
            "81a474797065ae776562736f636b65742e73656e64",
            "exactly one of",
        ),
    ] {
        if reason.is_empty() {
            msgpack.read(&hex(junk)).unwrap();
        } else {
            let found = refused(&msgpack, &hex(junk));
            assert!(found.contains(reason), "{junk}: {found}");
        }
    }
    let json = plain(Serializer::Json);
    for (junk, reason) in [
        ("", "ends early"),
        ("[1]", "found an array"),
        ("{\"type\":\"a.b\",\"x\":NaN}", "no NaN"),
        ("{\"type\":\"a.b\",\n\"x\":[1, -Infinity]}", "no NaN"),
        ("{\"type\":\"a.b\",\"x\":Nan}", "no NaN"),
        ("{\"type\":\"a.b\",\"x\":+1}", "as JSON"),
        ("{\"type\":\"a.b\"} x", "as JSON"),
        ("{\"type\":\"a.b\"", "ends early"),
        ("{\"type\":\"a.b\",\"__asgi_channel__\":[1]}", "recipients"),
        ("{\"x\":1}", "found none"),
    ] {
        let found = refused(&json, junk.as_bytes());
        assert!(found.contains(reason), "{junk}: {found}");
    }
    let keys =
        |secret| ChannelsRedisCodec::new(Serializer::Msgpack, vec![Fernet::new(secret)], None);
    let written = keys("one").write(&Event::text("x"), None);
    assert!(keys("one").read(&written).is_ok());
    assert!(matches!(
        keys("two").read(&written),
        Err(DecodeError::Undecryptable)
    ));
    let both = ChannelsRedisCodec::new(
        Serializer::Msgpack,
        vec![Fernet::new("two"), Fernet::new("one")],
        None,
    );
    assert!(both.read(&written).is_ok());
}

#[test]
fn keys_and_values_of_python_are_written_as_its_json_writes_them() {
    // msgpack.packb({"type": "a.b", 1: [-2, None], True: b"\0", None: 1.5, "d": {False: {}, -3: []}})
    let content = hex("85a474797065a3612e620192fec0c3c40100c0cb3ff8000000000000a16482c280fd90");
    let (event, _) = plain(Serializer::Msgpack).read(&content).unwrap();
    assert_eq!(
        event.json(),
        r#"{"type":"a.b","1":[-2,null],"true":"AA==","null":1.5,"d":{"false":{},"-3":[]}}"#
    );
}

#[test]
fn nesting_is_read_as_deep_as_python_reads_it() {
    let deep = |levels: usize, close: bool| {
        let mut content = hex("82a474797065a3612e62a178");
        content.extend(vec![0x91; levels]);
        content.extend(close.then_some(0xc0));
        content
    };
    let msgpack = plain(Serializer::Msgpack);
    let (event, _) = msgpack.read(&deep(NESTING_READ_MAX - 1, true)).unwrap();
    assert!(event.json().contains("[[[null]]]"));
    for levels in [NESTING_READ_MAX, 100_000] {
        let found = refused(&msgpack, &deep(levels, true));
        assert!(found.contains("levels of nesting"), "{found}");
    }
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"type":"a.b","x":{open}{close}}}"#)
    };
    for serializer in [Serializer::Msgpack, Serializer::Json] {
        let codec = plain(serializer);
        let event = |levels| Event::from_json(&nested(levels)).unwrap();
        let written = codec.write(&event(NESTING_SENT_MAX - 1), None);
        let (read, _) = codec.read(&written).unwrap();
        assert_eq!(read.json(), nested(NESTING_SENT_MAX - 1));
        let refused = codec.encode(&event(NESTING_SENT_MAX)).unwrap_err();
        assert_eq!(refused, EncodeError::Nesting);
    }
    let found = refused(&plain(Serializer::Json), nested(100_000).as_bytes());
    assert!(found.contains("levels of nesting"), "{found}");
}

#[test]
fn event_that_the_format_cannot_carry_is_refused() {
    let digits = "9".repeat(5000);
    for (value, in_msgpack, in_json) in [
        ("18446744073709551615", true, true),
        ("18446744073709551616", false, true),
        ("-9223372036854775808", true, true),
        ("-9223372036854775809", false, true),
        ("1e308", true, true),
        ("1e309", false, true),
        (r#""\ud83d\ude00""#, true, true),
        (r#""\ud83d""#, false, true),
        (r#"{"\udc00":1}"#, false, true),
        (&digits, false, false),
        (r#"{"__asgi_channel__":1}"#, true, true),
        (r#"1,"__asgi_channel__":1"#, false, false),
        (r#"1,"__asgi_channel_\u005f":1"#, false, false),
        (r#""__asgi_channel__""#, true, true),
    ] {
        let event = Event::from_json(&format!(r#"{{"type":"a.b","x":{value}}}"#)).unwrap();
        for (serializer, expected) in [
            (Serializer::Msgpack, in_msgpack),
            (Serializer::Json, in_json),
        ] {
            let codec = plain(serializer);
            let encoded = codec.encode(&event);
            assert_eq!(encoded.is_ok(), expected, "{serializer:?} {value:.60}");
            if let Ok(encoded) = encoded {
                let names = ["one", "two"];
                let written = codec.seal(&encoded, Some(&Recipients::Several(&names)));
                let (read, channels) = codec.read(&written).unwrap();
                assert_eq!(channels, names);
                assert_eq!(read.field("x").is_some(), event.field("x").is_some());
            }
        }
    }
    let problem = EncodeError::number(&digits).to_string();
    assert!(problem.ends_with("found 9999999999999999999999999999999999999999..."));
}

/// Values as Python's msgpack has them, with texts for keys.
fn values() -> impl Strategy<Value = rmpv::Value> {
    let leaf = prop_oneof![
        Just(rmpv::Value::Nil),
        any::<bool>().prop_map(rmpv::Value::from),
        any::<i64>().prop_map(rmpv::Value::from),
        any::<u64>().prop_map(rmpv::Value::from),
        (-200..300_i64).prop_map(rmpv::Value::from),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(rmpv::Value::from),
        "\\PC{0,40}".prop_map(rmpv::Value::from),
        "[\\x00-\\x1f\"\\\\]{0,300}".prop_map(rmpv::Value::from),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(rmpv::Value::Array),
            prop::collection::btree_map("\\PC{0,3}", inner, 0..20).prop_map(|members| {
                let members = members.into_iter();
                rmpv::Value::Map(members.map(|(key, value)| (key.into(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn msgpack_becomes_json_and_msgpack_again_byte_for_byte(value in values()) {
        let mut content = Vec::new();
        let event = vec![("type".into(), "a.b".into()), ("x".into(), value)];
        rmpv::encode::write_value(&mut content, &rmpv::Value::Map(event)).unwrap();
        let msgpack = plain(Serializer::Msgpack);
        let (event, _) = msgpack.read(&content).unwrap();
        prop_assert_eq!(msgpack.write(&event, None), content);
        let value: Value = serde_json::from_str(&event.json()).unwrap();
        let spaced = Event::from_json(&serde_json::to_string_pretty(&value).unwrap()).unwrap();
        let (again, _) = msgpack.read(&msgpack.write(&spaced, None)).unwrap();
        prop_assert_eq!(again.json(), value.to_string());
        let json = plain(Serializer::Json);
        let name = ["x"];
        let written = json.write(&event, Some(&Recipients::Several(&name)));
        let (again, channels) = json.read(&written).unwrap();
        prop_assert_eq!((again.json(), channels), (event.json(), vec!["x".to_owned()]));
    }

    #[test]
    fn garbage_is_refused_and_no_more(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        for serializer in [Serializer::Msgpack, Serializer::Json] {
            let codec = plain(serializer);
            let _ = codec.read(&bytes);
            bytes.splice(0..0, hex("8fa474797065a3612e62a178"));
            let _ = codec.read(&bytes);
        }
        let _ = Tokens::new(&String::from_utf8_lossy(&bytes)).count();
    }
}
