//! Values that may be written in more than one way: a word or a mapping, one thing or a list of them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::decode::{At, Decode, Filled, Problems, Table, only_key};
use super::file::{
    CommandFile, ElectricityMapsFile, GridFile, HeaderFile, LatencyFile, ModelFile, OfferFile, SecretPathFile, SigV4File,
    WeightedFile,
};
use super::node::{Mark, Node, Value};
use super::values::Span;
use crate::backend::Secret;

/// A secret, in the file itself (from a variable, one hopes) or in one of its own.
pub(super) enum SecretFile {
    Here(Secret),
    In(At<String>),
}

impl Decode for SecretFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) | Value::Expanded(text) => Some(Self::Here(Secret::new(text))),
            Value::Map(_) => SecretPathFile::decode(node, problems).map(|secret| Self::In(secret.file)),
            _ => problems.expected(node, "text or `{ file: PATH }`"),
        }
    }
}

/// A secret that somebody may make anew while it is used.
pub(super) enum TokenFile {
    Kept(SecretFile),
    Command(Box<CommandFile>),
    Metadata(MetadataFile),
}

impl Decode for TokenFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(_) if node.get("command").is_some() => {
                CommandFile::decode(node, problems).map(|command| Self::Command(Box::new(command)))
            }
            Value::Map(_) if node.get("metadata").is_some() => MetadataFile::decode(node, problems).map(Self::Metadata),
            Value::Map(_) | Value::Text(_) | Value::Expanded(_) => SecretFile::decode(node, problems).map(Self::Kept),
            _ => problems.expected(node, "text, `{ file: PATH }`, `{ command: [..] }` or `{ metadata: google }`"),
        }
    }
}

/// One carbon source.
pub(super) enum SourceFile {
    Builtin,
    ElectricityMaps(ElectricityMapsFile),
    File(GridFile),
}

impl Decode for SourceFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "builtin" => Some(Self::Builtin),
            Value::Map(_) => match only_key(node, &["electricity_maps", "file"], problems)? {
                ("file", value) => GridFile::decode(value, problems).map(Self::File),
                (_, value) => ElectricityMapsFile::decode(value, problems).map(Self::ElectricityMaps),
            },
            Value::Text(_) => {
                problems.add(node.mark, "unknown carbon source").mend =
                    Some("known are `builtin`, `electricity_maps: { token: .. }` and `file: { path: .. }`".to_owned());
                None
            }
            _ => problems.expected(node, "a carbon source"),
        }
    }
}

/// What a backend is sent as credential.
pub(super) enum Auth {
    PassThrough,
    Bearer(At<TokenFile>),
    Header(HeaderFile),
    SigV4(Box<SigV4File>),
}

impl Decode for Auth {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "pass_through" => Some(Self::PassThrough),
            Value::Map(_) => match only_key(node, &["bearer", "header", "sigv4"], problems)? {
                ("bearer", value) => At::decode(value, problems).map(Self::Bearer),
                ("sigv4", value) => SigV4File::decode(value, problems).map(|file| Self::SigV4(Box::new(file))),
                (_, value) => HeaderFile::decode(value, problems).map(Self::Header),
            },
            // The text may be the secret itself, so it is not repeated.
            _ => problems
                .expected(node, "`pass_through`, `{ bearer: .. }`, `{ header: { name: .., value: .. } }` or `{ sigv4: { .. } }`"),
        }
    }
}

/// The models of a backend.
pub(super) enum Models {
    Listed(Filled<At<String>>),
    Named(Table<NameThere>),
}

impl Decode for Models {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::List(_) => Filled::decode(node, problems).map(Self::Listed),
            Value::Map(entries) if entries.is_empty() => {
                problems.add(node.mark, "without a model this backend serves nothing").mend =
                    Some("leave `models` out to take any model".to_owned());
                None
            }
            Value::Map(_) => Table::decode(node, problems).map(Self::Named),
            _ => problems.expected(node, "a list of models, or a mapping from the client's names to the names there"),
        }
    }
}

/// A model's name at a backend, alone or with more.
pub(super) enum NameThere {
    Same,
    Name(At<String>),
    Whole(Box<ModelFile>),
}

