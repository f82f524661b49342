//! Tests of the dictionaries of `channels_redis`.

use data_encoding::HEXLOWER;

use super::*;

fn plain(serializer: Serializer) -> ChannelsRedisCodec {
    ChannelsRedisCodec::new(serializer, Vec::new(), None)
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
    for junk in [
        "",
        "c1",
        "93010203",
        "80",
        "81a474797065", // it ends early
        "8101a3612e62", // a number for a key
        "82a474797065a3612e6201c0",
        "81a4747970650a",                             // a type that is no text
        "81a474797065d40100",                         // an extension
        "81a474797065a35f2e62",                       // a type that cannot be one
        "82a474797065a3612e62a178cb7ff8000000000000", // not a number
        "82a474797065a3612e62b05f5f617367695f6368616e6e656c5f5f05",
        "81a474797065c403612e62",         // bytes for a type
        "82a474797065a3612e62a178a2fffe", // a text that is not UTF-8
        "81a474797065a3612e62c0",         // something behind it
    ] {
        assert_eq!(
            msgpack.read(&hex(junk)).err(),
            Some(DecodeError::Malformed),
            "{junk}"
        );
    }
    let deep = [
        vec![0x82],
        hex("a474797065a3612e62a178"),
        vec![0x91; 5000],
        vec![0xc0],
    ]
    .concat();
    assert_eq!(msgpack.read(&deep).err(), Some(DecodeError::Malformed));
    assert_eq!(
        plain(Serializer::Json).read(b"[1]").err(),
        Some(DecodeError::Malformed)
    );
    let keys =
        |secret| ChannelsRedisCodec::new(Serializer::Msgpack, vec![Fernet::new(secret)], None);
    let written = keys("one").write(&Event::text("x"), None);
    assert!(keys("one").read(&written).is_ok());
    assert_eq!(
        keys("two").read(&written).err(),
        Some(DecodeError::Undecryptable)
    );
    let both = ChannelsRedisCodec::new(
        Serializer::Msgpack,
        vec![Fernet::new("two"), Fernet::new("one")],
        None,
    );
    assert!(both.read(&written).is_ok());
}
