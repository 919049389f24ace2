//! The file as it is written: its keys, their shapes, and one line on each that editors show.
//!
//! Nothing is judged here beyond the shape, and every default is made in [`super::check`], where the reason for it stands.

use super::choices::{
    AffinityFile, Auth, BandFile, BudgetFile, CandidateFile, Models, OneOrMany, PricesFile, RowFile, SecretFile, SourceFile,
    TokenFile,
};
use super::decode::{At, Filled, Stated, Table, section};
use super::plan::Balance;
use super::values::{Address, Size, Span};
use crate::backend::{PlacementKind, Protocol, UsageMode};
use crate::dialect::Dialect;
use crate::grid::{Basis, Signal};
use crate::policy::{Objective, OnNoCandidate, Overload};
use crate::tables::EnergyQuality;

section! {
    /// Configuration of Windward.
    struct File {
        /// Sockets that clients connect to; 127.0.0.1:8080 when left out. Needs a restart.
        listeners: Option<Filled<ListenerFile>>,
        /// The operator's own address: health, metrics, status, reload. Needs a restart.
        admin: Option<AdminFile>,
        /// Worker threads; one per core when left out. Needs a restart.
        workers: Option<At<u64>>,
        /// Where records go. Needs a restart.
        log: Option<LogFile>,
        /// Limits of every connection and request; all have safe defaults.
        limits: Option<At<LimitsFile>>,
        /// Other replicas of this gateway, that it shares its backends with. Needs a restart.
        peers: Option<PeersFile>,
        /// Where what was learned outlives a restart. Needs a restart.
        state: Option<StateFile>,
        /// Where carbon intensities come from.
        carbon: Option<CarbonFile>,
        /// Energy per token of your own models, before the shipped table.
        energy: Option<Vec<EnergyFile>>,
        /// Which model is reached where, and what ids, hosts and answers say of where a request runs, before what is shipped.
        catalogue: Option<Vec<RowFile>>,
        /// Regional model endpoints.
        backends: At<Filled<BackendFile>>,
        /// Which requests go to which backends; everything to all of them when left out.
        routes: Option<Filled<RouteFile>>,
        /// What is wanted, by name.
        policies: Option<Vec<PolicyFile>>,
        /// Who may use this gateway, by keys of its own; everybody who can reach it when left out.
        #[schemars(default)]
        keys: Stated<Filled<KeyFile>>,
    }

    /// A listening socket.
    struct ListenerFile {
        /// IP address and port.
        address: At<Address>,
        /// Serve TLS.
        tls: Option<TlsFile>,
        /// Proxies before it whose `X-Forwarded-*` are believed: addresses, or ranges of them; nobody's when left out.
        trusted_proxies: Option<Vec<At<String>>>,
        /// How connections are spread over the workers; `kernel` when left out.
        connection_balance: Option<Balance>,
    }

    /// A certificate and its key.
    struct TlsFile {
        /// Certificate chain, PEM; relative to this file.
        certificate: At<String>,
        /// Private key, PEM; relative to this file.
        key: At<String>,
    }

    /// The operator's own address.
    struct AdminFile {
        /// IP address and port. Keep it private.
        address: At<Address>,
    }

    /// Where records go.
    struct LogFile {
        /// A file (relative to this one), `-` for standard output, or `off`; `-` when left out.
        access: Option<At<String>>,
    }

    /// Limits of every connection and request.
    struct LimitsFile {
        /// Largest request head.
        head: Option<At<Size>>,
        /// Most fields of a request head, 1 to 1000.
        fields: Option<At<u64>>,
        /// Largest request body that is collected.
        body: Option<At<Size>>,
        /// Largest request body that streams through, such as a file.
        upload: Option<At<Size>>,
        /// All request bodies collected at one moment.
        buffered: Option<At<Size>>,
        /// Connections open at once, over all listeners.
        connections: Option<At<u64>>,
        /// Requests in flight at once; more are refused with 503.
        in_flight: Option<At<u64>>,
        /// Streams at once on one HTTP/2 connection.
        streams: Option<At<u64>>,
        /// From the first byte of a request head to its last.
        header_read: Option<At<Span>>,
        /// Between two requests on a connection.
        idle: Option<At<Span>>,
        /// Between two chunks of a request body.
        body_progress: Option<At<Span>>,
        /// How often requests may be sent again, over all of them.
        retries: Option<RetriesFile>,
        /// From SIGTERM until listeners close, so that load balancers see readiness go first. Needs a restart.
        drain_delay: Option<At<Span>>,
        /// From then until open streams are cut. Needs a restart.
        drain_deadline: Option<At<Span>>,
    }

    /// How often requests may be sent again, over all of them and any ten seconds.
    struct RetriesFile {
        /// Attempts after the first, as a share of the requests, from 0 to 1.
        share: Option<At<f64>>,
        /// So many a second beyond the share, for a proxy of few requests.
        per_second: Option<At<u64>>,
    }

    /// Other replicas: they tell each other what they have in flight and what they learned, by UDP.
    struct PeersFile {
        /// IP address and port for UDP, where the others reach this one.
        listen: At<Address>,
        /// The others, each as `host:port`; a name may stand for all its addresses, this one's included.
        others: At<OneOrMany>,
        /// What all of them know and nobody else; at least 16 characters.
        secret: At<SecretFile>,
        /// Where this one is, in a word: replicas of two sites do not tell each other how soon answers begin. One site when left out.
        site: Option<At<String>>,
        /// Between two messages on what is in flight; 20 ms when left out.
        fast: Option<At<Span>>,
        /// Between two on what was learned; 500 ms when left out.
        slow: Option<At<Span>>,
    }

    /// Where what was learned outlives a restart.
    struct StateFile {
        /// A file (relative to this one), written every minute and at the end.
        path: At<String>,
    }

    /// Where carbon intensities come from.
    struct CarbonFile {
        /// Average or marginal: the one signal used for routing.
        signal: Option<At<Signal>>,
        /// What a gram counts.
        basis: Option<At<Basis>>,
        /// Past its validity a reading is drawn towards what is usual; older than this it is not used.
        max_age: Option<At<Span>>,
        /// In order of preference; the shipped yearly figures alone when left out.
        sources: Option<Filled<At<SourceFile>>>,
        /// Your own yearly figures, by grid zone.
        zones: Option<Table<ZoneFile>>,
    }

    /// The Electricity Maps API.
    struct ElectricityMapsFile {
        /// The `auth-token`.
        token: At<SecretFile>,
        /// Where the API is; its last segment is the version.
        base_url: Option<At<String>>,
        /// Between two questions for one zone.
        interval: Option<At<Span>>,
    }

    /// Intensities from a file, read again when it changes.
    struct GridFile {
        /// Which; relative to this file.
        path: At<String>,
        /// Made up for a demonstration; excluded from claims.
        simulated: Option<bool>,
    }

    /// What is known of a grid zone.
    struct ZoneFile {
        /// Mean intensity over a year, gCO2e/kWh, in the signal and basis above.
        yearly: At<f64>,
        /// Of which year; that of the shipped table when left out.
        year: Option<At<u64>>,
    }

    /// Energy per token of the models of a pattern, at the machine, before PUE.
    struct EnergyFile {
        /// Models by the client's names; `*` and `?` are wild.
        model: At<String>,
        /// Their name in the log: a name, `@` and a revision. Made of the figures when left out.
        id: Option<At<String>>,
        /// Joules for a prompt token.
        input_joules_per_token: BandFile,
        /// Joules for a prompt token that came out of a cache; as any other when left out.
        cached_joules_per_token: Option<BandFile>,
        /// Joules for a generated token.
        output_joules_per_token: BandFile,
        /// Joules that every request costs.
        joules_per_request: Option<At<f64>>,
        /// How they came to be: metered, A, B or C (the default).
        quality: Option<EnergyQuality>,
        /// Where they come from, for whoever audits the log.
        source: Option<At<String>>,
    }

    /// A model at an endpoint of Amazon Bedrock.
    struct OfferFile {
        /// The model as clients know it.
        model: At<String>,
        /// bedrock-runtime, bedrock-mantle, or one that a row of its own tells of.
        endpoint: At<String>,
        /// Below which the OpenAI API lies there; /openai/v1 when left out.
        path: Option<At<String>>,
        /// The model's id there.
        id: At<String>,
        /// The endpoint's regions, such as us-west-2 or eu-*.
        regions: Filled<At<String>>,
    }

    /// Energy per token at the machine, before PUE.
    struct CoefficientsFile {
        /// Their name in the log: a name, `@` and a revision. Made of the figures when left out.
        id: Option<At<String>>,
        /// Joules for a prompt token.
        input_joules_per_token: BandFile,
        /// Joules for a prompt token that came out of a cache; as any other when left out.
        cached_joules_per_token: Option<BandFile>,
        /// Joules for a generated token.
        output_joules_per_token: BandFile,
        /// Joules that every request costs.
        joules_per_request: Option<At<f64>>,
        /// How they came to be: metered, A, B or C (the default).
        quality: Option<EnergyQuality>,
        /// Where they come from, for whoever audits the log.
        source: Option<At<String>>,
    }

    /// A regional model endpoint.
    struct BackendFile {
        /// Its name in routes, records and headers.
        name: At<String>,
        /// http or https, with the path below which its API lies.
        url: At<String>,
        /// Wire format.
        dialect: Option<At<Dialect>>,
        /// Dialects of clients that it serves besides its own, by translation: openai (chat completions) and anthropic (messages), at Bedrock.
        translate: Option<Filled<At<Dialect>>>,
        /// The cloud's region as in `windward zones`, or a name of your own with `grid_zone`.
        region: Option<At<String>>,
        /// The grid zone it draws from, or all it may draw from; follows from the region.
        grid_zone: Option<OneOrMany>,
        /// Power usage effectiveness, 1 to 3; follows from the region.
        pue: Option<At<f64>>,
        /// How sure it is where requests run.
        placement: Option<At<PlacementKind>>,
        /// HTTP version towards it.
        protocol: Option<Protocol>,
        /// The `api-version` of Azure's classic paths; its v1 API when left out.
        api_version: Option<At<String>>,
        /// What it is sent as credential; nothing when left out.
        auth: Option<At<Auth>>,
        /// The models it serves; any model, by its own name, when left out.
        models: Option<Models>,
        /// Requests it takes at once.
        max_in_flight: Option<At<u64>>,
        /// What to believe of its speed before it was used.
        expect: Option<ExpectFile>,
        /// Whether its round trip is measured by connecting, without a request, until an answer has come: it is then added to what is
        /// expected of the first token. When left out, where nothing is expected and it is not on this machine.
        probe: Option<bool>,
        /// How long each phase may take.
        timeouts: Option<TimeoutsFile>,
        /// Whether streams are made to report their usage.
        usage: Option<UsageMode>,
        /// How long an idle connection is kept; less than the server does.
        keep_idle: Option<At<Span>>,
        /// Ask it beside its traffic whether it works; not asked when left out.
        health: Option<HealthFile>,
        /// Certificates (PEM) to trust instead of the system's; relative to this file.
        ca_file: Option<At<String>>,
        /// Tell it the client's address, scheme and host in `X-Forwarded-*`; never when left out.
        forward_client: Option<bool>,
        /// What it is shown when it asks who connects (mutual TLS).
        tls: Option<TlsFile>,
        /// Made up for a demonstration; its records are excluded from claims.
        simulated: Option<bool>,
        /// Energy per token of everything it serves, before `energy` above.
        energy: Option<CoefficientsFile>,
        /// What everything it serves costs; unknown when left out.
        price_usd_per_million_tokens: Option<PricesFile>,
    }

    /// Asks a backend beside its traffic whether it works: a `GET` with its credential passes when it is answered with 2xx.
    struct HealthFile {
        /// Path from the root of its host, such as /health.
        path: At<String>,
        /// From one check to the next.
        every: Option<At<Span>>,
        /// Until the answer has to be there.
        timeout: Option<At<Span>>,
        /// Failing checks in a row after which it is left alone.
        failures: Option<At<u64>>,
        /// Passing checks in a row after which it is not any more.
        passes: Option<At<u64>>,
    }

    /// A header with a secret value.
    struct HeaderFile {
        /// Its name, such as `api-key`.
        name: At<String>,
        /// Its value.
        value: At<TokenFile>,
    }

    /// A program that writes a token to its standard output, alone or in JSON as those of Azure and Google do.
    struct CommandFile {
        /// The program and its arguments; no shell reads them.
        command: Filled<At<String>>,
        /// How long after it had one it is asked for the next; sooner where that ends sooner.
        every: Option<At<Span>>,
    }

    /// AWS's signature version 4, by keys from where AWS's own tools look where none are given here.
    struct SigV4File {
        /// The service that is signed for; follows from the host.
        service: Option<At<String>>,
        /// The region that is signed for, such as us-west-2; follows from the host, or else from the backend's region.
        region: Option<At<String>>,
        /// The key's id; best from a variable.
        access_key_id: Option<At<SecretFile>>,
        /// The key itself; best from a variable or a file.
        secret_access_key: Option<At<SecretFile>>,
        /// The token of a key that ends.
        session_token: Option<At<SecretFile>>,
        /// The profile of AWS's shared files; AWS_PROFILE or default when left out.
        profile: Option<At<String>>,
        /// The shared credentials file, looked at again every minute; the usual one when left out.
        credentials_file: Option<At<String>>,
        /// The role (ARN) whose rights are taken on, with what keys there are.
        role_arn: Option<At<String>>,
        /// What the owner of the role wants to be told.
        external_id: Option<At<String>>,
    }

    /// A secret in a file of its own.
    struct SecretPathFile {
        /// Which; relative to this file. A line's end behind the secret is ignored.
        file: At<String>,
    }

    /// A model at a backend.
    struct ModelFile {
        /// Its name there; the client's name when left out.
        name: Option<At<String>>,
        /// Share under the objective `weighted`; that of the route when left out.
        weight: Option<At<u64>>,
        /// Energy per token of this model here.
        energy: Option<CoefficientsFile>,
        /// What this model costs here; as everything at the backend when left out.
        price_usd_per_million_tokens: Option<PricesFile>,
    }

    /// What to believe of a backend's speed before it was used.
    struct ExpectFile {
        /// To the first token of a short prompt.
        first_token: Option<At<Span>>,
        /// What each further prompt token adds.
        per_prompt_token: Option<At<Span>>,
        /// Output tokens per second of one stream.
        tokens_per_second: Option<At<f64>>,
    }

    /// How long each phase of an exchange may take.
    struct TimeoutsFile {
        /// Until the connection stands.
        connect: Option<At<Span>>,
        /// From the request sent to the response head.
        first_byte: Option<At<Span>>,
        /// Between two chunks of the response.
        idle: Option<At<Span>>,
        /// The whole exchange.
        total: Option<At<Span>>,
    }

    /// Which requests go to which backends.
    struct RouteFile {
        /// Its name in records.
        name: At<String>,
        /// Which requests; those below /v1 when left out.
        r#match: Option<MatchFile>,
        /// What its clients speak; what its backends do when left out.
        dialect: Option<At<Dialect>>,
        /// Candidates, by name.
        backends: At<Filled<CandidateFile>>,
        /// Where calls go that name no model; the first backend when left out.
        home: Option<At<String>>,
        /// By name; `standard` when left out.
        policy: Option<At<String>>,
        /// A policy, by name, that decides for the log alone: what it would choose is written beside what was chosen.
        shadow: Option<At<String>>,
    }

    /// Which requests a route takes.
    struct MatchFile {
        /// Path prefix, by whole segments.
        path: Option<At<String>>,
        /// Header fields that must be there with that value; `*` for any.
        headers: Option<Table<At<String>>>,
        /// The only models it serves, by the client's names.
        models: Option<Filled<At<String>>>,
    }

    /// A backend of a route, with its share.
    struct WeightedFile {
        /// The backend's name.
        name: At<String>,
        /// Share under the objective `weighted`; 1 when left out.
        weight: Option<At<u64>>,
    }

    /// What is wanted.
    struct PolicyFile {
        /// Its name in routes; one named `standard` stands for routes that name none.
        name: At<String>,
        /// What is wanted among those that meet every constraint.
        objective: Option<At<Objective>>,
        /// How long a client may be kept waiting, or `none`.
        latency_budget: Option<BudgetFile>,
        /// Milligrams CO2e that one second of first-token time is worth.
        latency_price_mg_per_s: Option<At<f64>>,
        /// USD that may be paid for a kilogram CO2e less, under `least_carbon`; any price when left out.
        max_usd_per_kg: Option<At<f64>>,
        /// Where requests may be served: `eu`, `aws/eu-*`, a country, a grid zone.
        residency: Option<Vec<At<String>>>,
        /// What to do when nobody meets the budget.
        on_no_candidate: Option<OnNoCandidate>,
        /// What to do with a request while nobody can serve it in time.
        overload: Option<Overload>,
        /// When a request may be sent again.
        attempts: Option<AttemptsFile>,
        /// Ask a second backend when the first is late; never when left out.
        hedge: Option<At<HedgeFile>>,
        /// What a backend has at hand of a conversation that it served, or `none`; on when left out.
        affinity: Option<AffinityFile>,
    }

    /// A key that opens this gateway. Clients send it as `Authorization: Bearer`, `x-api-key`, `api-key` or `x-goog-api-key`.
    struct KeyFile {
        /// Its name in records.
        name: At<String>,
        /// SHA-256 of the key, 64 hexadecimal digits; this or `secret`.
        sha256: Option<At<String>>,
        /// The key itself, best from a variable or a file.
        secret: Option<At<SecretFile>>,
        /// Its id for AWS's SDKs, which may then sign with `secret` instead of showing it.
        access_key_id: Option<At<String>>,
        /// The routes that it opens, by name; all when left out.
        #[schemars(default)]
        routes: Stated<Filled<At<String>>>,
        /// The policy of its requests instead of the route's, by name. Of residency both count.
        #[schemars(default)]
        policy: Stated<At<String>>,
    }

    /// How long a client may be kept waiting.
    struct LatencyFile {
        /// To the first token of a stream.
        first_token: Option<At<Span>>,
        /// Added for each prompt token.
        per_prompt_token: Option<At<Span>>,
        /// For each output token after the first; a backend is not filled beyond the point where they come more slowly.
        per_output_token: Option<At<Span>>,
        /// To the end of a response that is not streamed; no budget when left out.
        total: Option<At<Span>>,
        /// Share of requests that must meet it, between 0 and 1.
        quantile: Option<At<f64>>,
    }

    /// When a second backend is asked beside one that is late. Whoever answers first wins, and the other is broken off.
    struct HedgeFile {
        /// The share of requests of which that may be so, up to 1.
        at_most: Option<At<f64>>,
        /// Milligrams CO2e that the second attempt may be expected to emit.
        extra_mg_at_most: Option<At<f64>>,
    }

    /// When a request may be sent again.
    struct AttemptsFile {
        /// How many backends may see one request, the first included.
        max: Option<At<u64>>,
        /// Also when the work may have been done already.
        retry_unsafe: Option<bool>,
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