impl Decode for NameThere {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Self::Same),
            Value::Map(_) => ModelFile::decode(node, problems).map(|model| Self::Whole(Box::new(model))),
            _ => At::decode(node, problems).map(Self::Name),
        }
    }
}

/// A backend of a route.
pub(super) struct CandidateFile {
    pub(super) name: At<String>,
    pub(super) weight: Option<At<u64>>,
}

impl Decode for CandidateFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(_) => {
                let WeightedFile { name, weight } = WeightedFile::decode(node, problems)?;
                Some(Self { name, weight })
            }
            _ => At::decode(node, problems).map(|name| Self { name, weight: None }),
        }
    }
}

/// A row of the catalogue, of whichever kind.
pub(super) enum RowFile {
    Offer(Box<OfferFile>),
    Endpoint(EndpointFile),
    Profile(ProfileFile),
    Host(HostFile),
    Geography(GeographyFile),
}

impl RowFile {
    /// Where it stands.
    pub(super) const fn mark(&self) -> Mark {
        match self {
            Self::Offer(offer) => offer.model.mark,
            Self::Endpoint(endpoint) => endpoint.endpoint.mark,
            Self::Profile(profile) => profile.profile.mark,
            Self::Host(host) => host.host.mark,
            Self::Geography(geography) => geography.geography.mark,
        }
    }
}

impl Decode for RowFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        // By the key that no other kind has.
        let has = |key| node.get(key).is_some();
        match () {
            () if has("service") => EndpointFile::decode(node, problems).map(Self::Endpoint),
            () if has("profile") => ProfileFile::decode(node, problems).map(Self::Profile),
            () if has("host") => HostFile::decode(node, problems).map(Self::Host),
            () if has("geography") => GeographyFile::decode(node, problems).map(Self::Geography),
            () => OfferFile::decode(node, problems).map(|offer| Self::Offer(Box::new(offer))),
        }
    }
}

/// A latency budget, or none on purpose.
pub(super) enum BudgetFile {
    None,
    Some(LatencyFile),
}

impl Decode for BudgetFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "none" => Some(Self::None),
            Value::Map(_) => LatencyFile::decode(node, problems).map(Self::Some),
            _ => problems.expected(node, "`none` or a mapping such as `{ first_token: 800ms }`"),
        }
    }
}

/// How conversations are known, or that they are not.
pub(super) enum AffinityFile {
    None,
    Some(ConversationFile),
}

impl Decode for AffinityFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "none" => Some(Self::None),
            Value::Map(_) => ConversationFile::decode(node, problems).map(Self::Some),
            _ => problems.expected(node, "`none` or a mapping such as `{ ttl: 5m, header: x-session-id }`"),
        }
    }
}

/// One text or a list of them.
pub(super) struct OneOrMany(pub(super) Vec<At<String>>);

impl Decode for OneOrMany {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::List(_) => Filled::decode(node, problems).map(|many| Self(many.0)),
            _ => At::decode(node, problems).map(|one| Self(vec![one])),
        }
    }
}

/// A figure with or without a band around it.
pub(super) struct BandFile {
    pub(super) low: At<f64>,
    pub(super) mid: At<f64>,
    pub(super) high: At<f64>,
}

