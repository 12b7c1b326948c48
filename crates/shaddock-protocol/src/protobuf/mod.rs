//! Bodies in Pomelo's protobuf: schemas that are parsed at start-up, conversion between JSON text and bytes.
//!
//! Start at [`Schema`]. The format is close to Google's, but not the same: `int32` is zigzag, arrays of numbers have a count of elements,
//! and readers ignore the wire type of a key. Pinus' additions (`bool`, 64-bit integers, `map`, `obj`) are always supported.
//!
//! - `source`: a schema as written by people, or as sent in a handshake, and the text of the second form
//! - `compile`: from names to numbers
//! - `schema`: the result, indexed by tag and by name
//! - `encode` (over `slot` and `encoder`), `decode`: between JSON text and bytes, without an intermediate tree
//! - `wire`, `json`: numbers and strings of the two formats

mod compile;
mod decode;
mod encode;
mod encoder;
mod error;
mod json;
mod schema;
mod slot;
mod source;
mod wire;

#[cfg(test)]
mod tests;

use alloc::string::String;

use base64::Engine as _;
use md5::{Digest as _, Md5};

pub use self::error::{FieldProblem, ProtobufError, SchemaError};
pub use self::schema::Schema;

/// How deep messages may be nested in a body, the outermost counted. JSON members that are no fields are not counted.
pub(crate) const MAX_DEPTH: usize = 32;

/// The two schemas of an application and their version, as the handshake announces them.
///
/// `client` describes what clients send (requests and notifies), `server` what they receive (responses and pushes).
#[derive(Debug, Clone)]
pub struct Protos {
    server: Schema,
    client: Schema,
    version: String,
}

impl Protos {
    /// Puts both schemas together and computes their version.
    pub fn new(server: Schema, client: Schema) -> Self {
        let version = if server.is_empty() && client.is_empty() {
            String::new()
        } else {
            let hash = Md5::new()
                .chain_update(client.json())
                .chain_update(server.json())
                .finalize();
            base64::engine::general_purpose::STANDARD.encode(hash)
        };
        Self {
            server,
            client,
            version,
        }
    }

    /// Schema of responses and pushes.
    pub fn server(&self) -> &Schema {
        &self.server
    }

    /// Schema of requests and notifies.
    pub fn client(&self) -> &Schema {
        &self.client
    }

    /// Base64 of the MD5 of both parsed forms, `client` first; empty when there is no schema at all.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Parsed form of the `server` schema, compact JSON text.
    pub fn server_json(&self) -> &str {
        self.server.json()
    }

    /// Parsed form of the `client` schema, compact JSON text.
    pub fn client_json(&self) -> &str {
        self.client.json()
    }
}
