//! AWS's SDK for Rust, `bedrock-runtime`, against Windward in front of a simulated region that wants AWS's signature.
//!
//! Started by `tests/it/clients.rs`: `WINDWARD` is the proxy's address, `KEY` and `ACCESS_KEY_ID` are one of its keys, to sign with.
//! Panics at the first thing that is not as it has to be, and otherwise says `OK`.

use aws_sdk_bedrockruntime::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sdk_bedrockruntime::primitives::Blob;
use aws_sdk_bedrockruntime::types::{
    ContentBlock, ConversationRole, ConverseStreamOutput, ConverseTokensRequest, CountTokensInput, InferenceConfiguration, Message,
    ResponseStream,
};
use aws_sdk_bedrockruntime::{Client, Config};

const MODEL: &str = "gpt-oss";
/// Its colons and its slash have to arrive as one segment of the path, and to be signed so.
const ARN: &str = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc";
const CHAT: &[u8] = br#"{"messages":[{"role":"user","content":"Which way does the wind blow?"}]}"#;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("tests/it/clients.rs sets {name}"))
}

fn client(secret: String) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(variable("WINDWARD"))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(variable("ACCESS_KEY_ID"), secret, None, None, "test"))
        // Without retries of its own, so that each error is seen as it comes.
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}

fn question() -> Message {
    let text = ContentBlock::Text("Which way does the wind blow?".to_owned());
    Message::builder().role(ConversationRole::User).content(text).build().unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let bedrock = client(variable("KEY"));
    converse(&bedrock).await;
    invoke(&bedrock).await;
    count(&bedrock).await;
    errors(&bedrock).await;
    println!("OK");
}

async fn converse(bedrock: &Client) {
    for model in [MODEL, ARN] {
        let answer = bedrock.converse().model_id(model).messages(question()).send().await.unwrap();
        assert_eq!(answer.usage().unwrap().input_tokens(), 8);
        let message = answer.output().unwrap().as_message().unwrap();
        assert!(!message.content()[0].as_text().unwrap().is_empty());
    }
    let few = InferenceConfiguration::builder().max_tokens(12).build();
    let answer = bedrock.converse_stream().model_id(MODEL).messages(question()).inference_config(few).send().await.unwrap();
    let (mut events, mut said, mut usage) = (answer.stream, 0, None);
    while let Some(event) = events.recv().await.unwrap() {
        match event {
            ConverseStreamOutput::ContentBlockDelta(delta) => said += delta.delta().unwrap().as_text().unwrap().len(),
            ConverseStreamOutput::Metadata(metadata) => usage = metadata.usage().map(|usage| usage.input_tokens()),
            _ => {}
        }
    }
    assert!(said > 0);
    assert_eq!(usage, Some(8));
}

async fn invoke(bedrock: &Client) {
    let answer = bedrock.invoke_model().model_id(MODEL).body(Blob::new(CHAT)).send().await.unwrap();
    assert!(String::from_utf8_lossy(answer.body().as_ref()).contains("choices"));
    let answer = bedrock.invoke_model_with_response_stream().model_id(MODEL).body(Blob::new(CHAT)).send().await.unwrap();
    let (mut events, mut last) = (answer.body, Vec::new());
    while let Some(event) = events.recv().await.unwrap() {
        if let ResponseStream::Chunk(part) = event {
            last = part.bytes().unwrap().as_ref().to_vec();
        }
    }
    assert!(String::from_utf8_lossy(&last).contains("amazon-bedrock-invocationMetrics"));
}

async fn count(bedrock: &Client) {
    let asked = CountTokensInput::Converse(ConverseTokensRequest::builder().messages(question()).build());
    let answer = bedrock.count_tokens().model_id(MODEL).input(asked).send().await.unwrap();
    assert_eq!(answer.input_tokens(), 8);
}

async fn errors(bedrock: &Client) {
    let error = bedrock.converse().model_id("nobody").messages(question()).send().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_resource_not_found_exception(), "{error:?}");
    let error = client("not-the-key".to_owned()).converse().model_id(MODEL).messages(question()).send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidSignatureException"), "{error:?}");
}
