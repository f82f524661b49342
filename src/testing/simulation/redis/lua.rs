//! Lua: executes the layer's scripts as Redis does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Table, Value};
use sha1::{Digest, Sha1};

use super::protocol::Reply;

/// Executes a command that a script calls.
type Call = Rc<dyn Fn(Vec<Vec<u8>>) -> Reply>;

/// The interpreter and the scripts that it has loaded.
pub(super) struct Scripts {
    lua: Lua,
    loaded: HashMap<Vec<u8>, Function>,
}

impl Scripts {
    pub(super) fn new(call: Call) -> Self {
        let lua = Lua::new();
        install(&lua, call).expect("Lua has room for Redis' functions");
        Self {
            lua,
            loaded: HashMap::new(),
        }
    }

    /// SCRIPT LOAD
    pub(super) fn load(&mut self, code: &[u8]) -> Reply {
        let hash = hash(code);
        if !self.loaded.contains_key(hash.as_bytes()) {
            match self.lua.load(code).into_function() {
                Ok(script) => self.loaded.insert(hash.clone().into_bytes(), script),
                Err(error) => panic!("a script of the layer is not Lua: {error}"),
            };
        }
        Reply::bulk(hash)
    }

    /// SCRIPT FLUSH, or the end of the server.
    pub(super) fn forget(&mut self) {
        self.loaded.clear();
    }

    /// EVALSHA: `command` is the hash, the number of keys, the keys, the arguments.
    pub(super) fn run(&self, command: &[Vec<u8>]) -> Reply {
        let Some(script) = self.loaded.get(&command[0]) else {
            return Reply::Error("NOSCRIPT No matching script. Please use EVAL.".to_owned());
        };
        let count: usize = std::str::from_utf8(&command[1]).unwrap().parse().unwrap();
        let (keys, arguments) = command[2..].split_at(count);
        let result = (|| {
            let globals = self.lua.globals();
            globals.set("KEYS", self.strings(keys)?)?;
            globals.set("ARGV", self.strings(arguments)?)?;
            script.call::<Value>(())
        })();
        match result {
            Ok(value) => from_lua(value),
            Err(error) => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default();
                match line.split_once("REDIS ") {
                    Some((_, reply)) => Reply::Error(reply.to_owned()),
                    None => panic!("a script of the layer failed: {text}"),
                }
            }
        }
    }

    fn strings(&self, of: &[Vec<u8>]) -> mlua::Result<Table> {
        let strings = of.iter().map(|text| self.lua.create_string(text));
        self.lua
            .create_sequence_from(strings.collect::<mlua::Result<Vec<_>>>()?)
    }
}

/// Adds `redis` and `struct` to the globals.
fn install(lua: &Lua, call: Call) -> mlua::Result<()> {
    let redis = lua.create_table()?;
    let execute = move |arguments: MultiValue| {
        let words = arguments.into_iter().map(|word| match word {
            Value::String(text) => text.as_bytes().to_vec(),
            Value::Integer(number) => number.to_string().into_bytes(),
            // As Redis' %.17g for the numbers that scripts have.
            Value::Number(number) => number.to_string().into_bytes(),
            other => panic!("a script calls Redis with {other:?}"),
        });
        call(words.collect())
    };
    let execute = Rc::new(execute);
    let protected = execute.clone();
    redis.set(
        "call",
        lua.create_function(move |lua, arguments: MultiValue| match execute(arguments) {
            Reply::Error(text) => Err(mlua::Error::runtime(format!("REDIS {text}"))),
            reply => to_lua(lua, reply),
        })?,
    )?;
    redis.set(
        "pcall",
        lua.create_function(move |lua, arguments: MultiValue| to_lua(lua, protected(arguments)))?,
    )?;
    redis.set(
        "error_reply",
        lua.create_function(|lua, text: String| to_lua(lua, Reply::Error(text)))?,
    )?;
    lua.globals().set("redis", redis)?;
    let structs = lua.create_table()?;
    structs.set(
        "pack",
        lua.create_function(|lua, (format, number): (String, f64)| {
            assert_eq!(format, ">I8", "only this format is known here");
            lua.create_string((number as u64).to_be_bytes())
        })?,
    )?;
    structs.set(
        "unpack",
        lua.create_function(
            |_, (format, text, at): (String, mlua::LuaString, Option<usize>)| {
                assert_eq!(format, ">I8", "only this format is known here");
                let at = at.unwrap_or(1) - 1;
                let bytes: [u8; 8] = text.as_bytes()[at..at + 8].try_into().unwrap();
                Ok((u64::from_be_bytes(bytes) as f64, at + 9))
            },
        )?,
    )?;
    lua.globals().set("struct", structs)
}

thread_local! {
    /// The hash of each script, which is slow to compute in a debug build.
    static HASHES: RefCell<HashMap<Vec<u8>, String>> = RefCell::default();
}

fn hash(code: &[u8]) -> String {
    let compute = || data_encoding::HEXLOWER.encode(&Sha1::digest(code));
    HASHES.with_borrow_mut(|hashes| hashes.entry(code.to_vec()).or_insert_with(compute).clone())
}

fn to_lua(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    let table = |name: &str, text: &str| {
        let table = lua.create_table()?;
        table.set(name, text)?;
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Status(text) => table("ok", text),
        Reply::Error(text) => table("err", &text),
        Reply::Int(number) => Ok(Value::Number(number as f64)),
        Reply::Bulk(bytes) => Ok(Value::String(lua.create_string(bytes)?)),
        Reply::Nil => Ok(Value::Boolean(false)),
        Reply::Array(items) => {
            let items = items.into_iter().map(|item| to_lua(lua, item));
            let items = items.collect::<mlua::Result<Vec<_>>>()?;
            Ok(Value::Table(lua.create_sequence_from(items)?))
        }
    }
}

/// Converts a script's result: numbers are cut to integers, a table ends at its first nil.
fn from_lua(value: Value) -> Reply {
    match value {
        Value::Nil | Value::Boolean(false) => Reply::Nil,
        Value::Boolean(true) => Reply::Int(1),
        Value::Integer(number) => Reply::Int(number),
        Value::Number(number) => Reply::Int(number as i64),
        Value::String(text) => Reply::bulk(text.as_bytes().to_vec()),
        Value::Table(table) => {
            if let Ok(text) = table.get::<String>("err") {
                return Reply::Error(text);
            }
            if table.contains_key("ok").unwrap_or(false) {
                return Reply::Status("OK");
            }
            let items = table.sequence_values::<Value>().map_while(Result::ok);
            Reply::Array(items.map(from_lua).collect())
        }
        other => panic!("a script returns {other:?}"),
    }
}