super::decode::section! {
    /// What a million tokens cost in USD.
    struct PricesFile {
        /// Prompt tokens.
        input: At<f64>,
        /// Prompt tokens that came out of a cache; as any other when left out.
        cached_input: Option<At<f64>>,
        /// Generated tokens.
        output: At<f64>,
    }

    /// A machine whose metadata gives a token of the account that it runs as.
    struct MetadataFile {
        /// Whose machine it is.
        metadata: MetadataOf,
    }

    /// How a conversation is known, and how long it is expected to be at hand where it was served last.
    struct ConversationFile {
        /// Since its last turn.
        ttl: Option<At<Span>>,
        /// A header field that names it. Without one, the body's `prompt_cache_key` or `user` does, or how the prompt begins.
        header: Option<At<String>>,
    }

    /// An endpoint of Amazon Bedrock.
    struct EndpointFile {
        /// Its name, as a model's row has it.
        endpoint: At<String>,
        /// Of a backend's URL, with the region in it: bedrock-runtime.{region}.amazonaws.com. *. before it is any labels.
        host: At<String>,
        /// What a request to it is signed for.
        service: At<String>,
    }

    /// An inference profile of Amazon Bedrock.
    struct ProfileFile {
        /// The first word of an id, such as eu.
        profile: At<String>,
        /// Where such a request may run, such as aws/eu-*; anywhere when left out.
        regions: Option<Filled<At<String>>>,
    }

    /// What an answer of Anthropic's says of where its request ran.
    struct GeographyFile {
        /// The word (inference_geo).
        geography: At<String>,
        /// Country codes such as DE, of whose known grids the dirtiest counts; anywhere when left out.
        countries: Option<Filled<At<String>>>,
    }

    /// A host that says in which countries it works.
    struct HostFile {
        /// As in the URL of a backend, without scheme, port and path.
        host: At<String>,
        /// Country codes such as DE, of whose known grids the dirtiest counts; anywhere when left out.
        countries: Option<Filled<At<String>>>,
    }

    /// A best guess between two ends.
    struct BandEnds {
        /// The lower end.
        low: At<f64>,
        /// The best guess.
        mid: At<f64>,
        /// The upper end.
        high: At<f64>,
    }
}

impl Decode for BandFile {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        if let Value::Map(_) = &node.value {
            let BandEnds { low, mid, high } = BandEnds::decode(node, problems)?;
            return Some(Self { low, mid, high });
        }
        let value = At::<f64>::decode(node, problems)?;
        Some(Self { low: value, mid: value, high: value })
    }
}

/// Whose machines give out tokens by their metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum MetadataOf {
    /// Google Cloud: Compute Engine, Cloud Run, GKE.
    Google,
}

super::decode::words! {
    MetadataOf: "metadata" { "google" => Self::Google, }
}

macro_rules! either {
    ($($ty:ty: |$generator:ident| $schema:expr;)*) => {$(
        impl JsonSchema for $ty {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($ty).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

either! {
    SecretFile: |g| json_schema!({ "anyOf": [{ "type": "string" }, g.subschema_for::<SecretPathFile>()] });
    TokenFile: |g| json_schema!({ "anyOf": [
        { "type": "string" },
        g.subschema_for::<SecretPathFile>(),
        g.subschema_for::<CommandFile>(),
        g.subschema_for::<MetadataFile>(),
    ] });
    SourceFile: |g| json_schema!({ "oneOf": [
        { "const": "builtin" },
        only::<ElectricityMapsFile>(g, "electricity_maps"),
        only::<GridFile>(g, "file"),
    ] });
    Auth: |g| json_schema!({ "oneOf": [
        { "const": "pass_through" },
        only::<TokenFile>(g, "bearer"),
        only::<HeaderFile>(g, "header"),
        only::<SigV4File>(g, "sigv4"),
    ] });
    Models: |g| json_schema!({ "anyOf": [{ "type": "array", "items": { "type": "string" } }, g.subschema_for::<Table<NameThere>>()] });
    NameThere: |g| json_schema!({ "anyOf": [{ "type": ["string", "null"] }, g.subschema_for::<ModelFile>()] });
    RowFile: |g| json_schema!({ "anyOf": [
        g.subschema_for::<OfferFile>(),
        g.subschema_for::<EndpointFile>(),
        g.subschema_for::<ProfileFile>(),
        g.subschema_for::<HostFile>(),
        g.subschema_for::<GeographyFile>(),
    ] });
    CandidateFile: |g| json_schema!({ "anyOf": [{ "type": "string" }, g.subschema_for::<WeightedFile>()] });
    BudgetFile: |g| json_schema!({ "anyOf": [{ "const": "none" }, g.subschema_for::<LatencyFile>()] });
    AffinityFile: |g| json_schema!({ "anyOf": [{ "const": "none" }, g.subschema_for::<ConversationFile>()] });
    OneOrMany: |_g| json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] });
    BandFile: |g| json_schema!({ "anyOf": [{ "type": "number", "minimum": 0 }, g.subschema_for::<BandEnds>()] });
}

fn only<T: JsonSchema>(generator: &mut SchemaGenerator, key: &str) -> Schema {
    let value = generator.subschema_for::<T>();
    json_schema!({ "type": "object", "properties": { key: value }, "required": [key], "additionalProperties": false })
}
